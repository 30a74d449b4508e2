"""The set-based statements of settlement: event ids, events, hourly usage, parked events and conflicts."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

import msgspec

from metering.ingestion import Event, kept_name, mask, payload_json
from metering.meters import NAMES
from metering.models import EventConflict, ParkedEvent
from metering.rating import Unrateable, amount_literal, amount_of
from metering.waiting import subject_of
from relayadmin.db import bytes_array, copy_rows, copy_text, number_array, server_cursor, text_array
from relayadmin.money import amount_text

NULL = "\\N"
NEVER_CAME = b""  # The digest of an id that was taken for an event that never came.

if TYPE_CHECKING:
    from metering.settlement import Rated


def take_ids(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """Take the events' ids, in (customer, id) order; returns the (new, repeated) ones. New ones get their number.

    Of several events with one id in a batch, the first wins.
    """
    first: dict[tuple[int, str], Event] = {}
    repeated = []
    for event in events:
        if first.setdefault((event.customer_id, event.id), event) is not event:
            repeated.append(event)
    ordered = [first[key] for key in sorted(first)]
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_eventkey (customer_id, event_id, digest)"
            " SELECT customer_id, event_id, digest FROM unnest(%s::bigint[], %s::text[], %s::bytea[])"
            "   WITH ORDINALITY AS t (customer_id, event_id, digest, place) ORDER BY place"
            " ON CONFLICT (customer_id, event_id) DO NOTHING RETURNING id",
            [
                number_array([event.customer_id for event in ordered]),
                text_array([event.id for event in ordered]),
                bytes_array([event.digest for event in ordered]),
            ],
            binary=True,
        )
        numbers = [row[0] for row in cursor.fetchall()]
    if len(numbers) == len(ordered):
        # Rows get their numbers in the order in which they are selected.
        for event, number in zip(ordered, sorted(numbers), strict=True):
            event.number = number
        return ordered, repeated
    taken = _ids_with(numbers, ordered)
    new = [event for event in ordered if (event.customer_id, event.id) in taken]
    repeated += [event for event in ordered if (event.customer_id, event.id) not in taken]
    for event in new:
        event.number = taken[event.customer_id, event.id]
    return new, repeated


def _ids_with(numbers: list[int], events: Sequence[Event]) -> dict[tuple[int, str], int]:
    """{(customer, id): number} of those of these events' ids that have one of these numbers."""
    if not numbers:
        return {}
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT k.customer_id, k.event_id, k.id FROM unnest(%s::bigint[], %s::text[]) AS t (customer_id, id)"
            " JOIN metering_eventkey k ON k.customer_id = t.customer_id AND k.event_id = t.id"
            " WHERE k.id = ANY (%s::bigint[])",
            [
                number_array([event.customer_id for event in events]),
                text_array([event.id for event in events]),
                number_array(numbers),
            ],
            binary=True,
        )
        return {(row[0], row[1]): row[2] for row in cursor.fetchall()}


def record_conflicts(repeated: Sequence[Event], *, at: datetime) -> None:
    """Record those repeated events whose content differs from what first took their id."""
    if not repeated:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT k.customer_id, k.event_id, k.digest FROM unnest(%s::bigint[], %s::text[]) AS t (customer_id, id)"
            " JOIN metering_eventkey k ON k.customer_id = t.customer_id AND k.event_id = t.id",
            [number_array([event.customer_id for event in repeated]), text_array([event.id for event in repeated])],
            binary=True,
        )
        kept = {(row[0], row[1]): bytes(row[2]) for row in cursor.fetchall()}
    others = [event for event in repeated if kept[event.customer_id, event.id] != event.digest]
    _conflicts(
        [event for event in others if kept[event.customer_id, event.id] != NEVER_CAME],
        kind="other_content",
        detail="this id was reported before with other content; the first report was charged",
        at=at,
    )
    _conflicts(
        [event for event in others if kept[event.customer_id, event.id] == NEVER_CAME],
        kind="came_after_correction",
        detail="it came after the event that replaces it had been charged as it stands; only that one was charged",
        at=at,
    )


