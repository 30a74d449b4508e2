"""Reads of single usage events as their customer sees them: what each counts for now, and what it did at first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from metering.explanations import price_note, waiver_note
from metering.meters import NAMES
from metering.savings import cache_savings
from relayadmin import ids
from relayadmin.db import number_array, server_cursor
from relayadmin.money import EXACT, ZERO, line_amount


@dataclass(frozen=True, slots=True)
class MeterLine:
    """quantity × unit price ÷ per = amount, in USD; `note` says why the unit price is another one than usual."""

    model: str
    meter: str
    note: str
    quantity: int
    unit_price: Decimal
    per: int

    @property
    def amount(self) -> Decimal:
        return line_amount(self.quantity, self.unit_price, self.per)


class EventPlace(NamedTuple):
    """Where an event stands in the list, newest first."""

    occurred_at: datetime
    number: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What an event counts for, with the unit prices behind it, USD; `meters` add up to `amount`."""

    model: str
    waived: str | None
    meters: list[MeterLine]
    amount: Decimal
    cache_savings: Decimal


@dataclass(frozen=True, slots=True)
class EventRow:
    """A usage event as its customer sees it: public ids, USD; metadata as JSON text.

    `now` is what it counts for: nothing, once another event has replaced it. `at_first` is what it was charged before
    it was put right, None where it never was.
    """

    number: int
    id: str
    request_id: str
    api_key: str
    status: str
    estimated: bool
    occurred_at: datetime
    period: Any
    authorization: str | None
    now: Counted
    at_first: Counted | None
    replaced_by: str | None
    metadata: str | None


# By the model an event counts as now; one that was taken back, by what it counted as before. Only of those events that
# ever came to count as another model are the adjustments looked at: few, and found at once.
_OF_MODEL = """CASE WHEN e.id IN (
        SELECT event_number FROM metering_usageadjustment WHERE customer_id = %(customer)s AND is_other_model
    ) THEN (
        SELECT coalesce(new_model_id, old_model_id) = %(model)s
            OR coalesce(CASE WHEN new_model_id IS NULL THEN old_parts ELSE new_parts END @> %(part)s::jsonb, false)
        FROM metering_usageadjustment a WHERE a.customer_id = e.customer_id AND a.event_number = e.id
        ORDER BY step DESC LIMIT 1
    ) ELSE e.model_id = %(model)s OR e.parts @> %(part)s::jsonb END"""


def events(*, customer_id: int, limit: int, **filters: Any) -> list[EventRow]:
    """A customer's usage events, newest first; one statement, and another for calls inside responses.

    Filters: `before` a place; `start` and `end`, half open; `model_id` of what an event counts as now, as a whole or
    in one of its calls; `api_key_id`; `request_id`, the relay's id.
    """
    sql, params = _events_sql(customer_id=customer_id, limit=limit, **filters)
    with server_cursor() as cursor:
        cursor.execute(sql, params)
        rows = cursor.fetchall()
    firsts = [_read_figures(row[10:15]) for row in rows]
    # Nothing under the adjustment's model: the event was never put right.
    nows = [None if row[15] is None else _read_figures(row[15:]) for row in rows]
    contents = _contents({call.price_set_id for read in (*firsts, *nows) if read for call in read.calls})
    return [
        _event_row(customer_id, row[:10], _counted(first, contents), now and _counted(now, contents))
        for row, first, now in zip(rows, firsts, nows, strict=True)
    ]


