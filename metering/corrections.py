"""Events that correct an estimate, `"replaces": "req_…"`: the old is taken back, the new stands in its place, once.

What a correction names is judged under the wallet's lock:

- an estimate that was charged is taken back, at what it counts for now, and the hold that it drew on holds that again;
  one that is still parked is not charged at all;
- what has not come yet, or itself waits for what it corrects, may still come: the correction is parked;
- what was no estimate, or was replaced before, stands as it is. The correction speaks of a call that is charged
  already, so it is refused: counted as a duplicate, kept beside the parked events and recorded as a conflict;
- an event that names itself is one call, charged once, and recorded as a conflict;
- so are events that name one another in a ring: the first of them is charged as if it replaced nothing, and recorded as
  a conflict; the others follow (metering.rings).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from billing import holds, ledger
from metering import adjustments, rings
from metering.ingestion import Event
from metering.models import UsageAdjustment
from metering.rating import Unrateable
from relayadmin.db import number_array, server_cursor, text_array

if TYPE_CHECKING:
    from metering.settlement import Rated

WAVES = 4  # corrections of corrections in one batch; longer chains are left to the sweep
REASON = "estimates replaced by what was used"

Verdict = tuple[Event, Unrateable]


@dataclass(slots=True)
class Judged:
    """Corrections that can be charged now, those that are refused, and those that wait; with reasons.

    `charged` and `parked` are the numbers of what the ready ones replace, by (customer, the correction's number). `own`
    and `firsts` replace nothing: they name themselves, or are the first of a ring.
    """

    ready: list["Rated"] = field(default_factory=list)
    charged: dict[tuple[int, int], int] = field(default_factory=dict)
    parked: dict[tuple[int, int], int] = field(default_factory=dict)
    own: list[Event] = field(default_factory=list)
    firsts: list[Event] = field(default_factory=list)
    refused: list[Verdict] = field(default_factory=list)
    waiting: list[tuple["Rated", Unrateable]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Target:
    """What became of the event that a correction names: None where there is no such row."""

    number: int | None
    is_estimated: bool | None
    is_taken_back: bool
    is_waiting_estimate: bool | None
    waits_for: str | None
    resolution: str | None

    def verdict(self) -> Unrateable | None:
        """Why its correction is refused or, by a reason in WAITING, has to wait; None if it can be charged."""
        if self.is_taken_back or self.resolution == "replaced":
            return Unrateable("replaced_before", "the event it replaces was replaced by another one before")
        if self.is_estimated is not None:
            return None if self.is_estimated else _final()
        if self.number is None:
            return Unrateable("replaces_unknown", "the event it replaces has not come yet")
        if self.resolution:
            return Unrateable("replaces_refused", "the event it replaces was set aside and not charged")
        if self.waits_for is not None or self.resolution is None:  # None: it is judged in this transaction.
            return Unrateable("replaces_parked", "the event it replaces waits for the one that it replaces itself")
        return None if self.is_waiting_estimate else _final()


def _final() -> Unrateable:
    return Unrateable("replaces_final", "the event it replaces is no estimate, and stands as it was reported")


WAITING = frozenset({"replaces_unknown", "replaces_parked"})

_TARGETS = """
SELECT t.customer_id, t.event_id, k.id, e.estimated, EXISTS (
           SELECT FROM metering_usageadjustment a
           WHERE a.customer_id = k.customer_id AND a.event_number = k.id AND a.kind = 'correction'
       ), (p.payload->>'estimated')::boolean, p.payload->>'replaces', p.resolution
FROM unnest(%s::bigint[], %s::text[]) AS t (customer_id, event_id)
LEFT JOIN metering_eventkey k ON k.customer_id = t.customer_id AND k.event_id = t.event_id
LEFT JOIN metering_usageevent e ON e.customer_id = k.customer_id AND e.id = k.id
LEFT JOIN metering_parkedevent p ON p.customer_id = k.customer_id AND p.number = k.id"""


def judge(corrections: Sequence["Rated"]) -> Judged:
    """Judge corrections of locked wallets, in their order: of several that name one event, the first comes first."""
    judged = Judged()
    targets = _targets([item.event for item in corrections])
    seen: set[tuple[int, str]] = set()
    for item in corrections:
        event = item.event
        name = (event.customer_id, event.replaces or "")
        if event.replaces == event.id:
            judged.ready.append(item)
            judged.own.append(event)
        elif name in seen:
            judged.waiting.append(
                (item, Unrateable("replaces_parked", "another event that replaces the same came first"))
            )
        elif (why := targets[name].verdict()) is None:
            seen.add(name)
            _accept(judged, item, targets[name])
        elif why.reason in WAITING:
            judged.waiting.append((item, why))
        else:
            judged.refused.append((event, why))
    _cut_rings(judged)
    return judged


def _cut_rings(judged: Judged) -> None:
    """Of the corrections that wait for another one, charge the first of each ring now."""
    firsts = _first_of_rings([(item.event, why) for item, why in judged.waiting])
    if not firsts:
        return
    waiting, judged.waiting = judged.waiting, []
    for item, why in waiting:
        if (item.event.customer_id, item.event.number) in firsts:
            judged.ready.append(item)
            judged.firsts.append(item.event)
        else:
            judged.waiting.append((item, why))


def _first_of_rings(waiting: Sequence[Verdict]) -> set[tuple[int, int]]:
    """The first of each ring among these. Each in a ring waits for another correction; most wait for none."""
    events = [event for event, why in waiting if why.reason == "replaces_parked"]
    return rings.first_of_rings(events) if events else set()


def _accept(judged: Judged, item: "Rated", target: _Target) -> None:
    assert target.number is not None
    judged.ready.append(item)
    found = judged.parked if target.is_estimated is None else judged.charged
    found[item.event.customer_id, item.event.number] = target.number


def _targets(events: Sequence[Event]) -> dict[tuple[int, str], _Target]:
    with server_cursor() as cursor:
        cursor.execute(
            _TARGETS,
            [
                number_array([event.customer_id for event in events]),
                text_array([event.replaces for event in events]),
            ],
        )
        return {(customer_id, event_id): _Target(*rest) for customer_id, event_id, *rest in cursor.fetchall()}


def still_waiting(events: Sequence[Event]) -> dict[int, Unrateable]:
    """Those corrections, by their number, whose event may still come, and why; judged without a lock."""
    if not events:
        return {}
    targets = _targets(events)
    waiting: list[Verdict] = []
    for event in events:
        why = targets[event.customer_id, event.replaces or ""].verdict()
        if why is not None and why.reason in WAITING and event.replaces != event.id:
            waiting.append((event, why))
    firsts = _first_of_rings(waiting)
    return {event.number: why for event, why in waiting if (event.customer_id, event.number) not in firsts}


def of_nothing_known(events: Sequence[Event]) -> list[Event]:
    """Those corrections of locked wallets whose event has not come."""
    targets = _targets(events)
    return [event for event in events if targets[event.customer_id, event.replaces or ""].number is None]


def take_back(
    charged: dict[tuple[int, int], int], *, wallets: dict[int, ledger.LockedWallet], settlement: str, at: datetime
) -> None:
    """Take charged estimates off locked wallets' usage: {(customer, the correction's number): the estimate's}."""
    now = adjustments.charged_now(sorted((customer_id, number) for (customer_id, _), number in charged.items()))
    changes = [
        adjustments.Change(now[customer_id, number], None, UsageAdjustment.Kind.CORRECTION, replaced_by=replaced_by)
        for (customer_id, replaced_by), number in sorted(charged.items())
    ]
    adjustments.adjust(changes, wallets=wallets, job=f"correction:{settlement}", reason=REASON, at=at)
    holds.undraw(_drawn(charged), wallets=wallets, at=at)


def _drawn(charged: dict[tuple[int, int], int]) -> list[holds.Settlement]:
    """What charged estimates, by the corrections that replace them, have drawn on holds that they named."""
    customer_ids = [customer_id for customer_id, _ in charged]
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT e.customer_id, e.hold_id, e.charge FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, id)"
            " JOIN metering_usageevent e ON e.customer_id = t.customer_id AND e.id = t.id"
            " WHERE e.hold_id IS NOT NULL AND e.charge > 0",
            [number_array(customer_ids), number_array(charged.values())],
            binary=True,
        )
        return [
            holds.Settlement(customer_id, hold_number, charge, is_last=False)
            for customer_id, hold_number, charge in cursor.fetchall()
        ]
