"""Exact decimal arithmetic for USD amounts. Pure: no Django, no settings.

An amount has at most 15 decimals. A unit price has at most 9 decimals, so quantity × unit price ÷ 10⁶ always fits.
"""

import re
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

ZERO = Decimal(0)
CENT = Decimal("0.01")
AMOUNT_DECIMALS = 15
UNIT_PRICE_DECIMALS = 9

# Raises where the default context would round silently.
EXACT = Context(prec=80, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
_ROUNDING = Context(prec=80, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])

_PLAIN = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,15})?", re.ASCII)


class InvalidAmount(ValueError):
    """A text that is not a plain decimal amount; the message says what to write instead."""


def parse_amount(text: object) -> Decimal:
    """Read a plain decimal such as "12.50": at most 18 digits before and 15 after the point, no exponent."""
    if not isinstance(text, str):
        raise InvalidAmount('an amount must be a string such as "12.50"')
    if not _PLAIN.fullmatch(text):
        raise InvalidAmount('an amount must be a plain decimal such as "12.50", with at most 15 decimals')
    return Decimal(text)


def amount_text(amount: Decimal) -> str:
    """Write an amount as the API shows it: plain, with 6 to 15 decimals, "0.011100"."""
    text = format(amount, "f")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > AMOUNT_DECIMALS:
        raise InvalidAmount(f"{text} has more than {AMOUNT_DECIMALS} decimals")
    fraction = fraction.ljust(6, "0")
    return ("0" if whole == "-0" and not fraction.strip("0") else whole) + "." + fraction


def cents_text(amount: Decimal) -> str:
    """Write a total in whole cents: "12.50". Raises if the amount is not whole cents."""
    return format(amount.quantize(CENT, context=EXACT), "f")


def to_cents(amount: Decimal) -> Decimal:
    """Round half up to the cent: once per invoice, and nowhere else."""
    return amount.quantize(CENT, rounding=ROUND_HALF_UP, context=_ROUNDING)


def to_unit_price(price: Decimal) -> Decimal:
    """Round a unit price half up to 9 decimals: once, when a price table is made."""
    return price.quantize(Decimal(1).scaleb(-UNIT_PRICE_DECIMALS), rounding=ROUND_HALF_UP, context=_ROUNDING)


def line_amount(quantity: int | Decimal, unit_price: Decimal, per: int) -> Decimal:
    """quantity × unit price ÷ per, exactly; `per` is a power of ten (1,000,000 tokens or 1,000 calls)."""
    return EXACT.scaleb(EXACT.multiply(quantity, unit_price), -POWERS[per])


POWERS = {1: 0, 1_000: 3, 1_000_000: 6}


def total(amounts: "list[Decimal] | tuple[Decimal, ...]") -> Decimal:
    """Add amounts exactly."""
    result = ZERO
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


# Stripe's currencies without a minor unit, and those with one of three decimals; all others have two.
ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"]
)
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
MINOR_UNITS_MAX = 99_999_999  # Stripe takes eight digits


def currency_decimals(currency: str) -> int:
    """Decimals of a currency's minor unit, after Stripe's table: usd 2, jpy 0, kwd 3."""
    code = currency.lower()
    return 0 if code in ZERO_DECIMAL else 3 if code in THREE_DECIMAL else 2


def minor_units(amount: Decimal, currency: str) -> int:
    """10.00 usd is 1000, 500 jpy is 500, 1.250 kwd is 1250.

    Raises InvalidAmount for a fraction of the minor unit and for more than eight digits of it.
    """
    decimals = currency_decimals(currency)
    scaled = EXACT.scaleb(amount, decimals)
    if scaled != scaled.to_integral_value():
        raise InvalidAmount(f"{format(amount, 'f')} {currency.upper()} has more than {decimals} decimals")
    if abs(scaled) > MINOR_UNITS_MAX:
        raise InvalidAmount(f"{format(amount, 'f')} {currency.upper()} is more than one payment can be")
    return int(scaled)


def has_decimals(number: Decimal, at_most: int) -> bool:
    """Whether a number has at most so many decimals; zeros at the end don't count."""
    scaled = EXACT.scaleb(number, at_most)
    return scaled == scaled.to_integral_value()


def to_payable(amount: Decimal, currency: str) -> Decimal:
    """Round half up to what one can pay: whole cents, or whole units of a currency that has nothing smaller."""
    step = Decimal(1).scaleb(-payable_decimals(currency))
    return amount.quantize(step, rounding=ROUND_HALF_UP, context=_ROUNDING)


def payable_decimals(currency: str) -> int:
    """Decimals that a payment or refund can have: none or two.

    Of three decimals Stripe takes the last only as 0 (1.230 KWD), and of ISK, which it counts in two, no fraction.
    """
    code = currency.lower()
    return 0 if code in ZERO_DECIMAL or code == "isk" else 2


def currency_text(amount: Decimal, currency: str) -> str:
    """An amount as people write it in its currency: "72.50", "1500" (JPY), "1.230" (KWD)."""
    return format(amount.quantize(Decimal(1).scaleb(-currency_decimals(currency)), context=EXACT), "f")


def from_minor_units(units: int, currency: str) -> Decimal:
    """1000 usd is 10.00."""
    return EXACT.scaleb(Decimal(units), -currency_decimals(currency))
