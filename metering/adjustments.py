"""Events that were charged are put right: what they count for now, and the one way to change it.

An event is never changed. An adjustment names it and holds its figures before and after; the hourly usage gets −old
and +new in the open billing period, in the hour of the event; the wallet moves by the difference. All of it happens
under the wallet's lock, which the caller holds, in statements for many customers each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from billing import adjustments as billing_adjustments
from billing import ledger
from billing.periods import billing_period, month_of, operator_timezone
from metering import spend
from metering.event_store import Hour, HourKey, upsert_hours
from metering.models import UsageAdjustment
from metering.rating import amount_literal, amount_of
from relayadmin.db import copy_rows, copy_text, number_array, server_cursor
from relayadmin.money import AMOUNT_DECIMALS, EXACT, amount_text

NULL = "\\N"


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call inside a response, as events keep it; amounts are texts, USD."""

    kind: str
    model_id: int
    price_set_id: int
    quantities: dict[str, int]
    charge: str
    cost: str


class Figures(msgspec.Struct, frozen=True, gc=False):
    """What an event counts for: amounts in units of 10⁻¹⁵ USD; `parts` of a response that held several calls."""

    model_id: int
    channel_id: int
    price_set_id: int
    quantities: dict[str, int]
    charge: int
    cost: int
    parts: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Charged:
    """An event as it counts now: `figures` is None if it was taken back, `step` counts its adjustments.

    `period` is the billing period of the event itself.

    `charged_by`: the transfers that have charged it, the newest first.
    """

    customer_id: int
    number: int
    event_id: str
    api_key_id: int
    occurred_at: datetime
    format: str
    status: str
    is_estimated: bool
    account_id: int | None
    usage_json: str
    period: date
    step: int
    charged_by: tuple[int, ...]
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class Change:
    """An event is put right: its new figures, or None to take it back for the event `replaced_by`."""

    event: Charged
    new: Figures | None
    kind: UsageAdjustment.Kind
    rerating_id: int | None = None
    replaced_by: int | None = None


_EVENT = (
    *("customer_id", "number", "event_id", "api_key_id", "occurred_at", "format", "status", "is_estimated"),
    *("account_id", "usage_json", "period"),
)
_FIGURES = ("model_id", "channel_id", "price_set_id", "quantities", "parts", "charge", "cost")
CHARGED = f"""
SELECT e.customer_id, e.id, e.event_id, e.api_key_id, e.occurred_at, e.format, e.status, e.estimated,
       e.upstream_account_id, e.usage::text, e.period, coalesce(a.step, 0), e.transfer_id, (
           SELECT array_agg(DISTINCT x.transfer_id ORDER BY x.transfer_id DESC) FROM metering_usageadjustment x
           WHERE x.customer_id = e.customer_id AND x.event_number = e.id AND x.transfer_id IS NOT NULL
       ), {", ".join(f"CASE WHEN a.step IS NULL THEN e.{name} ELSE a.new_{name} END" for name in _FIGURES)}
FROM {{source}} LEFT JOIN LATERAL (
    SELECT step, {", ".join(f"new_{name}" for name in _FIGURES)} FROM metering_usageadjustment a
    WHERE a.customer_id = e.customer_id AND a.event_number = e.id ORDER BY step DESC LIMIT 1
) a ON true"""
_BY_NUMBER = CHARGED.format(
    source="unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, id)"
    " JOIN metering_usageevent e ON e.customer_id = t.customer_id AND e.id = t.id"
)

_decode_quantities = msgspec.json.Decoder(dict[str, int]).decode
_decode_calls = msgspec.json.Decoder(tuple[Call, ...]).decode


def read_charged(row: tuple[Any, ...]) -> Charged:
    """An event from a row of `CHARGED`."""
    step, transfer_id, adjusted_by, model_id, channel_id, price_set_id, quantities, parts, charge, cost = row[11:]
    figures = None
    if price_set_id is not None:
        calls = () if parts is None else _decode_calls(parts)
        figures = Figures(
            model_id, channel_id, price_set_id, _decode_quantities(quantities), units_of(charge), units_of(cost), calls
        )
    transfers = (*(adjusted_by or ()), *(() if transfer_id is None else (transfer_id,)))
    kept = dict(zip(_EVENT, row, strict=False))
    return Charged(**kept, step=step, charged_by=transfers, figures=figures)


def units_of(amount: Decimal) -> int:
    """An amount in USD in units of 10⁻¹⁵ USD."""
    return int(EXACT.scaleb(amount, AMOUNT_DECIMALS))


def charged_now(events: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Charged]:
    """Events by (customer, number) as they count now; that stays so while the caller holds their wallets' locks."""
    if not events:
        return {}
    customers, numbers = zip(*events, strict=True)
    with server_cursor() as cursor:
        cursor.execute(_BY_NUMBER, [number_array(customers), number_array(numbers)])
        found = [read_charged(row) for row in cursor.fetchall()]
    return {(event.customer_id, event.number): event for event in found}


_LAST_STEPS = """
SELECT a.* FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, number) CROSS JOIN LATERAL (
    SELECT customer_id, event_number, id, new_price_set_id, coalesce(new_model_id, old_model_id),
           new_charge, new_cost
    FROM metering_usageadjustment x WHERE x.customer_id = t.customer_id AND x.event_number = t.number
    ORDER BY step DESC LIMIT 1
) a"""


