"""Beat's scheduler: the timetable in the database, which the operator may change for good."""

from datetime import UTC, datetime

from django_celery_beat.schedulers import DatabaseScheduler

from billing import timetable


class Scheduler(DatabaseScheduler):
    """django-celery-beat's own writes the settings over the operator's changes at each start; this one doesn't."""

    # Written down this often, what was sent tells others that beat is alive.
    sync_every = 60

    def setup_schedule(self) -> None:
        timetable.install()
        timetable.observe(at=datetime.now(UTC))
