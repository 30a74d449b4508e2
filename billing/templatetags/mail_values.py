"""How values look in mail: amounts with their currency, moments in the operator's time zone."""

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django import template

from relayadmin.money import cents_text, has_decimals, parse_amount, to_cents

register = template.Library()
# What a notice doesn't carry is nothing, and stays nothing.
_NOTHING = ("", None)


@register.filter
def usd(text: str) -> str:
    """An amount exactly, with two decimals at least: "12.50 USD", "0.02925 USD"."""
    if text in _NOTHING:
        return ""
    amount = parse_amount(text)
    if has_decimals(amount, 2):
        return f"{cents_text(amount)} USD"
    return f"{amount.normalize():f} USD"


@register.filter
def cents(text: str) -> str:
    """An amount to the cent, half up: for what only tells how much it is about."""
    return "" if text in _NOTHING else f"{cents_text(to_cents(parse_amount(text)))} USD"


@register.filter
def plain(text: str) -> str:
    """An amount of some other currency, without zeros at the end beyond two decimals."""
    if text in _NOTHING:
        return ""
    amount = parse_amount(text)
    return cents_text(amount) if has_decimals(amount, 2) else f"{amount.normalize():f}"


@register.filter
def above_zero(text: str) -> bool:
    return text not in _NOTHING and parse_amount(text) > Decimal(0)


@register.filter
def moment(text: str, zone: ZoneInfo) -> str:
    """RFC 3339 as a clock of the operator shows it: "2026-12-01 01:00 (Europe/Madrid)"."""
    if text in _NOTHING:
        return ""
    at = datetime.fromisoformat(text).astimezone(zone)
    return f"{at:%Y-%m-%d %H:%M} ({zone.key})"
