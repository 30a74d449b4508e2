"""Bank transfers and cash: recorded by the operator when they are there; a large one is decided on by a second person.

They become credit, or pay the invoice that they name. A reference counts once for a customer: a second record of it is
refused, by the database too.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from billing import exchange, ledger, receivables, top_up_tax
from billing.accounts import AccountClosed, lock_account
from billing.credits import LARGEST_GRANT
from billing.manual import AlreadyDecided, Person, SamePerson, needs_second_person
from billing.models import Account, Customer, Invoice, PayCurrency, TopUp
from billing.periods import operator_timezone
from billing.top_up_states import credit
from relayadmin.db import in_transaction
from relayadmin.money import currency_decimals, has_decimals, total

Origin = TopUp.Origin
Status = TopUp.Status
KINDS = (Origin.BANK_TRANSFER, Origin.CASH)


class InvalidPayment(ValueError):
    """A payment that can't be recorded; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class RecordedBefore(Exception):
    """This customer's payment with this reference was recorded before, as `row`."""

    def __init__(self, row: TopUp) -> None:
        super().__init__(f"{row.reference} of this customer was recorded before, as {row.public_id} ({row.status})")
        self.row = row


class UnknownTopUp(LookupError):
    """There is no such top-up."""


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that came in: `pay_amount` in `currency`; `rate` units of it are 1 USD, by default what is asked now.

    With `invoice_id` it pays that invoice, at most what is due.
    """

    kind: str
    pay_amount: Decimal
    currency: str
    reference: str
    received_on: date
    rate: Decimal | None = None
    invoice_id: int | None = None


def record(*, customer_id: int, payment: Payment, person: Person, at: datetime) -> TopUp:
    """Credit a payment that came in, at once, or after a second person's look if it is large; once per reference.

    Raises InvalidPayment, RecordedBefore, AccountClosed, ledger.UnknownCustomer, accounts.InvalidChange (the house).
    """
    rate, margin = _rate(payment, at)
    _check(payment, rate, at)
    amount = exchange.credit_for(pay_amount=payment.pay_amount, rate=rate)
    if not 0 < amount <= LARGEST_GRANT:
        raise InvalidPayment("pay_amount", f"it must be worth a cent at least, and at most {LARGEST_GRANT:f} USD")

    def work() -> TopUp:
        _check_open(customer_id)
        reference = payment.reference.strip()
        before = _recorded(customer_id, reference)
        if before is not None:
            raise RecordedBefore(before)
        if payment.invoice_id is not None:
            _check_due(customer_id, payment.invoice_id, amount)
        row = TopUp(
            customer_id=customer_id,
            invoice_id=payment.invoice_id,
            origin=payment.kind,
            status=Status.WAITING,
            amount=amount,
            currency=payment.currency,
            pay_amount=payment.pay_amount,
            rate=rate,
            margin=margin,
            reference=reference,
            received_on=payment.received_on,
            method=payment.kind,
            asked_by=person.name,
            asked_by_user_id=person.user_id,
            created_at=at,
        )
        top_up_tax.put_on(row, at=at)
        row.save(force_insert=True)
        if not needs_second_person(amount):
            _credit(row, person, actor=person.name, at=at)
        return row

    return in_transaction(work)


def approve(*, top_up_id: int, person: Person, at: datetime) -> TopUp:
    """Credit a payment that waits, as somebody else than who recorded it.

    Raises UnknownTopUp, AlreadyDecided, SamePerson, AccountClosed; it goes on waiting then.
    """

    def work() -> TopUp:
        row = _lock(top_up_id)
        if row.asked_by_user_id is not None and row.asked_by_user_id == person.user_id:
            raise SamePerson("a second person has to approve it")
        _check_open(row.customer_id)
        top_up_tax.put_on(row, at=at)
        _credit(row, person, actor=f"{row.asked_by} and {person.name}"[:150], at=at)
        return row

    return in_transaction(work)


def reject(*, top_up_id: int, person: Person, note: str, at: datetime) -> TopUp:
    """Strike a payment that waits; its reference can be recorded again. Raises UnknownTopUp, AlreadyDecided."""

    def work() -> TopUp:
        row = _lock(top_up_id)
        row.status, row.error_message = Status.CANCELED, note[:500]
        row.decided_by, row.decided_by_user_id = person.name, person.user_id
        row.save()
        return row

    return in_transaction(work)


def _rate(payment: Payment, at: datetime) -> tuple[Decimal, Decimal]:
    """The rate that a payment is credited at, and the margin in it."""
    if payment.currency == exchange.USD:
        if payment.rate not in {None, Decimal(1)}:
            raise InvalidPayment("rate", "1 USD is 1 USD")
        return Decimal(1), Decimal(0)
    if not PayCurrency.objects.filter(code=payment.currency).exists():
        raise InvalidPayment("currency", f"there is no currency {payment.currency}; add it first")
    if payment.rate is not None:
        return payment.rate, Decimal(0)
    present = exchange.present_rate(payment.currency, at=at)
    if present is None:
        raise InvalidPayment("rate", f"{payment.currency} has no exchange rate now; write the one it came in at")
    return exchange.with_margin(present.per_usd, present.margin), present.margin


def _check(payment: Payment, rate: Decimal, at: datetime) -> None:
    if payment.kind not in KINDS:
        raise InvalidPayment("kind", f"kind must be one of {', '.join(KINDS)}")
    if not payment.pay_amount.is_finite() or payment.pay_amount <= 0:
        raise InvalidPayment("pay_amount", "the amount must be above zero")
    decimals = currency_decimals(payment.currency)
    if not has_decimals(payment.pay_amount, decimals):
        raise InvalidPayment("pay_amount", f"{payment.currency} has at most {decimals} decimals")
    if not rate.is_finite() or not 0 < rate < Decimal(10) ** exchange.RATE_DECIMALS:
        raise InvalidPayment("rate", "the rate must be above zero")
    if not has_decimals(rate, exchange.RATE_DECIMALS):
        raise InvalidPayment("rate", f"the rate must have at most {exchange.RATE_DECIMALS} decimals")
    if not 1 <= len(payment.reference.strip()) <= 255 or "\x00" in payment.reference:
        raise InvalidPayment("reference", "reference must have 1 to 255 characters, and no NUL")
    if payment.received_on > at.astimezone(operator_timezone()).date():
        raise InvalidPayment("received_on", "it can't have come in after today")


def _check_due(customer_id: int, invoice_id: int, amount: Decimal) -> None:
    """The invoice of a customer whose wallet is locked has so much due, less what waits for a second person."""
    invoice = Invoice.objects.filter(pk=invoice_id, customer_id=customer_id).first()
    if invoice is None:
        raise InvalidPayment("invoice_id", "there is no such invoice of this customer")
    waiting = TopUp.objects.filter(invoice=invoice, status=Status.WAITING).values_list("amount", flat=True)
    try:
        receivables.check_payable(invoice, total([amount, *waiting]))
    except receivables.NotDue as error:
        raise InvalidPayment("pay_amount", f"{error}; record the rest as credit") from error


def _check_open(customer_id: int) -> None:
    customer, _ = lock_account(customer_id)
    if customer.status == Customer.Status.CLOSED:
        raise AccountClosed("the account is closed: reopen it first, or send the money back")


def _recorded(customer_id: int, reference: str) -> TopUp | None:
    rows = TopUp.objects.filter(customer_id=customer_id, reference=reference, origin__in=KINDS)
    return rows.exclude(status=Status.CANCELED).first()


def _lock(top_up_id: int) -> TopUp:
    """A payment that waits, read again under its wallet's lock."""
    customer_id = TopUp.objects.filter(pk=top_up_id, origin__in=KINDS).values_list("customer_id", flat=True).first()
    if customer_id is None:
        raise UnknownTopUp("there is no such payment")
    ledger.lock_wallets([customer_id])
    row = TopUp.objects.get(pk=top_up_id)
    if row.status != Status.WAITING:
        raise AlreadyDecided(row.status)
    return row


def _credit(row: TopUp, person: Person, *, actor: str, at: datetime) -> None:
    row.decided_by, row.decided_by_user_id = person.name, person.user_id
    kind = Origin(row.origin).label
    credit(row, reason=f"{kind} {row.reference}"[:500], source=Account.CASH_MANUAL, at=at, actor=actor)
