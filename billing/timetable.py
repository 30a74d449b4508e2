"""The timetable of the scheduled jobs: what is shipped, what the operator made of it, and when each is due.

django-celery-beat keeps it in the database. What stands in the settings is only put in where it is missing: times,
and whether a job is on, are the operator's from then on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from celery import current_app, schedules
from django.conf import settings
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from billing import jobs
from billing.models import Job

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_SCHEDULES = ("interval", "crontab", "clocked", "solar")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the timetable. `shipped` says when it ran before the operator changed that; else it is empty."""

    number: int
    name: str
    task: str
    kwargs: dict[str, Any]
    does: str
    words: str
    shipped: str
    is_on: bool
    schedule: Any
    not_before: datetime | None

    @property
    def variant(self) -> str:
        return jobs.variant_of(self.kwargs)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after this one at which it is due, by beat's own arithmetic; None if never again."""
        if not self.is_on:
            return None
        begin = max(moment, self.not_before) if self.not_before else moment
        if isinstance(self.schedule, schedules.crontab):
            start, ahead, _ = self.schedule.remaining_delta(begin)
            due: datetime = start + ahead
            return due.astimezone(UTC)
        if type(self.schedule) is not schedules.schedule:
            return None  # Dawn, and what happens once: nobody is held to the minute.
        every_so_often: timedelta = self.schedule.run_every  # type: ignore[attr-defined]
        return begin + every_so_often


def install() -> None:
    """Put in what the settings have and the timetable has not; mend what belongs to the code: task and arguments."""
    there = {row.name: row for row in PeriodicTask.objects.all()}
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        row = there.get(name)
        kwargs = json.dumps(entry.get("kwargs") or {})
        if row is None:
            ModelEntry.from_entry(name, app=current_app, **{**entry, "description": ""})
        elif (row.task, row.kwargs) != (entry["task"], kwargs):
            row.task, row.kwargs = entry["task"], kwargs
            row.save()


def observe(*, at: datetime) -> None:
    """Note which jobs run at other times than when last looked at: they can't be late for what was before."""
    known = Job.objects.in_bulk()
    for entry in entries(at=at):
        schedule = watched_as(entry)
        job = known.get(entry.number)
        if job is None or job.schedule != schedule:
            Job.objects.update_or_create(timetable_id=entry.number, defaults={"schedule": schedule, "counts_from": at})


def watched_as(entry: Entry) -> str:
    """All of an entry that decides when it is due, as text."""
    begin = f" from {entry.not_before:%Y-%m-%d %H:%M}" if entry.not_before else ""
    return f"{entry.task} {entry.variant} {entry.words}{begin}"[:500] if entry.is_on else "off"


def entries(*, at: datetime) -> list[Entry]:
    """The timetable by name, without Celery's own housekeeping."""
    rows = PeriodicTask.objects.select_related(*_SCHEDULES).exclude(task__startswith="celery.").order_by("name")
    return [_entry(row, at) for row in rows]


def _entry(row: PeriodicTask, at: datetime) -> Entry:
    words = _words(row)
    shipped_entry = settings.CELERY_BEAT_SCHEDULE.get(row.name, {})
    shipped = _shipped().get(row.name, words)
    return Entry(
        number=row.pk,
        name=row.name,
        task=row.task,
        kwargs=_kwargs(row),
        does=row.description or str(shipped_entry.get("description", "")) or does(row.task),
        words=words,
        shipped="" if shipped == words else shipped,
        is_on=row.enabled and (row.expires is None or row.expires > at),
        schedule=row.schedule,
        not_before=row.start_time,
    )


def _kwargs(row: PeriodicTask) -> dict[str, Any]:
    try:
        return dict(json.loads(row.kwargs or "{}"))
    except ValueError:
        return {}  # Typed by hand; beat refuses it and switches the row off.


@cache
def _tasks() -> Mapping[str, object]:
    """All tasks, with their modules imported: each import runs every check of Django's."""
    current_app.loader.import_default_modules()
    return current_app.tasks


def does(task: str) -> str:
    """The first sentence of a task's docstring."""
    text = " ".join((getattr(_tasks().get(task), "__doc__", None) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".") + "." if text else "Nothing here knows this task."


def _words(row: PeriodicTask) -> str:
    if row.interval is not None:
        return every(timedelta(**{row.interval.period: row.interval.every}))
    if row.crontab is not None:
        return _crontab_words(row.crontab)
    return str(row.clocked or row.solar)


def every(period: timedelta) -> str:
    """An interval as a person says it."""
    seconds = int(period.total_seconds())
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return f"every {unit}" if seconds == size else f"every {seconds // size} {unit}s"
    return "every second" if seconds == 1 else f"every {seconds} seconds"


def _crontab_words(row: CrontabSchedule) -> str:
    """In words where few words do, else as django-celery-beat says it; always with the time zone."""
    fixed = row.minute.isdigit() and (row.day_of_month, row.month_of_year) == ("*", "*")
    if fixed and (row.hour, row.day_of_week) == ("*", "*"):
        return f"every hour at minute {int(row.minute)} ({row.timezone})"
    if fixed and row.hour.isdigit() and row.day_of_week == "*":
        return f"every day at {int(row.hour):02}:{int(row.minute):02} ({row.timezone})"
    weekdays = row.schedule.day_of_week
    if fixed and row.hour.isdigit() and len(weekdays) == 1:
        (day,) = weekdays
        return f"every {_DAYS[day]} at {int(row.hour):02}:{int(row.minute):02} ({row.timezone})"
    words, _, _ = row.human_readable.rpartition(" ")
    return f"{words[:1].lower()}{words[1:]} ({row.timezone})"


@cache
def _shipped() -> dict[str, str]:
    """By name, the words for the times in the settings."""
    words = {}
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        schedule: Any = schedules.maybe_schedule(entry["schedule"])  # type: ignore[arg-type]
        if isinstance(schedule, schedules.crontab):
            fields = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
            row = {field: getattr(schedule, f"_orig_{field}") for field in fields}
            words[name] = _crontab_words(CrontabSchedule(**row, timezone=settings.CELERY_TIMEZONE))
        else:
            words[name] = every(schedule.run_every)
    return words
