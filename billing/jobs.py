"""Scheduled jobs: one run of a job at a time, and a row for the operator of what each run did.

A run that found nothing to do takes the place of the one before it that found nothing either: jobs that run every few
seconds would hide everything else.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import Error, connection

from billing.models import JobRun
from relayadmin.db import server_cursor

KEPT_DAYS = 90
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
    run = JobRun.objects.create(job=job, started_at=at)
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
        _idle_runs(job).filter(pk__lt=run.pk).delete()


def _idle_runs(job: str) -> Any:
    return JobRun.objects.filter(job=job, result__isnull=True, error="", duration_ms__isnull=False)


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


def remove_old_runs(*, at: datetime) -> int:
    """Delete rows of runs that began more than 90 days ago; returns how many."""
    deleted, _ = JobRun.objects.filter(started_at__lt=at - timedelta(days=KEPT_DAYS)).delete()
    return deleted
