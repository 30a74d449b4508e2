"""Scheduled jobs of the usage side. Each can run twice, and at once with itself: the second finds nothing to do."""

from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from billing import alarms, jobs
from metering import parking, rates, spend, statements, tiers, watching
from metering.verification import verify_books

_DIFFERENCES_SHOWN = 50
_SLICES_MAX = 1_000


class BooksDiffer(Exception):
    """The ledger check found figures that are not what they should be; the run's result names them."""


@shared_task(name="metering.settle_parked_events")
def settle_parked_events() -> dict[str, Any] | None:
    """Settle waiting events whose price or key is known by now."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        swept = parking.sweep(at=at, turn=int(at.timestamp()) // 60)
        if swept.settled or swept.claimed:
            outcome.result = {"settled": swept.settled, "claimed": swept.claimed, "waiting": swept.waiting}

    return jobs.run_alone("metering.settle_parked_events", work, at=at)


@shared_task(name="metering.watch_what_waits")
def watch_what_waits() -> dict[str, Any] | None:
    """Open one alarm for each thing that many events wait for, or one for long; resolve those that are over."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        watched = watching.watch_what_waits(at=at)
        mailed = alarms.mail_new(at=at)
        if watched.opened or watched.resolved or mailed:
            outcome.result = {"opened": watched.opened, "resolved": watched.resolved, "mailed": mailed}

    return jobs.run_alone("metering.watch_what_waits", work, at=at)


@shared_task(name="metering.promote_customers")
def promote_customers() -> dict[str, Any] | None:
    """Give customers the usage tier that their top-ups reach, and its limit of spend per month."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        promoted, limited = tiers.promote(at=at), tiers.limit_spend(at=at)
        if promoted or limited:
            outcome.result = {"promoted": promoted, "limited": limited}

    return jobs.run_alone("metering.promote_customers", work, at=at)


@shared_task(name="metering.watch_rate_limits")
def watch_rate_limits() -> dict[str, Any] | None:
    """Keep the alarm over uncounted requests open while Redis is away, and resolve it after."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        watched = rates.watch(at=at)
        if watched.opened or watched.resolved:
            outcome.result = {"opened": watched.opened, "resolved": watched.resolved}

    return jobs.run_alone("metering.watch_rate_limits", work, at=at)


@shared_task(name="metering.close_last_month")
def close_last_month() -> dict[str, Any] | None:
    """Issue last month's invoices in the day after its grace period; at any other moment do nothing."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        outcome.result = statements.close_last_month(at=at)

    return jobs.run_alone("metering.close_last_month", work, at=at)


@shared_task(name="metering.check_ledger")
def check_ledger(*, full: bool = False) -> dict[str, Any] | None:
    """Recompute the books. Raises BooksDiffer, so that a difference is seen wherever failed jobs are."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        verified = verify_books(full=full, at=at)
        outcome.result = {
            "ok": verified.ok,
            "full": full,
            "checked": verified.checked,
            "differences": [
                {"customer": customer, "what": item.what, "expected": item.expected, "found": item.found}
                for customer, item in verified.differences[:_DIFFERENCES_SHOWN]
            ],
        }
        if not verified.ok:
            raise BooksDiffer(f"{len(verified.differences)} figures are not what they should be")

    return jobs.run_alone("metering.check_ledger", work, at=at)


@shared_task(name="metering.count_spend_anew")
def count_spend_anew() -> dict[str, Any] | None:
    """Count limits in the operator's time zone where they are counted in another, because it has changed.

    Each customer is counted in a transaction of its own, whose wallet alone waits; a run that is killed has left the
    others for the next.
    """

    def work(outcome: jobs.Outcome) -> None:
        counted = 0
        for _ in range(_SLICES_MAX):
            customers = spend.counted_elsewhere()
            if not customers:
                return
            for customer_id in customers:
                spend.count_anew([customer_id], at=datetime.now(UTC))
                counted += 1
                outcome.result = {"customers": counted}

    return jobs.run_alone("metering.count_spend_anew", work, at=datetime.now(UTC))
