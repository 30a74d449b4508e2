"""Events that wait: of unknown keys, or without a price. Kept, shown, and settled once what was missing is there."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from django.db import DataError, IntegrityError
from django.db.models import QuerySet

from metering import settlement
from metering.attribution import attribute
from metering.formats import InvalidUsage
from metering.ingestion import Event, Rejection, chunks, event_digest, kept_name, mask, payload_json, restore
from metering.models import EventConflict, ParkedEvent, QuarantinedEvent, UnclaimedEvent
from metering.rating import Unrateable
from metering.waiting import subject_of
from relayadmin.db import bytes_array, copy_rows, copy_text, in_transaction, server_cursor, text_array

Row = TypeVar("Row", ParkedEvent, UnclaimedEvent)
_PAGE = 1_000
_HASH = re.compile("sha256:([0-9a-f]{64})")  # Any other name is an id, whatever it begins with.


@dataclass(slots=True)
class Kept:
    """What became of events of unknown keys; `culprits` could not be stored, with the reason."""

    new: int = 0
    repeated: int = 0
    culprits: list[tuple[Event, str]] = field(default_factory=list)


def keep_unclaimed(events: Sequence[Event], *, at: datetime) -> Kept:
    """Keep events whose key nobody knows, once per (key, id). A repeat with other content is recorded as a conflict."""
    for event in events:
        event.digest = event_digest(event)
    return _keep_or_bisect(list(events), at) if events else Kept()


def _keep_or_bisect(events: list[Event], at: datetime) -> Kept:
    """One transaction; where a statement fails on data, halves of it, until the culprit is alone."""
    try:
        return in_transaction(lambda: _keep(events, at))
    except (DataError, IntegrityError) as error:
        if len(events) == 1:
            return Kept(culprits=[(events[0], str(error).splitlines()[0])])
    half = len(events) // 2
    first, second = _keep_or_bisect(events[:half], at), _keep_or_bisect(events[half:], at)
    return Kept(first.new + second.new, first.repeated + second.repeated, first.culprits + second.culprits)


def _keep(events: list[Event], at: datetime) -> Kept:
    first: dict[tuple[str, str], Event] = {}
    repeated = []
    for event in events:
        if first.setdefault((event.key_name, event.id), event) is not event:
            repeated.append(event)
    new = _insert_unclaimed([first[key] for key in sorted(first)], at)
    repeated += [event for key, event in first.items() if key not in new]
    _record_conflicts(repeated, at)
    return Kept(new=len(new), repeated=len(repeated))


def _insert_unclaimed(events: list[Event], at: datetime) -> set[tuple[str, str]]:
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_unclaimedevent"
            " (key, event_id, model, digest, payload, occurred_at, received_at, reason, detail, resolution)"
            " SELECT key, event_id, model, digest, payload::jsonb, occurred_at::timestamptz, %s, 'unknown_key',"
            "   'no API key has this id or hash', ''"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[], %s::text[])"
            "   AS t (key, event_id, model, digest, payload, occurred_at)"
            " ON CONFLICT (key, event_id) DO NOTHING RETURNING key, event_id",
            [
                at,
                text_array([event.key_name for event in events]),
                text_array([event.id for event in events]),
                text_array([kept_name(event.model) for event in events]),
                bytes_array([event.digest for event in events]),
                text_array([payload_json(event) for event in events]),
                text_array([event.moment for event in events]),
            ],
        )
        return {(row[0], row[1]) for row in cursor.fetchall()}


def _record_conflicts(events: Sequence[Event], at: datetime) -> None:
    if not events:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT u.key, u.event_id, u.digest FROM unnest(%s::text[], %s::text[]) AS t (key, event_id)"
            " JOIN metering_unclaimedevent u ON u.key = t.key AND u.event_id = t.event_id",
            [text_array([event.key_name for event in events]), text_array([event.id for event in events])],
        )
        kept = {(row[0], row[1]): bytes(row[2]) for row in cursor.fetchall()}
    EventConflict.objects.bulk_create(
        EventConflict(
            customer=None,
            event_id=event.id,
            kind="other_content",
            detail="this id was reported before with other content, for a key that is not known",
            payload={
                "api_key_id": event.key_name,
                "model": kept_name(event.model),
                "quantities": event.usage.quantities,
            },
            received_at=at,
        )
        for event in events
        if kept[event.key_name, event.id] != event.digest
    )


def quarantine(rejected: Sequence[Rejection], *, relay_token_id: int | None, at: datetime) -> None:
    """Keep rejected events, secrets masked, in one statement."""
    if not rejected:
        return
    token = "\\N" if relay_token_id is None else relay_token_id
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            QuarantinedEvent._meta.db_table,
            "event_id, code, message, body, relay_token_id, received_at",
            [
                f"{copy_text(mask(item.id))}\t{item.code}\t{copy_text(mask(item.message)[:1000])}\t{copy_text(item.body)}"
                f"\t{token}\t{at.isoformat()}"
                for item in rejected
            ],
        )


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: parked events settled, unclaimed events attributed, and how many of both still wait."""

    settled: int
    claimed: int
    waiting: int