def record_unknown_authorizations(events: Sequence[Event], *, at: datetime) -> None:
    """Record events that name a hold which doesn't exist or is another customer's; they were charged all the same."""
    _conflicts(
        events, kind="unknown_authorization", detail="the authorization it names is not one of this customer's", at=at
    )


def record_leases_of_other_keys(events: Sequence[Event], *, at: datetime) -> None:
    """Record events that name a lease of another key; they were charged and have drawn nothing from it."""
    _conflicts(events, kind="lease_of_another_key", detail="the lease it names is bound to another key", at=at)


def record_own_corrections(events: Sequence[Event], *, at: datetime) -> None:
    """Record events that name themselves as what they replace; they were charged as any other."""
    _conflicts(events, kind="replaces_itself", detail="it names itself as the event that it replaces", at=at)


def record_first_of_rings(events: Sequence[Event], *, at: datetime) -> None:
    """Record those corrections at which a ring was cut; they were charged as if they replaced nothing."""
    _conflicts(
        events,
        kind="replaces_in_ring",
        detail="what it replaces leads back to it; it came first of this ring, and was charged as it stands",
        at=at,
    )


def record_decisions(events: Sequence[Event], *, kind: str, actor: str, at: datetime) -> None:
    """Record what an operator decided on corrections of what never came: nothing is left to look into."""
    _conflicts(
        events, kind=kind, detail=f"what it replaces had not come, and {actor} decided on it", at=at, is_dealt_with=True
    )


def _conflicts(events: Sequence[Event], *, kind: str, detail: str, at: datetime, is_dealt_with: bool = False) -> None:
    if not events:
        return
    resolved = at.isoformat() if is_dealt_with else NULL
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            EventConflict._meta.db_table,
            "customer_id, event_id, kind, detail, payload, received_at, resolved_at",
            [
                f"{event.customer_id}\t{copy_text(event.id)}\t{kind}\t{copy_text(detail)}"
                f"\t{copy_text(payload_json(event))}\t{at.isoformat()}\t{resolved}"
                for event in events
            ],
        )


def store(rated: Sequence["Rated"], sets: dict[bytes, int], *, at: datetime) -> None:
    """Write events as they were rated."""
    received = at.isoformat()
    periods = {period: str(period) for period in {item.period for item in rated}}
    rows = []
    for item in rated:
        event = item.event
        estimated = "t" if event.estimated else "f"
        metadata = NULL if event.metadata_json is None else copy_text(event.metadata_json)
        rows.append(
            f"{event.customer_id}\t{event.number}\t{copy_text(event.id)}\t{event.api_key_pk}\t{item.model_id}"
            f"\t{item.channel_id}\t{sets[item.card.digest]}\t{item.transfer_id or NULL}\t{item.hold_number or NULL}"
            f"\t{periods[item.period]}\t{event.moment}\t{received}\t{event.format}\t{event.status}\t{estimated}"
            f"\t{event.quantities_json}\t{amount_literal(item.charge_units)}\t{amount_literal(item.cost_units)}"
            f"\t{item.account_id or NULL}\t{_parts_json(item, sets) if item.parts else NULL}"
            f"\t{copy_text(event.usage_json)}\t{metadata}"
        )
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            "metering_usageevent",
            "customer_id, id, event_id, api_key_id, model_id, channel_id, price_set_id, transfer_id, hold_id, period,"
            " occurred_at, received_at, format, status, estimated, quantities, charge, cost, upstream_account_id,"
            " parts, usage, metadata",
            rows,
        )


def _parts_json(item: "Rated", sets: dict[bytes, int]) -> str:
    parts = [
        {
            "kind": part.kind,
            "model_id": part.model_id,
            "price_set_id": sets[part.card.digest],
            "quantities": part.quantities,
            "charge": amount_text(amount_of(part.charge_units)),
            "cost": amount_text(amount_of(part.cost_units)),
        }
        for part in item.parts
    ]
    return copy_text(msgspec.json.encode(parts).decode())


