"""Reads of usage: series from the hourly figures, single events; one customer's, never all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from metering.explanations import price_note, waiver_note
from metering.meters import NAMES
from metering.savings import cache_savings
from relayadmin import ids
from relayadmin.db import number_array, server_cursor, text_array
from relayadmin.money import EXACT, ZERO, line_amount

MOST_ROWS = 50_000
UnitPrices = Mapping[str, tuple[Decimal, int]]


class TooManyRows(Exception):
    """A series that is too fine for its length."""


@dataclass(slots=True)
class Figures:
    """Sums of usage; quantities by meter, zeros left out, amounts in USD."""

    requests: int = 0
    quantities: dict[str, int] = field(default_factory=dict)
    amount: Decimal = ZERO
    cache_savings: Decimal = ZERO

    def add(self, other: "Figures") -> None:
        self.requests += other.requests
        for meter, quantity in other.quantities.items():
            self.quantities[meter] = self.quantities.get(meter, 0) + quantity
        self.amount = EXACT.add(self.amount, other.amount)
        self.cache_savings = EXACT.add(self.cache_savings, other.cache_savings)

    def leave_out_zeros(self) -> None:
        """Forget the meters whose quantities have evened out."""
        self.quantities = {meter: quantity for meter, quantity in self.quantities.items() if quantity}


@dataclass(frozen=True, slots=True)
class UsageKey:
    """A row of a series; public ids, None where usage is not told apart by them."""

    start: datetime
    model: str | None
    api_key: str | None


@dataclass(frozen=True, slots=True)
class Series:
    rows: list[tuple[UsageKey, Figures]]
    total: Figures


def usage_series(
    *,
    customer_id: int,
    start: datetime,
    end: datetime,
    bucket_starts: Sequence[datetime] | None,
    by_model: bool = False,
    by_api_key: bool = False,
    model_id: int | None = None,
    api_key_id: int | None = None,
) -> Series:
    """Usage in [start, end), oldest first, by bucket and what it is grouped by. Buckets without usage have no row.

    `bucket_starts` are the buckets' first moments in order, None for hours. Two statements, over hourly figures only.
    Raises TooManyRows.
    """
    sums = _sums(customer_id, start, end, bucket_starts, by_model, by_api_key, model_id, api_key_id)
    prices = _unit_prices({row[3] for row in sums})
    found: dict[UsageKey, Figures] = {}
    total = Figures()
    for bucket, model, api_key, price_set_id, requests, charge, *counts in sums:
        quantities = {name: int(count) for name, count in zip(NAMES, counts, strict=True) if count}
        part = Figures(requests, quantities, charge, cache_savings(quantities, prices[price_set_id]))
        key = UsageKey(bucket if bucket_starts is None else bucket_starts[bucket - 1], model, api_key)
        found.setdefault(key, Figures()).add(part)
        total.add(part)
    for figures in (*found.values(), total):
        figures.leave_out_zeros()
    # What was put right may have left nothing under the model or the prices it was counted under before.
    found = {key: figures for key, figures in found.items() if figures != Figures()}
    rows = sorted(found.items(), key=lambda item: (item[0].start, item[0].model or "", item[0].api_key or ""))
    return Series(rows, total)


def _sums(
    customer_id: int,
    start: datetime,
    end: datetime,
    bucket_starts: Sequence[datetime] | None,
    by_model: bool,
    by_api_key: bool,
    model_id: int | None,
    api_key_id: int | None,
) -> list[tuple[Any, ...]]:
    """Sums by bucket, model, key and set of unit prices: (bucket, model, key, price set, requests, charge, meters…)."""
    params: list[Any] = []
    bucket = "hour"
    if bucket_starts is not None:
        bucket = "width_bucket(hour, %s::timestamptz[])"
        params.append(text_array([at.isoformat() for at in bucket_starts]))
    where = "customer_id = %s AND hour >= %s AND hour < %s"
    params += [customer_id, start, end]
    for column, value in (("model_id", model_id), ("api_key_id", api_key_id)):
        if value is not None:
            where += f" AND {column} = %s"
            params.append(value)
    groups = ["bucket", "price_set_id", *["model_id"] * by_model, *["api_key_id"] * by_api_key]
    summed = ", ".join(f"sum({name}) AS {name}" for name in ("requests", "charge", *NAMES))
    model = "m.public_id" if by_model else "NULL::text"
    api_key = "k.public_id" if by_api_key else "NULL::text"
    statement = (
        f"WITH sums AS (SELECT {bucket} AS {', '.join(groups)}, {summed} FROM metering_usagehour WHERE {where}"
        f" GROUP BY {', '.join(str(place + 1) for place in range(len(groups)))} LIMIT {MOST_ROWS + 1})"
        f" SELECT bucket, {model}, {api_key}, price_set_id, requests::bigint, {', '.join(('charge', *NAMES))} FROM sums"
    )
    if by_model:
        statement += " JOIN metering_model m ON m.id = sums.model_id"
    if by_api_key:
        statement += " JOIN metering_apikey k ON k.id = sums.api_key_id"
    with server_cursor() as cursor:
        cursor.execute(statement, params, binary=True)
        rows = cursor.fetchall()
    if len(rows) > MOST_ROWS:
        raise TooManyRows(f"more than {MOST_ROWS} rows")
    return rows


def _unit_prices(price_set_ids: set[int]) -> dict[int, UnitPrices]:
    """The customer's unit prices of the meters of caching, by price set."""
    if not price_set_ids:
        return {}
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT id, content -> 'meters' FROM metering_priceset WHERE id = ANY (%s::bigint[])",
            [number_array(sorted(price_set_ids))],
        )
        return {number: _read_prices(meters) for number, meters in cursor.fetchall()}


