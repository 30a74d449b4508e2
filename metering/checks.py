"""What the checks of usage share: which events and adjustments they look at, and where an incremental one begins."""

from billing.checks import HERE

SINCE = f"""
WITH since AS MATERIALIZED (
    SELECT w.customer_id, w.closed_through, coalesce(v.event_number, 0) AS after_event,
           coalesce(v.transfer_number, 0) AS after_transfer, coalesce(v.adjustment_number, 0) AS after_adjustment,
           coalesce(v.charge, 0) AS charge,
           coalesce(v.verified_at, '-infinity') AS verified_at
    FROM billing_wallet w
    LEFT JOIN metering_verifiedusage v ON v.customer_id = w.customer_id AND NOT %(full)s::boolean
    WHERE w.customer_id {HERE}
)"""
ALL_EVENTS = f"(SELECT * FROM metering_usageevent WHERE customer_id {HERE})"
# Parked events took their number when they came: those settled since have a later transfer, or none if they are free.
NEW_EVENTS = f"""(
    SELECT e.* FROM since s JOIN metering_usageevent e ON e.customer_id = s.customer_id AND e.id > s.after_event
    WHERE e.customer_id {HERE}
    UNION ALL
    SELECT e.* FROM since s
    JOIN metering_parkedevent p ON p.customer_id = s.customer_id AND p.number <= s.after_event
        AND p.resolution = 'settled'
    JOIN metering_usageevent e ON e.customer_id = p.customer_id AND e.id = p.number
    WHERE coalesce(e.transfer_id, s.after_transfer + 1) > s.after_transfer
)"""
ALL_ADJUSTMENTS = f"(SELECT * FROM metering_usageadjustment WHERE customer_id {HERE})"
NEW_ADJUSTMENTS = f"""(
    SELECT a.* FROM since s
    JOIN metering_usageadjustment a ON a.customer_id = s.customer_id AND a.id > s.after_adjustment
    WHERE a.customer_id {HERE}
)"""
ALL_KEYS = f"(SELECT customer_id, id, event_id FROM metering_eventkey WHERE customer_id {HERE})"
# Of an event `e` and a key `k` joined by number: one lacks the other, unless the event waits or was refused.
KEYS_DIFFER = """e.event_id IS DISTINCT FROM k.event_id AND (e.event_id IS NOT NULL OR NOT EXISTS (
    SELECT FROM metering_parkedevent w WHERE w.customer_id = k.customer_id AND w.number = k.id
        AND w.resolution <> 'settled'
))"""
