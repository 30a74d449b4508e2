"""Credit of one locked wallet used up by hand: by debits, closings and written-off debt that comes back.

And what goes back of uses to their grants, of adjustments and of credit notes.
Usage burns grants in billing/sql/charge_usage.sql, for many customers at once; the order here is the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing import ledger
from billing.models import Grant, GrantUse
from relayadmin.db import copy_rows, number_array, server_cursor
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


@dataclass(frozen=True, slots=True)
class Return:
    """What a transfer gives back (USD) of what another had used of a grant."""

    customer_id: int
    used_by: int
    grant_id: int
    transfer_id: int
    amount: Decimal


def put_back(returns: Iterable[Return]) -> None:
    """Write what goes back to grants of locked wallets, by transfers that have been posted, and add it to these."""
    rows: list[str] = []
    left: dict[tuple[int, int], Decimal] = {}
    for one in returns:
        rows.append(f"{one.customer_id}\t{one.used_by}\t{one.grant_id}\t{one.transfer_id}\t{one.amount}")
        key = (one.customer_id, one.grant_id)
        left[key] = EXACT.add(left.get(key, ZERO), one.amount)
    if not rows:
        return
    ordered = sorted(left)
    with server_cursor() as cursor:
        copy_rows(cursor, "billing_grantreturn", "customer_id, used_by_id, grant_id, transfer_id, amount", rows)
        cursor.execute(
            # What comes back to a grant that has ended is for the expiry sweep.
            "UPDATE billing_grant g SET remaining = g.remaining + t.amount,"
            "   look_at = coalesce(g.look_at, g.voided_at, g.expires_at)"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::numeric[]) AS t (customer_id, id, amount)"
            " WHERE g.customer_id = t.customer_id AND g.id = t.id",
            [
                number_array([customer_id for customer_id, _ in ordered]),
                number_array([grant_id for _, grant_id in ordered]),
                number_array([left[key] for key in ordered]),
            ],
        )
