"""Stripe's books against ours: each of its balance transactions is kept, matched and booked once; the rest stands out.

The ledger has what customers were credited and refunded; Stripe's balance moves by what was settled, less fees. What
lies between is booked on the house customer, so that cash:stripe ends at Stripe's own balance in USD. What can't be
matched is booked nowhere: it is a difference, which a person explains or which goes away when the other side has come.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, F, Max, Q, Sum

from billing import disputes, ledger, payment_accounts, refunds, stripe_differences, stripe_gateway
from billing.models import (
    Account,
    Customer,
    Dispute,
    Entry,
    ExchangeRate,
    Refund,
    StripeDifference,
    StripeTransaction,
    TopUp,
    Transfer,
)
from billing.stripe_differences import Found
from billing.stripe_objects import BalanceTransaction, GatewayRejected
from relayadmin.db import in_transaction, outside_transaction
from relayadmin.money import EXACT, ZERO, amount_text

logger = logging.getLogger(__name__)
Kind = StripeDifference.Kind
FIRST_LOOK = timedelta(days=30)
# Read again each time: what Stripe adds late, and what was missed while a run died.
OVERLAP = timedelta(days=7)
# So long one side may know of something before the other does.
PATIENCE = timedelta(days=2)
_PAYOUTS = frozenset(["payout", "payout_reversal"])
_FEES = frozenset(["fee", "stripe_fee"])
_DISPUTES = frozenset(["dispute", "dispute_reversal"])
_REFUNDS = frozenset(["refund", "refund_failure", "partial_capture_reversal"])


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a run did: transactions that are new and that were booked, and the differences that are open now."""

    new: int
    booked: int
    differences: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_wanted() -> bool:
    """Whether there are books of Stripe's to look at."""
    return stripe_gateway.configured()


def reconcile(*, at: datetime, days: int | None = None) -> Reconciled:
    """Read Stripe's balance transactions since the last look, or of so many days; match, book and compare.

    Can run twice, and at once with itself. Raises the gateway's errors; what was read until then stays.
    """
    outside_transaction()
    start = at - timedelta(days=days) if days is not None else _since(at)
    # Kept and booked oldest first, so that a refund comes before its failure.
    read = list(stripe_gateway.balance_transactions(start, at + timedelta(minutes=1)))
    new = sum(_keep(one) for one in reversed(read))
    _hear(start, at=at)
    waiting = StripeTransaction.objects.filter(booked_at=None).order_by("occurred_at", "pk")
    booked = sum(_book(number, at=at) for number in waiting.values_list("pk", flat=True))
    open_now = stripe_differences.report(list(_differences(at)), at=at)
    return Reconciled(new, booked, open_now)


def _since(at: datetime) -> datetime:
    last: datetime | None = StripeTransaction.objects.aggregate(last=Max("occurred_at"))["last"]
    return at - FIRST_LOOK if last is None else min(last, at) - OVERLAP


def _keep(read: BalanceTransaction) -> bool:
    """Keep a transaction as it was read; whether it is new."""
    _, is_new = StripeTransaction.objects.get_or_create(
        stripe_id=read.id,
        defaults={
            "type": read.type[:60],
            "category": read.reporting_category[:60],
            "amount": read.amount,
            "fee": read.fee,
            "net": read.net,
            "currency": read.currency.upper(),
            "exchange_rate": read.exchange_rate,
            "source": (read.source or "")[:255],
            "description": (read.description or "")[:500],
            "occurred_at": read.created,
            "available_on": read.available_on,
        },
    )
    return is_new


def _hear(start: datetime, *, at: datetime) -> None:
    """Have refunds and disputes taken in that Stripe has booked since and whose webhooks may have been lost.

    Those made there, not here, are known by nothing else. Not in a transaction.
    """
    moved = StripeTransaction.objects.filter(booked_at=None, occurred_at__gte=start, category__in=_REFUNDS | _DISPUTES)
    for category, source in moved.exclude(source="").order_by("occurred_at", "pk").values_list("category", "source"):
        try:
            if category in _DISPUTES:
                disputes.sync(source, at=at)
            else:
                refunds.apply(refunds.read(source, at=at), at=at)
        except GatewayRejected as error:
            logger.info("not ours to read source=%s error=%s", source, error)  # it stays a difference


