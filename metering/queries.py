"""Reads of usage: series and sums from the hourly figures; one customer's, never all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from metering.meters import NAMES
from metering.savings import cache_savings
from relayadmin.db import number_array, server_cursor, text_array
from relayadmin.money import EXACT, ZERO

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
