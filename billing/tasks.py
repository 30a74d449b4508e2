"""Scheduled jobs of the money side. Each can run twice, and at once with itself: the second finds nothing to do."""

from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from billing import debt_notices, expiry, holds, idempotent_answers, jobs, scheduled_grants, spending, suspension

EXPIRY_ROUNDS_MAX = 1_000
REMOVAL_ROUNDS_MAX = 1_000
POSTING_ROUNDS_MAX = 1_000


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


@shared_task(name="billing.post_scheduled_grants")
def post_scheduled_grants() -> dict[str, Any] | None:
    """Put credit whose moment has come into its wallets."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        for _ in range(POSTING_ROUNDS_MAX):
            posted = scheduled_grants.post_due(at=at)
            if not posted:
                return
            before = outcome.result["posted"] if outcome.result else 0
            outcome.result = {"posted": before + posted}

    return jobs.run_alone("billing.post_scheduled_grants", work, at=at)


@shared_task(name="billing.expire_credit")
def expire_credit() -> dict[str, Any] | None:
    """Announce credit that ends soon, and take what has ended."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        taken = announced = 0
        for _ in range(EXPIRY_ROUNDS_MAX):
            swept = expiry.sweep(at=at)
            if not swept.looked_at:
                return
            taken, announced = taken + swept.taken, announced + swept.announced
            if taken or announced:
                outcome.result = {"taken": taken, "announced": announced}

    return jobs.run_alone("billing.expire_credit", work, at=at)


@shared_task(name="billing.apply_debt_policy")
def apply_debt_policy() -> dict[str, Any] | None:
    """Suspend who owes more than the operator allows, resume who has paid."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        policed = suspension.apply_debt_policy(at=at)
        if policed.suspended or policed.resumed:
            outcome.result = {"suspended": policed.suspended, "resumed": policed.resumed}

    return jobs.run_alone("billing.apply_debt_policy", work, at=at)


@shared_task(name="billing.tell_debtors")
def tell_debtors() -> dict[str, Any] | None:
    """Tell customers whose keys have stopped for what they owe."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        told = debt_notices.tell(at=at)
        outcome.result = {"told": told} if told else None

    return jobs.run_alone("billing.tell_debtors", work, at=at)


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
