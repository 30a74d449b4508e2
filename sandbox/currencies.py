"""Which currencies the account takes, by which methods, and what they are worth in USD, in which it settles."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from relayadmin.money import MINOR_UNITS_MAX, THREE_DECIMAL, currency_decimals, from_minor_units
from sandbox.errors import Refused

# US dollars for one unit.
USD = {
    name: Decimal(rate)
    for name, rate in {
        "usd": "1", "cny": "0.14", "eur": "1.08", "gbp": "1.27", "jpy": "0.0067", "hkd": "0.128", "aud": "0.65",
        "cad": "0.73", "nzd": "0.60", "sgd": "0.74", "myr": "0.22", "chf": "1.13", "dkk": "0.145", "nok": "0.093",
        "sek": "0.095", "krw": "0.00073", "vnd": "0.00004", "kwd": "3.25", "bhd": "2.65", "inr": "0.012",
    }.items()
}  # fmt: skip
METHODS = {
    "card": frozenset(USD),
    "alipay": frozenset("aud cad cny eur gbp hkd jpy nzd sgd usd myr".split()),  # noqa: SIM905
    "wechat_pay": frozenset("aud cad cny eur gbp hkd jpy sgd usd dkk nok sek chf".split()),  # noqa: SIM905
}
SAVABLE = frozenset({"card"})
LEAST_USD = Decimal("0.50")
FEE_RATE, FEE_FIXED, DISPUTE_FEE = Decimal("0.029"), 30, 1500  # the last two in cents


def known(currency: str, param: str = "currency") -> str:
    if currency not in USD:
        raise Refused(f"Invalid currency: {currency}. Stripe takes lower-case codes such as usd.", param=param)
    return currency


def payable(amount: int, currency: str, param: str = "amount") -> int:
    """An amount in minor units that a payment can have."""
    if amount > MINOR_UNITS_MAX:
        raise Refused("Amount must be no more than 99999999", code="amount_too_large", param=param)
    if amount < 1:
        raise Refused("This value must be greater than or equal to 1.", code="parameter_invalid_integer", param=param)
    if currency in THREE_DECIMAL and amount % 10:
        raise Refused(f"Amounts in {currency} must end in 0", code="parameter_invalid_integer", param=param)
    if from_minor_units(amount, currency) * USD[currency] < LEAST_USD:
        raise Refused("Amount must convert to at least 50 cents.", code="amount_too_small", param=param)
    return amount


def cents(amount: int, currency: str) -> int:
    """What an amount is on the account's balance."""
    return int((from_minor_units(amount, currency) * USD[currency] * 100).quantize(Decimal(1), ROUND_HALF_UP))


def fee(amount_cents: int) -> int:
    return int((amount_cents * FEE_RATE).quantize(Decimal(1), ROUND_HALF_UP)) + FEE_FIXED


def shown(amount: int, currency: str) -> str:
    """For people: 10.00 USD."""
    return f"{from_minor_units(amount, currency):,.{currency_decimals(currency)}f} {currency.upper()}"