# --- booking


def _book(number: int, *, at: datetime) -> bool:
    """Book a transaction once, if what it belongs to is there; whether it was."""
    return in_transaction(lambda: _book_locked(number, at=at))


def _book_locked(number: int, *, at: datetime) -> bool:
    house = Customer.objects.get(is_house=True)
    wallets = ledger.lock_wallets([house.pk])
    row = StripeTransaction.objects.get(pk=number)
    if row.booked_at is not None:
        return False
    _match(row)
    sides = _sides(row)
    if sides is None:
        row.save(update_fields=["top_up", "refund", "dispute"])
        return False
    entries = [(account, amount) for account, amount in sides if amount]
    if entries:
        posting = ledger.Posting(
            house.pk,
            Transfer.Kind.SETTLEMENT.value,
            row.stripe_id,
            entries,
            reason=f"Stripe: {row.category}",
            document=row.source,
        )
        ledger.post([posting], wallets=wallets, at=at)
    row.booked_at = at
    row.save(update_fields=["top_up", "refund", "dispute", "expected", "net_usd", "booked_at"])
    return True


def _match(row: StripeTransaction) -> None:
    if row.category in _DISPUTES:
        row.dispute = Dispute.objects.filter(stripe_id=row.source).first()
    elif row.category in _REFUNDS:
        row.refund = Refund.objects.filter(stripe_id=row.source).first()
    elif row.category == "charge":
        row.top_up = TopUp.objects.filter(charge_id=row.source).first()


def _sides(row: StripeTransaction) -> list[tuple[str, Decimal]] | None:
    """The entries that bring cash:stripe to what Stripe has, and `expected` and `net_usd`; None if it has to wait.

    Cash that is there is below zero in the ledger, as its other side is credit above zero.
    """
    amount, fee = _usd(row.amount, row), _usd(row.fee, row)
    if amount is None or fee is None or _is_doubled(row):
        return None
    other = _other_side(row, amount)
    if other is None:
        return None
    account, expected = other
    row.expected, row.net_usd = expected, EXACT.subtract(amount, fee)
    difference = EXACT.subtract(amount, expected)
    if account == Account.FX_DIFFERENCE:
        # The ledger has `expected` on cash:stripe already.
        return [
            (Account.CASH_STRIPE.value, EXACT.subtract(fee, difference)),
            (account.value, difference),
            (Account.PROCESSING_FEES.value, -fee),
        ]
    # Nothing of it is on cash:stripe yet: `expected` goes to its own account, the rest is by exchange rates.
    return [
        (Account.CASH_STRIPE.value, EXACT.subtract(fee, amount)),
        (account.value, expected),
        (Account.FX_DIFFERENCE.value, difference),
        (Account.PROCESSING_FEES.value, -fee),
    ]


def _other_side(row: StripeTransaction, amount: Decimal) -> tuple[Account, Decimal] | None:
    """The account that a transaction moves beside cash:stripe, and what of it the ledger knows of (USD)."""
    category = row.category
    if category == "charge":
        is_credited = row.top_up is not None and row.top_up.status == TopUp.Status.PAID
        return (Account.FX_DIFFERENCE, row.top_up.amount) if is_credited and row.top_up is not None else None
    if category in _REFUNDS:
        return _of_refund(row)
    if category in _DISPUTES:
        return _of_dispute(row, amount)
    if category in _PAYOUTS:
        return Account.CASH_BANK, amount
    if category in _FEES or row.type in _FEES:
        return Account.PROCESSING_FEES, amount
    return None


def _of_refund(row: StripeTransaction) -> tuple[Account, Decimal] | None:
    refund = row.refund
    if refund is None or refund.status == Refund.Status.PENDING:
        return None
    if row.category != "refund":
        # It comes back: as much as was expected to have gone.
        gone = StripeTransaction.objects.filter(refund=refund, category="refund").exclude(booked_at=None).first()
        return (Account.FX_DIFFERENCE, -(gone.expected or ZERO)) if gone is not None else None
    went_out = _on_cash(refund)
    return Account.FX_DIFFERENCE, -went_out


