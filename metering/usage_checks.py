"""Is usage right? Events against their prices, their transfers, the hourly usage and the invoices, by set-based SQL.

As in billing.verification: each check is one statement about a run of customers on one snapshot. A full check looks at
every event; an incremental one at those after the last verified, and at the whole hours that they fell in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.verification import DIFFERENCES_MAX, Difference, Scope, differences, fetch
from metering.meters import NAMES
from metering.models import EventKey, PriceSet, UsageEvent
from relayadmin import ids
from relayadmin.db import number_array, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text, line_amount

_HERE = "BETWEEN %(first)s::bigint AND %(last)s::bigint"
_SINCE = f"""
WITH since AS MATERIALIZED (
    SELECT w.customer_id, w.closed_through, coalesce(v.event_number, 0) AS after_event,
           coalesce(v.transfer_number, 0) AS after_transfer, coalesce(v.charge, 0) AS charge,
           coalesce(v.verified_at, '-infinity') AS verified_at
    FROM billing_wallet w
    LEFT JOIN metering_verifiedusage v ON v.customer_id = w.customer_id AND NOT %(full)s::boolean
    WHERE w.customer_id {_HERE}
)"""
_ALL_EVENTS = f"(SELECT * FROM metering_usageevent WHERE customer_id {_HERE})"
# Parked events took their number when they came: those settled since have a later transfer, or none if they are free.
_NEW_EVENTS = f"""(
    SELECT e.* FROM since s JOIN metering_usageevent e ON e.customer_id = s.customer_id AND e.id > s.after_event
    WHERE e.customer_id {_HERE}
    UNION ALL
    SELECT e.* FROM since s
    JOIN metering_parkedevent p ON p.customer_id = s.customer_id AND p.number <= s.after_event
        AND p.resolution = 'settled'
    JOIN metering_usageevent e ON e.customer_id = p.customer_id AND e.id = p.number
    WHERE coalesce(e.transfer_id, s.after_transfer + 1) > s.after_transfer
)"""
_HOUR = "date_bin('1 hour', occurred_at, '0001-01-01 00:00+00')"
_TOUCHED_HOURS = f"(SELECT DISTINCT customer_id, {_HOUR} AS hour FROM {_NEW_EVENTS} n)"
_KEY = "customer_id, hour, period, api_key_id, model_id, channel_id, price_set_id"


def _hours_sql(meters: Sequence[str], *, full: bool) -> str:
    """Events summed up by hour against the hourly usage, each recomputed from quantities × unit prices on the way.

    Rows: ('event', customer, number of the first wrong event of an hour, …), ('hour', customer, …, its key, what it
    should be, what it is), and one ('count', events, hours).
    """
    touched = "" if full else f", touched AS MATERIALIZED {_TOUCHED_HOURS}"
    events = (
        f"metering_usageevent e WHERE e.customer_id {_HERE}"
        if full
        else "touched t JOIN metering_usageevent e ON e.customer_id = t.customer_id"
        " AND e.occurred_at >= t.hour AND e.occurred_at < t.hour + interval '1 hour'"
    )
    hours = (
        f"(SELECT * FROM metering_usagehour WHERE customer_id {_HERE})"
        if full
        else "(SELECT h.* FROM touched t JOIN metering_usagehour h USING (customer_id, hour))"
    )
    factor = "CASE (meters->'{0}'->>'per')::int WHEN 1000000 THEN 0.000001 WHEN 1000 THEN 0.001 ELSE 1 END"
    prices = "".join(
        f", (meters->'{meter}'->>'{kind}')::numeric * {factor.format(meter)} AS {kind}_{meter}"
        for kind in ("charge", "cost")
        for meter in meters
    )
    counts = "".join(f", (e.quantities->'{meter}')::numeric AS {meter}" for meter in meters)
    sums = "".join(f", coalesce(sum({meter}), 0) AS {meter}" for meter in meters)

    def amount(kind: str) -> str:
        # A quantity without a price makes it null, which is no charge: the event is wrong.
        parts = [f"CASE WHEN {meter} IS NULL THEN 0 ELSE {meter} * {kind}_{meter} END" for meter in meters]
        return " + ".join(parts) or "0"

    def figures(side: str, known: Sequence[str]) -> str:
        pairs = [f"'{name}', {side}.{name}" for name in ("requests", "charge", "cost", *known)]
        return f"jsonb_build_object({', '.join(pairs)})"

    differ = [f"p.{name} IS DISTINCT FROM h.{name}" for name in ("requests", "charge", "cost", *meters)]
    differ += [f"coalesce(h.{meter}, 0) <> 0" for meter in NAMES if meter not in meters]
    return f"""{_SINCE}{touched}, prices AS MATERIALIZED (
        SELECT id{prices} FROM (SELECT id, content->'meters' AS meters FROM metering_priceset OFFSET 0) s
    ), parts AS MATERIALIZED (
        SELECT e.customer_id, hour, period, api_key_id, model_id, channel_id, price_set_id, count(*) AS requests,
               sum(charge) AS charge, sum(cost) AS cost{sums}, min(e.id) FILTER (WHERE k.id IS NULL OR NOT is_known
                   OR charge IS DISTINCT FROM {amount("charge")} OR cost IS DISTINCT FROM {amount("cost")}) AS wrong
        FROM (
            SELECT e.customer_id, e.id, e.event_id, {_HOUR} AS hour, e.period, e.api_key_id, e.model_id, e.channel_id,
                   e.price_set_id, e.charge, e.cost,
                   (e.quantities - '{{{",".join(meters)}}}'::text[]) = '{{}}' AS is_known{counts}
            FROM {events} OFFSET 0
        ) e
        LEFT JOIN prices p ON p.id = e.price_set_id
        LEFT JOIN metering_eventkey k ON k.customer_id = e.customer_id AND k.event_id = e.event_id AND k.id = e.id
        GROUP BY {_KEY.replace("customer_id", "e.customer_id")}
    ), compared AS (
        SELECT customer_id, jsonb_build_object('hour', hour, 'period', period, 'API key', api_key_id, 'model', model_id,
                   'channel', channel_id, 'price set', price_set_id) AS key,
               {figures("p", meters)} AS expected, {figures("h", NAMES)} AS found
        FROM parts p FULL JOIN {hours} h USING ({_KEY})
        WHERE {" OR ".join(differ)}
    )
    (SELECT 'event' AS kind, customer_id, wrong AS number, NULL::jsonb AS key, NULL::jsonb AS expected,
            NULL::jsonb AS found FROM parts WHERE wrong IS NOT NULL ORDER BY wrong LIMIT {DIFFERENCES_MAX})
    UNION ALL (SELECT 'hour', customer_id, NULL, key, expected, found FROM compared LIMIT {DIFFERENCES_MAX})
    UNION ALL SELECT 'count', coalesce(sum(requests), 0)::bigint, count(*), NULL, NULL, NULL FROM parts"""


def _transfers_sql(*, full: bool) -> str:
    events = _ALL_EVENTS if full else _NEW_EVENTS
    return f"""{_SINCE}
