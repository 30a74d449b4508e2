"""What the payment provider says of a payment's refunds, and what that makes of our rows and the ledger.

What it says of all refunds of a payment is applied at once, in the order they were made; those made in its dashboard
get their rows here. Applying judges by the rows and what was read alone, so it can be repeated, by many at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from billing import invoice_payments, ledger, money_back, notices, recharge_rules, stripe_gateway, top_ups
from billing.models import Account, Grant, Refund, TopUp, Transfer
from billing.stripe_objects import Refund as Sent
from relayadmin.db import in_transaction, outside_transaction
from relayadmin.money import EXACT, ZERO, amount_text

Status = Refund.Status
NOT_OURS = "ignored: no top-up of ours was paid with it"
BY_HAND = (TopUp.Origin.BANK_TRANSFER, TopUp.Origin.CASH)
ASKED_AGAIN_AFTER = timedelta(hours=1)
_FAILED = frozenset(["failed", "canceled"])


@dataclass(frozen=True, slots=True)
class State:
    """All refunds of one payment as Stripe has them now, oldest first; no top-up where the payment isn't ours."""

    top_up: TopUp | None
    refunds: tuple[Sent, ...]


def read(stripe_id: str, *, at: datetime) -> State:
    """Ask Stripe for a refund and all others of its payment. Raises the gateway's errors."""
    payment_intent = stripe_gateway.refund(stripe_id).payment_intent
    return State(None, ()) if payment_intent is None else read_payment(payment_intent, at=at)


def read_payment(payment_intent: str, *, at: datetime) -> State:
    """Ask Stripe for the refunds of a payment; what was paid is credited first. Raises the gateway's errors."""
    outside_transaction()
    refunds = stripe_gateway.refunds_of(payment_intent)
    return State(credited_top_up(payment_intent, at=at), tuple(reversed(refunds)))


def credited_top_up(payment_intent: str, *, at: datetime) -> TopUp | None:
    """The top-up of a payment, brought to what Stripe says of it; None if the payment isn't ours."""
    top_up = TopUp.objects.filter(payment_intent_id=payment_intent).first()
    if top_up is None or top_up.status != TopUp.Status.PAID:
        top_ups.sync_intent(payment_intent, at=at)
        top_up = TopUp.objects.filter(payment_intent_id=payment_intent).first()
    return top_up


def apply(state: State, *, at: datetime) -> str:
    """Bring the rows and the ledger to what Stripe has of a payment's refunds; returns what was done.

    In the caller's transaction or its own. A second time changes nothing.
    """
    of = state.top_up
    if of is None:
        return NOT_OURS

    def work() -> str:
        ledger.lock_wallets([of.customer_id])
        top_up = TopUp.objects.get(pk=of.pk)
        if top_up.status != TopUp.Status.PAID:
            return f"nothing was credited for {top_up.public_id}, so nothing is taken back"
        done = [_apply_one(top_up, sent, at=at) for sent in state.refunds]
        return "; ".join(text for text in done if text) or "nothing new"

    return in_transaction(work)


def _apply_one(top_up: TopUp, sent: Sent, *, at: datetime) -> str:
    row = _row_of(top_up, sent)
    if row is None:
        if sent.status in _FAILED:
            return ""
        row = _take_made_there(top_up, sent, at=at)
    elif row.stripe_id is None:
        row.stripe_id = sent.id
        row.save(update_fields=["stripe_id"])
    return _bring(row, sent, at=at)


def _row_of(top_up: TopUp, sent: Sent) -> Refund | None:
    """The row of a refund at Stripe: by its id, or by ours in its metadata if all else is the same.

    One that was given back as never sent is not its row any more: what went out after all is taken anew.
    """
    known = Refund.objects.filter(stripe_id=sent.id).first()
    named = sent.metadata.get("refund")
    if known is not None or not named:
        return known
    waiting = Refund.objects.filter(top_up=top_up, stripe_id=None, status=Status.PENDING)
    return waiting.filter(public_id=named, pay_amount=sent.amount).first()


def _take_made_there(top_up: TopUp, sent: Sent, *, at: datetime) -> Refund:
    """Take what was refunded in Stripe's dashboard: of the top-up's grants, of any credit, and as debt."""
    share = money_back.share_of(top_up, sent.amount, money_back.gone_of(top_up))
    row = Refund(
        customer_id=top_up.customer_id,
        top_up=top_up,
        origin=Refund.Origin.PROVIDER,
        amount=share.amount,
        tax=share.tax,
        currency=top_up.currency,
        pay_amount=sent.amount,
        key=f"stripe:{sent.id}",
        stripe_id=sent.id,
        reason="Refunded at the payment provider",
        look_at=at + ASKED_AGAIN_AFTER,
        created_at=at,
    )
    take_row(ledger.lock_wallets([top_up.customer_id])[top_up.customer_id], row, at=at)
    return row


