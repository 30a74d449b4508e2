"""Effective price rows → frozen rate cards, cached per process and made anew when the price book's version differs."""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from django.db.models import F

from metering.catalog import Catalog
from metering.meters import PER_MILLION, TAKEN_OVER
from metering.models import Plan, PlanPolicy, PlanRule, Price, UpstreamAccount, UpstreamTerms
from metering.plan_terms import KNOWN, PlanTerms, Policy, Rule, Standard, best_rule, charge_price, is_charged
from metering.rating import REQUEST, MeterPrice, RateCard, Unrateable
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, to_unit_price

LIST_PLAN = "list"


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A price as the book has it; None bounds are open, the variant "" is the standard.

    `taken_from` names the meter that it was taken over from, if the book had none of the meter's own.
    """

    id: int
    variant: str
    meter: str
    above_prompt_tokens: int
    unit_price: Decimal
    per: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None
    taken_from: str = ""

    def holds(self, at: datetime, prompt_tokens: int) -> bool:
        if self.effective_from is not None and at < self.effective_from:
            return False
        if self.effective_until is not None and at >= self.effective_until:
            return False
        if self.above_prompt_tokens and prompt_tokens <= self.above_prompt_tokens:
            return False
        return self.daily_from is None or in_window(at.time(), self.daily_from, self.daily_until or time.min)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Of several rows that hold, the variant's own wins, then a window of the day, then the highest tier."""
        return (bool(self.variant), self.daily_from is not None, self.above_prompt_tokens)


def in_window(now: time, start: time, end: time) -> bool:
    return start <= now < end if start < end else now >= start or now < end


@dataclass(frozen=True, slots=True)
class Account:
    """An upstream account: where it is, and (from when on, multiplier of the channel's prices) in order."""

    id: int
    name: str
    channel_id: int
    terms: tuple[tuple[datetime | None, Decimal], ...]

    def multiplier(self, at: datetime) -> Decimal:
        held = [multiplier for begins, multiplier in self.terms if begins is None or begins <= at]
        return held[-1] if held else Decimal(1)


class Asked(NamedTuple):
    """What of a request chooses its prices, beside its moment and the size of its prompt.

    `charged` is what of it the plan charges: known, input or nothing; `status` says why it is not all.
    """

    model_id: int
    channel_id: int
    variant: str = ""
    in_us: bool = False
    account_id: int | None = None
    charged: str = KNOWN
    status: str = "completed"


