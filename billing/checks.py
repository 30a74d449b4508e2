"""What every check of the books shares: its scope, one snapshot, and where an incremental one begins."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from relayadmin import ids
from relayadmin.db import server_cursor
from relayadmin.money import amount_text

DIFFERENCES_MAX = 100  # of one check in one scope: who sees so many needs no more


@dataclass(frozen=True, slots=True)
class Scope:
    """The customers numbered from `first` to `last`, from the beginning or from where they were last found right."""

    first: int
    last: int
    full: bool

    @property
    def parameters(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "full": self.full}

    def around(self, customers: Collection[int]) -> "Scope":
        """As little of it as holds all of these customers."""
        return Scope(min(customers), max(customers), self.full)


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what it should be. Amounts are written as the API writes them."""

    customer_id: int
    what: str
    expected: str
    found: str


@contextmanager
def snapshot() -> Iterator[None]:
    """One read-only snapshot for all statements inside; within a transaction of the caller's, that one's.

    Statements are not split among processes of the server: two connections at once use two processors better.
    """
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), server_cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        cursor.execute("SET LOCAL jit = off")
        yield


def fetch(sql: str, parameters: Mapping[str, Any], *, by_page: bool = False) -> list[tuple[Any, ...]]:
    """Run one statement, planned for these parameters.

    `by_page`: tables are read in the order of their pages. In the order of an index each row costs a search for its
    page, which the planner takes to be free.
    """
    with server_cursor() as cursor:
        if by_page:
            cursor.execute("SET LOCAL enable_indexscan = off")
        cursor.execute(sql, parameters, prepare=False)
        rows = cursor.fetchall()
        if by_page:
            cursor.execute("SET LOCAL enable_indexscan = on")
    return rows


def differences(sql: str, scope: Scope, *, by_page: bool = False, **parameters: Any) -> list[Difference]:
    """Run a check whose rows are (customer number, what, row number, is it an amount, expected, found).

    `{tr}` and the like in `what` stand for the public id of the row with that number.
    """
    rows = fetch(f"{sql} LIMIT {DIFFERENCES_MAX}", scope.parameters | parameters, by_page=by_page)
    return [
        Difference(customer_id, _name(what, customer_id, number), _figure(expected, money), _figure(found, money))
        for customer_id, what, number, money, expected, found in rows
    ]


def _name(what: str, customer_id: int, number: int | None) -> str:
    before, mark, rest = what.partition("{")
    if not mark or number is None:
        return what
    prefix, _, after = rest.partition("}")
    return f"{before}{ids.hot_id(prefix, customer_id, number)}{after}"


def _figure(value: Decimal | None, is_amount: bool) -> str:
    if value is None:
        return "none"
    return amount_text(Decimal(value)) if is_amount else format(Decimal(value), "f")


# What a wallet should have been at the point up to which it was verified: `start` is the balance after that version.
SINCE = """
WITH since AS MATERIALIZED (
    SELECT w.customer_id, w.balance, w.held, w.version, coalesce(v.version, 0) AS after_version,
           coalesce(v.transfer_number, 0) AS after_transfer, coalesce(v.used, 0) AS used,
           coalesce(e.balance_after, 0) AS start
    FROM billing_wallet w
    LEFT JOIN billing_verifiedwallet v ON v.customer_id = w.customer_id AND NOT %(full)s::boolean
    LEFT JOIN billing_entry e ON e.customer_id = v.customer_id AND e.wallet_version = v.version
    WHERE w.customer_id BETWEEN %(first)s::bigint AND %(last)s::bigint
)"""
HERE = "BETWEEN %(first)s::bigint AND %(last)s::bigint"


def rows_after(table: str, after: str, *, full: bool) -> str:
    """Rows `e` of a table that are to be checked. Where all are, nothing keeps them from being read in parallel."""
    if full:
        return f"{table} e WHERE e.customer_id {HERE}"
    return f"since s JOIN {table} e ON e.customer_id = s.customer_id AND {after} WHERE e.customer_id {HERE}"
