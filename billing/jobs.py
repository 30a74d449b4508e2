"""Scheduled jobs: one run of a job at a time, and a row for the operator of what each run did.

A run that found nothing to do takes the place of the one before it that found nothing either: jobs that run every few
seconds would hide everything else. A job that is scheduled with other arguments is told apart by its variant.
"""

import json
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import current_task
from django.db import Error, connection
from django.db.models import Exists, OuterRef

from billing.models import JobRun
from relayadmin.db import server_cursor, text_array

KEPT_DAYS = 90
# The header of a task's message that names who asked for the run.
BEGUN_BY = "begun_by"
_VARIANT_LENGTH_MAX = 200
_ERROR_LENGTH_MAX = 2_000
_SECRETS = re.compile(r"(sk-|rl_|ct_|whsec_)[A-Za-z0-9_\-]{4,}|(?<=://)[^\s/@]+@")


@dataclass(slots=True)
class Outcome:
    """What a run did, as the operator will read it; None if there was nothing to do."""

    result: dict[str, Any] | None = None


@contextmanager
def recorded(job: str, *, at: datetime) -> Iterator[Outcome]:
    """Keep a row of this run: when, how long, what the body put in `Outcome.result`, or the error it ended with.

    The row is there from the beginning; without a duration it is running, or was killed.
    """
    run = JobRun.objects.create(job=job, started_at=at, **_asked_for())
    outcome = Outcome()
    began = time.monotonic()
    try:
        yield outcome
    except BaseException as error:
        with suppress(Error):  # The database may be what failed; the error itself matters more than its row.
            if not connection.in_atomic_block:
                connection.close_if_unusable_or_obsolete()
            _finish(run, outcome, began, error=_describe(error))
        raise
    _finish(run, outcome, began)
    if outcome.result is None:
        idle = JobRun.objects.filter(job=job, variant=run.variant, result__isnull=True, error="")
        idle.filter(duration_ms__isnull=False, pk__lt=run.pk).delete()


def variant_of(kwargs: Mapping[str, Any]) -> str:
    """What tells apart runs of a task that were called with other arguments."""
    return json.dumps(kwargs, sort_keys=True)[:_VARIANT_LENGTH_MAX] if kwargs else ""


def asked_by() -> str:
    """Who asked for the task under way; empty if the timetable did."""
    return str((current_task.request.headers or {}).get(BEGUN_BY, ""))[:150] if current_task else ""


def _asked_for() -> dict[str, str]:
    """With which arguments the task under way was called, and by whom if a person did."""
    if not current_task:
        return {}
    return {"variant": variant_of(current_task.request.kwargs or {}), "begun_by": asked_by()}


def _finish(run: JobRun, outcome: Outcome, began: float, *, error: str = "") -> None:
    run.duration_ms = int((time.monotonic() - began) * 1000)
    run.result, run.error = outcome.result, error
    run.save(update_fields=["duration_ms", "result", "error"])


def _describe(error: BaseException) -> str:
    text = _SECRETS.sub("…", f"{type(error).__name__}: {error}".strip())
    return text.replace("\x00", "")[:_ERROR_LENGTH_MAX]


@contextmanager
def _alone(job: str) -> Iterator[bool]:
    """Whether no other session runs this job; holds it for this one. A session that dies lets go of it."""
    with server_cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"job {job}"])
        (is_ours,) = cursor.fetchone() or (False,)
    if not is_ours:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(Error), server_cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"job {job}"])


def run_alone(job: str, work: Callable[[Outcome], None], *, at: datetime) -> dict[str, Any] | None:
    """Run a job unless it runs already, and keep a row of it; returns what it did, None if nothing."""
    with _alone(job) as is_ours:
        if not is_ours:
            return {"skipped": "it runs already"}
        with recorded(job, at=at) as outcome:
            work(outcome)
        return outcome.result


def under_way(jobs: Iterable[str]) -> set[str]:
    """Those of these jobs that some session runs at this moment."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) name JOIN pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 1"
            "   AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            "   AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('job ' || name, 0)",
            [text_array(jobs)],
        )
        return {row[0] for row in cursor.fetchall()}


def killed(runs: Iterable[JobRun]) -> set[int]:
    """Numbers of those runs that will have no end: another has begun since, or no session holds their job.

    A run ends its row before it lets go of its job. So the rows are read again after the locks: a run that ended in
    between was not killed.
    """
    unfinished = [run for run in runs if run.duration_ms is None and not run.error]
    if not unfinished:
        return set()
    held = under_way({run.job for run in unfinished})
    followed = Exists(JobRun.objects.filter(job=OuterRef("job"), pk__gt=OuterRef("pk")))
    still = JobRun.objects.filter(pk__in=[run.pk for run in unfinished], duration_ms=None, error="")
    rows = still.annotate(is_followed=followed).values_list("pk", "job", "is_followed")
    return {number for number, job, is_followed in rows if is_followed or job not in held}


def error_line(run: JobRun) -> str:
    """What a run failed of, on one line: the first, which has the kind of error; PostgreSQL points at its SQL below."""
    return run.error.strip().partition("\n")[0][:200]


def outcome_of(run: JobRun, dead: Container[int]) -> str:
    """How a run ended, in one word; `dead` are the runs that were killed."""
    if run.error:
        return "failed"
    if run.duration_ms is not None:
        return "done"
    return "killed" if run.pk in dead else "running"


def remove_old_runs(*, at: datetime) -> int:
    """Delete rows of runs that began more than 90 days ago; returns how many."""
    deleted, _ = JobRun.objects.filter(started_at__lt=at - timedelta(days=KEPT_DAYS)).delete()
    return deleted
