"""Effective price rows → frozen rate cards, cached per process and made anew when the price book's version differs."""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import Any, cast

import msgspec

from metering.catalog import Catalog
from metering.meters import PER_MILLION
from metering.models import Plan, Price
from metering.rating import MeterPrice, RateCard, Unrateable
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, to_unit_price

LIST_PLAN = "list"


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A price as the book has it; None bounds are open."""

    id: int
    meter: str
    above_prompt_tokens: int
    unit_price: Decimal
    per: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None

    def holds(self, at: datetime, prompt_tokens: int) -> bool:
        if self.effective_from is not None and at < self.effective_from:
            return False
        if self.effective_until is not None and at >= self.effective_until:
            return False
        if self.above_prompt_tokens and prompt_tokens <= self.above_prompt_tokens:
            return False
        return self.daily_from is None or _in_window(at.time(), self.daily_from, self.daily_until or time.min)

    @property
    def rank(self) -> tuple[bool, int]:
        """Of several rows that hold, a window of the day wins, then the highest tier."""
        return (self.daily_from is not None, self.above_prompt_tokens)


def _in_window(now: time, start: time, end: time) -> bool:
    return start <= now < end if start < end else now >= start or now < end


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan makes of a list price."""

    id: int
    name: str
    multiplier: Decimal


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where a model's prices on a channel change: between these marks one card holds."""

    rows: tuple[tuple[str, PriceRow], ...]
    moments: tuple[datetime, ...]
    tiers: tuple[int, ...]
    times: tuple[time, ...]


@dataclass(frozen=True)
class PriceTable:
    """All prices of one version of the book; immutable but for its cache of cards."""

    version: int
    catalog: Catalog
    plans: dict[int, PlanTerms]
    list_plan: PlanTerms
    costs: dict[tuple[int, int], tuple[PriceRow, ...]]
    charges: dict[int, tuple[PriceRow, ...]]
    _grids: dict[tuple[int, int], _Grid] = field(default_factory=dict, repr=False)
    _cards: dict[tuple[object, ...], RateCard] = field(default_factory=dict, repr=False)
    # Of models whose prices change neither with time nor with the prompt's size.
    _only_cards: dict[tuple[int, int, int, bool], RateCard] = field(default_factory=dict, repr=False)

    def plan(self, plan_id: int | None) -> PlanTerms:
        """A customer's plan; None is `list`."""
        return self.list_plan if plan_id is None else self.plans[plan_id]

    def card(
        self, *, model_id: int, channel_id: int, plan: PlanTerms, at: datetime, prompt_tokens: int, in_us: bool = False
    ) -> RateCard:
        """The prices that hold for one request. Raises Unrateable (`no_price`)."""
        line = (model_id, channel_id, plan.id, in_us)
        card = self._only_cards.get(line)
        if card is not None:
            return card
        grid = self._grids.get((model_id, channel_id))
        if grid is None:
            grid = self._grids[model_id, channel_id] = self._make_grid(model_id, channel_id)
        key = (
            line,
            bisect_right(grid.moments, at),
            bisect_left(grid.tiers, prompt_tokens),
            bisect_right(grid.times, at.time()) if grid.times else 0,
        )
        card = self._cards.get(key)
        if card is None:
            card = self._make_card(grid, model_id, channel_id, plan, at, prompt_tokens, in_us)
            self._cards[key] = card
        if not (grid.moments or grid.tiers or grid.times):
            self._only_cards[line] = card
        return card

    def _make_grid(self, model_id: int, channel_id: int) -> _Grid:
        costs = self.costs.get((model_id, channel_id))
        charges = self.charges.get(model_id)
        if not costs or not charges:
            raise Unrateable(
                "no_price",
                f"{self.catalog.models[model_id].public_id} has no price on {self.catalog.channel_names[channel_id]}",
            )
        rows = costs + charges
        moments = {bound for row in rows for bound in (row.effective_from, row.effective_until) if bound is not None}
        times = {bound for row in rows for bound in (row.daily_from, row.daily_until) if bound is not None}
        return _Grid(
            rows=tuple(("cost", row) for row in costs) + tuple(("charge", row) for row in charges),
            moments=tuple(sorted(moments)),
            tiers=tuple(sorted({row.above_prompt_tokens for row in rows} - {0})),
            times=tuple(sorted(times)),
        )

    def _make_card(
        self,
        grid: _Grid,
        model_id: int,
        channel_id: int,
        plan: PlanTerms,
        at: datetime,
        prompt_tokens: int,
        in_us: bool,
    ) -> RateCard:
        best: dict[tuple[str, str], PriceRow] = {}
        for kind, row in grid.rows:
            if row.holds(at, prompt_tokens):
                held = best.get((kind, row.meter))
                if held is None or row.rank > held.rank:
                    best[kind, row.meter] = row
        model = self.catalog.models[model_id]
        geo = Decimal(model.us_multiplier) if in_us else Decimal(1)
        meters = {}
        for (kind, meter), cost in sorted(best.items()):
            charge = best.get(("charge", meter))
            if kind != "cost" or charge is None:
                continue
            factor = geo if cost.per == PER_MILLION else Decimal(1)
            meters[meter] = MeterPrice(
                charge=to_unit_price(EXACT.multiply(EXACT.multiply(charge.unit_price, plan.multiplier), factor)),
                cost=to_unit_price(EXACT.multiply(cost.unit_price, factor)),
                per=cost.per,
                charge_price_id=charge.id,
                cost_price_id=cost.id,
            )
        content = {
            "model": model.public_id,
            "channel": self.catalog.channel_names[channel_id],
            "plan": plan.name,
            "meters": {
                meter: {
                    "charge": format(price.charge, "f"),
                    "cost": format(price.cost, "f"),
                    "per": price.per,
                    "charge_price": price.charge_price_id,
                    "cost_price": price.cost_price_id,
                }
                for meter, price in meters.items()
            },
        }
        digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()
        return RateCard(meters=meters, digest=digest, content=content)


