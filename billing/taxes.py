"""Tax: rates by country, each from a day on, never changed; what a customer pays by them.

Documents copy what they were taxed with, so a later rate changes none of them.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from django.db.models import Count

from billing.countries import names
from billing.models import BillingProfile, OperatorSettings, TaxRate
from relayadmin.db import in_transaction
from relayadmin.money import CENT, EXACT, ZERO, has_decimals, to_cents

REVERSE_CHARGE_NOTE = "Reverse charge: the customer owes the tax."
RATE_DECIMALS = 5
_ROUNDING = Context(prec=80, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])


class InvalidRate(ValueError):
    """A rate that can't be added; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Tax:
    """The tax of one rate on one document: base × rate = amount, half up to the cent (USD). A rate of 0.21 is 21 %."""

    name: str
    rate: Decimal
    base: Decimal
    amount: Decimal
    is_reverse_charge: bool = False
    note: str = ""


def taxes_of(profile: BillingProfile, *, subtotal: Decimal, on: date) -> tuple[Tax, ...]:
    """What a customer with this profile pays on a subtotal (USD, whole cents) by the rate of its country on a day.

    Nothing where there is no rate. With a checked tax number, and in another country than the supplier's, a rate that
    allows it becomes 0, with the note that the law wants.
    """
    rate = rate_of(profile, on=on)
    return () if rate is None else (_tax(profile, rate, subtotal),)


def included_in(profile: BillingProfile, amount: Decimal, *, on: date) -> Tax | None:
    """The tax in what is paid for a top-up (USD, whole cents); its base is the rest, half up to the cent.

    None for customers on account, who are taxed with the invoice, and where there is no rate.
    """
    if profile.terms == BillingProfile.Terms.ON_ACCOUNT:
        return None
    rate = rate_of(profile, on=on)
    if rate is None:
        return None
    asked = _tax(profile, rate, ZERO)
    base = to_cents(_ROUNDING.divide(amount, EXACT.add(Decimal(1), asked.rate)))
    return Tax(asked.name, asked.rate, base, EXACT.subtract(amount, base), asked.is_reverse_charge, asked.note)


def rate_of(profile: BillingProfile, *, on: date) -> TaxRate | None:
    """The rate of a customer's country on a day, if there is one."""
    if not profile.country:
        return None
    rows = TaxRate.objects.filter(country=profile.country, valid_from__lte=on)
    return rows.order_by("-valid_from").first()


def _tax(profile: BillingProfile, rate: TaxRate, base: Decimal) -> Tax:
    if rate.reverse_charge and profile.tax_number_checked_at is not None and _is_abroad(profile.country):
        return Tax(rate.name, ZERO, base, to_cents(ZERO), True, rate.note or REVERSE_CHARGE_NOTE)
    return Tax(rate.name, rate.rate, base, tax_on(base, rate.rate), note="" if rate.reverse_charge else rate.note)


def tax_on(base: Decimal, rate: Decimal) -> Decimal:
    """base × rate, half up to the cent."""
    return to_cents(EXACT.multiply(base, rate))


def _is_abroad(country: str) -> bool:
    """Whether a country is another than the supplier's; as long as that is not known, nothing is abroad."""
    own = OperatorSettings.objects.values_list("country", flat=True).get(pk=1)
    return bool(own) and own != country


def share(whole: Decimal, part: Decimal, of: Decimal) -> Decimal:
    """What falls on a part of something, in proportion, half up to the cent."""
    return (
        whole if part == of else _ROUNDING.divide(_ROUNDING.multiply(whole, part), of).quantize(CENT, context=_ROUNDING)
    )


def add_rate(
    *,
    country: str,
    name: str,
    rate: Decimal,
    valid_from: date,
    reverse_charge: bool = False,
    note: str = "",
    actor: str,
    at: datetime,
) -> TaxRate:
    """Add a rate from a day on (0.21 is 21 %); it ends the one before. Rates are added, never changed.

    A country's first rate may begin at any time; what is issued or paid already stays as it is. Raises InvalidRate.
    """
    check_rate(country=country, name=name, rate=rate, valid_from=valid_from, note=note, at=at)
    return in_transaction(
        lambda: TaxRate.objects.create(
            country=country,
            name=name.strip(),
            rate=rate,
            valid_from=valid_from,
            reverse_charge=reverse_charge,
            note=note.strip(),
            created_by=actor,
            created_at=at,
        )
    )


def check_rate(*, country: str, name: str, rate: Decimal, valid_from: date, note: str, at: datetime) -> None:
    """Raise InvalidRate for a rate that can't be added."""
    if country not in names():
        raise InvalidRate("country", "country must be two letters of ISO 3166, such as ES")
    if not 1 <= len(name.strip()) <= 40 or "\x00" in name:
        raise InvalidRate("name", "name must have 1 to 40 characters, such as IVA")
    if not rate.is_finite() or not 0 <= rate < 1 or not has_decimals(rate, RATE_DECIMALS):
        raise InvalidRate(
            "rate", f"rate must be from 0 to below 1, with at most {RATE_DECIMALS} decimals: 0.21 is 21 %"
        )
    if len(note) > 200 or "\x00" in note:
        raise InvalidRate("note", "note must have at most 200 characters")
    rows = TaxRate.objects.filter(country=country)
    if rows.filter(valid_from=valid_from).exists():
        raise InvalidRate("valid_from", f"there is a rate of {country} from {valid_from} on already")
    if valid_from < at.date() and rows.exists():
        raise InvalidRate("valid_from", "a country's next rate can't begin before today")


def untaxed_countries() -> list[tuple[str, int]]:
    """Countries of customers that have no rate, with how many customers; the many first. Without a country: ""."""
    taxed = TaxRate.objects.values("country")
    rows = BillingProfile.objects.exclude(country__in=taxed).values_list("country").annotate(count=Count("pk"))
    return sorted(((country, count) for country, count in rows), key=lambda row: (-row[1], row[0]))
