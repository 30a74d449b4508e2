"""A bonus with a customer's first paid top-up, if the operator gives one: promotional credit, once per customer.

It goes with its payment: when that is refunded in full or taken back by a dispute, what is left of the bonus is taken
back too. What was used stays used, and no second bonus is given, even if the dispute is won.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from billing import credits, grant_changes
from billing.models import Grant, OperatorSettings, TopUp, Transfer
from relayadmin.money import EXACT, to_cents

KEY = "first-top-up-bonus"


def give(row: TopUp, *, at: datetime) -> None:
    """Give the bonus with this top-up, in the transaction that credits it, under the wallet's lock."""
    settings = OperatorSettings.objects.get(pk=1)
    amount = bonus_of(row.credited, percent=settings.first_bonus_percent, at_most=settings.first_bonus_maximum)
    if not amount or _grant(row.customer_id) is not None:
        return
    days = settings.first_bonus_days
    credits.grant(
        customer_id=row.customer_id,
        amount=amount,
        kind=Grant.Kind.PROMOTIONAL,
        reason="Bonus with the first top-up",
        # Not the top-up's own id: what is refunded of it is paid credit alone.
        reference=_reference(row),
        key=KEY,
        at=at,
        expires_at=at + timedelta(days=days) if days else None,
    )


def bonus_of(amount: Decimal, *, percent: Decimal, at_most: Decimal | None) -> Decimal:
    """So much per cent of a top-up, half up to the cent, at most so much (USD)."""
    bonus = to_cents(EXACT.multiply(amount, EXACT.scaleb(percent, -2)))
    return bonus if at_most is None else min(bonus, at_most)


def take_back(row: TopUp, *, reason: str, at: datetime) -> bool:
    """Take back what is left of the bonus that came with this top-up; whether there was something.

    In the caller's transaction, or one of its own. What running requests hold is taken when they have ended.
    """
    grant = _grant(row.customer_id)
    if grant is None or grant.reference != _reference(row) or grant.voided_at is not None or not grant.remaining:
        return False
    voided = grant_changes.void(customer_id=row.customer_id, number=grant.pk, reason=reason, actor="", at=at)
    return voided.is_new


def _reference(row: TopUp) -> str:
    return f"bonus:{row.public_id}"


def _grant(customer_id: int) -> Grant | None:
    transfer = Transfer.objects.filter(customer_id=customer_id, kind=Transfer.Kind.GRANT, key=KEY).first()
    return None if transfer is None else Grant.objects.get(customer_id=customer_id, transfer_id=transfer.pk)
