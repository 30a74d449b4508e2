"""Is each event right, and the hourly usage with it? One pass over events, their ids, adjustments and prices.

A full check looks at every event; an incremental one at those after the last verified, and at the whole hours that
they fell in, as did the events of new adjustments.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from billing.checks import DIFFERENCES_MAX, HERE, Difference, Scope, differences, fetch
from metering.adjustment_checks import sides_sql, steps_sql
from metering.checks import ALL_EVENTS, ALL_KEYS, KEYS_DIFFER, NEW_ADJUSTMENTS, NEW_EVENTS, SINCE
from metering.meters import NAMES
from metering.models import EventKey, PriceSet, UsageAdjustment, UsageEvent
from relayadmin import ids
from relayadmin.db import number_array
from relayadmin.money import EXACT, ZERO, amount_text, line_amount

_HOUR = "date_bin('1 hour', occurred_at, '0001-01-01 00:00+00')"
_ALL_HOURS = f"(SELECT * FROM metering_usagehour WHERE customer_id {HERE})"
_TOUCHED_HOURS = f"""(
    SELECT customer_id, {_HOUR} AS hour FROM {NEW_EVENTS} n
    UNION SELECT customer_id, {_HOUR} FROM {NEW_ADJUSTMENTS} a JOIN LATERAL (
        SELECT e.occurred_at FROM metering_usageevent e WHERE e.customer_id = a.customer_id AND e.id = a.event_number
    ) e ON true
)"""
_EVENTS_OF_TOUCHED = """
    SELECT e.customer_id, e.id, e.event_id, e.period, e.occurred_at, e.api_key_id, e.model_id, e.channel_id,
           e.price_set_id, e.charge, e.cost, e.quantities, e.parts
    FROM touched t JOIN metering_usageevent e ON e.customer_id = t.customer_id
        AND e.occurred_at >= t.hour AND e.occurred_at < t.hour + interval '1 hour'
