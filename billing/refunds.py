"""Money of top-ups that goes back to who paid: taken off the wallet first, then sent, then booked or given back.

A refund is taken, with its row, in one transaction under the wallet's lock, and only then Stripe is asked, under a key
that is the row's. What Stripe says of a payment's refunds is applied all at once, in the order they were made; those
made in its dashboard get their rows here. Bank transfers and cash are paid out by hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Q

from billing import alarms, ledger, money_back, notices, stripe_gateway, top_ups
from billing.models import Account, Customer, Grant, OperatorSettings, Refund, TopUp, Transfer
from billing.stripe_objects import GatewayRejected, GatewayUnavailable, PaymentsNotConfigured
from billing.stripe_objects import Refund as Sent
from relayadmin.db import in_transaction, outside_transaction, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text

Status = Refund.Status
NOT_OURS = "ignored: no top-up of ours was paid with it"
BY_HAND = (TopUp.Origin.BANK_TRANSFER, TopUp.Origin.CASH)
# Stripe keeps idempotency keys for a day at least; after that, what was sent is looked for first.
KEY_KEPT = timedelta(hours=20)
ASKED_AGAIN_AFTER = timedelta(hours=1)
_BACK_OFF = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2))
_FAILED = frozenset(["failed", "canceled"])


class InvalidRefund(ValueError):
    """A refund that can't be made; `field` names what is wrong, the message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooMuch(Exception):
    """More than what is left of the top-ups and not held."""

    def __init__(self, refundable: Decimal) -> None:
        super().__init__(f"only {amount_text(refundable)} USD can be refunded")
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
        before = list(Refund.objects.filter(customer_id=customer_id, key__startswith=f"{key}:").order_by("pk"))
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
        amount = min(sum((part.amount for part in left.get(row.public_id, ())), ZERO), free)
        # Nobody can send a fraction of a cent back: it stays to be used.
        amount = amount.quantize(Decimal("0.01"), rounding="ROUND_DOWN")
        pay = money_back.pay_of(row, amount, money_back.gone_of(row)) if amount else ZERO
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
        currency=top_up.currency,
        pay_amount=part.pay,
        key=key,
        reason=reason,
        actor=actor,
        look_at=None if top_up.origin in BY_HAND else at,
        created_at=at,
    )
    _take_row(wallet, row, at=at)
    assert not row.unpaid, "no more is refunded than what is left"
    return row


def _take_row(wallet: ledger.LockedWallet, row: Refund, *, at: datetime) -> None:
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
        actor=row.actor,
        at=at,
    )
    row.transfer_id, row.unpaid = taken.transfer_id, taken.unpaid
    row.save(force_insert=True)


# --- what Stripe says


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
    return State(credited_top_up(payment_intent, at=at), tuple(sorted(refunds, key=lambda one: (one.created, one.id))))


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
    """The row of a refund at Stripe: by its id, or by ours in its metadata if all else is the same."""
    known = Refund.objects.filter(stripe_id=sent.id).first()
    named = sent.metadata.get("refund")
    if known is not None or not named:
        return known
    return Refund.objects.filter(public_id=named, top_up=top_up, pay_amount=sent.amount, stripe_id=None).first()


def _take_made_there(top_up: TopUp, sent: Sent, *, at: datetime) -> Refund:
    """Take what was refunded in Stripe's dashboard: of the top-up's grants, of any credit, and as debt."""
    row = Refund(
        customer_id=top_up.customer_id,
        top_up=top_up,
        origin=Refund.Origin.PROVIDER,
        amount=money_back.credit_of(top_up, sent.amount, money_back.gone_of(top_up)),
        currency=top_up.currency,
        pay_amount=sent.amount,
        key=f"stripe:{sent.id}",
        stripe_id=sent.id,
        reason="Refunded at the payment provider",
        look_at=at + ASKED_AGAIN_AFTER,
        created_at=at,
    )
    _take_row(ledger.lock_wallets([top_up.customer_id])[top_up.customer_id], row, at=at)
    return row


def _bring(row: Refund, sent: Sent, *, at: datetime) -> str:
    """Bring a row under its wallet's lock to what Stripe says of it; what has failed stays so."""
    if row.status == Status.FAILED:
        return ""
    if sent.status in _FAILED:
        return _fail(row, sent.failure_reason or sent.status, at=at)
    if row.status == Status.SUCCEEDED:
        return ""
    if sent.status == "succeeded":
        return _succeed(row, Account.CASH_STRIPE, at=at)
    row.look_at = at + ASKED_AGAIN_AFTER
    row.save(update_fields=["look_at"])
    return f"{row.public_id} is pending"