HourKey = tuple[int, int, date, int, int, int, int]


def add_to_hours(rated: Sequence["Rated"], sets: dict[bytes, int]) -> None:
    """Add events to the hourly usage, in key order, in one statement.

    Each call inside a response counts under its own model and prices; the response is one request, its first call's.
    """
    hours: dict[HourKey, Hour] = {}
    for item in rated:
        event = item.event
        if not item.parts:
            key = _hour_key(item, item.model_id, sets[item.card.digest])
            hour = hours.get(key)
            if hour is None:
                hours[key] = Hour(event.usage.quantities, 1, item.charge_units, item.cost_units)
            else:
                hour.add(event.usage.quantities, 1, item.charge_units, item.cost_units)
        requests = 1
        for part in item.parts:
            hour = hours.setdefault(_hour_key(item, part.model_id, sets[part.card.digest]), Hour({}, 0, 0, 0))
            hour.add(part.quantities, requests, part.charge_units, part.cost_units)
            requests = 0
    upsert_hours(hours)


class Hour(msgspec.Struct, gc=False):
    """What is added to one row of the hourly usage; amounts in units of 10⁻¹⁵ USD."""

    quantities: dict[str, int]
    requests: int
    charge: int
    cost: int
    is_shared: bool = True  # the quantities are an event's own, not to be added to

    def add(self, quantities: dict[str, int], requests: int, charge: int, cost: int) -> None:
        if self.is_shared:
            self.quantities, self.is_shared = self.quantities.copy(), False
        for meter, quantity in quantities.items():
            self.quantities[meter] = self.quantities.get(meter, 0) + quantity
        self.requests += requests
        self.charge += charge
        self.cost += cost


def _hour_key(item: "Rated", model_id: int, price_set_id: int) -> HourKey:
    event = item.event
    return (
        event.customer_id,
        event.epoch_s // 3600,
        item.period,
        event.api_key_pk,
        model_id,
        item.channel_id,
        price_set_id,
    )


def upsert_hours(hours: dict[HourKey, Hour]) -> None:
    """Add these sums to the hourly usage, in key order, in one statement; sums below zero take off."""
    keys = sorted(hours)
    added = [hours[key] for key in keys]
    used = {meter for hour in added for meter in hour.quantities}
    meters = [name for name in NAMES if name in used]
    columns = ["customer_id", "hour", "period", "api_key_id", "model_id", "channel_id", "price_set_id"]
    sums = ["requests", "charge", "cost", *meters]
    types = ["bigint", "bigint", "date", "bigint", "bigint", "bigint", "bigint", "bigint", "numeric", "numeric"]
    types += ["numeric"] * len(meters)
    arrays = [number_array(column) for column in zip(*keys, strict=True)]
    arrays += [number_array([hour.requests for hour in added])]
    arrays += [number_array([amount_literal(hour.charge) for hour in added])]
    arrays += [number_array([amount_literal(hour.cost) for hour in added])]
    arrays += [number_array([hour.quantities.get(meter, 0) for hour in added]) for meter in meters]
    selected = ", ".join("to_timestamp(hour * 3600)" if name == "hour" else name for name in columns + sums)
    names = ", ".join(columns + sums)
    with server_cursor() as cursor:
        cursor.execute(
            f"INSERT INTO metering_usagehour AS h ({names}) SELECT {selected}"
            f" FROM unnest({', '.join(f'%s::{kind}[]' for kind in types)}) AS t ({names})"
            f" ON CONFLICT ({', '.join(columns)}) DO UPDATE SET"
            f" {', '.join(f'{name} = h.{name} + excluded.{name}' for name in sums)}",
            arrays,
        )