def sweep(*, at: datetime, limit: int = 100_000, turn: int = 0) -> Swept:
    """Try waiting events again, at most `limit` of each kind; each at the prices of its own moment.

    Turn 0 takes the oldest, turn 1 those after them, and so on round: what can't be settled blocks nobody's way.
    """
    parked, unclaimed = _open(ParkedEvent), _open(UnclaimedEvent)
    settled = sum(_settle_page(page, at) for page in _pages(parked, limit, turn))
    claimed = sum(_claim_page(page, at) for page in _pages(unclaimed, limit, turn))
    return Swept(settled=settled, claimed=claimed, waiting=parked.count() + unclaimed.count())


def sweep_group(*, kind: str, reason: str, subject: str, at: datetime, limit: int) -> Swept:
    """Try the oldest events again that wait for one thing: of kind "parked" for a subject, "unclaimed" for a key."""
    if kind == "unclaimed":
        keys = _open(UnclaimedEvent).filter(reason=reason, key=subject)
        claimed = sum(_claim_page(page, at) for page in _pages(keys, limit))
        return Swept(settled=0, claimed=claimed, waiting=keys.count())
    rows = _open(ParkedEvent).filter(reason=reason, subject=subject)
    settled = sum(_settle_page(page, at) for page in _pages(rows, limit))
    return Swept(settled=settled, claimed=0, waiting=rows.count())


def settle_parked(*, parked_ids: Sequence[int], at: datetime) -> int:
    """Try these parked events again now; returns how many were settled."""
    return _settle_page(list(ParkedEvent.objects.filter(pk__in=parked_ids, resolved_at=None)), at)


def _open(model: type[Row]) -> QuerySet[Row]:
    return model._default_manager.filter(resolved_at=None).order_by("pk")


def _pages(rows: QuerySet[Row], limit: int, turn: int = 0) -> Iterator[list[Row]]:
    """Open rows in the order they came, page by page; what a page settles is gone when the next is read."""
    last = _before_turn(rows, limit, turn)
    for start in range(0, limit, _PAGE):
        page = list(rows.filter(pk__gt=last)[: min(_PAGE, limit - start)])
        if not page:
            return
        yield page
        last = page[-1].pk


def _before_turn(rows: QuerySet[Row], limit: int, turn: int) -> int:
    """The row after which this turn begins, if so many wait that they take several."""
    turns = -(-rows.count() // limit) if turn else 1
    skipped = turn % turns * limit if turns else 0
    if not skipped:
        return 0
    return rows.values_list("pk", flat=True)[skipped - 1 : skipped].first() or 0


def _settle_page(page: list[ParkedEvent], at: datetime) -> int:
    rows = {(row.customer_id, row.number): row for row in page}
    ready, waiting = settlement.rateable(restored(page), at=at)
    _note_reasons([(rows[event.customer_id, event.number], event, why) for event, why in waiting])
    settled = 0
    for chunk in chunks(ready, settlement.CUSTOMERS_PER_TRANSACTION):
        try:
            settled += len(settlement.settle_parked(chunk, at=at))
        except (DataError, IntegrityError):
            settled += sum(_settle_alone(event, at) for event in chunk)
    return settled


def restored(page: Iterable[ParkedEvent]) -> list[Event]:
    """The events of parked rows, but those that today's stricter format refuses: they stay, to be looked at."""
    events = []
    for row in page:
        try:
            event = restore(row.payload)
        except InvalidUsage:
            continue
        event.customer_id, event.api_key_pk, event.number = row.customer_id, row.api_key_id, row.number
        events.append(event)
    return events


def _note_reasons(waiting: Sequence[tuple[ParkedEvent, Event, Unrateable]]) -> None:
    """Write down what events wait for by now, where it has become something else: the alias came, the price did not."""
    changed = []
    for row, event, why in waiting:
        subject = subject_of(why.reason, why.detail, event)
        if (row.reason, row.subject) != (why.reason, subject):
            row.reason, row.subject, row.detail = why.reason, subject, mask(why.detail)[:500]
            changed.append(row)
    ParkedEvent.objects.bulk_update(changed, ["reason", "subject", "detail"], batch_size=_PAGE)


def _settle_alone(event: Event, at: datetime) -> int:
    try:
        return len(settlement.settle_parked([event], at=at))
    except (DataError, IntegrityError):
        return 0


def _claim_page(page: list[UnclaimedEvent], at: datetime) -> int:
    """Settle events whose key has become known. Marked after the commit: done twice, the second is a duplicate."""
    rows: dict[int, UnclaimedEvent] = {}
    events = []
    for row in page:
        try:
            event = restore(row.payload)
        except InvalidUsage:
            continue
        if (digest := _HASH.fullmatch(event.key_name)) is not None:
            event.key_digest, event.key_id = bytes.fromhex(digest[1]), None
        event.index = row.pk
        rows[row.pk] = row
        events.append(event)
    known, _ = attribute(events)
    result = settlement.settle(known, at=at)
    culprits = {event.index for event, _ in result.culprits}
    done = [event.index for event in known if event.index not in culprits]
    UnclaimedEvent.objects.filter(pk__in=done).update(resolved_at=at, resolution="claimed")
    return len(done)
