"""Currencies that customers pay in: what a top-up costs in them, at rates that hold from a moment on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext

from django.db import IntegrityError

from billing.models import ExchangeRate, PayCurrency
from relayadmin.db import in_transaction
from relayadmin.money import (
    EXACT,
    ZERO,
    InvalidAmount,
    currency_decimals,
    has_decimals,
    minor_units,
    to_cents,
    to_payable,
)

USD = "USD"
RATE_DECIMALS = 9
MARGIN_DECIMALS = 4
_PRECISION = 80
_LARGEST_RATE = Decimal(10) ** 9


class UnknownCurrency(LookupError):
    """Nobody can pay in this currency here."""


class NoRate(LookupError):
    """The currency is known, but has no rate at this moment."""


class NotPayable(ValueError):
    """The amount can't be paid in this currency: less than its smallest unit, or more than one payment can be."""


class InvalidRate(ValueError):
    """A rate that can't be entered; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Quote:
    """`amount` is credited (USD), `pay_amount` paid in `currency`, at `rate` units for 1 USD with the margin in it."""

    amount: Decimal
    currency: str
    pay_amount: Decimal
    rate: Decimal
    margin: Decimal


@dataclass(frozen=True, slots=True)
class Offered:
    """A currency that can be paid in now, how, and at which rate, the margin in it."""

    currency: str
    methods: Sequence[str]
    rate: Decimal
    decimals: int


def quote(*, amount: Decimal, currency: str, at: datetime) -> Quote:
    """What so much credit (USD) costs in a currency now. Raises UnknownCurrency, NoRate, NotPayable."""
    if not PayCurrency.objects.filter(code=currency, is_offered=True).exists():
        raise UnknownCurrency(f"payments in {currency} are not taken")
    rate, margin = _present(currency, at)
    return quote_at(amount=amount, currency=currency, rate=rate, margin=margin)


def quote_at(*, amount: Decimal, currency: str, rate: Decimal, margin: Decimal) -> Quote:
    """What so much credit costs at a rate that has its margin in it: half up in what one can pay. Raises NotPayable."""
    pay_amount = to_payable(EXACT.multiply(amount, rate), currency)
    if pay_amount <= 0:
        raise NotPayable(f"{amount:f} USD is less than anybody can pay in {currency}")
    try:
        minor_units(pay_amount, currency)
    except InvalidAmount as error:
        raise NotPayable(str(error)) from error
    return Quote(amount, currency, pay_amount, rate, margin)


def credit_for(*, pay_amount: Decimal, rate: Decimal) -> Decimal:
    """What so much money is worth at a rate, in USD: half up to the cent."""
    with localcontext(prec=_PRECISION):
        return to_cents(pay_amount / rate)


def with_margin(per_usd: Decimal, margin: Decimal) -> Decimal:
    """The rate that is asked: 7.2 with a margin of 0.02 is 7.344; half up to 9 decimals, once."""
    with localcontext(prec=_PRECISION):
        return (per_usd * (1 + margin)).quantize(Decimal(1).scaleb(-RATE_DECIMALS), rounding=ROUND_HALF_UP)


def present_rate(currency: str, *, at: datetime) -> ExchangeRate | None:
    """The rate that holds at a moment; None for USD itself, and where nobody has entered one."""
    rates = ExchangeRate.objects.filter(currency_id=currency, effective_from__lte=at)
    return rates.order_by("-effective_from").first()


def offered(*, at: datetime) -> list[Offered]:
    """The currencies that can be paid in now, USD first. One without a rate is not among them."""
    found = []
    for row in PayCurrency.objects.filter(is_offered=True):
        try:
            rate, _ = _present(row.code, at)
        except NoRate:
            continue
        found.append(Offered(row.code, row.methods, rate, currency_decimals(row.code)))
    return sorted(found, key=lambda one: (one.currency != USD, one.currency))


def methods_of(currency: str) -> list[str]:
    """How one pays in a currency."""
    return list(PayCurrency.objects.values_list("methods", flat=True).get(code=currency))


def add_rate(
    *, currency: str, per_usd: Decimal, margin: Decimal, effective_from: datetime | None, actor: str, at: datetime
) -> ExchangeRate:
    """Enter a rate that holds from now or a later moment on. What was paid before keeps its own. Raises InvalidRate."""
    check_rate(currency=currency, per_usd=per_usd, margin=margin, effective_from=effective_from, at=at)
    try:
        return in_transaction(
            lambda: ExchangeRate.objects.create(
                currency_id=currency,
                per_usd=per_usd,
                margin=margin,
                effective_from=effective_from or at,
                created_by=actor,
                created_at=at,
            )
        )
    except IntegrityError as error:
        if "exchange_rate_once_per_moment" in str(error):
            raise _taken(currency) from error
        raise


def check_rate(
    *, currency: str, per_usd: Decimal, margin: Decimal, effective_from: datetime | None, at: datetime
) -> None:
    """Raise InvalidRate if there can't be such a rate."""
    begins = effective_from or at
    if currency == USD:
        raise InvalidRate("currency", "1 USD is 1 USD")
    if not PayCurrency.objects.filter(code=currency).exists():
        raise InvalidRate("currency", f"there is no currency {currency}; add it first")
    if not per_usd.is_finite() or not 0 < per_usd < _LARGEST_RATE or not has_decimals(per_usd, RATE_DECIMALS):
        raise InvalidRate("per_usd", f"a rate must be above zero, with at most {RATE_DECIMALS} decimals")
    if not margin.is_finite() or not 0 <= margin < 1 or not has_decimals(margin, MARGIN_DECIMALS):
        raise InvalidRate("margin", f"a margin must be from 0 to below 1, with at most {MARGIN_DECIMALS} decimals")
    if begins < at:
        raise InvalidRate("effective_from", "a rate can't begin in the past: payments were quoted by another then")
    if ExchangeRate.objects.filter(currency_id=currency, effective_from=begins).exists():
        raise _taken(currency)


def _taken(currency: str) -> InvalidRate:
    return InvalidRate("effective_from", f"{currency} has a rate from this moment on already")


def _present(currency: str, at: datetime) -> tuple[Decimal, Decimal]:
    """The rate with its margin in it, and the margin. Raises NoRate."""
    if currency == USD:
        return Decimal(1), ZERO
    row = present_rate(currency, at=at)
    if row is None:
        raise NoRate(f"{currency} has no exchange rate now")
    return with_margin(row.per_usd, row.margin), row.margin