def park(parked: Sequence[tuple[Event, Unrateable]], *, at: datetime, resolution: str = "") -> None:
    """Keep events whose ids are taken but that can't be rated yet; with a `resolution`, that never will be."""
    if not parked:
        return
    received = at.isoformat()
    resolved = received if resolution else NULL
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            ParkedEvent._meta.db_table,
            "customer_id, number, api_key_id, event_id, model, channel, reason, subject, detail, payload, occurred_at,"
            " received_at, resolved_at, resolution",
            [
                f"{event.customer_id}\t{event.number}\t{event.api_key_pk}\t{copy_text(event.id)}"
                f"\t{copy_text(kept_name(event.model))}\t{copy_text(kept_name(event.channel or ''))}\t{why.reason}"
                f"\t{copy_text(subject_of(why.reason, why.detail, event))}"
                f"\t{copy_text(mask(why.detail)[:500])}\t{copy_text(payload_json(event))}\t{event.moment}"
                f"\t{received}\t{resolved}\t{resolution}"
                for event, why in parked
            ],
        )


def still_parked(events: Sequence[Event]) -> set[tuple[int, int]]:
    """Which of these events are parked now, by (customer, number); the caller holds their wallets' locks."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT p.customer_id, p.number FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, number)"
            " JOIN metering_parkedevent p ON p.customer_id = t.customer_id AND p.number = t.number"
            " WHERE p.resolved_at IS NULL",
            [number_array([event.customer_id for event in events]), number_array([event.number for event in events])],
            binary=True,
        )
        return {(row[0], row[1]) for row in cursor.fetchall()}


def take_replaced_ids(corrections: Sequence[Event], *, at: datetime) -> None:
    """Take the ids of what these corrections replace, which never came; if it comes, it is a duplicate.

    Each stands beside the parked events as replaced. Raises django.db.IntegrityError if it has come.
    """
    by_name = {(event.customer_id, event.replaces or ""): event for event in corrections}
    names = sorted(by_name)
    if not names:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_eventkey (customer_id, event_id, digest)"
            " SELECT customer_id, event_id, %s FROM unnest(%s::bigint[], %s::text[]) AS t (customer_id, event_id)"
            " RETURNING customer_id, event_id, id",
            [
                NEVER_CAME,
                number_array([customer_id for customer_id, _ in names]),
                text_array([name for _, name in names]),
            ],
        )
        numbers = {(row[0], row[1]): row[2] for row in cursor.fetchall()}
    ParkedEvent.objects.bulk_create(
        ParkedEvent(
            customer_id=event.customer_id,
            number=numbers[name],
            api_key_id=event.api_key_pk,
            event_id=name[1],
            model=kept_name(event.model),
            channel=kept_name(event.channel or ""),
            reason="never_came",
            detail="it never came; the event that replaces it was charged as it stands",
            payload={"id": name[1], "replaced_by": event.id},
            occurred_at=event.occurred_at,
            received_at=at,
            resolved_at=at,
            resolution="replaced",
        )
        for name, event in by_name.items()
    )


def resolve_parked(
    events: Iterable[tuple[int, int]], *, at: datetime, resolution: str = "settled", decided_by: str = ""
) -> None:
    """Mark parked events, by (customer, number), as settled or what else became of them."""
    named = list(events)
    if named:
        with server_cursor() as cursor:
            cursor.execute(
                "UPDATE metering_parkedevent p SET resolved_at = %s, resolution = %s, decided_by = %s"
                " FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, number)"
                " WHERE p.customer_id = t.customer_id AND p.number = t.number AND p.resolved_at IS NULL",
                [
                    at,
                    resolution,
                    decided_by,
                    number_array([customer_id for customer_id, _ in named]),
                    number_array([number for _, number in named]),
                ],
            )
            assert cursor.rowcount == len(named), "a parked event is resolved once"


def record_refused(refused: Sequence[tuple[Event, Unrateable]], *, at: datetime) -> None:
    """Record corrections that are not charged, because the call they speak of is."""
    for reason in sorted({why.reason for _, why in refused}):
        of_reason = [(event, why) for event, why in refused if why.reason == reason]
        _conflicts([event for event, _ in of_reason], kind=reason, detail=of_reason[0][1].detail, at=at)