"""
_TOUCHED = "(SELECT h.* FROM touched t JOIN metering_usagehour h USING (customer_id, hour))"
# The calls inside a response, with the columns of an event; the first is the request.
_CALLS = """(
    SELECT (part->>'model_id')::bigint AS model_id, (part->>'price_set_id')::bigint AS price_set_id,
           (place = 1)::int AS requests, (part->>'charge')::numeric AS charge, (part->>'cost')::numeric AS cost,
           part->'quantities' AS quantities
    FROM jsonb_array_elements(e.parts) WITH ORDINALITY AS listed (part, place)
)"""
_PARTS_DIFFER = """(e.model_id, e.price_set_id) <>
    ((e.parts->0->>'model_id')::bigint, (e.parts->0->>'price_set_id')::bigint)
    OR e.quantities IS DISTINCT FROM (SELECT jsonb_object_agg(meter, quantity) FROM (
        SELECT used.key AS meter, sum(used.value::numeric) AS quantity
        FROM jsonb_array_elements(e.parts) AS listed (part), jsonb_each_text(part->'quantities') AS used
        GROUP BY used.key) AS summed)"""
# Whether there is anything for `steps_sql` to say.
_STEPS_OF_ALL = "UNION ALL (SELECT 'step', customer_id, NULL, NULL, NULL, NULL FROM sides WHERE is_astray LIMIT 1)"
# No index leads from a number to its key, so only a full check asks for the events of all keys.
_KEYS_OF_TOUCHED = f"""UNION ALL (
    SELECT 'id', e.customer_id, e.id, NULL, NULL, NULL FROM touched_events e
    LEFT JOIN metering_eventkey k ON k.customer_id = e.customer_id AND k.event_id = e.event_id
    WHERE k.id IS DISTINCT FROM e.id ORDER BY e.id LIMIT {DIFFERENCES_MAX})"""
_KEY = "customer_id, hour, period, api_key_id, model_id, channel_id, price_set_id"


def _hours_sql(meters: Sequence[str], *, full: bool) -> str:
    """Events summed up by hour against the hourly usage, each recomputed from quantities × unit prices on the way.

    Rows: ('event', customer, number of the first wrong event of an hour, …), ('hour', customer, …, its key, what it
    should be, what it is), and one ('count', events, hours). Only `meters` are summed up: an event with another one
    counts as wrong. The unit prices of one token or call are parameters, an array each. Sorted, so that the many sums
    of an hour are made of one hour at a time.
    """
    columns = ["price_set_id", "is_at_cost", *(f"{kind}_{meter}" for kind in ("charge", "cost") for meter in meters)]
    types = ["bigint", "boolean"] + ["numeric"] * (len(columns) - 2)
    arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in zip(columns, types, strict=True))
    prices = f"unnest({arrays}) AS prices ({', '.join(columns)})"
    counts = "".join(f", (quantities->'{meter}')::numeric AS {meter}" for meter in meters)
    signed = "".join(f", sign * (quantities->'{meter}')::numeric" for meter in meters)
    sums = "".join(f", coalesce(sum({meter}), 0) AS {meter}" for meter in meters)

    def amount(kind: str) -> str:
        # The price of a meter without one is NaN, and so is the amount: the event is wrong.
        return " + ".join(f"coalesce({meter} * {kind}_{meter}, 0)" for meter in meters) or "0"

    def figures(side: str, known: Sequence[str]) -> str:
        pairs = [f"'{name}', {side}.{name}" for name in ("requests", "charge", "cost", *known)]
        return f"jsonb_build_object({', '.join(pairs)})"

    differ = [f"p.{name} IS DISTINCT FROM h.{name}" for name in ("requests", "charge", "cost", *meters)]
    differ += [f"coalesce(h.{meter}, 0) <> 0" for meter in NAMES if meter not in meters]
    # All events are read from their table, whose index knows those with parts; the others are looked up once.
    source = ALL_EVENTS if full else "touched_events"
    touched = f", touched AS MATERIALIZED {_TOUCHED_HOURS}, touched_events AS MATERIALIZED ({_EVENTS_OF_TOUCHED})"
    return f"""{SINCE}{"" if full else touched}, sides AS MATERIALIZED ({sides_sql(full=full)}), parts AS MATERIALIZED (
        SELECT {_KEY}, sum(counted) AS counted, sum(requests) AS requests, sum(charge) AS charge, sum(cost) AS cost
               {sums}, min(id) FILTER (WHERE is_wrong) AS wrong
        FROM (
        SELECT {_KEY}, id, counted, requests, charge, cost{"".join(f", {meter}" for meter in meters)},
               (quantities - '{{{",".join(meters)}}}'::text[]) <> '{{}}' OR is_at_cost IS NULL
               OR charge IS DISTINCT FROM {amount("charge")}
               OR CASE WHEN is_at_cost THEN cost <> charge ELSE cost IS DISTINCT FROM {amount("cost")} END AS is_wrong
        FROM (
            SELECT customer_id, id, {_HOUR} AS hour, period, api_key_id, model_id, channel_id, price_set_id,
                   1 AS counted, 1 AS requests, charge::numeric, cost::numeric, quantities{counts}
            FROM {source} e WHERE parts IS NULL
            UNION ALL
            SELECT customer_id, id, {_HOUR}, period, api_key_id, call.model_id, channel_id,
                   call.price_set_id, call.requests, call.requests, call.charge, call.cost, call.quantities
                   {counts.replace("quantities", "call.quantities")}
            FROM {source} e CROSS JOIN LATERAL {_CALLS} call WHERE parts IS NOT NULL
            UNION ALL
            SELECT customer_id, id, {_HOUR}, period, api_key_id, model_id, channel_id, price_set_id,
                   0, sign, sign * charge, sign * cost, quantities{signed}
            FROM sides e WHERE parts IS NULL AND occurred_at IS NOT NULL
            UNION ALL
            SELECT customer_id, id, {_HOUR}, period, api_key_id, call.model_id, channel_id,
                   call.price_set_id, 0, sign * call.requests, sign * call.charge, sign * call.cost, call.quantities
                   {signed.replace("quantities", "call.quantities")}
            FROM sides e CROSS JOIN LATERAL {_CALLS} call WHERE parts IS NOT NULL AND occurred_at IS NOT NULL
        ) e LEFT JOIN {prices} USING (price_set_id) ORDER BY {_KEY}
        ) rated GROUP BY {_KEY}
    ), compared AS (
        SELECT customer_id, jsonb_build_object('hour', hour, 'period', period, 'API key', api_key_id, 'model', model_id,
                   'channel', channel_id, 'price set', price_set_id) AS key,
               {figures("p", meters)} AS expected, {figures("h", NAMES)} AS found
        FROM parts p FULL JOIN {_ALL_HOURS if full else _TOUCHED} h USING ({_KEY})
        WHERE {" OR ".join(differ)}
    )
    (SELECT 'event' AS kind, customer_id, wrong AS number, NULL::jsonb AS key, NULL::jsonb AS expected,
            NULL::jsonb AS found FROM parts WHERE wrong IS NOT NULL ORDER BY wrong LIMIT {DIFFERENCES_MAX})
    UNION ALL (SELECT 'event', e.customer_id, e.id, NULL, NULL, NULL FROM {source} e
               WHERE parts IS NOT NULL AND ((e.charge::numeric, e.cost::numeric) IS DISTINCT FROM
                   (SELECT (sum(charge), sum(cost)) FROM {_CALLS} call) OR {_PARTS_DIFFER}) ORDER BY e.id
               LIMIT {DIFFERENCES_MAX})
    UNION ALL (SELECT 'hour', customer_id, NULL, key, expected, found FROM compared LIMIT {DIFFERENCES_MAX})
    UNION ALL (SELECT 'event', e.customer_id, e.id, NULL, NULL, NULL FROM sides e
               WHERE parts IS NOT NULL AND ((e.charge, e.cost) IS DISTINCT FROM
                   (SELECT (sum(charge), sum(cost)) FROM {_CALLS} call) OR {_PARTS_DIFFER}) ORDER BY e.id
               LIMIT {DIFFERENCES_MAX})
    UNION ALL SELECT 'count', coalesce(sum(counted), 0)::bigint, count(*), NULL, NULL, NULL FROM parts
    {_STEPS_OF_ALL if full else _KEYS_OF_TOUCHED}"""


# Rows: ('id', customer, number of an event whose id has another number), ('key', customer, number of a lost event).
_ALL_KEYS = f"""
SELECT CASE WHEN e.event_id IS NULL THEN 'key' ELSE 'id' END, customer_id, id
FROM {ALL_EVENTS} e FULL JOIN {ALL_KEYS} k USING (customer_id, id)
WHERE {KEYS_DIFFER} ORDER BY customer_id, id LIMIT {DIFFERENCES_MAX}"""


def check_keys(scope: Scope) -> list[Difference]:
    """Every event without its id, and every id without its event; of all events, on the caller's snapshot."""
    found: list[Difference] = []
    for kind, customer_id, number in fetch(_ALL_KEYS, scope.parameters):
        if kind == "id":
            found += _explain_id(customer_id, number)
        else:
            name = ids.hot_id("evt", customer_id, number)
            found.append(Difference(customer_id, f"events of the id of {name}", "1", "0"))
    return found


