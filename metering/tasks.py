"""Scheduled jobs of the usage side. Each can run twice, and at once with itself: the second finds nothing to do."""

import logging
from datetime import UTC, datetime
from typing import Any

from celery import shared_task
from kombu.exceptions import OperationalError

from billing import alarms, jobs, period_closing
from billing.models import PeriodClosing
from metering import parking, rates, spend, statements, tiers, watching
from metering.verification import verify_books

_DIFFERENCES_SHOWN = 50
_SLICES_MAX = 1_000
# A closing is shared out among so many workers at most, each of whom has at least so many customers to close.
_WORKERS_MAX = 3
_WORTH_A_WORKER = 100
logger = logging.getLogger(__name__)


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
        closing = statements.begin_due(at=at, actor=jobs.asked_by())
        if closing is None:
            return
        share_out(closing)
        closed = statements.close_invoices(period=closing.period, at=at)
        if closed.issued or closed.failed:
            outcome.result = {
                "period": str(closing),
                "issued": closed.issued,
                "skipped": closed.skipped,
                "failed": closed.failed,
                "reasons": dict(list(closed.reasons.items())[:_DIFFERENCES_SHOWN]),
            }

    return jobs.run_alone("metering.close_last_month", work, at=at)


@shared_task(name="metering.work_off_closing")
def work_off_closing(*, closing_id: int) -> int:
    """Close customers of a month until none waits: one of several that pull at once, on any machine."""
    closing = PeriodClosing.objects.get(pk=closing_id)
    issued = statements.work_off(closing, at=datetime.now(UTC))
    period_closing.end(closing_id)
    return issued


def share_out(closing: PeriodClosing) -> None:
    """Have other workers help, if there is enough to do. Without a broker whoever begun it does it alone."""
    waiting = period_closing.count_waiting(closing.pk)
    try:
        for _ in range(min(_WORKERS_MAX, waiting // _WORTH_A_WORKER)):
            work_off_closing.delay(closing_id=closing.pk)
    except OperationalError as error:
        logger.warning("closing not shared out error=%s", type(error).__name__)


@shared_task(name="metering.watch_closings")
def watch_closings() -> dict[str, Any] | None:
    """Go on with closings that were begun, and keep the alarms over those that were missed, stand still or parked."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        watched = statements.watch(at=at)
        closings = period_closing.unfinished()
        issued = 0
        for closing in closings:
            share_out(closing)
            issued += statements.work_off(closing, at=at)
            period_closing.end(closing.pk)
        mailed = alarms.mail_new(at=at)
        if watched.opened or watched.resolved or mailed or closings:
            outcome.result = {
                "opened": watched.opened,
                "resolved": watched.resolved,
                "mailed": mailed,
                "issued": issued,
            }

    return jobs.run_alone("metering.watch_closings", work, at=at)


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
