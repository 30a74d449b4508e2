"""The only writer of transfers, entries and wallet balances.

Whoever changes anything of a customer locks its wallet first (`lock_wallets`), then reads, judges and posts, then
saves the wallets, all in one transaction of the caller's. Every function here works on many customers in one
statement each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from django.db import IntegrityError, connection

from billing.models import Account
from relayadmin.db import copy_rows, copy_text, number_array, server_cursor
from relayadmin.money import EXACT


class AlreadyPosted(Exception):
    """A transfer of this customer, kind and key exists: the movement has happened before."""


class UnknownCustomer(LookupError):
    """No wallet for this customer number."""


@dataclass(slots=True)
class LockedWallet:
    """A wallet whose row this transaction holds; changed in memory, written by `save_wallets`."""

    customer_id: int
    balance: Decimal
    held: Decimal
    credit_limit: Decimal
    version: int
    closed_through: date | None

    @property
    def available(self) -> Decimal:
        return EXACT.add(EXACT.subtract(self.balance, self.held), self.credit_limit)


@dataclass(frozen=True, slots=True)
class Posting:
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
    assert connection.in_atomic_block, "a wallet is locked inside a transaction"
    wanted = sorted(set(customer_ids))
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT customer_id, balance, held, credit_limit, version, closed_through FROM billing_wallet"
            " WHERE customer_id = ANY (%s::bigint[]) ORDER BY customer_id FOR UPDATE",
            [number_array(wanted)],
            binary=True,
        )
        wallets = {row[0]: LockedWallet(*row) for row in cursor.fetchall()}
    for customer_id in wanted:
        if customer_id not in wallets:
            raise UnknownCustomer(f"customer number {customer_id} has no wallet")
    return wallets


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
                "customer_id, transfer_id, account, amount, balance_after, wallet_version",
                rows.entries,
            )
    except IntegrityError as error:
        if "transfer_once_per_kind_and_key" in str(error):
            raise AlreadyPosted("this movement was posted before") from error
        raise
    return numbers


def _add_rows(rows: _Rows, number: int, posting: Posting, wallet: LockedWallet, moment: str) -> None:
    customer_id = posting.customer_id
    period = "\\N" if posting.period is None else posting.period.isoformat()
    rows.transfers.append(
        f"{customer_id}\t{number}\t{posting.kind}\t{copy_text(posting.key)}\t{period}\t{copy_text(posting.reason)}"
        f"\t{copy_text(posting.document)}\t{copy_text(posting.actor)}\t{moment}"
    )
    for account, amount in posting.entries:
        if account == Account.WALLET:
            wallet.balance = EXACT.add(wallet.balance, amount)
            wallet.version += 1
            after, version = str(wallet.balance), str(wallet.version)
        else:
            after = version = "\\N"
        rows.entries.append(f"{customer_id}\t{number}\t{account}\t{amount}\t{after}\t{version}")


def save_wallets(wallets: Iterable[LockedWallet]) -> None:
    """Write what changed in locked wallets, in one statement."""
    ordered = sorted(wallets, key=lambda wallet: wallet.customer_id)
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_wallet w SET balance = t.balance, held = t.held, version = t.version"
            " FROM unnest(%s::bigint[], %s::numeric[], %s::numeric[], %s::bigint[])"
            "   AS t (customer_id, balance, held, version)"
            " WHERE w.customer_id = t.customer_id",
            [
                number_array([wallet.customer_id for wallet in ordered]),
                number_array([wallet.balance for wallet in ordered]),
                number_array([wallet.held for wallet in ordered]),
                number_array([wallet.version for wallet in ordered]),
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