def check_events(scope: Scope) -> tuple[list[Difference], dict[str, int]]:
    """Every difference in these customers' events, adjustments and hours, and how many events and hours there are.

    On the caller's snapshot. The ids of all events are left to `check_keys`.
    """
    rows = _compare_hours(scope, _used_meters(scope))
    if len(rows) > 1:
        # Something is wrong: perhaps only that some meter is in events and not in hours.
        rows = _compare_hours(scope, NAMES)
    wrong: dict[tuple[int, int], None] = {}
    of_ids: list[Difference] = []
    of_steps = [] if scope.full else differences(steps_sql(full=False), scope)
    of_hours: list[Difference] = []
    counts = {"events": 0, "hours": 0}
    for kind, customer_id, number, key, expected, found in rows:
        if kind == "count":
            counts = {"events": customer_id, "hours": number}
        elif kind == "event":
            wrong[customer_id, number] = None
        elif kind == "id":
            of_ids += _explain_id(customer_id, number)
        elif kind == "step":
            of_steps = differences(steps_sql(full=True), scope)
        else:
            of_hours += _explain_hour(customer_id, _decode(key), _decode(expected), _decode(found))
    of_events = [found for customer_id, number in wrong for found in _explain_event(customer_id, number)]
    return of_ids + of_events + of_hours + of_steps, counts


def _compare_hours(scope: Scope, meters: Sequence[str]) -> list[tuple[Any, ...]]:
    return fetch(_hours_sql(meters, full=scope.full), scope.parameters | _prices(meters))


def _prices(meters: Sequence[str]) -> dict[str, str]:
    """All price sets as columns: arrays of the prices of one token or call, NaN where a meter has none."""
    columns: dict[str, list[object]] = {"price_set_id": [], "is_at_cost": []}
    columns |= {f"{kind}_{meter}": [] for kind in ("charge", "cost") for meter in meters}
    for number, priced in fetch("SELECT id, (content->'meters')::text FROM metering_priceset ORDER BY id", {}):
        prices = _decode(priced)
        columns["price_set_id"].append(number)
        columns["is_at_cost"].append(all(price["charge"] == price["cost"] for price in prices.values()))
        for meter in meters:
            price = prices.get(meter)
            for kind in ("charge", "cost"):
                one = "NaN" if price is None else line_amount(1, Decimal(price[kind]), price["per"])
                columns[f"{kind}_{meter}"].append(one)
    return {name: number_array(values) for name, values in columns.items()}