def _events_sql(
    *,
    customer_id: int,
    limit: int,
    before: EventPlace | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    model_id: int | None = None,
    api_key_id: int | None = None,
    request_id: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """The statement and its parameters."""
    given = {
        "e.occurred_at >= %(start)s": start,
        "e.occurred_at < %(end)s": end,
        _OF_MODEL: model_id,
        "e.api_key_id = %(api_key)s": api_key_id,
        "e.id = (SELECT id FROM metering_eventkey k WHERE k.customer_id = %(customer)s"
        "   AND k.event_id = %(request)s)": request_id,
        "(e.occurred_at, e.id) < (%(before)s, %(before_number)s)": before,
    }
    where = ["e.customer_id = %(customer)s", *(condition for condition, value in given.items() if value is not None)]
    params = {
        "customer": customer_id,
        "start": start,
        "end": end,
        "model": model_id,
        "part": f'[{{"model_id": {model_id}}}]',
        "api_key": api_key_id,
        "request": request_id,
        "before": None if before is None else before.occurred_at,
        "before_number": None if before is None else before.number,
        "limit": limit,
    }
    sql = (
        "SELECT e.id, e.event_id, k.public_id, e.status, e.estimated, e.occurred_at, e.period, e.hold_id,"
        " e.metadata::text, a.replaced_by,"
        " m.public_id, p.content, e.quantities, e.parts, e.charge,"
        " n.public_id, q.content, a.new_quantities, a.new_parts, a.new_charge"
        " FROM metering_usageevent e"
        " JOIN metering_model m ON m.id = e.model_id"
        " JOIN metering_apikey k ON k.id = e.api_key_id"
        " JOIN metering_priceset p ON p.id = e.price_set_id"
        " LEFT JOIN LATERAL (SELECT * FROM metering_usageadjustment a"
        "   WHERE a.customer_id = e.customer_id AND a.event_number = e.id ORDER BY step DESC LIMIT 1) a ON true"
        " LEFT JOIN metering_model n ON n.id = coalesce(a.new_model_id, a.old_model_id)"
        " LEFT JOIN metering_priceset q ON q.id = a.new_price_set_id"
        f" WHERE {' AND '.join(where)} ORDER BY e.occurred_at DESC, e.id DESC LIMIT %(limit)s"
    )
    return sql, params


class _Call(msgspec.Struct):
    """One of several calls inside a response, as its event keeps it."""

    price_set_id: int
    quantities: dict[str, int]


_decode_quantities = msgspec.json.Decoder(dict[str, int]).decode
_decode_calls = msgspec.json.Decoder(tuple[_Call, ...]).decode
_decode_content = msgspec.json.Decoder(dict[str, Any]).decode


class _Figures(NamedTuple):
    """An event's figures as they are stored; it counts for nothing where there are no prices."""

    model: str
    content: dict[str, Any] | None
    quantities: dict[str, int]
    calls: tuple[_Call, ...]
    charge: Decimal


def _read_figures(columns: tuple[Any, ...]) -> _Figures:
    model, content, quantities, parts, charge = columns
    return _Figures(
        model,
        None if content is None else _decode_content(content),
        _decode_quantities(quantities),
        () if parts is None else _decode_calls(parts),
        charge,
    )


def _contents(price_set_ids: set[int]) -> dict[int, dict[str, Any]]:
    if not price_set_ids:
        return {}
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT id, content FROM metering_priceset WHERE id = ANY (%s::bigint[])",
            [number_array(sorted(price_set_ids))],
        )
        return {number: _decode_content(content) for number, content in cursor.fetchall()}


def _meter_lines(quantities: Mapping[str, int], content: Mapping[str, Any]) -> tuple[list[MeterLine], Decimal]:
    """The lines of one call in the order of the meters, and what caching saved on it."""
    prices = {name: (Decimal(price["charge"]), price["per"]) for name, price in content["meters"].items()}
    lines = [
        MeterLine(content["model"], name, price_note(content, name), quantities[name], *prices[name])
        for name in NAMES
        if quantities.get(name)
    ]
    return lines, cache_savings(quantities, prices)


def _counted(figures: _Figures, contents: Mapping[int, dict[str, Any]]) -> Counted:
    if figures.content is None:
        return Counted(figures.model, None, [], figures.charge, ZERO)
    calls = [(call.quantities, contents[call.price_set_id]) for call in figures.calls]
    lines: list[MeterLine] = []
    saved = ZERO
    for quantities, content in calls or [(figures.quantities, figures.content)]:
        more, also = _meter_lines(quantities, content)
        lines, saved = lines + more, EXACT.add(saved, also)
    return Counted(figures.model, waiver_note(figures.content), lines, figures.charge, saved)


def _event_row(customer_id: int, row: tuple[Any, ...], first: Counted, now: Counted | None) -> EventRow:
    number, event_id, api_key, status, estimated, occurred_at, period, hold_id, metadata, replaced_by = row
    return EventRow(
        number=number,
        id=ids.hot_id("evt", customer_id, number),
        request_id=event_id,
        api_key=api_key,
        status=status,
        estimated=estimated,
        occurred_at=occurred_at,
        period=period,
        authorization=None if hold_id is None else ids.hot_id("auth", customer_id, hold_id),
        now=now or first,
        at_first=None if now is None else first,
        replaced_by=None if replaced_by is None else ids.hot_id("evt", customer_id, replaced_by),
        metadata=metadata,
    )
