"""Processes of a test's own that work on the test's database."""

import os
from urllib.parse import urlsplit, urlunsplit

from django.db import connection

from relayadmin.embedded.home import PROJECT


def environment(**changes: str) -> dict[str, str]:
    """What such a process is started with: the real settings, this test's database, and what is changed."""
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    return os.environ | {
        "DATABASE_URL": urlunsplit(database),
        "DJANGO_SETTINGS_MODULE": "relayadmin.settings",
        "PYTHONPATH": str(PROJECT),
        **changes,
    }
