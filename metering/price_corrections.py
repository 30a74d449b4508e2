"""A price of the past that was wrong is corrected: another row of the same moments supersedes it.

Whatever is rated from then on, late events and re-ratings included, is rated at the corrected price. What was charged
before stays as it was until somebody rates it again.
"""

from datetime import datetime
from decimal import Decimal

from metering.models import Price
from metering.price_checks import second_look
from metering.price_imports import limit_percent
from metering.price_writing import OPERATOR, Written, record_change, take_lock
from relayadmin.db import in_transaction
from relayadmin.money import UNIT_PRICE_DECIMALS

LARGEST = Decimal(10) ** 11


class CannotCorrect(ValueError):
    """Why a price can't be corrected, as a sentence for the operator."""


def correct_price(
    price_id: int, unit_price: Decimal, *, who: str, reason: str, at: datetime, is_confirmed: bool = False
) -> Price:
    """Let a price row have been another unit price (USD per its `per`) all its time; returns the row that holds now.

    The row it supersedes stays, and is named by it. The same price again changes nothing. One that needs a second look,
    as an import's would, must be confirmed. Raises CannotCorrect.
    """
    exponent = unit_price.as_tuple().exponent
    if not unit_price.is_finite() or unit_price < 0 or (isinstance(exponent, int) and exponent < -UNIT_PRICE_DECIMALS):
        raise CannotCorrect(f"a unit price is not below zero and has at most {UNIT_PRICE_DECIMALS} decimals")
    if unit_price >= LARGEST:
        raise CannotCorrect(f"a unit price is below {LARGEST:f}")
    if not reason.strip() or len(who) + len(reason) > 490:
        raise CannotCorrect("say in at most 400 characters why the price was wrong")

    def work() -> Price:
        take_lock()
        old = Price.with_superseded.filter(pk=price_id).first()
        if old is None:
            raise CannotCorrect(f"there is no price with the number {price_id}")
        holds = _that_holds(old)
        if holds.unit_price == unit_price:
            return holds
        if holds != old:
            raise CannotCorrect(f"price {price_id} was corrected before; correct {holds.pk} instead")
        why = second_look(old.unit_price, unit_price, limit_percent=limit_percent())
        if why and not is_confirmed:
            raise CannotCorrect(f"look again: price {price_id} {why}; confirm it if it is right")
        Price.objects.filter(pk=old.pk).update(superseded_at=at)
        new = _copy(old, unit_price, f"{who}: {reason}")
        what = f"Corrected: price {old.pk}, {old.unit_price.normalize():f} → {unit_price.normalize():f}: {reason}"
        record_change(who=who, source=OPERATOR, summary=what, written=Written(created=1))
        return new

    return in_transaction(work)


def _that_holds(price: Price) -> Price:
    """The row at the end of a row's corrections: itself, or the one that nothing supersedes. Raises CannotCorrect."""
    while price.superseded_at is not None:
        successor = Price.with_superseded.filter(corrects=price).first()
        if successor is None:
            raise CannotCorrect(f"price {price.pk} was corrected, and the correction has been withdrawn")
        price = successor
    return price


def _copy(old: Price, unit_price: Decimal, why: str) -> Price:
    own = {"id", "unit_price", "source", "derived", "created_at", "superseded_at", "corrects", "corrected_why"}
    kept = {field.name: getattr(old, field.name) for field in Price._meta.concrete_fields if field.name not in own}
    return Price.objects.create(**kept, unit_price=unit_price, source=OPERATOR, corrects=old, corrected_why=why)
