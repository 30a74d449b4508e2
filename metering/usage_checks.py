"""Is usage right? Events and their adjustments, hourly usage against invoices, by set-based SQL.

As in billing.checks: each check is one statement about a run of customers on one snapshot. What usage says of transfers
is in metering.movement_checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.checks import HERE, Difference, Scope, differences, fetch
from billing.document_checks import DOCUMENTED
from metering.checks import NEW_ADJUSTMENTS, NEW_EVENTS, SINCE
from metering.event_checks import check_events
from metering.meters import NAMES
from metering.spend_checks import SPEND
from relayadmin.db import number_array, server_cursor

_CHARGED_SINCE = f"""{SINCE}
SELECT s.customer_id, 'charge of all hourly usage', NULL::bigint, true, s.charge + coalesce(e.charge, 0),
       coalesce(h.charge, 0)
FROM since s
LEFT JOIN (
    SELECT customer_id, sum(charge) AS charge FROM (
        SELECT customer_id, charge::numeric FROM {NEW_EVENTS} n
        UNION ALL SELECT customer_id, new_charge - old_charge FROM {NEW_ADJUSTMENTS} a
    ) e GROUP BY 1
) e ON e.customer_id = s.customer_id
LEFT JOIN (
    SELECT customer_id, sum(charge) AS charge FROM metering_usagehour WHERE customer_id {HERE} GROUP BY 1
) h ON h.customer_id = s.customer_id
WHERE s.charge + coalesce(e.charge, 0) <> coalesce(h.charge, 0) ORDER BY s.customer_id"""

# An invoice covers what is billed after the customer's invoice before it; the day's margin is for runs at once.
_INVOICES = f"""{SINCE}, invoices AS (
    SELECT id, customer_id, number, issued_at, exact_total, period,
           coalesce(lag(period) OVER (PARTITION BY customer_id ORDER BY period), '-infinity') AS previous
    FROM billing_invoice WHERE customer_id {HERE} AND status <> 'draft'
), used AS (
    SELECT i.id, sum(h.charge) AS charge{"".join(f", sum(h.{meter}) AS {meter}" for meter in NAMES)}
    FROM invoices i JOIN metering_usagehour h ON h.customer_id = i.customer_id AND h.period > i.previous
        AND h.period <= i.period WHERE h.customer_id {HERE} GROUP BY i.id
), billed AS (
    SELECT l.invoice_id AS id, l.meter, sum(l.quantity) AS quantity
    FROM invoices i JOIN billing_invoiceline l ON l.invoice_id = i.id WHERE l.meter <> '' GROUP BY 1, 2
)
SELECT i.customer_id, d.what || ' of invoice ' || i.number, NULL::bigint, d.is_amount, d.expected, d.found
FROM invoices i JOIN since s ON s.customer_id = i.customer_id LEFT JOIN used u ON u.id = i.id
CROSS JOIN LATERAL (
    SELECT 'exact total' AS what, true AS is_amount,
           coalesce(u.charge, 0) + {DOCUMENTED.format(invoice="i")} AS expected, i.exact_total AS found
    UNION ALL SELECT v.meter, false, coalesce(v.expected, 0), coalesce(b.quantity, 0)
    FROM (VALUES {", ".join(f"('{meter}', u.{meter})" for meter in NAMES)}) v (meter, expected)
    LEFT JOIN billed b ON b.id = i.id AND b.meter = v.meter
) d
WHERE d.expected <> d.found AND i.issued_at > s.verified_at - interval '1 day' ORDER BY i.customer_id, i.id"""

_NOT_INVOICED = f"""{SINCE}
SELECT s.customer_id, 'charge of closed months on no invoice', NULL::bigint, true, 0, sum(h.charge)
FROM since s JOIN metering_usagehour h ON h.customer_id = s.customer_id AND h.period <= s.closed_through
WHERE h.customer_id {HERE} AND NOT EXISTS (
    SELECT FROM billing_invoice i WHERE i.customer_id = h.customer_id AND i.period >= h.period AND i.status <> 'draft'
) GROUP BY s.customer_id HAVING sum(h.charge) <> 0 ORDER BY s.customer_id"""


# A re-rating's notes document what its adjustments have lowered on their invoice, each adjustment once.
_NOTES = f"""
SELECT n.customer_id, 'documented by ' || n.number, NULL::bigint, true, l.amount, n.documented
FROM (
    SELECT c.*, r.rerating_id, r.last_adjustment, i.period, coalesce((
               SELECT max(o.period) FROM billing_invoice o
               WHERE o.customer_id = i.customer_id AND o.period < i.period AND o.status <> 'draft'
           ), '-infinity') AS previous, coalesce((
               SELECT max(x.last_adjustment) FROM metering_reratingnote x
               JOIN billing_creditnote y ON y.id = x.credit_note_id AND y.customer_id = c.customer_id
               WHERE x.rerating_id = r.rerating_id AND x.last_adjustment < r.last_adjustment
           ), 0) AS after_adjustment
    FROM metering_reratingnote r JOIN billing_creditnote c ON c.id = r.credit_note_id
    JOIN billing_invoice i ON i.id = c.invoice_id
    WHERE c.customer_id {HERE}
) n CROSS JOIN LATERAL (
    SELECT coalesce(sum(a.old_charge - a.new_charge), 0) AS amount FROM metering_usageadjustment a
    JOIN metering_usageevent e ON e.customer_id = a.customer_id AND e.id = a.event_number
    WHERE a.customer_id = n.customer_id AND a.rerating_id = n.rerating_id AND a.period = n.booked_period
        AND a.id > n.after_adjustment AND a.id <= n.last_adjustment AND e.period <> a.period
        AND e.period > n.previous AND e.period <= n.period
) l
WHERE l.amount <> n.documented ORDER BY n.customer_id, n.id"""


def check_usage(scope: Scope, *, at: datetime) -> tuple[list[Difference], dict[str, int]]:
    """Every difference in the usage of these customers, and how many events and hours were looked at.

    On the caller's snapshot.
    """
    found, counts = check_events(scope)
    found += differences(SPEND, scope, at=at)
    checks = [_INVOICES, _NOT_INVOICED, _NOTES]
    for sql in checks if scope.full else [*checks, _CHARGED_SINCE]:
        found += differences(sql, scope)
    return found, counts


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where a customer's usage was read: an incremental check may begin after it, if it was right."""

    customer_id: int
    event_number: int
    transfer_number: int
    adjustment_number: int
    charge: Decimal


