"""Payments that the payer's bank takes back: taken off the wallet when the funds are withdrawn, back when they return.

What counts are the dispute's balance transactions, each applied once, in their order; their number only grows, so a
state with fewer than the row has is older and changes nothing. An inquiry (warning_…) withdraws nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from billing import (
    alarms,
    invoice_payments,
    ledger,
    money_back,
    notices,
    payment_accounts,
    recharge_rules,
    refunds,
    stripe_gateway,
    suspension,
)
from billing.accounts import AccountClosed
from billing.models import Account, AccountChange, Dispute, OperatorSettings, TopUp, Transfer
from billing.stripe_objects import BalanceTransaction, GatewayRejected, GatewayUnavailable, PaymentsNotConfigured
from billing.stripe_objects import Dispute as Disputed
from billing.taxes import share
from relayadmin.db import in_transaction, outside_transaction, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text

ENDED = frozenset(["won", "lost", "warning_closed", "prevented"])
POLICY = "dispute policy"  # the actor of what happens by itself
SOURCE = "disputes"
ASKED_AGAIN_AFTER = timedelta(hours=6)
# Funds are reinstated some time after a dispute was won.
LOOKED_AFTER_END = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class State:
    """A dispute as Stripe has it now, and what was refunded of its payment; no top-up where it isn't ours."""

    top_up: TopUp | None
    dispute: Disputed
    refunds: refunds.State | None


def read(stripe_id: str, *, at: datetime) -> State:
    """Ask Stripe for a dispute, and for what was paid and went back before. Raises the gateway's errors."""
    outside_transaction()
    dispute = stripe_gateway.dispute(stripe_id)
    if dispute.payment_intent is None:
        return State(None, dispute, None)
    before = refunds.read_payment(dispute.payment_intent, at=at)
    return State(before.top_up, dispute, before)


def apply(state: State, *, at: datetime) -> str:
    """Bring the row, the ledger and the suspension to what Stripe says; returns what was done.

    In the caller's transaction or its own. A second time changes nothing.
    """
    of = state.top_up
    if of is None or state.refunds is None:
        return refunds.NOT_OURS
    before = state.refunds

    def work() -> str:
        ledger.lock_wallets([of.customer_id])
        refunds.apply(before, at=at)
        top_up = TopUp.objects.get(pk=of.pk)
        row, is_new = Dispute.objects.get_or_create(
            stripe_id=state.dispute.id,
            defaults={
                "customer_id": top_up.customer_id,
                "top_up": top_up,
                "status": state.dispute.status,
                "reason": state.dispute.reason[:100],
                "currency": state.dispute.currency.upper(),
                "pay_amount": state.dispute.amount,
                "created_at": at,
            },
        )
        if not is_new and _is_older(row, state.dispute):
            return "nothing new: the row knows more"
        was_open = not is_new and not row.status.startswith("warning_")
        moved = _move(row, top_up, state.dispute, at=at)
        return _follow(row, state.dispute, moved, was_open=was_open, at=at)

    return in_transaction(work)


def sync(stripe_id: str, *, at: datetime) -> str:
    """Read a dispute and apply it. Raises the gateway's errors."""
    return apply(read(stripe_id, at=at), at=at)


def _is_older(row: Dispute, dispute: Disputed) -> bool:
    if len(dispute.balance_transactions) < row.movements:
        return True
    return row.status in ENDED and dispute.status not in ENDED


def _move(row: Dispute, top_up: TopUp, dispute: Disputed, *, at: datetime) -> list[str]:
    """Apply the balance transactions that were not applied yet; returns what each did."""
    done: list[str] = []
    ordered = sorted(dispute.balance_transactions, key=lambda one: (one.created, one.amount, one.id))
    for movement in ordered[row.movements :]:
        if top_up.status == TopUp.Status.PAID:
            done.append(
                _take(row, top_up, movement, at=at) if movement.amount < 0 else _return(row, top_up, movement, at=at)
            )
        row.movements += 1
    row.save(update_fields=["movements", "taken", "taken_tax", "unpaid", "returned", "returned_tax"])
    money_back.take_bonus_back(top_up, at=at)
    return [text for text in done if text]


