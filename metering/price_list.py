"""A customer's own price list: list prices × its plan, from the cached table; no query of the price book."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from django.db.models import F

from metering.meters import NAMES, PER_MILLION
from metering.models import CustomerPlan
from metering.plan_terms import PlanTerms, Rule, Standard, best_rule, charge_price
from metering.pricing import PriceRow, PriceTable, in_window, rows_in_force, standard_at

_PLACES = {name: place for place, name in enumerate(NAMES)}
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


Plans = Sequence[tuple[datetime | None, PlanTerms]]


def plans_of(customer_id: int, table: PriceTable, *, at: datetime) -> Plans:
    """A customer's plan now and the announced ones: (from when on, plan) in the order of time, the first always."""
    begun = F("effective_from").asc(nulls_first=True)
    rows = CustomerPlan.objects.filter(customer_id=customer_id).order_by(begun).values_list("effective_from", "plan_id")
    held = [plan_id for begins, plan_id in rows if begins is None or begins <= at]
    ahead = [(begins, table.plan(plan_id)) for begins, plan_id in rows if begins is not None and begins > at]
    return [(None, table.plan(held[-1] if held else None)), *ahead]


def price_list(
    *,
    table: PriceTable,
    plans: Plans,
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
            for price in sorted(_prices_of(table, number, plans, at), key=lambda price: price.key)
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


def _prices_of(table: PriceTable, number: int, plans: Plans, at: datetime) -> Iterator[ListedPrice]:
    """Every price of a model, divided where the plan, or what its rules make of it, changes.

    Rules for one channel only are left out: it is not known yet which channel will serve a call.
    """
    model = table.catalog.models[number]
    terms = [
        (
            begins,
            plan,
            tuple(
                rule
                for rule in plan.rules_for(number, model.public_id, model.maker_channel_id)
                if rule.channel_id is None
            ),
        )
        for begins, plan in plans
    ]
    live = rows_in_force(table.charges[number], at)
    for row in live:
        for start, end in _stretches(row, live, terms, at):
            moment = _inside(row, live, at if start is None else max(at, start))
            _, plan, rules = next(one for one in reversed(terms) if one[0] is None or one[0] <= moment)
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


_Terms = tuple[datetime | None, PlanTerms, tuple[Rule, ...]]


def _stretches(
    row: PriceRow, live: Sequence[PriceRow], terms: Sequence[_Terms], at: datetime
) -> list[tuple[datetime | None, datetime | None]]:
    """The stretches of a row, from the one that holds at `at` or first after it, in which its price stays the same."""
    bounds = {begins for begins, _, _ in terms if begins is not None}
    own = Standard().followed(row.meter)
    ever = Standard(taken_from={other.meter: other.taken_from for other in live if other.taken_from})
    followed = ever.followed(row.meter)
    for rule in (rule for _, _, rules in terms for rule in rules if rule.covers(followed)):
        bounds |= {bound for bound in (rule.effective_from, rule.effective_until) if bound}
        if rule.unit_price is not None:
            bounds |= _bounds_of(live, rule.meter)
        if rule.meter and rule.meter not in own:  # It covers the meter while the list has no price of its own.
            bounds = bounds.union(*(_bounds_of(live, meter) for meter in own))
    begins, ends = row.effective_from, row.effective_until
    past = [bound for bound in bounds if bound <= at and (begins is None or bound > begins)]
    first = max(past) if past else begins
    inside = sorted(bound for bound in bounds if bound > _begins(row, at) and (ends is None or bound < ends))
    return list(zip([first, *inside], [*inside, ends], strict=True))


def _bounds_of(live: Sequence[PriceRow], meter: str) -> set[datetime]:
    """When the standard price of a meter changes: what is in proportion to it changes too."""
    standard = [row for row in live if row.meter == meter and not row.variant]
    return {bound for row in standard for bound in (row.effective_from, row.effective_until) if bound}


def _inside(row: PriceRow, live: Sequence[PriceRow], moment: datetime) -> datetime:
    """A moment of the same stretch at a time of the day at which the row holds."""
    if row.daily_from is not None:
        return _next(moment, row.daily_from)
    times = [end for other in live for end in (other.daily_until,) if end is not None]
    free = [end for end in times if not any(_is_in(end, other) for other in live)]
    if not free or not any(_is_in(moment.time(), other) for other in live):
        return moment
    return _next(moment, free[0])


def _is_in(now: time, row: PriceRow) -> bool:
    return row.daily_from is not None and in_window(now, row.daily_from, row.daily_until or time.min)


def _next(moment: datetime, at: time) -> datetime:
    """The next moment that has this time of the day (UTC)."""
    found = datetime.combine(moment.date(), at, UTC)
    return found if found >= moment else found + timedelta(days=1)


def _key(public_id: str, row: PriceRow, start: datetime | None) -> PriceKey:
    begins = "" if start is None else start.isoformat()
    window = "" if row.daily_from is None else row.daily_from.isoformat()
    return PriceKey(public_id, row.variant, _PLACES[row.meter], row.above_prompt_tokens, begins, window, row.id)


def _own(
    row: PriceRow, live: Sequence[PriceRow], plan: PlanTerms, rules: tuple[Rule, ...], moment: datetime
) -> Decimal:
    """The plan's price of a row at a moment."""
    standard = standard_at(live, moment) if rules else Standard()
    rule = best_rule(rules, row.meter, moment, standard)
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
