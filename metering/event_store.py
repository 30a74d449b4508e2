"""The set-based statements of settlement: event ids, events, hourly usage, parked events and conflicts."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

from metering.ingestion import Event, mask, payload_json
from metering.meters import NAMES
from metering.models import EventConflict, ParkedEvent
from metering.rating import Unrateable, amount_literal
from relayadmin.db import bytes_array, copy_rows, copy_text, number_array, server_cursor, text_array

NULL = "\\N"

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
            " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bytea[])"
            " ON CONFLICT (customer_id, event_id) DO NOTHING RETURNING customer_id, event_id, id",
            [
                number_array([event.customer_id for event in ordered]),
                text_array([event.id for event in ordered]),
                bytes_array([event.digest for event in ordered]),
            ],
            binary=True,
        )
        taken = {(row[0], row[1]): row[2] for row in cursor.fetchall()}
    if len(taken) == len(ordered):
        new = ordered
    else:
        new = [event for event in ordered if (event.customer_id, event.id) in taken]
        repeated += [event for event in ordered if (event.customer_id, event.id) not in taken]
    for event in new:
        event.number = taken[event.customer_id, event.id]
    return new, repeated


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
    _conflicts(
        [event for event in repeated if kept[event.customer_id, event.id] != event.digest],
        kind="other_content",
        detail="this id was reported before with other content; the first report was charged",
        at=at,
    )


def record_unknown_authorizations(events: Sequence[Event], *, at: datetime) -> None:
    """Record events that name a hold which doesn't exist or is another customer's; they were charged all the same."""
    _conflicts(
        events, kind="unknown_authorization", detail="the authorization it names is not one of this customer's", at=at
    )


def _conflicts(events: Sequence[Event], *, kind: str, detail: str, at: datetime) -> None:
    if not events:
        return
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            EventConflict._meta.db_table,
            "customer_id, event_id, kind, detail, payload, received_at",
            [
                f"{event.customer_id}\t{copy_text(event.id)}\t{kind}\t{copy_text(detail)}"
                f"\t{copy_text(payload_json(event))}\t{at.isoformat()}"
                for event in events
            ],
        )


def store(rated: Sequence["Rated"], sets: dict[bytes, int], *, at: datetime) -> None:
    """Write events as they were rated."""
    received = at.isoformat()
    rows = []
    for item in rated:
        event = item.event
        metadata = NULL if event.metadata_json is None else copy_text(event.metadata_json)
        rows.append(
            f"{event.customer_id}\t{event.number}\t{copy_text(event.id)}\t{event.api_key_pk}\t{item.model_id}"
            f"\t{item.channel_id}\t{sets[item.card.digest]}\t{item.transfer_id or NULL}\t{item.hold_number or NULL}"
            f"\t{item.period}\t{event.moment}\t{received}\t{event.format}\t{event.status}\t{event.estimated}"
            f"\t{event.quantities_json}\t{amount_literal(item.charge_units)}\t{amount_literal(item.cost_units)}"
            f"\t{copy_text(event.usage_json)}\t{metadata}"
        )
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            "metering_usageevent",
            "customer_id, id, event_id, api_key_id, model_id, channel_id, price_set_id, transfer_id, hold_id, period,"
            " occurred_at, received_at, format, status, estimated, quantities, charge, cost, usage, metadata",
            rows,
        )


HourKey = tuple[int, int, date, int, int, int, int]


def add_to_hours(rated: Sequence["Rated"], sets: dict[bytes, int]) -> None:
    """Add events to the hourly usage, in key order, in one statement."""
    groups: dict[HourKey, list[Rated]] = {}
    for item in rated:
        event = item.event
        key = (
            event.customer_id,
            event.epoch_s // 3600,
            item.period,
            event.api_key_pk,
            item.model_id,
            item.channel_id,
            sets[item.card.digest],
        )
        group = groups.get(key)
        if group is None:
            groups[key] = [item]
        else:
            group.append(item)
    sums: dict[HourKey, tuple[int, str, str]] = {}
    quantities: dict[HourKey, dict[str, int]] = {}
    for key, group in groups.items():
        first = group[0]
        if len(group) == 1:
            sums[key] = (1, amount_literal(first.charge_units), amount_literal(first.cost_units))
            quantities[key] = first.event.usage.quantities
            continue
        charge, cost, counts = first.charge_units, first.cost_units, first.event.usage.quantities.copy()
        for item in group[1:]:
            charge += item.charge_units
            cost += item.cost_units
            for meter, quantity in item.event.usage.quantities.items():
                counts[meter] = counts.get(meter, 0) + quantity
        sums[key] = (len(group), amount_literal(charge), amount_literal(cost))
        quantities[key] = counts
    _upsert_hours(sums, quantities)


def _upsert_hours(hours: dict[HourKey, tuple[int, str, str]], quantities: dict[HourKey, dict[str, int]]) -> None:
    keys = sorted(hours)
    used = {meter for counts in quantities.values() for meter in counts}
    meters = [name for name in NAMES if name in used]
    columns = ["customer_id", "hour", "period", "api_key_id", "model_id", "channel_id", "price_set_id"]
    sums = ["requests", "charge", "cost", *meters]
    types = ["bigint", "bigint", "date", "bigint", "bigint", "bigint", "bigint", "bigint", "numeric", "numeric"]
    types += ["numeric"] * len(meters)
    counts = [quantities[key] for key in keys]
    arrays = [number_array(column) for column in zip(*keys, strict=True)]
    arrays += [number_array(column) for column in zip(*(hours[key] for key in keys), strict=True)]
    arrays += [number_array([count.get(meter, 0) for count in counts]) for meter in meters]
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


def park(parked: Sequence[tuple[Event, Unrateable]], *, at: datetime) -> None:
    """Keep events whose ids are taken but that can't be rated yet."""
    if not parked:
        return
    received = at.isoformat()
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            ParkedEvent._meta.db_table,
            "customer_id, number, api_key_id, event_id, model, channel, reason, detail, payload, occurred_at,"
            " received_at, resolution",
            [
                f"{event.customer_id}\t{event.number}\t{event.api_key_pk}\t{copy_text(event.id)}"
                f"\t{copy_text(event.model)}\t{copy_text(event.channel or '')}\t{why.reason}"
                f"\t{copy_text(mask(why.detail)[:500])}\t{copy_text(payload_json(event))}\t{event.moment}"
                f"\t{received}\t"
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


def resolve_parked(rated: Iterable["Rated"], *, at: datetime) -> None:
    """Mark parked events as settled."""
    events = [item.event for item in rated]
    if events:
        with server_cursor() as cursor:
            cursor.execute(
                "UPDATE metering_parkedevent p SET resolved_at = %s, resolution = 'settled'"
                " FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, number)"
                " WHERE p.customer_id = t.customer_id AND p.number = t.number AND p.resolved_at IS NULL",
                [
                    at,
                    number_array([event.customer_id for event in events]),
                    number_array([event.number for event in events]),
                ],
            )
            assert cursor.rowcount == len(events), "a parked event is settled once"