SELECT customer_id, CASE WHEN id IS NULL THEN 'charge of events without a transfer'
           WHEN t.id IS NULL THEN 'charge of events in ' || period || ' that name {{tr}}, which does not exist'
           ELSE 'charge of {{tr}}' END,
       id, true, coalesce(e.charge, 0), coalesce(t.amount, 0)
FROM (
    SELECT customer_id, transfer_id AS id, period, sum(charge) AS charge FROM {events} e
    WHERE transfer_id IS NOT NULL OR charge <> 0 GROUP BY 1, 2, 3
) e FULL JOIN (
    SELECT t.customer_id, t.id, t.period, -e.amount AS amount
    FROM since s JOIN billing_transfer t ON t.customer_id = s.customer_id AND t.id > s.after_transfer
    LEFT JOIN billing_entry e ON e.customer_id = t.customer_id AND e.transfer_id = t.id AND e.id >= t.id * 16
        AND e.id < t.id * 16 + 16 AND e.account = 'wallet'
    WHERE t.customer_id {_HERE} AND t.kind = 'usage'
) t USING (customer_id, id, period)
WHERE coalesce(e.charge, 0) <> coalesce(t.amount, 0) OR t.id IS NULL ORDER BY customer_id, id"""


# Only in a full check: no index leads from a number to its key.
_KEYS = f"""
SELECT k.customer_id, 'events of the id of {{evt}}', k.id, false, 1, 0 FROM metering_eventkey k
WHERE k.customer_id {_HERE}
    AND NOT EXISTS (SELECT FROM metering_usageevent e WHERE e.customer_id = k.customer_id AND e.id = k.id)
    AND NOT EXISTS (SELECT FROM metering_parkedevent p WHERE p.customer_id = k.customer_id AND p.number = k.id
        AND p.resolution <> 'settled')
