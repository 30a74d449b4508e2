"""A customer's own price list: list prices × its plan, from the cached table; no query of the price book."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from metering.meters import NAMES, PER_MILLION
from metering.models import CustomerPlan
from metering.pricing import PlanTerms, PriceRow, PriceTable, rows_in_force
from relayadmin.money import EXACT, to_unit_price

_PLACES = {name: place for place, name in enumerate(NAMES)}
_RATIO = Context(prec=6, rounding=ROUND_HALF_UP)


class PriceKey(NamedTuple):
    """Where a price stands in the list."""

    model: str
    meter_place: int
    above_prompt_tokens: int
    begins: str
    window: str
    row: int


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """What one meter of a model costs this customer: USD per `per`; None bounds are open."""

    key: PriceKey
    model: str
    meter: str
    unit_price: Decimal
    per: int
    above_prompt_tokens: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None
    multiplier_of_input: Decimal | None


def terms_of(customer_id: int, table: PriceTable) -> PlanTerms:
    """A customer's plan."""
    return table.plan(CustomerPlan.objects.filter(customer_id=customer_id).values_list("plan_id", flat=True).first())


def price_list(
    *,
    table: PriceTable,
    plan: PlanTerms,
    at: datetime,
    limit: int,
    after: PriceKey | None = None,
    model_id: int | None = None,
) -> list[ListedPrice]:
    """Prices in force at `at` or announced, by model, meter and tier; at most `limit`, from after a key on."""
    found: list[ListedPrice] = []
    for public_id, number in _models(table, model_id):
        if after is not None and public_id < after[0]:
            continue
        found += (
            price
            for price in _prices_of(public_id, table.charges[number], plan, at)
            if after is None or price.key > after
        )
        if len(found) >= limit:
            break
    return found[:limit]


def priced_models(table: PriceTable, *, at: datetime) -> list[str]:
    """Public ids of the models that can be asked for now, in order: those with a price on their maker's channel."""
    return [
        public_id
        for public_id, number in _models(table, None)
        if (number, table.catalog.models[number].maker_channel_id) in table.costs
        and any(_begins(row, at) <= at for row in rows_in_force(table.charges[number], at))
    ]


def _models(table: PriceTable, model_id: int | None) -> list[tuple[str, int]]:
    wanted = table.charges.keys() if model_id is None else table.charges.keys() & {model_id}
    return sorted((table.catalog.models[number].public_id, number) for number in wanted)


def _prices_of(public_id: str, rows: tuple[PriceRow, ...], plan: PlanTerms, at: datetime) -> Iterator[ListedPrice]:
    live = rows_in_force(rows, at)
    for key, row in sorted((_key(public_id, row), row) for row in live):
        price = _own(row, plan)
        plain = _input_beside(row, live, at)
        yield ListedPrice(
            key=key,
            model=public_id,
            meter=row.meter,
            unit_price=price,
            per=row.per,
            above_prompt_tokens=row.above_prompt_tokens,
            effective_from=row.effective_from,
            effective_until=row.effective_until,
            daily_from=row.daily_from,
            daily_until=row.daily_until,
            multiplier_of_input=_ratio(price, _own(plain, plan)) if plain is not None else None,
        )


def _key(public_id: str, row: PriceRow) -> PriceKey:
    begins = "" if row.effective_from is None else row.effective_from.isoformat()
    window = "" if row.daily_from is None else row.daily_from.isoformat()
    return PriceKey(public_id, _PLACES[row.meter], row.above_prompt_tokens, begins, window, row.id)


def _own(row: PriceRow, plan: PlanTerms) -> Decimal:
    return to_unit_price(EXACT.multiply(row.unit_price, plan.multiplier))


def _begins(row: PriceRow, at: datetime) -> datetime:
    """When a row that is in force at `at` or later is so for the first time."""
    return at if row.effective_from is None else max(at, row.effective_from)


def _input_beside(row: PriceRow, live: Sequence[PriceRow], at: datetime) -> PriceRow | None:
    """The input price that holds beside a token price: at its begin, in its window of the day, in its tier."""
    if row.per != PER_MILLION:
        return None
    moment = _begins(row, at)
    beside = [
        other
        for other in live
        if other.meter == "input"
        and other.above_prompt_tokens <= row.above_prompt_tokens
        and _begins(other, at) <= moment
        and (other.effective_until is None or other.effective_until > moment)
        and other.daily_from in {None, row.daily_from}
    ]
    return max(beside, key=lambda other: other.rank, default=None)


def _ratio(price: Decimal, plain: Decimal) -> Decimal | None:
    """How often the input price is in a price, to 6 digits; None if input is free."""
    return _RATIO.divide(price, plain).normalize() if plain else None
