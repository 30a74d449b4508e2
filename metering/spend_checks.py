"""Are the counters of spend right? Recomputed from open holds and from what events count for now."""

from billing.checks import HERE
from billing.spending import KEPT_DAYS


def _midnight(day: str) -> str:
    """The moment at which a day begins in the operator's zone: where clocks go back at night, the first of two."""
    midnight = f"({day})::timestamp AT TIME ZONE o.timezone"
    is_second = f"({midnight} - interval '1 hour') AT TIME ZONE o.timezone >= {day}"
    return f"{midnight} - CASE WHEN {is_second} THEN interval '1 hour' ELSE interval '0' END"


# Only of windows in which whatever was counted still would be; what a hold reserves or an event costs counts where
# metering.spend.moment_of says.
SPEND = f"""
WITH windows AS MATERIALIZED (
    SELECT c.customer_id, c.scope, c.span, c.starts_on, c.spent, c.held,
           {_midnight("c.starts_on")} AS begins,
           {_midnight("c.starts_on + ('1 ' || c.span)::interval")} AS ends
    FROM billing_spendcounter c CROSS JOIN (SELECT timezone FROM billing_operatorsettings WHERE id = 1) o
    WHERE c.customer_id {HERE} AND c.starts_on > (%(at)s::timestamptz AT TIME ZONE o.timezone)::date - {KEPT_DAYS - 2}
), first AS (
    SELECT customer_id, min(begins) - interval '1 day' AS begins FROM windows GROUP BY 1
), charged AS MATERIALIZED (
    SELECT e.customer_id, 'key:' || e.api_key_id AS scope, coalesce(a.new_charge, e.charge) AS charge,
           CASE WHEN e.occurred_at < h.created_at - interval '1 day' THEN e.occurred_at
                ELSE coalesce(h.created_at, e.occurred_at) END AS moment
    FROM first f JOIN metering_usageevent e ON e.customer_id = f.customer_id AND e.occurred_at >= f.begins
    LEFT JOIN billing_hold h ON h.customer_id = e.customer_id AND h.id = e.hold_id
    LEFT JOIN LATERAL (
        SELECT new_charge FROM metering_usageadjustment a
        WHERE a.customer_id = e.customer_id AND a.event_number = e.id ORDER BY step DESC LIMIT 1
    ) a ON true
)
SELECT w.customer_id, d.what || ' of ' || w.scope || ' in the ' || w.span || ' of ' || w.starts_on, NULL::bigint, true,
       d.expected, d.found
FROM windows w LEFT JOIN LATERAL (
    SELECT sum(charge) AS spent FROM charged e
    WHERE e.customer_id = w.customer_id AND w.scope IN ('customer', e.scope)
        AND e.moment >= w.begins AND e.moment < w.ends
) e ON true LEFT JOIN LATERAL (
    SELECT sum(remaining) AS held FROM billing_hold h
    WHERE h.customer_id = w.customer_id AND h.status = 'open' AND w.scope IN ('customer', h.scope)
        AND h.created_at >= w.begins AND h.created_at < w.ends
) h ON true
CROSS JOIN LATERAL (VALUES
    ('spent', coalesce(e.spent, 0), w.spent::numeric), ('held', coalesce(h.held, 0), w.held::numeric)
) d (what, expected, found)
WHERE d.expected <> d.found ORDER BY w.customer_id, w.scope, w.span, w.starts_on"""
