"""Events that wait: of unknown keys, or without a price. Kept, shown, and settled once what was missing is there."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import DataError, IntegrityError

from metering import settlement
from metering.attribution import attribute
from metering.formats import InvalidUsage
from metering.ingestion import Event, Rejection, chunks, event_digest, mask, payload_json, restore
from metering.models import EventConflict, ParkedEvent, QuarantinedEvent, UnclaimedEvent
from relayadmin.db import bytes_array, copy_rows, copy_text, in_transaction, server_cursor, text_array

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
                text_array([event.model for event in events]),
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
            payload={"api_key_id": event.key_name, "model": event.model, "quantities": event.usage.quantities},
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


def sweep(*, at: datetime, limit: int = 100_000) -> Swept:
    """Try waiting events again, oldest first, at most `limit` of each kind; each at the prices of its own moment."""
    settled = sum(_settle_page(page, at) for page in _parked_pages(limit))
    claimed = sum(_claim_page(page, at) for page in _unclaimed_pages(limit))
    waiting = ParkedEvent.objects.filter(resolved_at=None).count()
    waiting += UnclaimedEvent.objects.filter(resolved_at=None).count()
    return Swept(settled=settled, claimed=claimed, waiting=waiting)


def settle_parked(*, parked_ids: Sequence[int], at: datetime) -> int:
    """Try these parked events again now; returns how many were settled."""
    return _settle_page(list(ParkedEvent.objects.filter(pk__in=parked_ids, resolved_at=None)), at)


def _parked_pages(limit: int) -> Iterator[list[ParkedEvent]]:
    last = 0
    for _ in range(0, limit, _PAGE):
        page = list(ParkedEvent.objects.filter(resolved_at=None, pk__gt=last).order_by("pk")[:_PAGE])
        if not page:
            return
        yield page
        last = page[-1].pk


def _unclaimed_pages(limit: int) -> Iterator[list[UnclaimedEvent]]:
    last = 0
    for _ in range(0, limit, _PAGE):
        page = list(UnclaimedEvent.objects.filter(resolved_at=None, pk__gt=last).order_by("pk")[:_PAGE])
        if not page:
            return
        yield page
        last = page[-1].pk


def _settle_page(page: list[ParkedEvent], at: datetime) -> int:
    events = []
    for row in page:
        try:
            event = restore(row.payload)
        except InvalidUsage:
            continue  # A stricter format than when it came: it stays, for the operator to look at.
        event.customer_id, event.api_key_pk, event.number = row.customer_id, row.api_key_id, row.number
        events.append(event)
    ready = settlement.rateable(events, at=at)
    settled = 0
    for chunk in chunks(ready, settlement.CUSTOMERS_PER_TRANSACTION):
        try:
            settled += len(settlement.settle_parked(chunk, at=at))
        except (DataError, IntegrityError):
            settled += sum(_settle_alone(event, at) for event in chunk)
    return settled


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