def _bring(row: Refund, sent: Sent, *, at: datetime) -> str:
    """Bring a row under its wallet's lock to what Stripe says of it; what has failed stays so."""
    if row.status == Status.FAILED:
        return ""
    if sent.status in _FAILED:
        return fail(row, sent.failure_reason or sent.status, at=at)
    if row.status == Status.SUCCEEDED:
        return ""
    if sent.status == "succeeded":
        return succeed(row, Account.CASH_STRIPE, at=at)
    row.look_at = at + ASKED_AGAIN_AFTER
    row.save(update_fields=["look_at"])
    return f"{row.public_id} is pending"


def succeed(row: Refund, cash: Account, *, at: datetime) -> str:
    """Book what has gone out: refunds pending → cash."""
    posting = ledger.Posting(
        row.customer_id,
        Transfer.Kind.REFUND.value,
        f"refund:{row.public_id}:paid",
        [(Account.REFUNDS_PENDING.value, -row.whole), (cash.value, row.whole)],
        reason="Refund paid",
        document=row.public_id,
        actor=row.ended_by,
    )
    ledger.post([posting], wallets=ledger.lock_wallets([row.customer_id]), at=at)
    row.status, row.ended_at, row.look_at, row.failure = Status.SUCCEEDED, at, None, ""
    row.save(update_fields=["status", "ended_at", "look_at", "failure", "ended_by", "reference"])
    if row.top_up is not None:
        money_back.take_bonus_back(row.top_up, at=at)
    if row.origin != Refund.Origin.RETURNED:
        _tell(row, "refund_paid", at=at)
    return f"{row.public_id} succeeded"


def fail(row: Refund, why: str, *, at: datetime) -> str:
    """Give back what was taken; after a success, the money came back to where it had gone out."""
    source = Account.REFUNDS_PENDING if row.status == Status.PENDING else Account.CASH_STRIPE
    reference = row.top_up.public_id if row.top_up is not None else _reference_of(row)
    key, reason = f"refund:{row.public_id}", "The refund did not go through"
    paid = ZERO
    if row.top_up is not None:
        paid = invoice_payments.pay_again(
            row.top_up,
            wallet=ledger.lock_wallets([row.customer_id])[row.customer_id],
            amount=row.amount,
            source=source,
            key=key,
            reason=reason,
            actor=row.ended_by,
            at=at,
        )
    money_back.give_back(
        customer_id=row.customer_id,
        amount=EXACT.subtract(row.amount, paid),
        taken_by=[row.transfer_id],
        reference=reference,
        source=source,
        key=key,
        reason=reason,
        tax=row.tax,
        actor=row.ended_by,
        at=at,
    )
    row.status, row.ended_at, row.look_at, row.failure = Status.FAILED, at, None, why[:500]
    row.save(update_fields=["status", "ended_at", "look_at", "failure", "ended_by"])
    _tell(row, "refund_failed", at=at)
    return f"{row.public_id} failed, {amount_text(row.amount)} USD given back"


def _reference_of(row: Refund) -> str:
    assert row.grant_id is not None
    return Grant.objects.values_list("reference", flat=True).get(customer_id=row.customer_id, pk=row.grant_id)


def _tell(row: Refund, kind: str, *, at: datetime) -> None:
    data = {"refund": row.public_id, "amount": amount_text(row.amount), "currency": row.currency}
    notices.announce(
        customer_id=row.customer_id,
        kind=kind,
        key=row.public_id,
        data={**data, "paid": amount_text(row.pay_amount)},
        at=at,
    )


def take_row(wallet: ledger.LockedWallet, row: Refund, *, because: str = "refund", at: datetime) -> None:
    """Take what a new row says off a locked wallet, of its top-up's own grants first, and save it.

    `because` is what the customer is told of an invoice that is due again.
    """
    assert row.top_up is not None
    taken = money_back.take(
        wallet,
        row.amount,
        first=money_back.left_of(wallet.customer_id, [row.top_up.public_id], at=at).get(row.top_up.public_id, ()),
        kind=Transfer.Kind.REFUND,
        account=Account.REFUNDS_PENDING,
        key=f"refund:{row.public_id}",
        reason=row.reason,
        document=row.top_up.public_id,
        tax=row.tax,
        actor=row.actor,
        at=at,
    )
    row.transfer_id, row.unpaid = taken.transfer_id, taken.unpaid
    row.save(force_insert=True)
    invoice_payments.reopen(
        row.top_up,
        transfer_id=taken.transfer_id,
        taken=row.amount,
        own=taken.own,
        unpaid=taken.unpaid,
        because=because,
        at=at,
    )
    recharge_rules.money_went_back(wallet, at=at)


def is_by_hand(row: Refund) -> bool:
    """Whether a person pays it out: nothing of it was paid through Stripe."""
    return row.top_up is None or row.top_up.origin in BY_HAND