def _used_meters(scope: Scope) -> list[str]:
    """The meters that the hourly usage of these customers knows: fewer columns, faster sums."""
    (row,) = fetch(
        f"SELECT {', '.join(f'bool_or({meter} <> 0)' for meter in NAMES)} FROM metering_usagehour"
        f" WHERE customer_id {HERE}",
        scope.parameters,
    )
    return [meter for meter, is_used in zip(NAMES, row, strict=True) if is_used]


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


def _explain_id(customer_id: int, number: int) -> list[Difference]:
    """Which number the id of an event has instead of the event's."""
    event = UsageEvent.objects.get(customer_id=customer_id, id=number)
    taken = EventKey.objects.filter(customer_id=customer_id, event_id=event.event_id).first()
    found = "none" if taken is None else str(taken.pk)
    name = ids.hot_id("evt", customer_id, number)
    return [Difference(customer_id, f"number of the id of {name}", str(number), found)]


def _explain_event(customer_id: int, number: int) -> list[Difference]:
    """What is wrong with one event: its prices or its amounts."""
    event = UsageEvent.objects.get(customer_id=customer_id, id=number)
    name = ids.hot_id("evt", customer_id, number)
    result: list[Difference] = []
    columns = ("model_id", "price_set_id", "quantities", "parts", "charge", "cost")
    result += _explain_figures(customer_id, name, {column: getattr(event, column) for column in columns})
    adjustments = UsageAdjustment.objects.filter(customer_id=customer_id, event_number=number).order_by("step")
    for adjustment in adjustments.exclude(new_price_set_id=None):
        figures = {column: getattr(adjustment, f"new_{column}") for column in columns}
        result += _explain_figures(customer_id, f"{name} after adjustment {adjustment.step}", figures)
    return result or [Difference(customer_id, f"figures of {name}", "recomputed", "not recomputable")]


def _explain_figures(customer_id: int, name: str, figures: dict[str, Any]) -> list[Difference]:
    """What is wrong with the amounts of an event, or of one as an adjustment left it."""
    result = []
    shoulds = {"charge": ZERO, "cost": ZERO}
    for call in figures["parts"] or [figures]:
        unpriced, amounts = _recompute(call)
        if unpriced:
            result.append(Difference(customer_id, f"meters of {name} without a price", "none", ", ".join(unpriced)))
        for kind, amount in amounts.items():
            shoulds[kind] = EXACT.add(shoulds[kind], amount)
            if figures["parts"] and amount != Decimal(call[kind]):
                what = f"{kind} of the {call['kind']} in {name}"
                result.append(Difference(customer_id, what, amount_text(amount), call[kind]))
    if figures["parts"]:
        result += _explain_parts(customer_id, name, figures)
    for kind, should in shoulds.items():
        if should != figures[kind]:
            result.append(Difference(customer_id, f"{kind} of {name}", amount_text(should), amount_text(figures[kind])))
    return result


def _recompute(call: dict[str, Any]) -> tuple[list[str], dict[str, Decimal]]:
    """Meters without a price, and the amounts of the others at the prices of the call's own price set."""
    prices = PriceSet.objects.filter(pk=call["price_set_id"]).first()
    meters = prices.content["meters"] if prices is not None else {}
    amounts = {"charge": ZERO, "cost": ZERO}
    for meter, quantity in call["quantities"].items():
        price = meters.get(meter)
        if price is not None:
            for kind in amounts:
                line = line_amount(quantity, Decimal(price[kind]), price["per"])
                amounts[kind] = EXACT.add(amounts[kind], line)
    return sorted(call["quantities"].keys() - meters.keys()), amounts


def _explain_parts(customer_id: int, name: str, figures: dict[str, Any]) -> list[Difference]:
    """Where an event's own figures are not those of its calls."""
    sums: dict[str, int] = {}
    for call in figures["parts"]:
        for meter, quantity in call["quantities"].items():
            sums[meter] = sums.get(meter, 0) + quantity
    first = figures["parts"][0]
    pairs = (
        ("quantities", sums, figures["quantities"]),
        ("model", first["model_id"], figures["model_id"]),
        ("price set", first["price_set_id"], figures["price_set_id"]),
    )
    return [
        Difference(customer_id, f"{what} of {name}", str(should), str(found))
        for what, should, found in pairs
        if should != found
    ]
