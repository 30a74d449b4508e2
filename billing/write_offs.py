"""Debt given up: written off as far as there is any, and taken up again where money back shows it was too high."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import burning, ledger, open_invoices
from billing.credits import debts
from billing.models import Account, Transfer
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO


class NothingOwed(Exception):
    """There is no debt to write off."""


@dataclass(frozen=True, slots=True)
class WrittenOff:
    """The transfer's number and how much of the debt it took (USD)."""

    transfer_id: int
    amount: Decimal


def write_off(
    wallet: ledger.LockedWallet, *, amount: Decimal, key: str, reason: str, document: str, actor: str, at: datetime
) -> WrittenOff:
    """Write a locked wallet's debt off, at most this much (USD). Raises NothingOwed, ledger.AlreadyPosted."""
    customer_id = wallet.customer_id
    cured = min(amount, debts([wallet])[customer_id])
    if not cured:
        raise NothingOwed("there is no debt to write off")
    posting = ledger.Posting(
        customer_id,
        Transfer.Kind.WRITE_OFF.value,
        key,
        [(Account.WALLET.value, cured), (Account.WRITE_OFFS.value, -cured)],
        reason=reason,
        document=document,
        actor=actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={customer_id: wallet}, at=at)
    open_invoices.lower(wallet, cured, at=at, by_credit=False)
    return WrittenOff(transfer_id, cured)


def take_up(
    amounts: Mapping[int, Decimal],
    *,
    wallets: Mapping[int, ledger.LockedWallet],
    job: str,
    at: datetime,
) -> dict[int, int]:
    """Make debt of locked wallets that was written off debt again (USD by customer); returns the transfers' numbers.

    Usage that was written off turns out to have cost less: nobody paid it, so nobody gets money back for it. The
    write-off shrinks, and the money back that follows cures what comes back here. Credit that is there pays it first.
    """
    numbers: dict[int, int] = {}
    for customer_id, amount in sorted(amounts.items()):
        wallet = wallets[customer_id]
        assert amount <= written_off(customer_id), "more is taken up than was written off"
        parts = burning.choose(wallet, amount)
        promotional = burning.sum_of([part for part in parts if part.is_promotional])
        entries = [(Account.WALLET.value, -amount), (Account.WRITE_OFFS.value, amount)]
        if promotional:
            # What stood as revenue that nobody paid is paid by promotional credit now.
            entries += [(Account.REVENUE.value, -promotional), (Account.PROMOTIONAL_USAGE.value, promotional)]
        posting = ledger.Posting(
            customer_id,
            Transfer.Kind.WRITE_OFF.value,
            f"{job}:taken up",
            entries,
            reason="A write-off is smaller: the usage that it was for cost less",
        )
        (numbers[customer_id],) = ledger.post([posting], wallets=wallets, at=at)
        burning.burn(wallet, parts, transfer_id=numbers[customer_id])
    return numbers


def written_off(customer_id: int, *, since: int = 0) -> Decimal:
    """What is written off of a debt, less what was taken up again (USD); at most what was since a transfer."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(e.amount), 0), coalesce(sum(e.amount) FILTER (WHERE t.id > %s AND e.amount > 0), 0)"
            " FROM billing_transfer t"
            " JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16"
            " WHERE t.customer_id = %s AND t.kind = 'write_off' AND e.account = 'wallet'",
            [since, customer_id],
        )
        ever, lately = cursor.fetchone() or (ZERO, ZERO)
    return EXACT.plus(max(ZERO, min(Decimal(ever), Decimal(lately))))