_cached: PriceTable | None = None


def current() -> PriceTable:
    """The table of the book's present version, judged by its row in the caller's transaction."""
    with server_cursor() as cursor:
        cursor.execute("SELECT version FROM metering_pricebookversion WHERE id = 1", binary=True)
        (version,) = cursor.fetchone() or (-1,)
    return at_version(version)


def at_version(version: int) -> PriceTable:
    """The table of a version that the caller has just read."""
    global _cached
    table = _cached
    if table is None or table.version != version:
        table = _cached = load(version)
    return table


def is_cached(version: int) -> bool:
    """Whether this process has the table of a version at hand."""
    return _cached is not None and _cached.version == version


def load(version: int) -> PriceTable:
    """Read the whole book."""
    costs: dict[tuple[int, int], list[PriceRow]] = {}
    charges: dict[int, list[PriceRow]] = {}
    rows = Price.objects.values_list(
        "kind",
        "channel_id",
        "model_id",
        "id",
        "meter",
        "above_prompt_tokens",
        "unit_price",
        "per",
        "effective_from",
        "effective_until",
        "daily_from",
        "daily_until",
    )
    for kind, channel_id, model_id, *rest in rows.iterator(chunk_size=5_000):
        row = PriceRow(*cast("tuple[Any, ...]", rest))
        if kind == Price.Kind.CHARGE:
            charges.setdefault(model_id, []).append(row)
        else:
            assert channel_id is not None
            costs.setdefault((model_id, channel_id), []).append(row)
    plans = {plan.pk: PlanTerms(plan.pk, plan.name, plan.multiplier) for plan in Plan.objects.all()}
    return PriceTable(
        version=version,
        catalog=Catalog.load(),
        plans=plans,
        list_plan=next(plan for plan in plans.values() if plan.name == LIST_PLAN),
        costs={key: tuple(value) for key, value in costs.items()},
        charges={key: tuple(value) for key, value in charges.items()},
    )


def bump_version() -> None:
    """Tell every process that prices, plans or the catalog changed; in the transaction that changes them."""
    with server_cursor() as cursor:
        cursor.execute("UPDATE metering_pricebookversion SET version = version + 1, changed_at = now() WHERE id = 1")


def rows_in_force(rows: Iterable[PriceRow], at: datetime) -> list[PriceRow]:
    """The rows that hold at a moment or later, for price lists."""
    return [row for row in rows if row.effective_until is None or row.effective_until > at]


def forget() -> None:
    """Drop the cached table; for tests that roll back."""
    global _cached
    _cached = None
