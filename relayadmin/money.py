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