ORDER BY k.customer_id, k.id"""

_CHARGED_SINCE = f"""{_SINCE}
SELECT s.customer_id, 'charge of all hourly usage', NULL::bigint, true, s.charge + coalesce(e.charge, 0),
       coalesce(h.charge, 0)
FROM since s
LEFT JOIN (SELECT customer_id, sum(charge) AS charge FROM {_NEW_EVENTS} n GROUP BY 1) e ON e.customer_id = s.customer_id
LEFT JOIN (
    SELECT customer_id, sum(charge) AS charge FROM metering_usagehour WHERE customer_id {_HERE} GROUP BY 1
) h ON h.customer_id = s.customer_id
WHERE s.charge + coalesce(e.charge, 0) <> coalesce(h.charge, 0) ORDER BY s.customer_id"""

# An invoice covers what is billed after the customer's invoice before it; the day's margin is for runs at once.
_INVOICES = f"""{_SINCE}, invoices AS (
    SELECT id, customer_id, number, issued_at, exact_total, period,
           coalesce(lag(period) OVER (PARTITION BY customer_id ORDER BY period), '-infinity') AS previous
    FROM billing_invoice WHERE customer_id {_HERE} AND status <> 'draft'
), used AS (
    SELECT i.id, sum(h.charge) AS charge{"".join(f", sum(h.{meter}) AS {meter}" for meter in NAMES)}
    FROM invoices i JOIN metering_usagehour h ON h.customer_id = i.customer_id AND h.period > i.previous
        AND h.period <= i.period WHERE h.customer_id {_HERE} GROUP BY i.id
), billed AS (
    SELECT l.invoice_id AS id, l.meter, sum(l.quantity) AS quantity
    FROM invoices i JOIN billing_invoiceline l ON l.invoice_id = i.id WHERE l.meter <> '' GROUP BY 1, 2
)
SELECT i.customer_id, d.what || ' of invoice ' || i.number, NULL::bigint, d.is_amount, d.expected, d.found
FROM invoices i JOIN since s ON s.customer_id = i.customer_id LEFT JOIN used u ON u.id = i.id
CROSS JOIN LATERAL (
    SELECT 'exact total' AS what, true AS is_amount, coalesce(u.charge, 0) AS expected, i.exact_total AS found
    UNION ALL SELECT v.meter, false, coalesce(v.expected, 0), coalesce(b.quantity, 0)
    FROM (VALUES {", ".join(f"('{meter}', u.{meter})" for meter in NAMES)}) v (meter, expected)
    LEFT JOIN billed b ON b.id = i.id AND b.meter = v.meter
) d
WHERE d.expected <> d.found AND i.issued_at > s.verified_at - interval '1 day' ORDER BY i.customer_id, i.id"""

_NOT_INVOICED = f"""{_SINCE}
SELECT s.customer_id, 'charge of closed months on no invoice', NULL::bigint, true, 0, sum(h.charge)
FROM since s JOIN metering_usagehour h ON h.customer_id = s.customer_id AND h.period <= s.closed_through
WHERE h.customer_id {_HERE} AND NOT EXISTS (
    SELECT FROM billing_invoice i WHERE i.customer_id = h.customer_id AND i.period >= h.period AND i.status <> 'draft'
) GROUP BY s.customer_id HAVING sum(h.charge) <> 0 ORDER BY s.customer_id"""


def check_usage(scope: Scope) -> tuple[list[Difference], dict[str, int]]:
    """Every difference in the usage of these customers, and how many events and hours were looked at.

    On the caller's snapshot.
    """
    found, counts = _check_hours(scope)
    checks = [_transfers_sql(full=scope.full), _INVOICES, _NOT_INVOICED, _KEYS if scope.full else _CHARGED_SINCE]
    for sql in checks:
        found += differences(sql, scope)
    return found, counts


def _check_hours(scope: Scope) -> tuple[list[Difference], dict[str, int]]:
    found: list[Difference] = []
    wrong: list[tuple[int, int]] = []
    counts = {"events": 0, "hours": 0}
    for kind, customer_id, number, key, expected, actual in fetch(
        _hours_sql(_priced_meters(), full=scope.full), scope.parameters
    ):
        if kind == "count":
            counts = {"events": customer_id, "hours": number}
        elif kind == "event":
            wrong.append((customer_id, number))
        else:
            found += _explain_hour(customer_id, _decode(key), _decode(expected), _decode(actual))
    return [difference for pair in wrong for difference in _explain_event(*pair)] + found, counts


def _priced_meters() -> list[str]:
    """The meters that anything was ever rated by, as this snapshot sees them."""
    rows = fetch("SELECT DISTINCT jsonb_object_keys(content->'meters') FROM metering_priceset", {})
    used = {row[0] for row in rows}
    return [meter for meter in NAMES if meter in used]


def _explain_hour(
    customer_id: int, key: dict[str, Any], expected: dict[str, Any], found: dict[str, Any]
) -> list[Difference]:
    name = ", ".join(f"{part} {value}" for part, value in key.items())
    result = []
    for figure in found:
        should, is_now = (Decimal(side.get(figure) or 0) for side in (expected, found))
        if should != is_now:
            show = amount_text if figure in {"charge", "cost"} else _count
            result.append(Difference(customer_id, f"{figure} of {name}", show(should), show(is_now)))
    return result


def _decode(text: str) -> dict[str, Any]:
    """An object of PostgreSQL's, which Django leaves as text; every number of it exact."""
    return dict(json.loads(text, parse_float=Decimal))


