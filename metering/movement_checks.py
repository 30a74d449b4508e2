"""Do transfers move what they should? Their entries add up to zero, and what left the wallet is what usage says.

The check first asks, in one pass over entries, transfers, events and adjustments, which customers have a movement
that is not as it should be; only of these is asked what is wrong, by statements that are dearer.
"""

from billing import verification as ledger_checks
from billing.checks import HERE, Difference, Scope, differences, fetch, rows_after
from metering.checks import ALL_ADJUSTMENTS, ALL_EVENTS, ALL_KEYS, KEYS_DIFFER, NEW_ADJUSTMENTS, NEW_EVENTS, SINCE
from metering.event_checks import check_keys

_ITS_PERIOD = "(period - '0001-01-01') * 4"


def _wrong_movements_sql(*, full: bool) -> str:
    """The customers of whom something is wrong.

    `claim` tells a transfer and those who name it apart: 1 is a transfer that usage may not name; one that it may has
    a number of its period, and whoever names it has one more; 2 is an event whose id is not as it should be, or an id
    without its event. `moved` is what leaves the wallet less what usage says. Sorted, so that sums are made of one
    transfer at a time: a hash of many sums is far slower than the sort.
    """
    is_charged = "transfer_id IS NOT NULL OR charge <> 0"
    adjustments = ALL_ADJUSTMENTS if full else NEW_ADJUSTMENTS
    named = f"{_ITS_PERIOD} + 5"
    used = f"{NEW_EVENTS} e WHERE {is_charged}"
    if full:
        named = f"CASE WHEN e.event_id = k.event_id THEN {named} ELSE 2 END"
        used = f"{ALL_EVENTS} e FULL JOIN {ALL_KEYS} k USING (customer_id, id) WHERE {is_charged} OR {KEYS_DIFFER}"
    # Both apps remember where they were right, in one transaction; where they differ, the dearer statements decide.
    apart = """
UNION SELECT s.customer_id FROM since s LEFT JOIN billing_verifiedwallet v ON v.customer_id = s.customer_id
WHERE coalesce(v.transfer_number, 0) <> s.after_transfer"""
    return f"""{SINCE}
SELECT customer_id FROM (
    SELECT unnest(ARRAY[min(customer_id), max(customer_id)]) AS customer_id FROM (
        SELECT e.customer_id, e.transfer_id AS id, NULL::integer AS claim, e.amount::numeric AS amount,
               CASE WHEN e.wallet_version IS NOT NULL THEN e.amount::numeric END AS moved
        FROM {rows_after("billing_entry", "e.id >= (s.after_transfer + 1) * 16", full=full)}
        UNION ALL
        SELECT e.customer_id, e.id, CASE WHEN e.kind IN ('usage', 'adjustment') THEN {_ITS_PERIOD} + 4 ELSE 1 END,
               NULL, NULL
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)}
        UNION ALL
        SELECT customer_id, transfer_id, {named}, NULL, charge::numeric FROM {used}
        UNION ALL
        SELECT customer_id, transfer_id, {_ITS_PERIOD} + 5, NULL, new_charge - old_charge
        FROM {adjustments} a WHERE transfer_id IS NOT NULL OR new_charge <> old_charge
        ORDER BY id
    ) movement
    GROUP BY id
    HAVING min(customer_id) <> max(customer_id) OR sum(amount) IS DISTINCT FROM 0 OR count(amount) < 2
        OR CASE min(claim) WHEN 1 THEN max(claim) <> 1
           ELSE min(claim) IS NULL OR min(claim) & 3 <> 0 OR max(claim) > min(claim) + 1 OR sum(moved) <> 0 END
) wrong {"" if full else apart}"""


def check_movements(scope: Scope) -> list[Difference]:
    """Every difference between these customers' transfers, their entries and usage; on the caller's snapshot.

    A full check compares the ids of all events on the way.
    """
    full = scope.full
    rows = fetch(_wrong_movements_sql(full=full), scope.parameters, by_page=full)
    if not rows:
        return []
    scope = scope.around({customer_id for (customer_id,) in rows})
    of_keys = check_keys(scope) if full else []
    return ledger_checks.check_transfers(scope) + differences(_charges_sql(full=full), scope) + of_keys


def _charges_sql(*, full: bool) -> str:
    """What usage says of each transfer and billing period against what left the wallet."""
    events, adjustments = (ALL_EVENTS, ALL_ADJUSTMENTS) if full else (NEW_EVENTS, NEW_ADJUSTMENTS)
    transfers = "billing_transfer t" if full else "since s JOIN billing_transfer t ON t.customer_id = s.customer_id"
    after = "" if full else "AND t.id > s.after_transfer"
    # Where all are read, a hash serves better than the key; else the numbers lead there.
    near = "" if full else " AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16"
    entries = (
        f"(SELECT * FROM billing_entry WHERE customer_id {HERE} AND account = 'wallet')" if full else "billing_entry"
    )
    return f"""{SINCE}
SELECT customer_id, CASE WHEN id IS NULL THEN 'charge of events without a transfer'
           WHEN t.id IS NULL THEN 'charge of events in ' || period || ' that name {{tr}}, which does not exist'
           ELSE 'charge of {{tr}}' END,
       id, true, coalesce(e.charge, 0), coalesce(t.amount, 0)
FROM (
    SELECT customer_id, transfer_id AS id, period, sum(charge) AS charge FROM {events} e
    WHERE transfer_id IS NOT NULL OR charge <> 0 GROUP BY 1, 2, 3
    UNION ALL
    SELECT customer_id, transfer_id AS id, period, sum(new_charge - old_charge) AS charge FROM {adjustments} a
    GROUP BY 1, 2, 3 HAVING transfer_id IS NOT NULL OR sum(new_charge - old_charge) <> 0
) e FULL JOIN (
    SELECT t.customer_id, t.id, t.period, -e.amount AS amount
    FROM {transfers} LEFT JOIN {entries} e ON e.customer_id = t.customer_id AND e.transfer_id = t.id
        AND e.account = 'wallet'{near}
    WHERE t.customer_id {HERE} AND t.kind IN ('usage', 'adjustment') {after}
) t USING (customer_id, id, period)
WHERE coalesce(e.charge, 0) <> coalesce(t.amount, 0) OR t.id IS NULL ORDER BY customer_id, id"""
