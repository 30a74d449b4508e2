"""Money of top-ups that goes back to who paid: taken off the wallet first, then sent, then booked or given back.

A refund is taken, with its row, in one transaction under the wallet's lock, and only then Stripe is asked, under a key
that is the row's (billing.refund_sending). Bank transfers and cash are paid out by hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import ledger, money_back
from billing.manual import needs_second_person
from billing.models import Account, OperatorSettings, Refund, TopUp
from billing.refund_sending import SOURCE, ask_soon, sweep, sync, watch
from billing.refund_states import (
    BY_HAND,
    NOT_OURS,
    State,
    Status,
    apply,
    fail,
    is_by_hand,
    read,
    read_payment,
    succeed,
    take_row,
)
from relayadmin.db import in_transaction
from relayadmin.money import EXACT, ZERO, amount_text

__all__ = [
    "BY_HAND",
    "NOT_OURS",
    "SOURCE",
    "State",
    "apply",
    "ask_soon",
    "is_by_hand",
    "read",
    "read_payment",
    "sweep",
    "sync",
    "watch",
]


class InvalidRefund(ValueError):
    """A refund that can't be made; `field` names what is wrong, the message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooMuch(Exception):
    """More than what is left of the top-ups and not held."""

    def __init__(self, refundable: Decimal) -> None:
        most = f"only {amount_text(refundable)} USD" if refundable else "nothing"
        super().__init__(f"{most} can be refunded")
        self.refundable = refundable


class RefundKeyConflict(Exception):
    """The idempotency key was used for another refund."""


class NotByHand(Exception):
    """It does not wait for somebody to pay it out."""


class SamePerson(Exception):
    """Who asked for it may not pay it out."""


@dataclass(frozen=True, slots=True)
class Refundable:
    """What can go back of one top-up now: credit (USD), and that in the top-up's currency."""

    top_up: TopUp
    amount: Decimal
    pay: Decimal


def refund(
    *,
    customer_id: int,
    amount: Decimal | None,
    reason: str,
    actor: str,
    key: str,
    at: datetime,
    top_up_id: int | None = None,
) -> list[Refund]:
    """Refund an amount (USD), or all there is (None), once per key; of one top-up or of all, the newest first.

    One row for each top-up, taken off the wallet; nothing is sent yet. Raises InvalidRefund, TooMuch,
    RefundKeyConflict, ledger.UnknownCustomer.
    """
    _check(amount, reason, key)

    def work() -> list[Refund]:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        known = Refund.objects.filter(customer_id=customer_id, key__startswith=f"{key}:").order_by("pk")
        before = [row for row in known if row.key.rpartition(":")[0] == key]
        if before:
            return _asked_before(before, amount, top_up_id)
        parts = _refundable(wallet, top_up_id, at=at)
        most = sum((part.amount for part in parts), ZERO)
        if not most or (amount is not None and amount > most):
            raise TooMuch(most)
        return [
            _take(wallet, part, reason=reason, actor=actor, key=f"{key}:{part.top_up.pk}", at=at)
            for part in _spread(parts, most if amount is None else amount)
        ]

    return in_transaction(work)


def refundable(*, customer_id: int, at: datetime, top_up_id: int | None = None) -> list[Refundable]:
    """What could be refunded now, by top-up, the newest first. Raises ledger.UnknownCustomer."""
    return in_transaction(
        lambda: _refundable(ledger.lock_wallets([customer_id])[customer_id], top_up_id, at=at), is_on_disk=True
    )


def _check(amount: Decimal | None, reason: str, key: str) -> None:
    if amount is not None and (not amount.is_finite() or amount <= 0):
        raise InvalidRefund("amount", "amount must be above zero")
    if amount is not None and amount != amount.quantize(Decimal("0.01")):
        raise InvalidRefund("amount", "amount must be whole cents")
    if not reason.strip():
        raise InvalidRefund("reason", "a refund needs a reason")
    for name, text, longest in (("reason", reason, 500), ("key", key, 200)):
        if not text or len(text) > longest or "\x00" in text:
            raise InvalidRefund(name, f"{name} must have 1 to {longest} characters, and no NUL")


def _asked_before(before: Sequence[Refund], amount: Decimal | None, top_up_id: int | None) -> list[Refund]:
    is_same = amount is None or sum((row.amount for row in before), ZERO) == amount
    if not is_same or (top_up_id is not None and {row.top_up_id for row in before} != {top_up_id}):
        raise RefundKeyConflict("the key was used for another refund; choose another key")
    return list(before)


def _refundable(wallet: ledger.LockedWallet, top_up_id: int | None, *, at: datetime) -> list[Refundable]:
    free = max(ZERO, EXACT.subtract(wallet.balance, wallet.held))
    paid = TopUp.objects.filter(customer_id=wallet.customer_id, status=TopUp.Status.PAID).order_by("-pk")
    rows = list(paid if top_up_id is None else paid.filter(pk=top_up_id))
    left = money_back.left_of(wallet.customer_id, [row.public_id for row in rows], at=at)
    found: list[Refundable] = []
    for row in rows:
        gone = money_back.gone_of(row)
        # Credit by hand may name a top-up too, and no more goes back of one than was paid.
        rest = max(ZERO, EXACT.subtract(row.amount, gone.amount))
        amount = min(sum((part.amount for part in left.get(row.public_id, ())), ZERO), rest, free)
        # Nobody can send a fraction of a cent back: it stays to be used.
        amount = amount.quantize(Decimal("0.01"), rounding="ROUND_DOWN")
        pay = money_back.pay_of(row, amount, gone) if amount else ZERO
        if pay:
            free = EXACT.subtract(free, amount)
            found.append(Refundable(row, amount, pay))
    return found