@dataclass(frozen=True, slots=True)
class LastStep:
    """What an event that was put right counts for. One that was taken back has no prices, and its last model."""

    adjustment: int
    price_set_id: int | None
    model_id: int
    charge: Decimal
    cost: Decimal


def last_steps(events: Sequence[tuple[int, int]]) -> dict[tuple[int, int], LastStep]:
    """By (customer, number), of those events that were ever put right: one statement, a look at an index for each."""
    if not events:
        return {}
    customers, numbers = zip(*events, strict=True)
    with server_cursor() as cursor:
        cursor.execute(_LAST_STEPS, [number_array(customers), number_array(numbers)])
        return {(customer_id, number): LastStep(*step) for customer_id, number, *step in cursor.fetchall()}


def adjust(
    changes: Sequence[Change],
    *,
    wallets: dict[int, ledger.LockedWallet],
    job: str,
    reason: str,
    at: datetime,
) -> None:
    """Put events of locked wallets right; each was read under these locks. `job` names the transfers' keys.

    Raises IntegrityError if one of the events was put right by somebody else since.
    """
    if not changes:
        return
    zone = operator_timezone()
    periods = [_period(change.event, wallets[change.event.customer_id], zone) for change in changes]
    posted = billing_adjustments.adjust_usage(
        [
            billing_adjustments.Change(
                change.event.customer_id, period, amount_of(_difference(change)), change.event.charged_by
            )
            for change, period in zip(changes, periods, strict=True)
        ],
        wallets=wallets,
        job=job,
        reason=reason,
        at=at,
    )
    rows: list[str] = []
    hours: dict[HourKey, Hour] = {}
    for change, period in zip(changes, periods, strict=True):
        rows.append(_row(change, period, posted.get((change.event.customer_id, period)), reason, at))
        assert change.event.figures is not None, "what was taken back is not put right again"
        _count(hours, change.event, period, change.event.figures, -1)
        if change.new is not None:
            _count(hours, change.event, period, change.new, 1)
    with server_cursor() as cursor:
        copy_rows(cursor, "metering_usageadjustment", ", ".join(_COLUMNS), rows)
    upsert_hours(hours)
    spend.count_adjusted(
        [
            spend.Adjusted(
                change.event.customer_id,
                change.event.number,
                change.event.api_key_id,
                change.event.occurred_at,
                amount_of(_difference(change)),
            )
            for change in changes
        ],
        wallets=wallets,
        at=at,
    )


def _period(event: Charged, wallet: ledger.LockedWallet, zone: ZoneInfo) -> date:
    return billing_period(month_of(event.occurred_at, zone), wallet.closed_through)


def _difference(change: Change) -> int:
    assert change.event.figures is not None
    return (0 if change.new is None else change.new.charge) - change.event.figures.charge


_COLUMNS = (
    *("customer_id", "event_number", "step", "kind", "rerating_id", "replaced_by", "period", "transfer_id"),
    *(f"old_{name}" for name in _FIGURES),
    *(f"new_{name}" for name in _FIGURES),
    *("is_other_model", "reason", "created_at"),
)


def _row(change: Change, period: date, transfer_id: int | None, reason: str, at: datetime) -> str:
    event = change.event
    fields = [
        event.customer_id,
        event.number,
        event.step + 1,
        change.kind.value,
        NULL if change.rerating_id is None else change.rerating_id,
        NULL if change.replaced_by is None else change.replaced_by,
        period,
        NULL if transfer_id is None else transfer_id,
        *_figure_fields(event.figures),
        *_figure_fields(change.new),
        _is_other_model(change),
        copy_text(reason),
        at.isoformat(),
    ]
    return "\t".join(map(str, fields))


def _is_other_model(change: Change) -> bool:
    def models(figures: Figures) -> list[int]:
        return [figures.model_id, *(call.model_id for call in figures.parts)]

    assert change.event.figures is not None
    return change.new is not None and models(change.new) != models(change.event.figures)


def _figure_fields(figures: Figures | None) -> list[object]:
    if figures is None:
        return [NULL, NULL, NULL, "{}", NULL, 0, 0]
    return [
        figures.model_id,
        figures.channel_id,
        figures.price_set_id,
        copy_text(msgspec.json.encode(figures.quantities).decode()),
        copy_text(msgspec.json.encode(figures.parts).decode()) if figures.parts else NULL,
        amount_literal(figures.charge),
        amount_literal(figures.cost),
    ]


def _count(hours: dict[HourKey, Hour], event: Charged, period: date, figures: Figures, sign: int) -> None:
    """Add an event's figures to its hour, or take them off; the response is one request, its first call's."""
    calls = figures.parts or (_whole(figures),)
    for place, call in enumerate(calls):
        key = (
            event.customer_id,
            floor(event.occurred_at.timestamp()) // 3600,
            period,
            event.api_key_id,
            call.model_id,
            figures.channel_id,
            call.price_set_id,
        )
        hour = hours.setdefault(key, Hour({}, 0, 0, 0))
        for meter, quantity in call.quantities.items():
            hour.quantities[meter] = hour.quantities.get(meter, 0) + sign * quantity
        hour.requests += sign if place == 0 else 0
        hour.charge += sign * units_of(Decimal(call.charge))
        hour.cost += sign * units_of(Decimal(call.cost))


def _whole(figures: Figures) -> Call:
    charge, cost = (amount_text(amount_of(units)) for units in (figures.charge, figures.cost))
    return Call("", figures.model_id, figures.price_set_id, figures.quantities, charge, cost)
