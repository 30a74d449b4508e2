"""Scheduled jobs of the money side. Each can run twice, and at once with itself: the second finds nothing to do."""

from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from billing import (
    debt_notices,
    disputes,
    expiry,
    holds,
    idempotent_answers,
    jobs,
    receipts,
    receivables,
    recharge,
    refunds,
    saved_methods,
    scheduled_grants,
    spending,
    stripe_reconciliation,
    suspension,
    top_ups,
    webhook_events,
)

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


@shared_task(name="billing.recharge_wallets")
def recharge_wallets() -> dict[str, Any] | None:
    """Charge saved cards for wallets below their thresholds, and go on with charges that died."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        swept = recharge.sweep(at=at)
        if swept.looked_at or swept.failed:
            outcome.result = {"looked_at": swept.looked_at, "failed": swept.failed}

    return jobs.run_alone("billing.recharge_wallets", work, at=at)


@shared_task(name="billing.look_after_saved_cards")
def look_after_saved_cards() -> dict[str, Any] | None:
    """Tell the provider of removed cards, and look for saved ones that no webhook told of."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        swept = saved_methods.sweep(at=at)
        if swept.detached or swept.looked_at or swept.failed:
            outcome.result = {"detached": swept.detached, "looked_at": swept.looked_at, "failed": swept.failed}

    return jobs.run_alone("billing.look_after_saved_cards", work, at=at)


@shared_task(name="billing.issue_receipts")
def issue_receipts(everywhere: bool = False) -> dict[str, Any] | None:
    """Make the receipts of top-ups that were paid in the last days, or ever."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        issued = receipts.issue_missing(at=at, since=None if everywhere else at - receipts.RECENT)
        outcome.result = {"issued": issued} if issued else None

    return jobs.run_alone("billing.issue_receipts", work, at=at)


@shared_task(name="billing.sweep_top_ups")
def sweep_top_ups() -> dict[str, Any] | None:
    """Ask the payment provider what became of top-ups, and open those whose call died."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        swept = top_ups.sweep(at=at)
        if swept.looked_at:
            outcome.result = {"looked_at": swept.looked_at, "paid": swept.paid}

    return jobs.run_alone("billing.sweep_top_ups", work, at=at)


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


@shared_task(name="billing.work_off_webhook")
def work_off_webhook(*, number: int) -> str:
    """Do what a webhook that has just been stored is a signal for."""
    return webhook_events.work_off(number, at=datetime.now(UTC))


@shared_task(name="billing.work_off_webhooks")
def work_off_webhooks() -> dict[str, Any] | None:
    """Take up the webhooks that are left: a worker died, or the payment provider gave no answer."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        try:
            looked_at = webhook_events.sweep(at=at)
            outcome.result = {"looked_at": looked_at} if looked_at else None
        finally:
            webhook_events.watch(at=at)

    return jobs.run_alone("billing.work_off_webhooks", work, at=at)


@shared_task(name="billing.send_refunds")
def send_refunds() -> dict[str, Any] | None:
    """Send refunds that were not sent yet, and ask what became of those that are pending."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        answered = refunds.sweep(at=at)
        refunds.watch(at=at)
        outcome.result = {"answered": answered} if answered else None

    return jobs.run_alone("billing.send_refunds", work, at=at)


@shared_task(name="billing.ask_about_disputes")
def ask_about_disputes() -> dict[str, Any] | None:
    """Ask what became of disputes, and keep an alarm open for each that is not over."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        answered = disputes.sweep(at=at)
        disputes.watch(at=at)
        outcome.result = {"answered": answered} if answered else None

    return jobs.run_alone("billing.ask_about_disputes", work, at=at)


@shared_task(name="billing.reconcile_stripe")
def reconcile_stripe() -> dict[str, Any] | None:
    """Hold Stripe's balance transactions against the payments, and book fees, exchange rates and payouts."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        if stripe_reconciliation.is_wanted():
            outcome.result = stripe_reconciliation.reconcile(at=at).as_dict()

    return jobs.run_alone("billing.reconcile_stripe", work, at=at)


@shared_task(name="billing.chase_overdue_invoices")
def chase_overdue_invoices() -> dict[str, Any] | None:
    """Mark invoices that are overdue, remind of them, and suspend by the operator's policy."""
    at = datetime.now(UTC)

    def work(outcome: jobs.Outcome) -> None:
        chased = receivables.chase(at=at)
        if chased != receivables.Chased():
            outcome.result = {
                "overdue": chased.overdue,
                "reminded": chased.reminded,
                "suspended": chased.suspended,
                "resumed": chased.resumed,
            }

    return jobs.run_alone("billing.chase_overdue_invoices", work, at=at)
