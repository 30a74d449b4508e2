"""When a changed price needs a second look before it holds. Pure."""

from decimal import ROUND_HALF_UP, Context, Decimal

from relayadmin.money import ZERO

_RATIO = Context(prec=40, rounding=ROUND_HALF_UP)
_TENTH = Decimal("0.1")
BELOW_ZERO = "below zero: it can't be approved, only left out"


def percent_change(old: Decimal | None, new: Decimal | None) -> Decimal | None:
    """By how many per cent of the old the new price is higher, at one decimal.

    None where there is no old price, or none to compare with because it was free.
    """
    if not old:
        return ZERO if old is not None and new == old else None
    if new is None:
        return Decimal(-100)
    change = _RATIO.divide(_RATIO.multiply(_RATIO.subtract(new, old), Decimal(100)), old)
    return change.quantize(_TENTH, context=_RATIO)


def difference_text(old: Decimal | None, new: Decimal | None) -> str:
    """What was and what will be, such as "3 → 9 (+200.0 %)"."""
    before, after = ("nothing" if price is None else f"{price.normalize():f}" for price in (old, new))
    percent = percent_change(old, new)
    return f"{before} → {after}" + ("" if percent is None else f" ({percent:+f} %)")


def second_look(old: Decimal | None, new: Decimal | None, *, limit_percent: Decimal) -> str:
    """Why a person should look again at this one price; "" if it needs no second look."""
    if new is None:
        return "ends, and nothing takes its place"
    if new < 0:
        return BELOW_ZERO
    if new == 0:
        return "" if old == 0 else "would be free"
    if old == 0:
        return "has been free until now"
    if old is None:
        return ""
    exact = _RATIO.divide(_RATIO.multiply(abs(_RATIO.subtract(new, old)), Decimal(100)), old)
    return f"changes by more than {limit_percent.normalize():f} %" if exact > limit_percent else ""
