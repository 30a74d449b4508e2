"""Scheduled jobs of the money side. Each can run twice, and at once with itself: the second finds nothing to do."""

from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from billing import holds, idempotent_answers, jobs, spending

EXPIRY_ROUNDS_MAX = 1_000
REMOVAL_ROUNDS_MAX = 1_000


@shared_task(name="billing.expire_holds")
def expire_holds() -> dict[str, Any] | None:
    """Free open holds whose time is over."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        for _ in range(EXPIRY_ROUNDS_MAX):
            expired = holds.expire(at=at)
            if not expired:
                return
            before = outcome.result["expired"] if outcome.result else 0
            outcome.result = {"expired": before + expired}

    return jobs.run_alone("billing.expire_holds", work, at=at)


@shared_task(name="billing.remove_old_job_runs")
def remove_old_job_runs() -> dict[str, Any] | None:
    """Delete what is known of runs older than 90 days."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        removed = jobs.remove_old_runs(at=at)
        outcome.result = {"removed": removed} if removed else None

    return jobs.run_alone("billing.remove_old_job_runs", work, at=at)


@shared_task(name="billing.remove_old_idempotent_answers")
def remove_old_idempotent_answers() -> dict[str, Any] | None:
    """Forget Idempotency-Keys older than seven days, with what was answered to them."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        for _ in range(REMOVAL_ROUNDS_MAX):
            removed = idempotent_answers.remove_old_answers(at=at)
            if not removed:
                return
            before = outcome.result["removed"] if outcome.result else 0
            outcome.result = {"removed": before + removed}

    return jobs.run_alone("billing.remove_old_idempotent_answers", work, at=at)


@shared_task(name="billing.remove_old_spend_counters")
def remove_old_spend_counters() -> dict[str, Any] | None:
    """Remove counters of days and months that no limit is judged by any more."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        for _ in range(REMOVAL_ROUNDS_MAX):
            removed = spending.remove_old(today=at.date())
            if not removed:
                return
            before = outcome.result["removed"] if outcome.result else 0
            outcome.result = {"removed": before + removed}

    return jobs.run_alone("billing.remove_old_spend_counters", work, at=at)
