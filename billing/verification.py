"""Is the ledger right? Balances, held totals and grants, recomputed from entries, holds and uses by set-based SQL.

Every check is one statement about a run of customers (`Scope`), all of them on one snapshot. A full check begins at
the first entry, an incremental one after the version at which the customer was last found right. The usage side is in
metering.usage_checks, both are run by metering.verification.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from relayadmin import ids
from relayadmin.db import number_array, server_cursor
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


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what it should be. Amounts are written as the API writes them."""

    customer_id: int
    what: str
    expected: str
    found: str


@contextmanager
def snapshot() -> Iterator[None]:
    """One read-only snapshot for all statements inside; within a transaction of the caller's, that one's."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), server_cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL work_mem = '64MB'")
        yield


def fetch(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement, planned for these parameters."""
    with server_cursor() as cursor:
        cursor.execute(sql, parameters, prepare=False)
        return cursor.fetchall()


def differences(sql: str, scope: Scope) -> list[Difference]:
    """Run a check whose rows are (customer number, what, row number, is it an amount, expected, found).

    `{tr}` and the like in `what` stand for the public id of the row with that number.
    """
    rows = fetch(f"{sql} LIMIT {DIFFERENCES_MAX}", scope.parameters)
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
_SINCE = """
WITH since AS MATERIALIZED (
    SELECT w.customer_id, w.balance, w.held, w.version, coalesce(v.version, 0) AS after_version,
           coalesce(v.transfer_number, 0) AS after_transfer, coalesce(v.used, 0) AS used,
           coalesce(e.balance_after, 0) AS start
    FROM billing_wallet w
    LEFT JOIN billing_verifiedwallet v ON v.customer_id = w.customer_id AND NOT %(full)s::boolean
    LEFT JOIN billing_entry e ON e.customer_id = v.customer_id AND e.wallet_version = v.version
    WHERE w.customer_id BETWEEN %(first)s::bigint AND %(last)s::bigint
)"""
_HERE = "BETWEEN %(first)s::bigint AND %(last)s::bigint"


def _rows_after(table: str, after: str, *, full: bool) -> str:
    """Rows `e` of a table that are to be checked. Where all are, nothing keeps them from being read in parallel."""
    if full:
        return f"{table} e WHERE e.customer_id {_HERE}"
    return f"since s JOIN {table} e ON e.customer_id = s.customer_id AND {after} WHERE e.customer_id {_HERE}"


def _wallets_sql(*, full: bool) -> str:
    """Balance and version of each wallet against the sum and number of its entries."""
    return f"""{_SINCE}, sums AS (
    SELECT e.customer_id, sum(e.amount) AS total, count(*) AS entries
    FROM {_rows_after("billing_entry", "e.wallet_version > s.after_version", full=full)} AND e.account = 'wallet'
    GROUP BY e.customer_id
)
SELECT c.id, d.what, NULL::bigint, d.is_amount, d.expected, d.found
FROM billing_customer c LEFT JOIN since s ON s.customer_id = c.id LEFT JOIN sums e ON e.customer_id = c.id
CROSS JOIN LATERAL (VALUES
    ('wallets', false, 1::numeric, CASE WHEN s.customer_id IS NULL THEN 0 ELSE 1 END::numeric),
    ('wallet balance', true, s.start + coalesce(e.total, 0), s.balance),
    ('wallet version', false, s.after_version + coalesce(e.entries, 0), s.version)
) d (what, is_amount, expected, found)
WHERE c.id {_HERE} AND d.expected IS DISTINCT FROM d.found ORDER BY c.id"""


def _running_sql(*, full: bool) -> str:
    """The balance and version after each wallet entry against those after the one before."""
    first_version, first_balance = ("0", "0") if full else ("s.after_version", "s.start")
    return f"""{_SINCE}, steps AS (
    SELECT e.customer_id, e.transfer_id, e.wallet_version, e.balance_after,
           coalesce(lag(e.wallet_version) OVER steps, {first_version}) + 1 AS next_version,
           coalesce(lag(e.balance_after) OVER steps, {first_balance}) + e.amount AS next_balance
    FROM {_rows_after("billing_entry", "e.wallet_version > s.after_version", full=full)}
        AND e.wallet_version IS NOT NULL
    WINDOW steps AS (PARTITION BY e.customer_id ORDER BY e.wallet_version)
)
SELECT r.customer_id, d.what, r.transfer_id, d.is_amount, d.expected, d.found FROM steps r CROSS JOIN LATERAL (VALUES
    ('wallet version after {{tr}}', false, r.next_version::numeric, r.wallet_version::numeric),
    ('balance after {{tr}}', true, r.next_balance, r.balance_after)
) d (what, is_amount, expected, found)
WHERE (r.next_version <> r.wallet_version OR r.next_balance <> r.balance_after) AND d.expected <> d.found
ORDER BY r.customer_id, r.wallet_version"""


