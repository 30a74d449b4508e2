"""Refunds on their way: sent under their own key, asked about until they have ended, and an alarm for what is stuck."""

from datetime import datetime, timedelta

from django.db.models import Q

from billing import alarms, ledger, payment_accounts, stripe_gateway
from billing.models import Refund
from billing.refund_states import BY_HAND, State, Status, apply, fail, is_by_hand
from billing.stripe_objects import GatewayRejected, GatewayUnavailable, PaymentsNotConfigured
from billing.stripe_objects import Refund as Sent
from relayadmin.db import in_transaction, outside_transaction, server_cursor

SOURCE = "refunds"
# Stripe keeps idempotency keys for a day at least; after that, what was sent is looked for first.
KEY_KEPT = timedelta(hours=20)
_BACK_OFF = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2))
_FAILED_SHOWN = timedelta(days=3)
_NOT_SENT_AFTER = 4  # attempts
# A person pays these out: nothing of them was paid through Stripe.
_PAID_BY_HAND = Q(top_up=None) | Q(top_up__origin__in=BY_HAND)


def sync(refund_id: int, *, at: datetime) -> str:
    """Send a refund that was not sent, or ask what became of it, and apply the answer.

    Raises the gateway's errors, except that Stripe refuses it: then it has failed.
    """
    outside_transaction()
    row = Refund.objects.select_related("top_up", "customer").get(pk=refund_id)
    if row.status != Status.PENDING or is_by_hand(row):
        return "nothing to do"
    assert row.top_up is not None
    sent = _ask(row, at=at)
    if isinstance(sent, str):
        return _refused(row, sent, at=at)
    return apply(State(row.top_up, (sent,)), at=at)


def _ask(row: Refund, *, at: datetime) -> Sent | str:
    """The refund as Stripe has it, made if it is not there; or why Stripe refuses it."""
    assert row.top_up is not None
    payment_intent = row.top_up.payment_intent_id
    assert payment_intent is not None, "what was paid through Stripe has a payment there"
    if row.stripe_id is not None:
        return stripe_gateway.refund(row.stripe_id)
    if at - row.created_at > KEY_KEPT and (found := _find(row, payment_intent)) is not None:
        return found
    try:
        return stripe_gateway.create_refund(
            key=f"refund:{row.public_id}",
            payment_intent=payment_intent,
            amount=row.pay_amount,
            currency=row.currency,
            refund=row.public_id,
            customer=row.customer.public_id,
        )
    except GatewayRejected as error:
        if error.code == "not_permitted":
            raise
        # Only if none of ours is there after all, nothing has gone out.
        return _find(row, payment_intent) or str(error)


def _find(row: Refund, payment_intent: str) -> Sent | None:
    of_payment = stripe_gateway.refunds_of(payment_intent)
    return next((sent for sent in of_payment if sent.metadata.get("refund") == row.public_id), None)


def _refused(row: Refund, why: str, *, at: datetime) -> str:
    def work() -> str:
        ledger.lock_wallets([row.customer_id])
        now = Refund.objects.select_related("top_up").get(public_id=row.public_id)
        if now.status != Status.PENDING or now.stripe_id is not None:
            return "nothing to do"
        return fail(now, why, at=at)

    return in_transaction(work)


def sweep(*, at: datetime, limit: int = 100) -> int:
    """Send what was not sent and ask for what is pending, as far as it is due; returns how many had an answer.

    Each is claimed before Stripe is asked, so that many workers share them; one without an answer is asked again later.
    """
    answered = 0
    for _ in range(limit):
        claimed = _claim(at)
        if claimed is None:
            break
        try:
            sync(claimed, at=at)
            answered += 1
        except (GatewayUnavailable, GatewayRejected, PaymentsNotConfigured) as error:
            Refund.objects.filter(pk=claimed, status=Status.PENDING).update(failure=str(error)[:500])
    return answered


def _claim(at: datetime) -> int | None:
    """A refund of the mode that the key is for that is due, its next look moved on."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_refund SET attempts = attempts + 1,"
            "   look_at = %s::timestamptz + (%s::interval[])[least(attempts + 1, %s)]"
            " WHERE id = (SELECT r.id FROM billing_refund r JOIN billing_topup t ON t.id = r.top_up_id"
            "   WHERE r.look_at <= %s AND t.is_sandbox = %s ORDER BY r.look_at LIMIT 1"
            "   FOR UPDATE OF r SKIP LOCKED) RETURNING id",
            [at, list(_BACK_OFF), len(_BACK_OFF), at, payment_accounts.is_sandbox()],
        )
        row = cursor.fetchone()
        return None if row is None else int(row[0])


def ask_soon(*, refund_id: int, at: datetime) -> None:
    """Let the next sweep send a pending refund, or ask what became of it."""
    Refund.objects.filter(pk=refund_id, status=Status.PENDING).exclude(_PAID_BY_HAND).update(look_at=at)


def watch(*, at: datetime) -> alarms.Watched:
    """Alarms over refunds that a person has to see to: to be paid out, not sent, failed in the last days."""
    waiting = Refund.objects.filter(status=Status.PENDING)
    to_pay_out = waiting.filter(_PAID_BY_HAND).count()
    not_sent = waiting.exclude(_PAID_BY_HAND).filter(stripe_id=None, attempts__gte=_NOT_SENT_AFTER)
    failed = Refund.objects.filter(status=Status.FAILED, ended_by="", ended_at__gt=at - _FAILED_SHOWN).count()
    seen = [
        ("to_pay_out", to_pay_out, "wait to be paid out by hand", "Pay out, then mark each with its reference."),
        ("not_sent", not_sent.count(), "could not be sent to Stripe", "Each says why; they are tried again."),
        ("failed", failed, "failed in the last days, and were given back", "Find another way to pay these customers."),
    ]
    return alarms.report(
        [
            alarms.Sighting(f"{SOURCE}.{kind}", "", kind, count, f"Refunds that {what}: {count:,}.", advice)
            for kind, count, what, advice in seen
            if count
        ],
        source=SOURCE,
        at=at,
    )