def _take(row: Dispute, top_up: TopUp, movement: BalanceTransaction, *, at: datetime) -> str:
    """Funds were withdrawn: take the credit, of the top-up's own grants first; what is short is debt."""
    wallet = ledger.lock_wallets([row.customer_id])[row.customer_id]
    share = _share_of(row, top_up, movement)
    amount = share.amount
    if not amount:
        return ""
    taken = money_back.take(
        wallet,
        amount,
        first=money_back.left_of(row.customer_id, [top_up.public_id], at=at).get(top_up.public_id, ()),
        kind=Transfer.Kind.DISPUTE,
        account=Account.DISPUTES,
        key=transfer_key(row, movement.id),
        reason="A payment is disputed",
        document=top_up.public_id,
        tax=share.tax,
        at=at,
    )
    row.taken_tax = EXACT.add(row.taken_tax, share.tax)
    row.taken, row.unpaid = EXACT.add(row.taken, amount), EXACT.add(row.unpaid, taken.unpaid)
    invoice_payments.reopen(
        top_up,
        transfer_id=taken.transfer_id,
        taken=amount,
        own=taken.own,
        unpaid=taken.unpaid,
        because="dispute",
        at=at,
    )
    recharge_rules.money_went_back(wallet, at=at)
    _tell(row, "dispute_taken", movement.id, amount, at=at)
    return f"{amount_text(amount)} USD taken"


def _return(row: Dispute, top_up: TopUp, movement: BalanceTransaction, *, at: datetime) -> str:
    """Funds were reinstated: give back what was taken, no more; what was taken of gifts last, and as a gift."""
    outstanding = EXACT.subtract(row.taken, row.returned)
    amount = min(outstanding, _share_of(row, top_up, movement).amount)
    if not amount:
        return ""
    tax = share(EXACT.subtract(row.taken_tax, row.returned_tax), amount, outstanding)
    numbers = Transfer.objects.filter(
        customer_id=row.customer_id, kind=Transfer.Kind.DISPUTE, key__startswith=f"dispute:{row.stripe_id}:"
    )
    taken_by = list(numbers.values_list("pk", flat=True))
    key, reason = transfer_key(row, movement.id), "A dispute has returned the payment"
    not_gifts = EXACT.subtract(row.taken, money_back.gifts_of(row.customer_id, taken_by))
    paid = invoice_payments.pay_again(
        top_up,
        wallet=ledger.lock_wallets([row.customer_id])[row.customer_id],
        amount=amount,
        source=Account.DISPUTES,
        key=key,
        reason=reason,
        at=at,
    )
    rest = EXACT.subtract(amount, paid)
    credit = min(rest, max(ZERO, EXACT.subtract(EXACT.subtract(not_gifts, row.returned), paid)))
    for part, is_gift in ((credit, False), (EXACT.subtract(rest, credit), True)):
        money_back.give_back(
            customer_id=row.customer_id,
            amount=part,
            taken_by=taken_by,
            reference=top_up.public_id,
            source=Account.DISPUTES,
            key=transfer_key(row, movement.id, is_gift=is_gift),
            reason=reason,
            is_gift=is_gift,
            tax=ZERO if is_gift == bool(credit) else tax,
            at=at,
        )
    row.returned_tax = EXACT.add(row.returned_tax, tax)
    row.returned = EXACT.add(row.returned, amount)
    _tell(row, "dispute_returned", movement.id, amount, at=at)
    return f"{amount_text(amount)} USD given back"


def transfer_key(row: Dispute, movement: str, *, is_gift: bool = False) -> str:
    """The key of the transfer that one balance transaction of a dispute became; what comes back of gifts is another."""
    return f"dispute:{row.stripe_id}:{movement}{':gift' if is_gift else ''}"


def _share_of(row: Dispute, top_up: TopUp, movement: BalanceTransaction) -> money_back.Share:
    """What a movement is in credit and tax (USD): a part, if it is in the payment's currency and says so; else all."""
    gone = money_back.gone_of(top_up)
    outstanding = EXACT.subtract(row.taken, row.returned)
    pay = abs(movement.amount) if movement.currency.upper() == row.currency else row.pay_amount
    if movement.amount > 0 and pay >= row.pay_amount:
        return money_back.Share(outstanding, EXACT.subtract(row.taken_tax, row.returned_tax))
    return money_back.share_of(top_up, pay, gone)


def _follow(row: Dispute, dispute: Disputed, moved: list[str], *, was_open: bool, at: datetime) -> str:
    """What goes along with the status: dates, the suspension, and when to look again."""
    row.status, row.reason = dispute.status, dispute.reason[:100]
    row.evidence_due_by = dispute.evidence_due_by
    has_ended = dispute.status in ENDED
    if has_ended and row.ended_at is None:
        row.ended_at = at
    elif not has_ended:
        row.ended_at = None
    row.look_at = _next_look(row, at)
    row.save(update_fields=["status", "reason", "evidence_due_by", "ended_at", "look_at"])
    suspended = _suspend_or_resume(row, was_open=was_open, at=at)
    return "; ".join([*moved, *([suspended] if suspended else [])]) or f"{row.status}, nothing moved"


