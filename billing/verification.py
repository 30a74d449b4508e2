"""Is the ledger right? Balances, held totals and grants, recomputed from entries, holds and uses by set-based SQL.

Every check is one statement about a run of customers (`Scope`), all of them on one snapshot. A full check begins at
the first entry, an incremental one after the version at which the customer was last found right. What is particular to
grants is in billing.grant_checks, to payments and invoices in billing.payment_checks, invoice_checks and
document_checks, the usage side in metering.usage_checks and metering.movement_checks; all are run by
metering.verification.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.checks import HERE, SINCE, Difference, Scope, differences, fetch, rows_after
from billing.document_checks import document_checks
from billing.grant_checks import grant_checks, uses_sql
from billing.invoice_checks import invoice_checks
from billing.payment_checks import payment_checks
from relayadmin.db import number_array, server_cursor


def _wallets_sql(*, full: bool) -> str:
    """Balance and version of each wallet against the sum and number of its entries."""
    return f"""{SINCE}, sums AS (
    SELECT e.customer_id, sum(e.amount) AS total, count(*) AS entries
    FROM {rows_after("billing_entry", "e.wallet_version > s.after_version", full=full)} AND e.account = 'wallet'
    GROUP BY e.customer_id
)
SELECT c.id, d.what, NULL::bigint, d.is_amount, d.expected, d.found
FROM billing_customer c LEFT JOIN since s ON s.customer_id = c.id LEFT JOIN sums e ON e.customer_id = c.id
CROSS JOIN LATERAL (VALUES
    ('wallets', false, 1::numeric, CASE WHEN s.customer_id IS NULL THEN 0 ELSE 1 END::numeric),
    ('wallet balance', true, s.start + coalesce(e.total, 0), s.balance),
    ('wallet version', false, s.after_version + coalesce(e.entries, 0), s.version)
) d (what, is_amount, expected, found)
WHERE c.id {HERE} AND d.expected IS DISTINCT FROM d.found ORDER BY c.id"""


def _running_sql(*, full: bool) -> str:
    """The balance and version after each wallet entry against those after the one before."""
    first_version, first_balance = ("0", "0") if full else ("s.after_version", "s.start")
    return f"""{SINCE}, steps AS (
    SELECT e.customer_id, e.transfer_id, e.wallet_version, e.balance_after,
           coalesce(lag(e.wallet_version) OVER steps, {first_version}) + 1 AS next_version,
           coalesce(lag(e.balance_after) OVER steps, {first_balance}) + e.amount AS next_balance
    FROM {rows_after("billing_entry", "e.wallet_version > s.after_version", full=full)}
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
    return f"""{SINCE}, movements AS (
    SELECT customer_id, id, t.is_there, e.total, e.entries FROM (
        SELECT e.customer_id, e.id, true AS is_there
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)}
    ) t FULL JOIN (
        SELECT e.customer_id, e.transfer_id AS id, sum(e.amount) AS total, count(*) AS entries
        FROM {rows_after("billing_entry", "e.id >= (s.after_transfer + 1) * 16", full=full)}
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


_HELD = f"""{SINCE}
SELECT s.customer_id, 'held', NULL::bigint, true, coalesce(h.remaining, 0), s.held FROM since s LEFT JOIN (
    SELECT customer_id, sum(remaining) AS remaining FROM billing_hold
    WHERE customer_id {HERE} AND status = 'open' GROUP BY customer_id
) h ON h.customer_id = s.customer_id
WHERE s.held <> coalesce(h.remaining, 0) ORDER BY s.customer_id"""

_RESOLVED = f"""
SELECT customer_id, 'held by {{auth}}, which is ' || status, id, true, 0, remaining FROM billing_hold
WHERE customer_id {HERE} AND status <> 'open' AND remaining <> 0 ORDER BY customer_id, id"""

_INVOICES = f"""
SELECT i.customer_id, d.what || ' of invoice ' || i.number, NULL::bigint, d.is_amount, d.expected, d.found
FROM billing_invoice i LEFT JOIN (
    SELECT l.invoice_id, sum(l.amount) AS total, sum(l.amount) FILTER (WHERE l.quantity IS NOT NULL) AS exact,
           count(*) FILTER (WHERE l.quantity * l.unit_price <> l.amount * l.per) AS wrong
    FROM billing_invoice i JOIN billing_invoiceline l ON l.invoice_id = i.id
    WHERE i.customer_id {HERE} GROUP BY l.invoice_id
) l ON l.invoice_id = i.id
CROSS JOIN LATERAL (VALUES
    ('lines whose amount is not quantity × unit price', false, 0::numeric, coalesce(l.wrong, 0)::numeric),
    ('sum of the usage lines', true, i.exact_total, coalesce(l.exact, 0)),
    ('sum of the lines', true, i.subtotal, coalesce(l.total, 0)),
    ('subtotal', true, round(i.exact_total, 2), i.subtotal),
    ('total', true, i.subtotal + i.tax, i.total)
) d (what, is_amount, expected, found)
WHERE i.customer_id {HERE} AND i.status <> 'draft' AND d.expected <> d.found ORDER BY i.customer_id, i.id"""


def _wrong_wallets_sql(*, full: bool) -> str:
    """The customers of whom `_wallets_sql` or `_running_sql` has something to say.

    If each entry has the balance and version that all entries up to it make, the last one's must be the wallet's.
    """
    version, balance = ("", "") if full else ("s.after_version + ", "s.start + ")
    return f"""{SINCE}
SELECT customer_id FROM (
    SELECT e.customer_id, e.wallet_version, {version}row_number() OVER steps AS version,
           e.balance_after, {balance}sum(e.amount) OVER steps AS balance
    FROM {rows_after("billing_entry", "e.wallet_version > s.after_version", full=full)}
        AND e.wallet_version IS NOT NULL
    WINDOW steps AS (PARTITION BY e.customer_id ORDER BY e.wallet_version ROWS UNBOUNDED PRECEDING)
) e WHERE wallet_version <> version OR balance_after <> balance
UNION
SELECT c.id FROM billing_customer c LEFT JOIN since s ON s.customer_id = c.id LEFT JOIN LATERAL (
    SELECT e.wallet_version, e.balance_after FROM billing_entry e
    WHERE e.customer_id = c.id AND e.wallet_version IS NOT NULL ORDER BY e.wallet_version DESC LIMIT 1
) e ON true
WHERE c.id {HERE} AND (s.version IS DISTINCT FROM coalesce(e.wallet_version, 0)
    OR s.balance IS DISTINCT FROM coalesce(e.balance_after, 0))"""


def check_ledger(scope: Scope) -> list[Difference]:
    """Every difference in the ledger of these customers; on the caller's snapshot."""
    return check_accounts(scope) + check_transfers(scope)


def check_accounts(scope: Scope) -> list[Difference]:
    """Every difference but those of `check_transfers`."""
    full = scope.full
    found: list[Difference] = []
    wrong = [customer_id for (customer_id,) in fetch(_wrong_wallets_sql(full=full), scope.parameters)]
    if wrong:
        some = scope.around(wrong)
        found += differences(_wallets_sql(full=full), some) + differences(_running_sql(full=full), some)
    for sql in (
        _HELD,
        _INVOICES,
        *((_RESOLVED,) if full else ()),
        *grant_checks(full=full),
        *payment_checks(full=full),
        *invoice_checks(full=full),
        *document_checks(),
    ):
        found += differences(sql, scope)
    return found + differences(uses_sql(full=full), scope, by_page=full)


def check_transfers(scope: Scope) -> list[Difference]:
    """Every transfer of these customers whose entries are not what they should be."""
    return differences(_transfers_sql(full=scope.full), scope)


def count_rows(scope: Scope) -> dict[str, int]:
    """How many rows `check_ledger` looks at."""
    transfers = rows_after("billing_transfer", "e.id > s.after_transfer", full=scope.full)
    entries = rows_after("billing_entry", "e.id >= (s.after_transfer + 1) * 16", full=scope.full)
    (row,) = fetch(
        f"""{SINCE} SELECT (SELECT count(*) FROM billing_customer WHERE id {HERE}),
            (SELECT count(*) FROM {transfers}), (SELECT count(*) FROM {entries}),
            (SELECT count(*) FROM billing_hold WHERE customer_id {HERE} AND (%(full)s::boolean OR status = 'open')),
            (SELECT count(*) FROM billing_grant WHERE customer_id {HERE})""",
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
    SELECT customer_id, sum(amount - remaining) AS used FROM billing_grant WHERE customer_id {HERE}
    GROUP BY customer_id
) g ON g.customer_id = w.customer_id
WHERE w.customer_id {HERE}"""


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
