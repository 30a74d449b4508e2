"""The Celery application; the beat table stands in the settings."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "relayadmin.settings")
app = Celery("relayadmin")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