def _transfers_sql(*, full: bool) -> str:
    """Each transfer against its entries: two or more, which add up to zero; and no entry without a transfer."""
    return f"""{_SINCE}, movements AS (
    SELECT customer_id, id, t.is_there, e.total, e.entries FROM (
        SELECT e.customer_id, e.id, true AS is_there
        FROM {_rows_after("billing_transfer", "e.id > s.after_transfer", full=full)}
    ) t FULL JOIN (
        SELECT e.customer_id, e.transfer_id AS id, sum(e.amount) AS total, count(*) AS entries
        FROM {_rows_after("billing_entry", "e.id >= (s.after_transfer + 1) * 16", full=full)}
        GROUP BY e.customer_id, e.transfer_id
    ) e USING (customer_id, id)
)
SELECT m.customer_id, d.what, m.id, d.is_amount, d.expected, d.found FROM movements m CROSS JOIN LATERAL (VALUES
    (m.is_there IS NULL, 'transfers {{tr}} that entries belong to', false, 1::numeric, 0::numeric),
    (m.total <> 0, 'sum of the entries of {{tr}}', true, 0, m.total),
    (coalesce(m.entries, 0) < 2, 'entries of {{tr}}, at least', false, 2, coalesce(m.entries, 0))
) d (is_wrong, what, is_amount, expected, found)
WHERE (m.is_there IS NULL OR m.total <> 0 OR m.entries IS NULL OR m.entries < 2) AND d.is_wrong
ORDER BY m.customer_id, m.id"""


_HELD = f"""{_SINCE}
SELECT s.customer_id, 'held', NULL::bigint, true, coalesce(h.remaining, 0), s.held FROM since s LEFT JOIN (
    SELECT customer_id, sum(remaining) AS remaining FROM billing_hold
    WHERE customer_id {_HERE} AND status = 'open' GROUP BY customer_id
) h ON h.customer_id = s.customer_id
WHERE s.held <> coalesce(h.remaining, 0) ORDER BY s.customer_id"""

_RESOLVED = f"""
SELECT customer_id, 'held by {{auth}}, which is ' || status, id, true, 0, remaining FROM billing_hold
WHERE customer_id {_HERE} AND status <> 'open' AND remaining <> 0 ORDER BY customer_id, id"""

_CREDIT = f"""{_SINCE}
SELECT s.customer_id, 'credit left on grants', NULL::bigint, true, greatest(s.balance, 0), coalesce(g.remaining, 0)
FROM since s LEFT JOIN (
    SELECT customer_id, sum(remaining) AS remaining FROM billing_grant WHERE customer_id {_HERE} GROUP BY customer_id
) g ON g.customer_id = s.customer_id
WHERE coalesce(g.remaining, 0) <> greatest(s.balance, 0) ORDER BY s.customer_id"""

_USES = f"""
SELECT customer_id, CASE WHEN g.amount IS NULL THEN 'uses of {{gr}}, which does not exist' ELSE 'left of {{gr}}' END,
       id, true, coalesce(g.amount - coalesce(u.used, 0), 0), coalesce(g.remaining, u.used)
FROM (SELECT customer_id, id, amount, remaining FROM billing_grant WHERE customer_id {_HERE}) g
FULL JOIN (
    SELECT customer_id, grant_id AS id, sum(amount) AS used FROM (
        SELECT customer_id, grant_id, amount FROM billing_grantuse WHERE customer_id {_HERE}
        UNION ALL SELECT customer_id, grant_id, -amount FROM billing_grantreturn WHERE customer_id {_HERE}
    ) u GROUP BY customer_id, grant_id
) u USING (customer_id, id)
WHERE g.remaining IS NULL OR g.remaining <> g.amount - coalesce(u.used, 0) ORDER BY customer_id, id"""

_USES_SINCE = f"""{_SINCE}
SELECT s.customer_id, 'used of all grants', NULL::bigint, true, s.used + coalesce(u.used, 0), coalesce(g.used, 0)
FROM since s LEFT JOIN (
    SELECT customer_id, sum(amount - remaining) AS used FROM billing_grant WHERE customer_id {_HERE}
    GROUP BY customer_id
) g ON g.customer_id = s.customer_id LEFT JOIN (
    SELECT customer_id, sum(amount) AS used FROM (
        SELECT u.customer_id, u.amount
        FROM since s JOIN billing_grantuse u ON u.customer_id = s.customer_id AND u.transfer_id > s.after_transfer
        WHERE u.customer_id {_HERE}
        UNION ALL
        SELECT r.customer_id, -r.amount
        FROM since s JOIN billing_grantreturn r ON r.customer_id = s.customer_id AND r.transfer_id > s.after_transfer
        WHERE r.customer_id {_HERE}
    ) u GROUP BY customer_id
) u ON u.customer_id = s.customer_id
WHERE s.used + coalesce(u.used, 0) <> coalesce(g.used, 0) ORDER BY s.customer_id"""