# Model, channel, upstream account, service tier, speed and place as an event names them.
Words = tuple[str, str | None, str | None, str, str, str]
_MAX_WORDS = 10_000


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the prices of a model on a channel under a plan change: between these marks one card holds."""

    rows: tuple[tuple[str, PriceRow], ...]
    rules: tuple[Rule, ...]
    moments: tuple[datetime, ...]
    tiers: tuple[int, ...]
    times: tuple[time, ...]


_GridKey = tuple[int, int, str, int, int | None]


@dataclass(frozen=True)
class PriceTable:
    """All prices of one version of the book; immutable but for its caches."""

    version: int
    catalog: Catalog
    plans: dict[int, PlanTerms]
    list_plan: PlanTerms
    costs: dict[tuple[int, int], tuple[PriceRow, ...]]
    charges: dict[int, tuple[PriceRow, ...]]
    accounts: dict[int, Account] = field(default_factory=dict)
    # What events asked for, by the words in which they did.
    asked: dict[Words, Asked] = field(default_factory=dict, repr=False)
    _grids: dict[_GridKey, _Grid] = field(default_factory=dict, repr=False)
    _cards: dict[tuple[object, ...], RateCard] = field(default_factory=dict, repr=False)
    # Of models whose prices change neither with time nor with the prompt's size.
    _only_cards: dict[tuple[int, Asked], RateCard] = field(default_factory=dict, repr=False)
    _accounts_by_name: dict[str, Account] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_accounts_by_name", {account.name: account for account in self.accounts.values()})

    def plan(self, plan_id: int | None) -> PlanTerms:
        """A customer's plan; None is `list`."""
        return self.list_plan if plan_id is None else self.plans[plan_id]

    def remember(self, words: Words, asked: Asked) -> None:
        """Keep what an event asked for with these words; they mean the same as long as the version does."""
        if len(self.asked) >= _MAX_WORDS:
            self.asked.clear()
        self.asked[words] = asked

    def account(self, name: str) -> Account | None:
        """An upstream account by the name that relays report."""
        return self._accounts_by_name.get(name)

    def card(self, asked: Asked, *, plan: PlanTerms, at: datetime, prompt_tokens: int) -> RateCard:
        """The prices that hold for one request. Raises Unrateable (`no_price`)."""
        line = (plan.id, asked)
        card = self._only_cards.get(line)
        if card is not None:
            return card
        grid_key = (asked.model_id, asked.channel_id, asked.variant, plan.id, asked.account_id)
        grid = self._grids.get(grid_key)
        if grid is None:
            grid = self._grids[grid_key] = self._make_grid(asked, plan)
        key = (
            line,
            bisect_right(grid.moments, at),
            bisect_left(grid.tiers, prompt_tokens),
            bisect_right(grid.times, at.time()) if grid.times else 0,
        )
        card = self._cards.get(key)
        if card is None:
            card = self._make_card(grid, asked, plan, at, prompt_tokens)
            self._cards[key] = card
        if not (grid.moments or grid.tiers or grid.times):
            self._only_cards[line] = card
        return card

    def _make_grid(self, asked: Asked, plan: PlanTerms) -> _Grid:
        costs = self.costs.get((asked.model_id, asked.channel_id))
        charges = self.charges.get(asked.model_id)
        if not costs or not charges:
            raise Unrateable("no_price", f"{self._names(asked)} has no price")
        # Rows of other variants neither hold nor mark where anything changes.
        costs, charges = (tuple(row for row in rows if row.variant in {"", asked.variant}) for rows in (costs, charges))
        rows = costs + charges
        rules = plan.rules_for(asked.model_id, self.catalog.models[asked.model_id].public_id, asked.channel_id)
        bounds = [(row.effective_from, row.effective_until) for row in rows]
        bounds += [(rule.effective_from, rule.effective_until) for rule in rules]
        if asked.account_id is not None:
            bounds += [(begins, None) for begins, _ in self.accounts[asked.account_id].terms]
        times = {bound for row in rows for bound in (row.daily_from, row.daily_until) if bound is not None}
        return _Grid(
            rows=tuple(("cost", row) for row in costs) + tuple(("charge", row) for row in charges),
            rules=rules,
            moments=tuple(sorted({bound for pair in bounds for bound in pair if bound is not None})),
            tiers=tuple(sorted({row.above_prompt_tokens for row in rows} - {0})),
            times=tuple(sorted(times)),
        )

    def _names(self, asked: Asked) -> str:
        return f"{self.catalog.models[asked.model_id].public_id} on {self.catalog.channel_names[asked.channel_id]}"

    def _make_card(self, grid: _Grid, asked: Asked, plan: PlanTerms, at: datetime, prompt_tokens: int) -> RateCard:
        best = best_rows(grid.rows, asked.variant, at, prompt_tokens)
        self._check_variant(best, asked)
        listed_rows = (row for kind, row in grid.rows if kind == "charge")
        standard = standard_at(listed_rows, at) if grid.rules else Standard()
        geo = Decimal(self.catalog.models[asked.model_id].us_multiplier) if asked.in_us else Decimal(1)
        contract = Decimal(1) if asked.account_id is None else self.accounts[asked.account_id].multiplier(at)
        meters, rules = {}, {}
        for meter in sorted({meter for _, meter in best}):
            cost, listed = best.get(("cost", meter)), best.get(("charge", meter))
            row = cost or listed
            if row is None or (meter != REQUEST and (cost is None or listed is None)):
                continue  # The fee for a request may be one side's alone: nobody reports it, so nothing would park.
            factor = geo if row.per == PER_MILLION else Decimal(1)
            rule = best_rule(grid.rules, meter, at, standard)
            charge = ZERO
            if listed is not None and is_charged(meter, asked.charged):
                charge = charge_price(plan, rule, meter, listed.unit_price, standard, factor=factor)
            paid = ZERO if cost is None else EXACT.multiply(EXACT.multiply(cost.unit_price, factor), contract)
            meters[meter] = MeterPrice(
                charge=to_unit_price(charge),
                cost=to_unit_price(paid),
                per=row.per,
                charge_price_id=None if listed is None else listed.id,
                cost_price_id=None if cost is None else cost.id,
            )
            rules[meter] = None if rule is None else rule.id
        content = self._content(asked, plan, meters, rules, geo, contract)
        if sizes := _sizes(grid, asked.variant, at, prompt_tokens, best):
            content["prompt"] = sizes
        digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).digest()
        return RateCard(meters=meters, digest=digest, content=content)

    def _check_variant(self, best: Mapping[tuple[str, str], PriceRow], asked: Asked) -> None:
        """A variant without a row of its own, on the channel or on the list, does not fall back to the standard."""
        of_its_own = {kind for (kind, _), row in best.items() if row.variant}
        if asked.variant and "cost" not in of_its_own:
            raise Unrateable("no_price", f"{self._names(asked)} has no {asked.variant} price")
        if asked.variant and "charge" not in of_its_own:
            raise Unrateable("no_price", f"{self._names(asked)} has no {asked.variant} price on its maker's list")

    def _content(
        self,
        asked: Asked,
        plan: PlanTerms,
        meters: Mapping[str, MeterPrice],
        rules: Mapping[str, int | None],
        geo: Decimal,
        contract: Decimal,
    ) -> dict[str, object]:
        """What is kept of a card: enough to explain every amount by it."""
        content: dict[str, object] = {
            "model": self.catalog.models[asked.model_id].public_id,
            "channel": self.catalog.channel_names[asked.channel_id],
            "plan": plan.name,
            "meters": {
                meter: {
                    "charge": format(price.charge, "f"),
                    "cost": format(price.cost, "f"),
                    "per": price.per,
                    "charge_price": price.charge_price_id,
                    "cost_price": price.cost_price_id,
                    "rule": rules[meter],
                }
                for meter, price in meters.items()
            },
        }
        if asked.variant:
            content["variant"] = asked.variant
        if asked.in_us:
            content["place"] = "us"
        if geo != 1:
            content["geo"] = format(geo.normalize(), "f")
        if asked.account_id is not None:
            content["account"] = self.accounts[asked.account_id].name
            content["contract"] = format(contract.normalize(), "f")
        if asked.charged != KNOWN:
            content["waived"] = {"status": asked.status, "charged": asked.charged}
        return content


