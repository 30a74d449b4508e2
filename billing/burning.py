"""Credit of one locked wallet used up by hand: by debits, closings and written-off debt that comes back.

Usage burns grants in billing/sql/charge_usage.sql, for many customers at once; the order here is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing import ledger
from billing.models import Grant, GrantUse
from relayadmin.db import number_array, server_cursor
from relayadmin.money import EXACT, ZERO, total


@dataclass(frozen=True, slots=True)
class Part:
    """What is taken of one grant (USD); `is_refundable` as the grant says."""

    grant_id: int
    kind: str
    amount: Decimal
    is_refundable: bool

    @property
    def is_promotional(self) -> bool:
        return self.kind != Grant.Kind.PAID


def choose(wallet: ledger.LockedWallet, amount: Decimal) -> list[Part]:
    """Which grants of a locked wallet pay an amount: in the order priority, expiry, age; the rest is debt."""
    parts: list[Part] = []
    rest = amount
    for part in left(wallet):
        if not rest:
            break
        taken = min(part.amount, rest)
        rest = EXACT.subtract(rest, taken)
        parts.append(Part(part.grant_id, part.kind, taken, part.is_refundable))
    return parts


def left(wallet: ledger.LockedWallet) -> list[Part]:
    """All that is left of a locked wallet's grants, in the order in which they are used."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT id, kind, remaining, is_refundable FROM billing_grant WHERE customer_id = %s AND remaining > 0"
            " ORDER BY priority, expires_at NULLS LAST, id",
            [wallet.customer_id],
            binary=True,
        )
        return [Part(*row) for row in cursor.fetchall()]


def sum_of(parts: Sequence[Part]) -> Decimal:
    """What these parts add up to (USD)."""
    return total([part.amount for part in parts]) if parts else ZERO


def burn(wallet: ledger.LockedWallet, parts: Sequence[Part], *, transfer_id: int) -> None:
    """Take parts off the grants of a locked wallet, as used by a transfer that has been posted."""
    if not parts:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_grant g SET remaining = g.remaining - t.amount"
            " FROM unnest(%s::bigint[], %s::numeric[]) AS t (id, amount) WHERE g.customer_id = %s AND g.id = t.id",
            [
                number_array(part.grant_id for part in parts),
                number_array(part.amount for part in parts),
                wallet.customer_id,
            ],
        )
        assert cursor.rowcount == len(parts), "a grant of a locked wallet changed under us"
    GrantUse.objects.bulk_create(
        GrantUse(customer_id=wallet.customer_id, grant_id=part.grant_id, transfer_id=transfer_id, amount=part.amount)
        for part in parts
    )