def _spread(parts: Sequence[Refundable], amount: Decimal) -> Iterator[Refundable]:
    rest = amount
    for part in parts:
        taken = min(rest, part.amount)
        if not taken:
            return
        rest = EXACT.subtract(rest, taken)
        pay = money_back.pay_of(part.top_up, taken, money_back.gone_of(part.top_up))
        if not pay:
            raise InvalidRefund("amount", f"{taken} USD is less than the smallest unit of {part.top_up.currency}")
        yield Refundable(part.top_up, taken, pay)


def _take(wallet: ledger.LockedWallet, part: Refundable, *, reason: str, actor: str, key: str, at: datetime) -> Refund:
    """Take one top-up's part off a locked wallet, into a row that waits to be sent or paid out."""
    top_up = part.top_up
    row = Refund(
        customer_id=wallet.customer_id,
        top_up=top_up,
        origin=Refund.Origin.OPERATOR,
        amount=part.amount,
        tax=money_back.tax_of(top_up, part.amount, money_back.gone_of(top_up)),
        currency=top_up.currency,
        pay_amount=part.pay,
        key=key,
        reason=reason,
        actor=actor,
        look_at=None if top_up.origin in BY_HAND else at,
        created_at=at,
    )
    take_row(wallet, row, at=at)
    assert not row.unpaid, "no more is refunded than what is left"
    return row


def pay_out(*, refund_id: int, reference: str, person: str, at: datetime) -> Refund:
    """Mark a refund of a bank transfer, of cash or of a closed account as paid out by hand.

    Above the operator's limit it has to be another person than who asked for it. Raises InvalidRefund, NotByHand,
    SamePerson.
    """
    if not reference.strip() or len(reference) > 255 or "\x00" in reference:
        raise InvalidRefund("reference", "a reference of 1 to 255 characters is needed, such as the transfer's number")

    def work() -> Refund:
        row = _lock_by_hand(refund_id)
        limit = OperatorSettings.objects.values_list("second_person_above", flat=True).get(pk=1)
        if limit is not None and row.amount > limit and row.actor == person:
            raise SamePerson(f"above {amount_text(limit)} USD a second person pays it out")
        row.reference, row.ended_by = reference, person
        succeed(row, Account.CASH_MANUAL, at=at)
        return row

    return in_transaction(work)


def note_returned(*, top_up_id: int, reason: str, reference: str, person: str, at: datetime) -> Refund:
    """Note that a bank has taken an invoice's payment back, or cash proved bad: it leaves the wallet, and is due again.

    All that has not gone back before. Above the operator's limit it is another person than who recorded the payment.
    Twice is refused. Raises InvalidRefund, NotByHand, SamePerson.
    """
    for name, text, longest in (("reason", reason, 500), ("reference", reference, 255)):
        if not text.strip() or len(text) > longest or "\x00" in text:
            raise InvalidRefund(name, f"a {name} of 1 to {longest} characters is needed")

    def work() -> Refund:
        wallet = ledger.lock_wallets([TopUp.objects.get(pk=top_up_id).customer_id])
        top_up = TopUp.objects.get(pk=top_up_id)
        if top_up.origin not in BY_HAND or top_up.invoice_id is None or top_up.status != TopUp.Status.PAID:
            raise NotByHand("it is no payment of an invoice that was recorded by hand")
        gone = money_back.gone_of(top_up)
        amount = EXACT.subtract(top_up.credited, gone.amount)
        if amount <= 0:
            raise InvalidRefund("reason", "all of it has gone back before")
        if needs_second_person(amount) and top_up.asked_by == person:
            raise SamePerson("a second person notes that a large payment went back")
        row = Refund(
            customer_id=top_up.customer_id,
            top_up=top_up,
            origin=Refund.Origin.RETURNED,
            amount=amount,
            currency=top_up.currency,
            pay_amount=EXACT.subtract(top_up.pay_amount, gone.pay),
            key=f"returned:{top_up.public_id}",
            reason=reason.strip(),
            actor=person,
            reference=reference.strip(),
            ended_by=person,
            created_at=at,
        )
        take_row(wallet[top_up.customer_id], row, because="returned", at=at)
        succeed(row, Account.CASH_MANUAL, at=at)
        return row

    return in_transaction(work)


def give_up(*, refund_id: int, reason: str, person: str, at: datetime) -> Refund:
    """Give a refund that waits to be paid out by hand back to the wallet. Raises InvalidRefund, NotByHand."""
    if not reason.strip() or len(reason) > 500 or "\x00" in reason:
        raise InvalidRefund("reason", "a reason of 1 to 500 characters is needed")

    def work() -> Refund:
        row = _lock_by_hand(refund_id)
        row.ended_by = person
        fail(row, reason, at=at)
        return row

    return in_transaction(work)


def _lock_by_hand(refund_id: int) -> Refund:
    ledger.lock_wallets([Refund.objects.get(pk=refund_id).customer_id])
    row = Refund.objects.select_related("top_up").get(pk=refund_id)
    if row.status != Status.PENDING or not is_by_hand(row):
        raise NotByHand("it does not wait to be paid out by hand")
    return row
