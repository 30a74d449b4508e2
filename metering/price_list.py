"""A customer's own price list: list prices × its plan, from the cached table; no query of the price book."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from django.db.models import F, Q

from metering.meters import NAMES, PER_MILLION
from metering.models import CustomerPlan
from metering.plan_terms import PlanTerms, Rule, best_rule, charge_price
from metering.pricing import PriceRow, PriceTable, best_rows, rows_in_force

_PLACES = {name: place for place, name in enumerate(NAMES)}
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_RATIO = Context(prec=6, rounding=ROUND_HALF_UP)


class PriceKey(NamedTuple):
    """Where a price stands in the list."""

    model: str
    variant: str
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
    variant: str
    meter: str
    unit_price: Decimal
    per: int
    above_prompt_tokens: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None
    multiplier_of_input: Decimal | None


def terms_of(customer_id: int, table: PriceTable, *, at: datetime) -> PlanTerms:
    """A customer's plan now."""
    begun = CustomerPlan.objects.filter(Q(effective_from=None) | Q(effective_from__lte=at), customer_id=customer_id)
    latest = begun.order_by(F("effective_from").desc(nulls_last=True))
    return table.plan(latest.values_list("plan_id", flat=True).first())


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
            for price in sorted(_prices_of(table, number, plan, at), key=lambda price: price.key)
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


def _prices_of(table: PriceTable, number: int, plan: PlanTerms, at: datetime) -> Iterator[ListedPrice]:
    """Every price of a model, divided where a rule of the plan begins or ends; rules for one channel only left out."""
    model = table.catalog.models[number]
    rules = tuple(
        rule for rule in plan.rules_for(number, model.public_id, model.maker_channel_id) if rule.channel_id is None
    )
    live = rows_in_force(table.charges[number], at)
    for row in live:
        ends, covering = row.effective_until, [rule for rule in rules if rule.covers(row.meter)]
        bounds = {bound for rule in covering for bound in (rule.effective_from, rule.effective_until) if bound}
        inside = sorted(bound for bound in bounds if bound > _begins(row, at) and (ends is None or bound < ends))
        begins = [row.effective_from, *inside]
        if any(bound <= at for bound in bounds) and not (row.effective_from and row.effective_from > at):
            begins[0] = max([bound for bound in bounds if bound <= at] + [row.effective_from or _BEGINNING])
        for start, end in zip(begins, [*inside, ends], strict=True):
            moment = at if start is None else max(at, start)
            price = _own(row, live, plan, rules, moment)
            plain = _input_beside(row, live, moment)
            yield ListedPrice(
                key=_key(model.public_id, row, start),
                model=model.public_id,
                variant=row.variant,
                meter=row.meter,
                unit_price=price,
                per=row.per,
                above_prompt_tokens=row.above_prompt_tokens,
                effective_from=start,
                effective_until=end,
                daily_from=row.daily_from,
                daily_until=row.daily_until,
                multiplier_of_input=None if plain is None else _ratio(price, _own(plain, live, plan, rules, moment)),
            )


def _key(public_id: str, row: PriceRow, start: datetime | None) -> PriceKey:
    begins = "" if start is None else start.isoformat()
    window = "" if row.daily_from is None else row.daily_from.isoformat()
    return PriceKey(public_id, row.variant, _PLACES[row.meter], row.above_prompt_tokens, begins, window, row.id)


def _own(
    row: PriceRow, live: Sequence[PriceRow], plan: PlanTerms, rules: tuple[Rule, ...], moment: datetime
) -> Decimal:
    """The plan's price of a row at a moment."""
    rule = best_rule(rules, row.meter, moment)
    standard: dict[str, Decimal] = {}
    if rule is not None and rule.unit_price is not None:
        plain = best_rows([("charge", other) for other in live], "", moment, 0)
        standard = {meter: other.unit_price for (_, meter), other in plain.items()}
    return charge_price(plan, rule, row.meter, row.unit_price, standard)


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
        and other.variant in {"", row.variant}
        and other.above_prompt_tokens <= row.above_prompt_tokens
        and _begins(other, at) <= moment
        and (other.effective_until is None or other.effective_until > moment)
        and other.daily_from in {None, row.daily_from}
    ]
    return max(beside, key=lambda other: other.rank, default=None)


def _ratio(price: Decimal, plain: Decimal) -> Decimal | None:
    """How often the input price is in a price, to 6 digits; None if input is free."""
    return _RATIO.divide(price, plain).normalize() if plain else None