_MARKS = f"""
SELECT w.customer_id, coalesce(e.id, 0), coalesce(t.id, 0), coalesce(a.id, 0), coalesce(h.charge, 0)
FROM billing_wallet w LEFT JOIN LATERAL (
    SELECT id FROM metering_usageevent e WHERE e.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) e ON true LEFT JOIN LATERAL (
    SELECT id FROM billing_transfer t WHERE t.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) t ON true LEFT JOIN LATERAL (
    SELECT id FROM metering_usageadjustment a WHERE a.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) a ON true LEFT JOIN (
    SELECT customer_id, sum(charge) AS charge FROM metering_usagehour WHERE customer_id {HERE} GROUP BY customer_id
) h ON h.customer_id = w.customer_id
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
            "INSERT INTO metering_verifiedusage AS v"
            " (customer_id, event_number, transfer_number, adjustment_number, charge, verified_at)"
            " SELECT customer_id, event_number, transfer_number, adjustment_number, charge, %s FROM"
            "   unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[])"
            "   AS t (customer_id, event_number, transfer_number, adjustment_number, charge) ORDER BY customer_id"
            " ON CONFLICT (customer_id) DO UPDATE SET event_number = excluded.event_number,"
            "   transfer_number = excluded.transfer_number, adjustment_number = excluded.adjustment_number,"
            "   charge = excluded.charge, verified_at = excluded.verified_at"
            " WHERE excluded.transfer_number >= v.transfer_number AND excluded.event_number >= v.event_number"
            "   AND excluded.adjustment_number >= v.adjustment_number",
            [
                at,
                number_array([mark.customer_id for mark in marks]),
                number_array([mark.event_number for mark in marks]),
                number_array([mark.transfer_number for mark in marks]),
                number_array([mark.adjustment_number for mark in marks]),
                number_array([mark.charge for mark in marks]),
            ],
        )
