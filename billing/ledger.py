"""The only writer of transfers, entries and wallet balances.

Whoever changes anything of a customer locks its wallet first (`lock_wallets`), then reads, judges and posts, all in
one transaction of the caller's. Every function here works on many customers in one statement each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
from django.db import IntegrityError, connection

from relayadmin.db import copy_rows, copy_text, number_array, server_cursor
from relayadmin.money import EXACT

# A transfer's entries have the numbers from transfer × ENTRIES_MAX on, so that the primary key finds them together.
ENTRIES_MAX = 16
NULL = "\\N"
_CHARGE_USAGE = (Path(__file__).parent / "sql" / "charge_usage.sql").read_text()


class AlreadyPosted(Exception):
    """A transfer of this customer, kind and key exists: the movement has happened before."""


class UnknownCustomer(LookupError):
    """No wallet for this customer number."""


@dataclass(slots=True)
class LockedWallet:
    """A wallet whose row this transaction holds, as it stands now."""

    customer_id: int
    balance: Decimal
    held: Decimal
    credit_limit: Decimal
    version: int
    closed_through: date | None
    counts_spend: bool = False

    @property
    def available(self) -> Decimal:
        return EXACT.add(EXACT.subtract(self.balance, self.held), self.credit_limit)


class Posting(msgspec.Struct, frozen=True, gc=False):
    """A transfer to be made: `entries` are (account, amount) in USD and add up to zero."""

    customer_id: int
    kind: str
    key: str
    entries: Sequence[tuple[str, Decimal]]
    period: date | None = None
    reason: str = ""
    document: str = ""
    actor: str = ""


@dataclass(slots=True)
class _Rows:
    transfers: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)


def lock_wallets(customer_ids: Iterable[int]) -> dict[int, LockedWallet]:
    """Lock these wallets in customer order, for the rest of the caller's transaction.

    The lock is a statement of its own; what is read after it, by later statements, is what nobody else can change.
    Raises UnknownCustomer.
    """
    wanted = sorted(set(customer_ids))
    wallets = _lock(wanted, "FOR UPDATE")
    for customer_id in wanted:
        if customer_id not in wallets:
            raise UnknownCustomer(f"customer number {customer_id} has no wallet")
    return wallets


def lock_free_wallets(customer_ids: Iterable[int]) -> dict[int, LockedWallet]:
    """Lock those of these wallets that nobody else has locked now, without waiting; the others are left out."""
    return _lock(sorted(set(customer_ids)), "FOR UPDATE SKIP LOCKED")


def _lock(wanted: list[int], how: str) -> dict[int, LockedWallet]:
    assert connection.in_atomic_block, "a wallet is locked inside a transaction"
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT customer_id, balance, held, credit_limit, version, closed_through, counts_spend FROM billing_wallet"
            f" WHERE customer_id = ANY (%s::bigint[]) ORDER BY customer_id {how}",
            [number_array(wanted)],
            binary=True,
        )
        return {row[0]: LockedWallet(*row) for row in cursor.fetchall()}


def post(postings: Sequence[Posting], *, wallets: Mapping[int, LockedWallet], at: datetime) -> list[int]:
    """Write transfers with their entries and move the locked wallets' balances; returns the transfers' numbers.

    Raises AlreadyPosted if a (customer, kind, key) exists. The database refuses entries that don't add up to zero.
    """
    if not postings:
        return []
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT nextval('billing_transfer_id_seq') FROM generate_series(1, %s)", [len(postings)], binary=True
        )
        numbers = [row[0] for row in cursor.fetchall()]
    rows = _Rows()
    moment = at.isoformat()
    for number, posting in zip(numbers, postings, strict=True):
        _add_rows(rows, number, posting, wallets[posting.customer_id], moment)
    try:
        with server_cursor() as cursor:
            copy_rows(
                cursor,
                "billing_transfer",
                "customer_id, id, kind, key, period, reason, document, actor, created_at",
                rows.transfers,
            )
            copy_rows(
                cursor,
                "billing_entry",
                "customer_id, id, transfer_id, account, amount, balance_after, wallet_version",
                rows.entries,
            )
    except IntegrityError as error:
        raise _posted_before(error) from error
    _save_balances(wallets[customer_id] for customer_id in {posting.customer_id for posting in postings})
    return numbers


def _add_rows(rows: _Rows, number: int, posting: Posting, wallet: LockedWallet, moment: str) -> None:
    customer_id = posting.customer_id
    rows.transfers.append(
        f"{customer_id}\t{number}\t{posting.kind}\t{copy_text(posting.key)}\t{posting.period or NULL}"
        f"\t{copy_text(posting.reason)}\t{copy_text(posting.document)}\t{copy_text(posting.actor)}\t{moment}"
    )
    assert len(posting.entries) <= ENTRIES_MAX
    entry = number * ENTRIES_MAX
    for account, amount in posting.entries:
        if account == "wallet":
            wallet.balance = EXACT.add(wallet.balance, amount)
            wallet.version += 1
            rows.entries.append(
                f"{customer_id}\t{entry}\t{number}\t{account}\t{amount}\t{wallet.balance}\t{wallet.version}"
            )
        else:
            rows.entries.append(f"{customer_id}\t{entry}\t{number}\t{account}\t{amount}\t{NULL}\t{NULL}")
        entry += 1


def charge_usage(
    charges: Sequence[tuple[int, date, Decimal]],
    *,
    wallets: Mapping[int, LockedWallet],
    settlement: str,
    at: datetime,
    kind: str = "usage",
    reason: str = "",
) -> dict[tuple[int, date], int]:
    """Charge (customer, billing period, USD above 0), each customer and period once, against locked wallets' grants.

    One statement for all of them (billing/sql/charge_usage.sql); returns the transfers' numbers, whose keys are the
    settlement's with the period. Raises AlreadyPosted.
    """
    if not charges:
        return {}
    customers, periods, amounts = zip(*charges, strict=True)
    try:
        with server_cursor() as cursor:
            cursor.execute(
                _CHARGE_USAGE,
                {
                    "customers": number_array(customers),
                    "periods": number_array(periods),
                    "amounts": number_array(amounts),
                    "settlement": settlement,
                    "kind": kind,
                    "reason": reason,
                    "at": at,
                },
                binary=True,
            )
            rows = cursor.fetchall()
    except IntegrityError as error:
        raise _posted_before(error) from error
    for customer_id, _, amount in charges:
        wallet = wallets[customer_id]
        wallet.balance = EXACT.subtract(wallet.balance, amount)
        wallet.version += 1
    return {(customer_id, period): number for customer_id, period, number in rows}


def _posted_before(error: IntegrityError) -> Exception:
    if "transfer_once_per_kind_and_key" in str(error):
        return AlreadyPosted("this movement was posted before")
    return error


def _save_balances(wallets: Iterable[LockedWallet]) -> None:
    ordered = sorted(wallets, key=lambda wallet: wallet.customer_id)
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_wallet w SET balance = t.balance, version = t.version"
            " FROM unnest(%s::bigint[], %s::numeric[], %s::bigint[]) AS t (customer_id, balance, version)"
            " WHERE w.customer_id = t.customer_id",
            [
                number_array(wallet.customer_id for wallet in ordered),
                number_array(wallet.balance for wallet in ordered),
                number_array(wallet.version for wallet in ordered),
            ],
        )


def save_held(wallets: Iterable[LockedWallet]) -> None:
    """Write what locked wallets hold now, in one statement."""
    ordered = sorted(wallets, key=lambda wallet: wallet.customer_id)
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_wallet w SET held = t.held"
            " FROM unnest(%s::bigint[], %s::numeric[]) AS t (customer_id, held) WHERE w.customer_id = t.customer_id",
            [
                number_array(wallet.customer_id for wallet in ordered),
                number_array(wallet.held for wallet in ordered),
            ],
        )


def close_period(wallet: LockedWallet, period: date) -> None:
    """Mark a locked wallet as closed through this billing period; later usage is billed in the next one."""
    assert wallet.closed_through is None or wallet.closed_through < period, "a period closes once"
    wallet.closed_through = period
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_wallet SET closed_through = %s WHERE customer_id = %s", [period, wallet.customer_id]
        )