def _succeed(row: Refund, cash: Account, *, at: datetime) -> str:
    """Book what has gone out: refunds pending → cash."""
    posting = ledger.Posting(
        row.customer_id,
        Transfer.Kind.REFUND.value,
        f"refund:{row.public_id}:paid",
        [(Account.REFUNDS_PENDING.value, -row.amount), (cash.value, row.amount)],
        reason="Refund paid",
        document=row.public_id,
        actor=row.ended_by,
    )
    ledger.post([posting], wallets=ledger.lock_wallets([row.customer_id]), at=at)
    row.status, row.ended_at, row.look_at, row.failure = Status.SUCCEEDED, at, None, ""
    row.save(update_fields=["status", "ended_at", "look_at", "failure", "ended_by", "reference"])
    _tell(row, "refund_paid", at=at)
    return f"{row.public_id} succeeded"


def _fail(row: Refund, why: str, *, at: datetime) -> str:
    """Give back what was taken; after a success, the money came back to where it had gone out."""
    source = Account.REFUNDS_PENDING if row.status == Status.PENDING else Account.CASH_STRIPE
    reference = row.top_up.public_id if row.top_up is not None else _reference_of(row)
    money_back.give_back(
        customer_id=row.customer_id,
        amount=row.amount,
        taken_by=[row.transfer_id],
        reference=reference,
        source=source,
        key=f"refund:{row.public_id}",
        reason="The refund did not go through",
        actor=row.ended_by,
        at=at,
    )
    row.status, row.ended_at, row.look_at, row.failure = Status.FAILED, at, None, why[:500]
    row.save(update_fields=["status", "ended_at", "look_at", "failure", "ended_by"])
    _tell(row, "refund_failed", at=at)
    return f"{row.public_id} failed, {amount_text(row.amount)} USD given back"


def _reference_of(row: Refund) -> str:
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


# --- sending and asking again


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


def is_by_hand(row: Refund) -> bool:
    """Whether a person pays it out: nothing of it was paid through Stripe."""
    return row.top_up is None or row.top_up.origin in BY_HAND


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
        return _fail(now, why, at=at)

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
    """A refund that is due, its next look moved on."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_refund SET attempts = attempts + 1,"
            "   look_at = %s::timestamptz + (%s::interval[])[least(attempts + 1, %s)]"
            " WHERE id = (SELECT id FROM billing_refund WHERE look_at <= %s ORDER BY look_at LIMIT 1"
            "   FOR UPDATE SKIP LOCKED) RETURNING id",
            [at, list(_BACK_OFF), len(_BACK_OFF), at],
        )
        row = cursor.fetchone()
        return None if row is None else int(row[0])


SOURCE = "refunds"
_FAILED_SHOWN = timedelta(days=3)
_NOT_SENT_AFTER = 4  # attempts


def watch(*, at: datetime) -> alarms.Watched:
    """Alarms over refunds that a person has to see to: to be paid out, not sent, failed in the last days."""
    by_hand = Q(top_up=None) | Q(top_up__origin__in=BY_HAND)
    waiting = Refund.objects.filter(status=Status.PENDING)
    to_pay_out = waiting.filter(by_hand).count()
    not_sent = waiting.exclude(by_hand).filter(stripe_id=None, attempts__gte=_NOT_SENT_AFTER)
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


# --- by hand


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
        _succeed(row, Account.CASH_MANUAL, at=at)
        return row

    return in_transaction(work)


def give_up(*, refund_id: int, reason: str, person: str, at: datetime) -> Refund:
    """Give a refund that waits to be paid out by hand back to the wallet. Raises InvalidRefund, NotByHand."""
    if not reason.strip() or len(reason) > 500 or "\x00" in reason:
        raise InvalidRefund("reason", "a reason of 1 to 500 characters is needed")

    def work() -> Refund:
        row = _lock_by_hand(refund_id)
        row.ended_by = person
        _fail(row, reason, at=at)
        return row

    return in_transaction(work)


def _lock_by_hand(refund_id: int) -> Refund:
    customer: Customer = Refund.objects.select_related("customer").get(pk=refund_id).customer
    ledger.lock_wallets([customer.pk])
    row = Refund.objects.select_related("top_up").get(pk=refund_id)
    if row.status != Status.PENDING or not is_by_hand(row):
        raise NotByHand("it does not wait to be paid out by hand")
    return row