_RETURNS = f"""
SELECT customer_id, 'given back of what {{tr}} had used of grant ' || r.grant_id || ', at most', r.used_by_id, true,
       coalesce(u.amount, 0), r.amount
FROM (
    SELECT customer_id, used_by_id, grant_id, sum(amount) AS amount FROM billing_grantreturn
    WHERE customer_id {_HERE} GROUP BY customer_id, used_by_id, grant_id
) r LEFT JOIN (
    SELECT customer_id, transfer_id AS used_by_id, grant_id, amount FROM billing_grantuse WHERE customer_id {_HERE}
) u USING (customer_id, used_by_id, grant_id)
WHERE r.amount > coalesce(u.amount, 0) ORDER BY customer_id, r.used_by_id"""

_INVOICES = f"""
SELECT i.customer_id, d.what || ' of invoice ' || i.number, NULL::bigint, d.is_amount, d.expected, d.found
FROM billing_invoice i LEFT JOIN (
    SELECT l.invoice_id, sum(l.amount) AS total, sum(l.amount) FILTER (WHERE l.quantity IS NOT NULL) AS exact,
           count(*) FILTER (WHERE l.quantity * l.unit_price <> l.amount * l.per) AS wrong
    FROM billing_invoice i JOIN billing_invoiceline l ON l.invoice_id = i.id
    WHERE i.customer_id {_HERE} GROUP BY l.invoice_id
) l ON l.invoice_id = i.id
CROSS JOIN LATERAL (VALUES
    ('lines whose amount is not quantity × unit price', false, 0::numeric, coalesce(l.wrong, 0)::numeric),
    ('sum of the usage lines', true, i.exact_total, coalesce(l.exact, 0)),
    ('sum of the lines', true, i.subtotal, coalesce(l.total, 0)),
    ('subtotal', true, round(i.exact_total, 2), i.subtotal),
    ('total', true, i.subtotal + i.tax, i.total)
) d (what, is_amount, expected, found)
WHERE i.customer_id {_HERE} AND i.status <> 'draft' AND d.expected <> d.found ORDER BY i.customer_id, i.id"""

_ALWAYS = (_HELD, _CREDIT, _INVOICES)
_ONLY_FULL = (_RESOLVED, _USES, _RETURNS)
_ONLY_SINCE = (_USES_SINCE,)


def check_ledger(scope: Scope) -> list[Difference]:
    """Every difference in the ledger of these customers; on the caller's snapshot."""
    full = scope.full
    moving = (_wallets_sql(full=full), _running_sql(full=full), _transfers_sql(full=full))
    checks = moving + _ALWAYS + (_ONLY_FULL if full else _ONLY_SINCE)
    return [found for sql in checks for found in differences(sql, scope)]


def count_rows(scope: Scope) -> dict[str, int]:
    """How many rows `check_ledger` looks at."""
    transfers = _rows_after("billing_transfer", "e.id > s.after_transfer", full=scope.full)
    entries = _rows_after("billing_entry", "e.id >= (s.after_transfer + 1) * 16", full=scope.full)
    (row,) = fetch(
        f"""{_SINCE} SELECT (SELECT count(*) FROM billing_customer WHERE id {_HERE}),
            (SELECT count(*) FROM {transfers}), (SELECT count(*) FROM {entries}),
            (SELECT count(*) FROM billing_hold WHERE customer_id {_HERE} AND (%(full)s::boolean OR status = 'open')),
            (SELECT count(*) FROM billing_grant WHERE customer_id {_HERE})""",
        scope.parameters,
    )
    return dict(zip(("customers", "transfers", "entries", "holds", "grants"), row, strict=True))


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where a customer's ledger was read: an incremental check may begin after it, if it was right."""

    customer_id: int
    version: int
    transfer_number: int
    used: Decimal


_MARKS = f"""
SELECT w.customer_id, w.version, coalesce(t.id, 0), coalesce(g.used, 0) FROM billing_wallet w LEFT JOIN LATERAL (
    SELECT id FROM billing_transfer t WHERE t.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) t ON true LEFT JOIN (
    SELECT customer_id, sum(amount - remaining) AS used FROM billing_grant WHERE customer_id {_HERE}
    GROUP BY customer_id
) g ON g.customer_id = w.customer_id
WHERE w.customer_id {_HERE}"""


def read_marks(scope: Scope) -> list[Mark]:
    """The customers' present state, on the caller's snapshot."""
    return [Mark(*row) for row in fetch(_MARKS, {"first": scope.first, "last": scope.last})]


def save_marks(marks: Sequence[Mark], *, at: datetime) -> None:
    """Remember customers as right up to here; a later state that another run has saved stays."""
    if not marks:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_verifiedwallet AS v (customer_id, version, transfer_number, used, verified_at)"
            " SELECT customer_id, version, transfer_number, used, %s FROM"
            "   unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[])"
            "   AS t (customer_id, version, transfer_number, used) ORDER BY customer_id"
            " ON CONFLICT (customer_id) DO UPDATE SET version = excluded.version, used = excluded.used,"
            "   transfer_number = excluded.transfer_number, verified_at = excluded.verified_at"
            " WHERE excluded.version >= v.version",
            [
                at,
                number_array([mark.customer_id for mark in marks]),
                number_array([mark.version for mark in marks]),
                number_array([mark.transfer_number for mark in marks]),
                number_array([mark.used for mark in marks]),
            ],
        )
