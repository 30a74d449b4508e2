"""The Celery application; the beat table stands in the settings."""

import logging
import os
from typing import Any

from celery import Celery, bootsteps
from kombu.exceptions import OperationalError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "relayadmin.settings")
app = Celery("relayadmin")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

logger = logging.getLogger(__name__)
ANSWER_EVERY_S = 60


class Answer(bootsteps.StartStopStep):
    """Each worker asks the workers to look at the jobs, so that somebody does while beat is down.

    It goes through the queue and is run like any task: its rows say when a worker last answered.
    """

    requires = ("celery.worker.components:Timer",)

    def start(self, parent: Any) -> None:
        # The first time a minute from now: what was due while all was down has run by then.
        self.timer = parent.timer.call_repeatedly(ANSWER_EVERY_S, ask)

    def stop(self, parent: Any) -> None:
        self.timer.cancel()


def ask() -> None:
    """Send the look at the jobs; one that nobody has taken by the time of the next is dropped."""
    try:
        app.send_task("billing.watch_jobs", expires=ANSWER_EVERY_S, retry=False)
    except OperationalError as error:
        logger.warning("the queue does not answer error=%s", type(error).__name__)


app.steps["worker"].add(Answer)