class _MeterPrice(msgspec.Struct):
    charge: str
    per: int


_decode_prices = msgspec.json.Decoder(dict[str, _MeterPrice]).decode


def _read_prices(meters: str | bytes) -> UnitPrices:
    return {name: (Decimal(price.charge), price.per) for name, price in _decode_prices(meters).items()}


def charged(*, customer_id: int, start: datetime | None = None, end: datetime | None = None) -> Decimal:
    """What a customer's usage in [start, end) was charged, USD; from the hourly figures."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(charge), 0) FROM metering_usagehour"
            " WHERE customer_id = %s AND hour >= coalesce(%s::timestamptz, '-infinity')"
            " AND hour < coalesce(%s::timestamptz, 'infinity')",
            [customer_id, start, end],
            binary=True,
        )
        (amount,) = cursor.fetchone() or (ZERO,)
    return Decimal(amount)


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
class EventRow:
    """A usage event as its customer sees it: public ids, its own unit prices, USD; metadata as JSON text.

    `amount` and `meters` are what it was charged at first; `adjusted_amount` is what it counts for since it was put
    right or replaced by another event, None where it never was.
    """

    number: int
    id: str
    request_id: str
    model: str
    api_key: str
    status: str
    waived: str | None
    estimated: bool
    occurred_at: datetime
    period: Any
    authorization: str | None
    meters: list[MeterLine]
    amount: Decimal
    adjusted_amount: Decimal | None
    replaced_by: str | None
    cache_savings: Decimal
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
    calls = {row[0]: _decode_calls(row[11]) for row in rows if row[11] is not None}
    contents = _contents({call.price_set_id for made in calls.values() for call in made})
    return [_event_row(customer_id, row, calls.get(row[0], ()), contents) for row in rows]


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
        "SELECT e.id, e.event_id, m.public_id, k.public_id, e.status, e.estimated, e.occurred_at, e.period,"
        " e.hold_id, e.quantities, p.content, e.parts, e.charge, e.metadata::text, a.new_charge, a.replaced_by"
        " FROM metering_usageevent e"
        " JOIN metering_model m ON m.id = e.model_id"
        " JOIN metering_apikey k ON k.id = e.api_key_id"
        " JOIN metering_priceset p ON p.id = e.price_set_id"
        " LEFT JOIN LATERAL (SELECT new_charge, replaced_by FROM metering_usageadjustment a"
        "   WHERE a.customer_id = e.customer_id AND a.event_number = e.id ORDER BY step DESC LIMIT 1) a ON true"
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


def _event_row(
    customer_id: int, row: tuple[Any, ...], calls: Sequence[_Call], contents: Mapping[int, dict[str, Any]]
) -> EventRow:
    number, event_id, model, api_key, status, estimated, occurred_at, period, hold_id, *rest = row
    counts, content_json, _, charge, metadata, adjusted, replaced_by = rest
    content = _decode_content(content_json)
    lines, saved = _meter_lines(_decode_quantities(counts), content) if not calls else ([], ZERO)
    for call in calls:
        more, also = _meter_lines(call.quantities, contents[call.price_set_id])
        lines, saved = lines + more, EXACT.add(saved, also)
    return EventRow(
        number=number,
        id=ids.hot_id("evt", customer_id, number),
        request_id=event_id,
        model=model,
        api_key=api_key,
        status=status,
        waived=waiver_note(content),
        estimated=estimated,
        occurred_at=occurred_at,
        period=period,
        authorization=None if hold_id is None else ids.hot_id("auth", customer_id, hold_id),
        meters=lines,
        amount=charge,
        adjusted_amount=adjusted,
        replaced_by=None if replaced_by is None else ids.hot_id("evt", customer_id, replaced_by),
        cache_savings=saved,
        metadata=metadata,
    )
