"""Corrections that name one another in a ring: A replaces B and B replaces A, or over more events.

None of them replaces an estimate that was charged, so each would wait for the next one for ever. They speak of one
call, as an event that names itself does. The ring is cut at the member that came first, whose number is the lowest: it
is charged as if it replaced nothing, and the others then correct it, or one another, by the rules of any chain. Of one
batch the id that sorts first came first. The first of a ring waits for its price as any event, and the others for it.
"""

from collections.abc import Sequence

from metering.ingestion import Event
from relayadmin.db import number_array, server_cursor, text_array

Name = tuple[int, str]
Link = tuple[int, Name]  # the number of a correction, and what it replaces

# From corrections on to what they replace, as long as that is a parked correction too; each is read once, and found by
# its number: LIMIT keeps a planner that knows little of the tables from reading all that waits for each.
_STEP = """
    JOIN metering_eventkey k ON k.customer_id = l.customer_id AND k.event_id = l.replaces
    CROSS JOIN LATERAL (
        SELECT p.payload->>'replaces' AS replaces FROM metering_parkedevent p
        WHERE p.customer_id = k.customer_id AND p.number = k.id AND p.resolved_at IS NULL LIMIT 1
    ) p
    WHERE p.replaces IS NOT NULL"""
_LED_TO = f"""
WITH RECURSIVE led_to AS (
    SELECT k.customer_id, k.event_id, k.id, p.replaces
    FROM unnest(%s::bigint[], %s::text[]) AS l (customer_id, replaces){_STEP}
    UNION
    SELECT k.customer_id, k.event_id, k.id, p.replaces FROM led_to l{_STEP}
)
SELECT customer_id, event_id, id, replaces FROM led_to"""


def first_of_rings(events: Sequence[Event]) -> set[tuple[int, int]]:
    """The first of each ring that these waiting corrections are in or lead to, by (customer, number).

    They need not be parked yet. What they lead to is read as it is parked now: without the wallets' locks, a hint.
    """
    links: dict[Name, Link] = {}
    with server_cursor() as cursor:
        cursor.execute(
            _LED_TO,
            [
                number_array([event.customer_id for event in events]),
                text_array([event.replaces for event in events]),
            ],
        )
        for customer_id, event_id, number, replaces in cursor.fetchall():
            links[customer_id, event_id] = number, (customer_id, replaces)
    for event in events:
        links[event.customer_id, event.id] = event.number, (event.customer_id, event.replaces or "")
    return {(ring[0][0], min(links[name][0] for name in ring)) for ring in _rings(links)}


def _rings(links: dict[Name, Link]) -> list[list[Name]]:
    """Each ring once. A correction replaces one event, so a walk from anywhere ends outside or goes round one ring."""
    rings = []
    walked: set[Name] = set()
    for start in links:
        path: dict[Name, int] = {}
        name = start
        while name in links and name not in walked:
            walked.add(name)
            path[name] = len(path)
            name = links[name][1]
        if name in path:
            rings.append(list(path)[path[name] :])
    return rings