def _on_cash(refund: Refund) -> Decimal:
    """What a refund has moved on cash:stripe (USD): nothing if it failed before it was known to have succeeded."""
    key = f"refund:{refund.public_id}:paid"
    paid = Transfer.objects.filter(customer_id=refund.customer_id, kind=Transfer.Kind.REFUND, key=key).exists()
    return refund.whole if paid else ZERO


def _of_dispute(row: StripeTransaction, amount: Decimal) -> tuple[Account, Decimal] | None:
    """What the wallet gave or got for this very movement; where nothing was taken, the operator bears it all."""
    dispute = row.dispute
    if dispute is None:
        return None
    keys = [disputes.transfer_key(dispute, row.stripe_id, is_gift=is_gift) for is_gift in (False, True)]
    kinds = (Transfer.Kind.DISPUTE, Transfer.Kind.GRANT)
    own = {"customer_id": dispute.customer_id}
    moved = Transfer.objects.filter(**own, kind__in=kinds, key__in=keys).values("id")
    entries = Entry.objects.filter(**own, transfer_id__in=moved, account=Account.DISPUTES)
    on_disputes = entries.aggregate(sum=Sum("amount"))["sum"]
    if on_disputes is None:
        is_applied = dispute.top_up.status != TopUp.Status.PAID or dispute.movements >= _movements(dispute)
        return (Account.DISPUTES, amount) if is_applied else None
    return Account.DISPUTES, -on_disputes


def _movements(dispute: Dispute) -> int:
    return StripeTransaction.objects.filter(source=dispute.stripe_id, category__in=_DISPUTES).count()


def _is_doubled(row: StripeTransaction) -> bool:
    """Whether another transaction stands for the same charge or refund: only the first is booked."""
    if row.category not in {"charge", "refund", "refund_failure"} or not row.source:
        return False
    others = StripeTransaction.objects.filter(source=row.source, category=row.category).exclude(pk=row.pk)
    return others.filter(Q(pk__lt=row.pk) | Q(booked_at__isnull=False)).exists()


def _usd(amount: Decimal, row: StripeTransaction) -> Decimal | None:
    """An amount in USD: of a currency that the account settles in, at the operator's rate of that moment."""
    if row.currency == "USD" or not amount:
        return amount
    rate = ExchangeRate.objects.filter(currency_id=row.currency, effective_from__lte=row.occurred_at).first()
    return None if rate is None else (amount / rate.per_usd).quantize(Decimal("0.000001"))


# --- comparing


def _differences(at: datetime) -> Iterator[Found]:
    unbooked = StripeTransaction.objects.filter(booked_at=None).select_related("top_up", "refund", "dispute")
    for row in unbooked:
        found = _why_not_booked(row, at)
        if found is not None:
            yield found
    yield from _other_amounts()
    yield from _not_at_stripe(at)


def _why_not_booked(row: StripeTransaction, at: datetime) -> Found | None:
    what = f"{row.category} of {row.amount.normalize():f} {row.currency}"
    if _is_doubled(row):
        text = f"Stripe has the {what} for {row.source} twice."
        return Found(Kind.DOUBLED, row.stripe_id, text, "Ask Stripe which is right; the first is booked.", row)
    if _usd(row.amount, row) is None or _usd(row.fee, row) is None:
        advice = f"Add a rate for {row.currency} to the exchange rates, in effect before the first payment."
        return Found(Kind.NO_RATE, row.stripe_id, f"The {what} was not settled in USD.", advice, row)
    if row.category not in {"charge", *_REFUNDS, *_DISPUTES}:
        advice = "Nothing is booked for it. Book it by hand if it is yours to book, then explain it."
        return Found(Kind.UNKNOWN, row.stripe_id, f"Stripe has a {what}, which nothing here stands for.", advice, row)
    if row.top_up is not None and row.top_up.status == TopUp.Status.REFUSED:
        text = f"The {what} was refused here: {row.top_up.error_message or 'it does not match'}."
        advice = "Decide on the top-up: refund it in Stripe's dashboard, or credit it by hand."
        return Found(Kind.NOT_HERE, row.stripe_id, text, advice, row)
    if (row.refund or row.dispute) and at - row.occurred_at < PATIENCE:
        return None
    text = f"Stripe has a {what} ({row.source or row.stripe_id}) that is not here."
    return Found(Kind.NOT_HERE, row.stripe_id, text, "Is it of another program that uses this account?", row)