def best_rows(
    rows: Iterable[tuple[str, PriceRow]], variant: str, at: datetime, prompt_tokens: int
) -> dict[tuple[str, str], PriceRow]:
    """By (kind, meter) the row that holds; a variant's own before the standard, which holds where it has none."""
    best: dict[tuple[str, str], PriceRow] = {}
    for kind, row in rows:
        if row.variant in {"", variant} and row.holds(at, prompt_tokens):
            held = best.get((kind, row.meter))
            if held is None or row.rank > held.rank:
                best[kind, row.meter] = row
    return best


def standard_at(listed: Iterable[PriceRow], at: datetime) -> Standard:
    """Of a model's rows on the list, what a standard request with a short prompt pays at a moment."""
    best = best_rows((("charge", row) for row in listed), "", at, 0)
    return Standard(
        {meter: row.unit_price for (_, meter), row in best.items()},
        {meter: row.taken_from for (_, meter), row in best.items() if row.taken_from},
    )


def _sizes(
    grid: _Grid, variant: str, at: datetime, prompt_tokens: int, best: Mapping[tuple[str, str], PriceRow]
) -> dict[str, int]:
    """Between which prompt sizes these best rows hold: {"above", "up_to"}, each only if others hold beyond it."""

    def differs(size: int) -> bool:
        return best_rows(grid.rows, variant, at, size) != best

    below = [tier for tier in grid.tiers if tier < prompt_tokens and differs(tier)]
    beyond = [tier for tier in grid.tiers if tier >= prompt_tokens and differs(tier + 1)]
    return ({"above": below[-1]} if below else {}) | ({"up_to": beyond[0]} if beyond else {})


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
        "variant",
        "meter",
        "above_prompt_tokens",
        "unit_price",
        "per",
        "effective_from",
        "effective_until",
        "daily_from",
        "daily_until",
        "derived",
    )
    for kind, channel_id, model_id, *rest, derived in rows.iterator(chunk_size=5_000):
        columns: tuple[Any, ...] = (*rest, TAKEN_OVER.get(derived, ""))
        row = PriceRow(*columns)
        if kind == Price.Kind.CHARGE:
            charges.setdefault(model_id, []).append(row)
        else:
            assert channel_id is not None
            costs.setdefault((model_id, channel_id), []).append(row)
    plans = _plans()
    return PriceTable(
        version=version,
        catalog=Catalog.load(),
        plans=plans,
        list_plan=next(plan for plan in plans.values() if plan.name == LIST_PLAN),
        costs={key: tuple(value) for key, value in costs.items()},
        charges={key: tuple(value) for key, value in charges.items()},
        accounts=_accounts(),
    )


def _plans() -> dict[int, PlanTerms]:
    rules: dict[int, list[Rule]] = {}
    columns = tuple(Rule.__dataclass_fields__)
    for plan_id, *rule in PlanRule.objects.order_by("id").values_list("plan_id", *columns):
        rules.setdefault(plan_id, []).append(Rule(*rule))
    policies: dict[int, list[Policy]] = {}
    begun = F("effective_from").asc(nulls_first=True)
    for row in PlanPolicy.objects.order_by(begun):
        policies.setdefault(row.plan_id, []).append(Policy(row.effective_from, row.aborted, row.failed))
    return {
        number: PlanTerms(number, name, multiplier, tuple(rules.get(number, ())), tuple(policies.get(number, ())))
        for number, name, multiplier in Plan.objects.values_list("id", "name", "multiplier")
    }


def _accounts() -> dict[int, Account]:
    terms: dict[int, list[tuple[datetime | None, Decimal]]] = {}
    begun = F("effective_from").asc(nulls_first=True)
    for number, begins, multiplier in UpstreamTerms.objects.order_by(begun).values_list(
        "account_id", "effective_from", "multiplier"
    ):
        terms.setdefault(number, []).append((begins, multiplier))
    return {
        number: Account(number, name, channel_id, tuple(terms.get(number, ())))
        for number, name, channel_id in UpstreamAccount.objects.values_list("id", "name", "channel_id")
    }


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