def _count(value: Decimal) -> str:
    return format(value, "f")


def _explain_event(customer_id: int, number: int) -> list[Difference]:
    """What is wrong with one event: its id, its prices or its amounts."""
    event = UsageEvent.objects.get(customer_id=customer_id, id=number)
    name = ids.hot_id("evt", customer_id, number)
    result = []
    taken = EventKey.objects.filter(customer_id=customer_id, event_id=event.event_id).first()
    if taken is None or taken.pk != number:
        found = "none" if taken is None else str(taken.pk)
        result.append(Difference(customer_id, f"number of the id of {name}", str(number), found))
    prices = PriceSet.objects.filter(pk=event.price_set_id).first()
    meters = prices.content["meters"] if prices is not None else {}
    unpriced = sorted(event.quantities.keys() - meters.keys())
    if unpriced:
        found = ", ".join(unpriced)
        result.append(Difference(customer_id, f"meters of {name} without a price", "none", found))
    for kind, amount in (("charge", event.charge), ("cost", event.cost)):
        should = ZERO
        for meter, quantity in event.quantities.items():
            if meter in meters:
                price = meters[meter]
                should = EXACT.add(should, line_amount(quantity, Decimal(price[kind]), price["per"]))
        if should != amount:
            result.append(Difference(customer_id, f"{kind} of {name}", amount_text(should), amount_text(amount)))
    return result or [Difference(customer_id, f"figures of {name}", "recomputed", "not recomputable")]


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where a customer's usage was read: an incremental check may begin after it, if it was right."""

    customer_id: int
    event_number: int
    transfer_number: int
    charge: Decimal


_MARKS = f"""
SELECT w.customer_id, coalesce(e.id, 0), coalesce(t.id, 0), coalesce(h.charge, 0)
FROM billing_wallet w LEFT JOIN LATERAL (
    SELECT id FROM metering_usageevent e WHERE e.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) e ON true LEFT JOIN LATERAL (
    SELECT id FROM billing_transfer t WHERE t.customer_id = w.customer_id ORDER BY id DESC LIMIT 1
) t ON true LEFT JOIN (
    SELECT customer_id, sum(charge) AS charge FROM metering_usagehour WHERE customer_id {_HERE} GROUP BY customer_id
) h ON h.customer_id = w.customer_id
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
            "INSERT INTO metering_verifiedusage AS v"
            " (customer_id, event_number, transfer_number, charge, verified_at)"
            " SELECT customer_id, event_number, transfer_number, charge, %s FROM"
            "   unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::numeric[])"
            "   AS t (customer_id, event_number, transfer_number, charge) ORDER BY customer_id"
            " ON CONFLICT (customer_id) DO UPDATE SET event_number = excluded.event_number,"
            "   transfer_number = excluded.transfer_number, charge = excluded.charge,"
            "   verified_at = excluded.verified_at"
            " WHERE excluded.transfer_number >= v.transfer_number AND excluded.event_number >= v.event_number",
            [
                at,
                number_array([mark.customer_id for mark in marks]),
                number_array([mark.event_number for mark in marks]),
                number_array([mark.transfer_number for mark in marks]),
                number_array([mark.charge for mark in marks]),
            ],
        )