def _other_amounts() -> Iterator[Found]:
    """Payments and refunds settled in the currency they were made in, of another amount than ours."""
    advice = "Compare the payment in Stripe's dashboard with the top-up; adjust the wallet by hand if it is wrong."
    charges = StripeTransaction.objects.filter(category="charge", top_up__currency=F("currency"))
    for row in charges.exclude(amount=F("top_up__pay_amount")).select_related("top_up"):
        if row.top_up is not None:
            ours = f"{row.top_up.pay_amount.normalize():f}"
            text = f"{row.top_up.public_id} is {ours} {row.currency} here and {row.amount.normalize():f} at Stripe."
            yield Found(Kind.OTHER_AMOUNT, row.stripe_id, text, advice, row)
    refunds = StripeTransaction.objects.filter(category="refund", refund__currency=F("currency"))
    for row in refunds.exclude(amount=-F("refund__pay_amount")).select_related("refund"):
        if row.refund is not None:
            ours = f"{row.refund.pay_amount.normalize():f}"
            text = f"{row.refund.public_id} is {ours} {row.currency} here and {-row.amount.normalize():f} at Stripe."
            yield Found(Kind.OTHER_AMOUNT, row.stripe_id, text, advice, row)


def _not_at_stripe(at: datetime) -> Iterator[Found]:
    """What is paid here and, some days after that, stands in none of Stripe's transactions of that time."""
    first = StripeTransaction.objects.order_by("occurred_at").values_list("occurred_at", flat=True).first()
    if first is None:
        first = at - FIRST_LOOK
    advice = "Look for the payment in Stripe's dashboard; without it, take the credit back by hand."
    mode = payment_accounts.is_sandbox()
    paid = TopUp.objects.filter(
        status=TopUp.Status.PAID, is_sandbox=mode, paid_at__gte=first, paid_at__lt=at - PATIENCE
    )
    by_stripe = paid.filter(origin__in=[TopUp.Origin.CHECKOUT, TopUp.Origin.RECHARGE])
    known = StripeTransaction.objects.filter(category="charge").values("source")
    for top_up in by_stripe.filter(Q(charge_id=None) | ~Q(charge_id__in=known)):
        text = f"{top_up.public_id} of {amount_text(top_up.amount)} USD is paid here, but Stripe has no charge for it."
        yield Found(Kind.NOT_AT_STRIPE, top_up.public_id, text, advice, amount=top_up.pay_amount, of=top_up.currency)
    sent = Refund.objects.filter(
        status=Refund.Status.SUCCEEDED,
        stripe_id__isnull=False,
        top_up__is_sandbox=mode,
        ended_at__gte=first,
        ended_at__lt=at - PATIENCE,
    )
    for refund in sent.exclude(stripe_id__in=StripeTransaction.objects.filter(category="refund").values("source")):
        text = f"{refund.public_id} of {amount_text(refund.amount)} USD is refunded here, but not at Stripe."
        yield Found(Kind.NOT_AT_STRIPE, refund.public_id, text, advice, amount=refund.pay_amount, of=refund.currency)


@dataclass(frozen=True, slots=True)
class Standing:
    """What Stripe's transactions add up to (USD, net of fees), what cash:stripe has, and what is not booked yet."""

    at_stripe: Decimal
    in_ledger: Decimal
    unbooked: int


def standing() -> Standing:
    """Both sides, added up."""
    at_stripe = StripeTransaction.objects.aggregate(sum=Sum("net_usd"), waits=Count("pk", filter=Q(booked_at=None)))
    ours = Entry.objects.filter(account=Account.CASH_STRIPE).aggregate(sum=Sum("amount"))["sum"] or ZERO
    return Standing(at_stripe["sum"] or ZERO, -ours, at_stripe["waits"])
