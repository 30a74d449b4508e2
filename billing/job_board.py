"""How each scheduled job stands: what its runs did, whether one is missing, and who would have to run it.

Judged from the timetable and the rows of runs alone, so any process can tell; nobody has to be up for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django_celery_beat.models import PeriodicTask

from billing import jobs, timetable
from billing.models import Job, JobRun
from billing.timetable import Entry

# A run may begin so much later than it is due: the queue, a restart, beat's own steps.
SLACK = timedelta(minutes=5)
# While a run is under way its job can't begin another; after so long it is stuck.
STUCK_AFTER = timedelta(hours=2)
# The worker answers every minute by this task, which it sends itself: beat has no part in it.
ANSWER = "billing.watch_jobs"
SILENT_AFTER = timedelta(minutes=3)
# Beat writes down what it has sent every minute.
BEAT_SILENT_AFTER = timedelta(minutes=4)
RECENT = timedelta(hours=24)
RUNS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Standing:
    """A job of the timetable; `runs` are the last ones with their outcomes, newest first."""

    entry: Entry
    runs: Sequence[tuple[JobRun, str]]
    succeeded_at: datetime | None
    failures: int  # in the last 24 hours, killed runs included
    due_at: datetime | None  # the first moment after the last run at which it has to run again
    is_overdue: bool

    @property
    def last(self) -> JobRun | None:
        return self.runs[0][0] if self.runs else None

    @property
    def outcome(self) -> str:
        """done, running, failed or killed: the last run; "new" if there is none."""
        return self.runs[0][1] if self.runs else "new"

    @property
    def trouble(self) -> str:
        """overdue, failed or killed; empty if all is well, or the job is off."""
        if not self.entry.is_on:
            return ""
        if self.is_overdue:
            return "overdue"
        return self.outcome if self.outcome in {"failed", "killed"} else ""


@dataclass(frozen=True, slots=True)
class Processes:
    """When worker and beat last gave a sign of life; `None`: never."""

    worker_at: datetime | None
    beat_at: datetime | None
    is_worker_silent: bool
    is_beat_silent: bool


def standings(*, at: datetime) -> list[Standing]:
    """Every job of the timetable by name. A few queries, however many rows of runs there are."""
    entries = timetable.entries(at=at)
    watched = Job.objects.in_bulk()
    found = _runs(entries, at)
    dead = jobs.killed(run for rows in found.values() for run in rows)
    standings = []
    for entry in entries:
        rows = found[entry.number]
        runs = [(run, jobs.outcome_of(run, dead)) for run in rows]
        is_under_way = bool(runs) and runs[0][1] == "running" and at - rows[0].started_at < RECENT
        due_at, is_overdue = _due(entry, watched.get(entry.number), runs, at)
        standings.append(
            Standing(
                entry=entry,
                runs=runs,
                succeeded_at=rows[0].succeeded_at if rows else None,
                failures=rows[0].failures - is_under_way if rows else 0,
                due_at=due_at,
                is_overdue=is_overdue,
            )
        )
    return standings


def _due(
    entry: Entry, watched: Job | None, runs: Sequence[tuple[JobRun, str]], at: datetime
) -> tuple[datetime | None, bool]:
    """When the run after the last one is due, and whether it is missing."""
    if watched is None or watched.schedule != timetable.watched_as(entry):
        return entry.next_after(at), False  # New or changed this minute.
    since = max([watched.counts_from, *(run.started_at for run, _ in runs[:1])])
    due_at = entry.next_after(since)
    patience = STUCK_AFTER if runs and runs[0][1] == "running" else SLACK
    return due_at, due_at is not None and at > due_at + patience


def _runs(entries: Sequence[Entry], at: datetime) -> dict[int, list[Any]]:
    """The last runs of each entry that has any, newest first; on each, when its entry last succeeded, and how many
    runs of the last 24 hours have failed or have no end.

    One statement, so one view: a run that finds nothing to do takes the place of the row before it at any moment.
    """
    rows: Iterable[Any] = JobRun.objects.raw(
        "SELECT r.*, e.number, done.started_at AS succeeded_at, failed.runs AS failures"
        " FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS e (number, task, kwargs)"
        " CROSS JOIN LATERAL (SELECT * FROM billing_jobrun r WHERE r.job = e.task AND r.variant = e.kwargs"
        "   ORDER BY r.started_at DESC, r.id DESC LIMIT %s) r"
        " LEFT JOIN LATERAL (SELECT r.started_at FROM billing_jobrun r"
        "   WHERE r.job = e.task AND r.variant = e.kwargs AND r.duration_ms IS NOT NULL AND r.error = ''"
        "   ORDER BY r.started_at DESC LIMIT 1) done ON true"
        " CROSS JOIN LATERAL (SELECT count(*) AS runs FROM billing_jobrun r WHERE r.job = e.task"
        "   AND r.variant = e.kwargs AND r.started_at > %s AND (r.error <> '' OR r.duration_ms IS NULL)) failed"
        " ORDER BY e.number, r.started_at DESC, r.id DESC",
        [
            [entry.number for entry in entries],
            [entry.task for entry in entries],
            [entry.variant for entry in entries],
            RUNS_SHOWN,
            at - RECENT,
        ],
    )
    found: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.number].append(row)
    return found


def processes(found: Sequence[Standing], *, at: datetime) -> Processes:
    """Whether somebody works, and somebody sends work.

    Beat is silent if it has sent nothing for minutes though jobs are missing; while the worker is silent too, that
    shows nothing but that.
    """
    answer = JobRun.objects.filter(job=ANSWER, variant="").order_by("-started_at").first()
    worker_at = answer.started_at if answer else None
    sent = PeriodicTask.objects.filter(enabled=True, last_run_at__isnull=False)
    beat_at = sent.order_by("-last_run_at").values_list("last_run_at", flat=True).first()
    is_missing = any(standing.is_overdue and standing.outcome != "running" for standing in found)
    is_silent = beat_at is None or at - beat_at > BEAT_SILENT_AFTER
    return Processes(
        worker_at=worker_at,
        beat_at=beat_at,
        is_worker_silent=worker_at is None or at - worker_at > SILENT_AFTER,
        is_beat_silent=is_silent and is_missing,
    )