def _next_look(row: Dispute, at: datetime) -> datetime | None:
    if row.ended_at is None:
        return at + ASKED_AGAIN_AFTER
    waits = row.status == "won" and row.taken > row.returned
    return at + ASKED_AGAIN_AFTER if waits and at < row.ended_at + LOOKED_AFTER_END else None


def _suspend_or_resume(row: Dispute, *, was_open: bool, at: datetime) -> str:
    """By the operator's policy a customer is suspended while a payment is disputed, inquiries excepted.

    Whom the operator has resumed meanwhile is not suspended again for the same dispute.
    """
    still_open = Dispute.objects.filter(customer_id=row.customer_id, ended_at=None).exclude(
        status__startswith="warning_"
    )
    try:
        if still_open.exists():
            wanted = OperatorSettings.objects.values_list("suspends_on_dispute", flat=True).get(pk=1)
            if wanted and not was_open and row.ended_at is None and not row.status.startswith("warning_"):
                is_new = suspension.suspend(
                    customer_id=row.customer_id,
                    cause=AccountChange.Cause.DISPUTE,
                    reason=f"A payment is disputed ({row.stripe_id})",
                    actor=POLICY,
                    at=at,
                )
                return "suspended" if is_new else ""
            return ""
        if AccountChange.Cause.DISPUTE.value not in suspension.open_causes(row.customer_id):
            return ""
        suspension.resume(
            customer_id=row.customer_id,
            causes=[AccountChange.Cause.DISPUTE],
            reason="No payment is disputed any more",
            actor=POLICY,
            at=at,
        )
        return "resumed"
    except AccountClosed:
        return ""


def _tell(row: Dispute, kind: str, movement: str, amount: Decimal, *, at: datetime) -> None:
    data = {"top_up": row.top_up.public_id, "amount": amount_text(amount), "reason": row.reason}
    notices.announce(customer_id=row.customer_id, kind=kind, key=f"{row.stripe_id}:{movement}", data=data, at=at)


def sweep(*, at: datetime, limit: int = 100) -> int:
    """Ask for the disputes that are due, each by one worker; returns how many had an answer."""
    answered = 0
    for _ in range(limit):
        claimed = _claim(at)
        if claimed is None:
            break
        try:
            sync(claimed, at=at)
            answered += 1
        except (GatewayUnavailable, GatewayRejected, PaymentsNotConfigured):
            continue  # asked again when its next look has come
    return answered


def _claim(at: datetime) -> str | None:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_dispute SET look_at = %s WHERE id = ("
            " SELECT d.id FROM billing_dispute d JOIN billing_topup t ON t.id = d.top_up_id"
            " WHERE d.look_at <= %s AND t.is_sandbox = %s"
            " ORDER BY d.look_at LIMIT 1 FOR UPDATE OF d SKIP LOCKED) RETURNING stripe_id",
            [at + ASKED_AGAIN_AFTER, at, payment_accounts.is_sandbox()],
        )
        row = cursor.fetchone()
        return None if row is None else str(row[0])


def watch(*, at: datetime) -> alarms.Watched:
    """An alarm for each dispute that waits for evidence, with the date until when."""
    rows = Dispute.objects.filter(ended_at=None).select_related("customer", "top_up").order_by("pk")
    return alarms.report([_sighting(row) for row in rows], source=SOURCE, at=at)


def _sighting(row: Dispute) -> alarms.Sighting:
    due = f": evidence is due by {row.evidence_due_by:%Y-%m-%d %H:%M} UTC" if row.evidence_due_by else ""
    answered = row.status.endswith("under_review")
    asks = "asks about" if row.status.startswith("warning_") else "disputes"
    return alarms.Sighting(
        kind=f"{SOURCE}.open",
        subject=row.stripe_id,
        label=row.stripe_id,
        count=1,
        message=f"{row.customer.name} {asks} a payment of {row.pay_amount.normalize():f} {row.currency}"
        f" ({row.reason or 'no reason given'}){'' if answered else due}.",
        advice="The bank decides on your evidence."
        if answered
        else "Send evidence in Stripe's dashboard, or accept it.",
    )
