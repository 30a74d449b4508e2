"""What an operator does with a scheduled job: run it now, or switch it off and on."""

from datetime import datetime

from celery import current_app
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from billing import jobs, timetable
from billing.timetable import Entry


class AlreadyRuns(Exception):
    """A run of this task is under way."""


class NotSent(Exception):
    """Nobody will run it: the queue does not answer, or no task has this name."""


def run_now(entry: Entry, *, by: str) -> None:
    """Send a job to the workers; its run names who asked. Not in a transaction. Raises AlreadyRuns, NotSent.

    Should the timetable start it in the same moment, one of the two finds the other and does nothing.
    """
    task = current_app.tasks.get(entry.task)
    if task is None:
        raise NotSent(f"there is no task {entry.task}")
    if jobs.under_way([entry.task]):
        raise AlreadyRuns(f"{entry.name} runs already")
    try:
        task.apply_async(kwargs=entry.kwargs, headers={jobs.BEGUN_BY: by}, retry=False)
    except OperationalError as error:
        raise NotSent("the queue does not answer: is Redis running?") from error


def switch(entry: Entry, *, is_on: bool, at: datetime) -> bool:
    """Have the timetable run a job from now on, or no more; False if it was so already. Beat sees it in seconds."""
    row = PeriodicTask.objects.get(pk=entry.number)
    if row.enabled == is_on:
        return False
    row.enabled = is_on
    row.save()
    timetable.observe(at=at)
    return True
