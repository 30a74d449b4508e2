"""Are adjustments right? What each goes on from, and the sides that the hourly usage counts of it."""

from collections.abc import Sequence

from billing.checks import HERE
from metering.checks import ALL_ADJUSTMENTS, NEW_ADJUSTMENTS, SINCE

# An adjustment goes on from what its event was before: by the one before it, or as it was charged at first.
_FIGURES = ("model_id", "channel_id", "price_set_id", "quantities", "parts")


def _before(names: Sequence[str]) -> list[str]:
    return [f"CASE WHEN a.step = 1 THEN e.{name} ELSE b.new_{name} END" for name in names]


_SAME = " AND ".join(
    f"a.old_{name} IS NOT DISTINCT FROM {before}" for name, before in zip(_FIGURES, _before(_FIGURES), strict=True)
)
_CHARGE, _COST = _before(("charge", "cost"))
_IS_ASTRAY = f"""(e.id IS NULL OR ({_CHARGE}, {_COST}) IS DISTINCT FROM (a.old_charge, a.old_cost)
    OR NOT ({_SAME}) OR (a.kind = 'correction') <> (r.id IS NOT NULL))"""
# Each adjustment with its event, the adjustment before it and the event in its place.
_STEPS = f"""a
LEFT JOIN metering_usageevent e ON e.customer_id = a.customer_id AND e.id = a.event_number AND e.customer_id {HERE}
LEFT JOIN metering_usageadjustment b ON b.customer_id = a.customer_id AND b.event_number = a.event_number
    AND b.step = nullif(a.step, 1) - 1 AND b.customer_id {HERE}
LEFT JOIN metering_usageevent r ON r.customer_id = a.customer_id AND r.id = a.replaced_by AND r.customer_id {HERE}"""


def steps_sql(*, full: bool) -> str:
    """What adjustments should go on from, against what they say."""
    return f"""{SINCE}
SELECT a.customer_id, d.what, a.event_number, d.is_amount, d.expected, d.found
FROM {ALL_ADJUSTMENTS if full else NEW_ADJUSTMENTS} {_STEPS}
CROSS JOIN LATERAL (VALUES
    ('charge of {{evt}} before adjustment ' || a.step, true, {_CHARGE}::numeric, a.old_charge::numeric),
    ('cost of {{evt}} before adjustment ' || a.step, true, {_COST}::numeric, a.old_cost::numeric),
    ('figures of {{evt}} that adjustment ' || a.step || ' goes on from', false, 1,
        CASE WHEN e.id IS NOT NULL AND {_SAME} THEN 1 ELSE 0 END),
    ('events in the place of {{evt}}', false, CASE WHEN a.kind = 'correction' THEN 1 ELSE 0 END,
        CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)
) d (what, is_amount, expected, found)
WHERE {_IS_ASTRAY} AND d.expected IS DISTINCT FROM d.found ORDER BY a.customer_id, a.id"""


_ADJUSTMENTS_OF_TOUCHED = f"""(
    SELECT a.* FROM touched_events t JOIN metering_usageadjustment a
        ON a.customer_id = t.customer_id AND a.event_number = t.id AND a.customer_id {HERE}
)"""


def sides_sql(*, full: bool) -> str:
    """What adjustments take off and add, with the columns of their event: they count in its hour, in their own period.

    Those of all adjustments, or of the events in `touched_events`. `is_astray` if `steps_sql` has something to say of
    the adjustment; one without an event has no `occurred_at`.
    """
    return f"""
    SELECT a.customer_id, a.event_number AS id, a.occurred_at, a.period, a.api_key_id, side.*, a.is_astray
    FROM (
        SELECT a.*, e.occurred_at, e.api_key_id, {_IS_ASTRAY} AS is_astray
        FROM {ALL_ADJUSTMENTS if full else _ADJUSTMENTS_OF_TOUCHED} {_STEPS}
        OFFSET 0 -- judged once, and not for each side
    ) a CROSS JOIN LATERAL (VALUES
        (-1, a.old_model_id, a.old_channel_id, a.old_price_set_id, a.old_charge::numeric, a.old_cost::numeric,
            a.old_quantities, a.old_parts),
        (1, a.new_model_id, a.new_channel_id, a.new_price_set_id, a.new_charge, a.new_cost, a.new_quantities,
            a.new_parts)
    ) side (sign, model_id, channel_id, price_set_id, charge, cost, quantities, parts)
    WHERE side.price_set_id IS NOT NULL"""
