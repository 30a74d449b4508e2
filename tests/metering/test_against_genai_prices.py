"""Our rating against genai-prices' own calculator: random usages of every imported model on every channel, at cost.

Both get the same request: the same model, moment, kind of request, and the same tokens, counted our way (disjoint) and
theirs (nested). The amounts must be equal to the last decimal. Where the book differs on purpose, `KNOWN` says so and
why; such a meter's unit price is then checked against the figure that the explanation gives, and every explanation
must be needed by some case, or it has to go.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import Usage as TheirUsage

from metering import pricing
from metering.formats.base import Usage
from metering.meters import BY_NAME, NAMES, PER_MILLION, PROMPT_METERS
from metering.price_sources.book import Book, build_book
from metering.price_sources.channels import BY_NAME as CHANNELS
from metering.price_sources.genai import read_providers
from metering.price_sources.rows import UNIT_METERS
from metering.pricing import Asked, PriceTable
from metering.rating import RateCard, Unrateable, rate
from relayadmin.money import EXACT, POWERS, to_unit_price

KNOWN = {
    "half a batch": "Batches of Claude, and of OpenAI's models before genai-prices had batch prices, cost half the"
    " standard price of every token; genai-prices takes the standard price.",
    "amended": "Two prices of genai-prices are wrong or too late (price_sources/amendments.py).",
    "claude's caches": "Where genai-prices has no cache price of a Claude model, it takes the plain write price or the"
    " input price; the book follows Anthropic's multiples of the input price.",
    "lifetimes claude lacks": "Claude has no cache writes of 30 minutes and 12 hours. The book has the input price, for"
    " completeness; genai-prices takes the plain write price.",
    "tiers in proportion": "Where the standard price is another for long prompts, a flat batch or flex price is in"
    " proportion to it, as OpenAI's model pages say; genai-prices takes the flat price.",
    "nine decimals": "A unit price has at most 9 decimals in the book; a few of genai-prices' quotients have more.",
    "parked: no such kind": "A kind of request (batch, flex, priority, fast) that has no price of its own is parked;"
    " genai-prices takes the standard price.",
    "parked: the maker's price": "Where a cloud's prices are its maker's, the maker's batch, flex, priority and fast"
    " prices do not hold; genai-prices takes the standard price.",
    "parked: not on the list": "A host sells a model in batches whose maker's list has no batch price: what customers"
    " pay for it is not known; genai-prices knows of no list.",
    "parked: no such meter": "Tokens of a kind without a price of its own, cache reads and writes aside, are parked;"
    " genai-prices counts them as plain ones, or as free.",
    "other kinds": "genai-prices has prices for requests by search type and by route, which no usage object reports;"
    " the book has the standard price.",
    "units without a meter": "Audio by the hour has a price in genai-prices and no meter here.",
}

CONTEXTS = {
    "": {},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
KINDS = [kind for kind in CONTEXTS if kind]
HALVED = {"anthropic", "bedrock", "bedrock-regional", "vertex"}
CLAUDE = re.compile(r"(^|/)claude-")
CACHE_WRITES = ("cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h")
MULTIPLES = {"cache_read": Decimal("0.1"), "cache_write_5m": Decimal("1.25"), "cache_write_1h": Decimal(2)}
UNITS = {meter: unit for unit, meter in UNIT_METERS.items()}
# Which of their prices a meter's tokens are counted under: the first that the model has.
CHAINS = {
    **{meter: (unit,) for meter, unit in UNITS.items()},
    **dict.fromkeys(CACHE_WRITES, ("cache_write_mtok", "input_mtok")),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    "cache_read": ("cache_read_mtok", "input_mtok"),
    "image_input": ("input_image_mtok", "input_mtok"),
    "video_input": ("input_video_mtok", "input_mtok"),
    "audio_input": ("input_audio_mtok", "input_mtok"),
    "image_cache_read": ("cache_image_read_mtok", "cache_read_mtok", "input_mtok"),
    "audio_cache_read": ("cache_audio_read_mtok", "cache_read_mtok", "input_mtok"),
}
# By channel and id in the source: until when, and what the prices are instead.
AMENDED: dict[tuple[str, str], tuple[date, dict[str, str]]] = {
    ("anthropic", "claude-sonnet-5-5"): (date(2026, 10, 7), {"cache_read": "0.2"}),
    ("vertex", "claude-3-5-haiku"): (
        date.max,
        {
            "input": "1",
            "output": "5",
            "cache_read": "0.1",
            "cache_write_5m": "1.25",
            "cache_write_1h": "2",
            "cache_write_30m": "1",
            "cache_write_12h": "1",
        },
    ),
}
SEED = 20261122
STANDARD_CASES = 6
VARIANT_CASES = 4
pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Pair:
    """One model on one channel, here and there. `is_makers`: the channel has no price of its own for it."""

    channel: str
    public_id: str
    asked: Asked
    source_id: str
    info: Any
    provider: Any
    is_makers: bool
    variants: frozenset[str]
    moments: tuple[datetime, ...]
    sizes: tuple[int, ...]

    def asking(self, variant: str) -> Asked:
        return self.asked._replace(variant=variant)

    def has_price_of(self, variant: str, at: datetime) -> bool:
        """Whether genai-prices has prices of this kind of request at that moment, on this channel."""
        return not self.is_makers and any(
            vars(option.prices)
            and option.when.items() <= CONTEXTS[variant].items()
            and (option.constraint is None or option.constraint.active(at))
            for option in self.info.price_variants or ()
        )

    def halves(self, variant: str, at: datetime) -> bool:
        if variant != "batch" or self.has_price_of("batch", at):
            return False
        if CLAUDE.search(self.public_id):
            return self.channel in HALVED
        return self.channel == "openai" and any(
            option.when == CONTEXTS["batch"] for option in self.info.price_variants or ()
        )


@pytest.fixture(scope="module")
def book() -> Book:
    return build_book(read_providers())


def pairs(book: Book, table: PriceTable) -> Iterator[Pair]:
    providers = {provider.id: provider for provider in get_snapshot().providers}
    infos = {(provider.id, info.id): info for provider in providers.values() for info in provider.models}
    for (channel, public_id), rows in book.costs.items():
        origin = book.origins[channel, public_id]
        days = {day for row in rows for day in (row.effective_from, row.effective_until) if day}
        times = {time for row in rows for time in (row.daily_from, row.daily_until) if time}
        model_id = table.catalog.resolve(public_id)
        assert model_id is not None
        yield Pair(
            channel=channel,
            public_id=public_id,
            asked=Asked(model_id, table.catalog.channels[channel]),
            source_id=origin[1],
            info=infos[origin],
            provider=providers[CHANNELS[channel].provider],
            is_makers=origin[0] != CHANNELS[channel].provider,
            variants=frozenset(row.variant for row in rows if row.variant),
            moments=tuple(
                sorted(
                    {datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days}
                    | {datetime.combine(date(2026, 11, 2), time, UTC) for time in times}
                )
            ),
            sizes=tuple(sorted({row.above_prompt_tokens for row in rows} - {0})),
        )


@dataclass(frozen=True)
class Case:
    """One request: `quantities` are ours, by meter."""

    pair: Pair
    variant: str
    at: datetime
    quantities: Mapping[str, int]

    @property
    def prompt_tokens(self) -> int:
        return sum(count for meter, count in self.quantities.items() if meter in PROMPT_METERS)

    def card(self, table: PriceTable, variant: str | None = None) -> RateCard:
        asked = self.pair.asking(self.variant if variant is None else variant)
        return table.card(asked, plan=table.list_plan, at=self.at, prompt_tokens=self.prompt_tokens)

    @property
    def context(self) -> dict[str, str]:
        return CONTEXTS[self.variant]

    @property
    def their_prices(self) -> Mapping[str, Any]:
        """Unit → price that genai-prices takes for such a request."""
        return vars(self.pair.info.get_prices(self.at, {} if self.pair.is_makers else self.context))

    def _their_value(self, meter: str) -> Any:
        prices = self.their_prices
        return next((prices[unit] for unit in CHAINS[meter] if prices.get(unit) is not None), Decimal(0))

    def their_prices_have_tiers(self, meter: str) -> bool:
        return hasattr(self._their_value(meter), "tiers")

    def their_price(self, meter: str) -> Decimal:
        """The unit price that genai-prices counts a meter's tokens under; 0 if it has none."""
        value = self._their_value(meter)
        reached = [tier.price for tier in getattr(value, "tiers", ()) if self.prompt_tokens > tier.start]
        return reached[-1] if reached else getattr(value, "base", value)

    def their_amount(self) -> Decimal:
        found = self.pair.info.calc_price(
            nested(self.quantities), self.pair.provider, genai_request_timestamp=self.at, price_context=self.context
        )
        return found.total_price


def nested(quantities: Mapping[str, int]) -> TheirUsage:
    """The same usage as genai-prices counts: totals that include their parts."""

    def count(*meters: str) -> int:
        return sum(quantities.get(meter, 0) for meter in meters)

    return TheirUsage(
        input_tokens=count(*PROMPT_METERS),
        cache_read_tokens=count("cache_read", "audio_cache_read", "image_cache_read"),
        cache_write_tokens=count(*CACHE_WRITES),
        cache_write_1h_tokens=count("cache_write_1h"),
        input_audio_tokens=count("audio_input", "audio_cache_read"),
        cache_audio_read_tokens=count("audio_cache_read"),
        input_image_tokens=count("image_input", "image_cache_read"),
        cache_image_read_tokens=count("image_cache_read"),
        input_video_tokens=count("video_input"),
        output_tokens=count("output", "audio_output", "image_output", "video_output"),
        output_audio_tokens=count("audio_output"),
        output_image_tokens=count("image_output"),
        output_video_tokens=count("video_output"),
        web_searches=count("web_search"),
        storage_searches=count("file_search"),
    )


def instead(case: Case, meter: str, table: PriceTable) -> tuple[str, Decimal] | None:
    """Where the book differs on purpose: the name in `KNOWN`, and the unit price that the explanation gives."""
    if case.pair.halves(case.variant, case.at) and BY_NAME[meter].per == PER_MILLION:
        standard = case.card(table, "").meters[meter].cost
        return "half a batch", to_unit_price(standard / 2)
    until, prices = AMENDED.get((case.pair.channel, case.pair.source_id), (date.min, {}))
    if meter in prices and case.at.date() < until:
        return "amended", Decimal(prices[meter])
    if CLAUDE.search(case.pair.public_id) and (meter in CACHE_WRITES or meter == "cache_read"):
        own = {"cache_write_5m": "cache_write_mtok"}.get(meter) or UNITS.get(meter)
        if own is None:
            return "lifetimes claude lacks", case.their_price("input")
        if case.their_prices.get(own) is None:
            return "claude's caches", to_unit_price(MULTIPLES[meter] * case.their_price("input"))
    share = in_proportion(case, meter)
    if share is not None:
        return "tiers in proportion", share
    if case.their_price(meter) != to_unit_price(case.their_price(meter)):
        return "nine decimals", to_unit_price(case.their_price(meter))
    return None


def in_proportion(case: Case, meter: str) -> Decimal | None:
    """What a flat price of a batch or flex request comes to in the standard's tier for long prompts, if it has one."""
    if case.variant not in {"batch", "flex"} or not case.pair.has_price_of(case.variant, case.at):
        return None
    flat, standard = case.their_price(meter), replace(case, variant="")
    short = replace(standard, quantities={meter: 1})
    if case.their_prices_have_tiers(meter) or not standard.their_prices_have_tiers(meter):
        return None
    long_price, base = standard.their_price(meter), short.their_price(meter)
    return None if long_price == base else to_unit_price(EXACT.multiply(flat, long_price) / base)


# --- the cases


def draw_moment(chance: random.Random, pair: Pair) -> datetime:
    if pair.moments and chance.random() < 0.7:
        return chance.choice(pair.moments) + timedelta(microseconds=chance.choice((-1, 0, 1, 3_600_000_000)))
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return start + timedelta(seconds=chance.randrange(4 * 365 * 86_400), microseconds=chance.randrange(1_000_000))


def draw_prompt(chance: random.Random, pair: Pair) -> int:
    if pair.sizes and chance.random() < 0.7:
        return max(chance.choice(pair.sizes) + chance.choice((-1, 0, 1, 1, 2, 50_000)), 0)
    return chance.choice((0, 1, chance.randrange(5_000), chance.randrange(2_000_000)))


def draw_quantities(chance: random.Random, pair: Pair, meters: list[str]) -> dict[str, int]:
    """A prompt of a chosen size, cut at random between some of the prompt meters, and some of the others."""
    prompt = [meter for meter in meters if meter in PROMPT_METERS]
    found: dict[str, int] = {}
    if prompt:
        used = chance.sample(prompt, chance.randint(1, len(prompt)))
        left = draw_prompt(chance, pair)
        for meter in used[:-1]:
            found[meter] = chance.randint(0, left)
            left -= found[meter]
        found[used[-1]] = left
    for meter in meters:
        if meter not in PROMPT_METERS and meter != "request" and chance.random() < 0.6:
            found[meter] = chance.randrange(1, 200 if BY_NAME[meter].per != PER_MILLION else 100_000)
    if "request" in meters:  # theirs are requests whether or not anybody counts them
        found["request"] = 1
    return {meter: count for meter, count in found.items() if count}


def draw(chance: random.Random, pair: Pair, variant: str, table: PriceTable) -> Case:
    at = draw_moment(chance, pair)
    meters = sorted(table.card(pair.asked, plan=table.list_plan, at=at, prompt_tokens=0).meters, key=NAMES.index)
    return Case(pair, variant, at, draw_quantities(chance, pair, meters))


def all_cases(book: Book, table: PriceTable) -> Iterator[Case]:
    chance = random.Random(SEED)
    for pair in pairs(book, table):
        for _ in range(STANDARD_CASES):
            yield draw(chance, pair, "", table)
        for variant in KINDS if pair.variants else [chance.choice(KINDS)]:
            for _ in range(VARIANT_CASES if variant in pair.variants else 1):
                yield draw(chance, pair, variant, table)


# --- the comparison


def is_listed(case: Case, table: PriceTable) -> bool:
    """Whether the maker's list has prices of this kind of request."""
    rows = table.charges[case.pair.asked.model_id]
    return any(row.variant == case.variant and row.holds(case.at, case.prompt_tokens) for row in rows)


def compare(case: Case, table: PriceTable, seen: Counter[str]) -> bool:
    """Whether there were two amounts to compare: False for what is parked. Counts what of `KNOWN` it met."""
    what = (case.pair.channel, case.pair.public_id, case.variant, case.at.isoformat(), case.quantities)
    pair = case.pair
    if case.variant and not pair.has_price_of(case.variant, case.at) and not pair.halves(case.variant, case.at):
        with pytest.raises(Unrateable, match=f"has no {case.variant} price"):
            case.card(table)
        seen["parked: the maker's price" if pair.is_makers else "parked: no such kind"] += 1
        return False
    if case.variant and not is_listed(case, table):
        with pytest.raises(Unrateable, match=f"has no {case.variant} price on its maker's list"):
            case.card(table)
        seen["parked: not on the list"] += 1
        return False
    card = case.card(table)
    expected = case.their_amount()
    for meter, count in case.quantities.items():
        known = instead(case, meter, table)
        if known is not None:
            name, unit_price = known
            theirs = case.their_price(meter)
            seen[name] += unit_price != theirs
            apart = EXACT.multiply(count, EXACT.subtract(unit_price, theirs))
            expected = EXACT.add(expected, EXACT.scaleb(apart, -POWERS[BY_NAME[meter].per]))
    charge, cost = rate(Usage(dict(case.quantities), case.prompt_tokens), card)
    assert cost == expected, what
    if table.catalog.models[pair.asked.model_id].maker_channel_id == pair.asked.channel_id:
        assert charge == cost, what
    missing = next((meter for meter in NAMES if meter not in card.meters), None)
    if missing is not None:
        with pytest.raises(Unrateable, match=f"no price for {missing}"):
            rate(Usage({**case.quantities, missing: 1}, case.prompt_tokens), card)
        seen["parked: no such meter"] += 1
    return True


def other_kinds(book: Book, table: PriceTable) -> int:
    """How many models cost something else there for kinds of request that no usage object reports."""
    found = 0
    known = [CONTEXTS[kind] for kind in KINDS]
    at = datetime(2026, 11, 22, tzinfo=UTC)
    for pair in pairs(book, table):
        options = pair.info.price_variants or ()
        others = [option for option in options if not any(option.when.items() <= when.items() for when in known)]
        found += any(pair.info.get_prices(at, option.when) != pair.info.get_prices(at) for option in others)
    return found


def flat_for_long_prompts(book: Book) -> set[tuple[str, str, str]]:
    """(channel, model, kind of request) whose price is flat where the standard has one for long prompts, here too."""
    found = set()
    for (channel, public_id), rows in book.costs.items():
        long_prompts = {row.meter for row in rows if row.variant == "" and row.above_prompt_tokens}
        tiers: dict[tuple[str, str], int] = {}
        for row in rows:
            if row.variant and row.meter in long_prompts:
                key = (row.variant, row.meter)
                tiers[key] = max(tiers.get(key, 0), row.above_prompt_tokens)
        found |= {(channel, public_id, variant) for (variant, _), above in tiers.items() if not above}
    return found


def test_prices_that_long_prompts_do_not_change_are_those_that_are_explained(book: Book) -> None:
    """OpenAI's page of priority says that it excludes long context; docs/prices.md lists these."""
    models, kinds = ("gpt-5.4", "gpt-5.5"), ("priority", "fast")
    assert flat_for_long_prompts(book) == {("openai", model, kind) for model in models for kind in kinds}


def units_without_meter(book: Book, table: PriceTable) -> set[str]:
    found = set()
    for pair in pairs(book, table):
        options = pair.info.prices if isinstance(pair.info.prices, list) else [pair.info]
        found |= {unit for option in options for unit, price in vars(option.prices).items() if price is not None}
    return found - UNIT_METERS.keys() - {"cache_write_mtok"}


def test_random_usage_of_every_model_on_every_channel_costs_what_genai_prices_calculates(book: Book) -> None:
    table = pricing.current()
    seen: Counter[str] = Counter(dict.fromkeys(KNOWN, 0))
    compared = [case for case in all_cases(book, table) if compare(case, table, seen)]
    seen["other kinds"] = other_kinds(book, table)
    seen["units without a meter"] = len(units_without_meter(book, table))

    assert len(compared) > 10_000
    assert {(case.pair.channel, case.pair.public_id) for case in compared} == book.costs.keys()
    assert {case.variant for case in compared} == CONTEXTS.keys()
    edges = Counter(case.prompt_tokens - size for case in compared for size in case.pair.sizes)
    assert min(edges[0], edges[1]) > 100, "on both sides of the tiers"
    assert units_without_meter(book, table) == {"audio_hours", "input_audio_hours"}
    assert seen.keys() == KNOWN.keys()
    assert not [name for name, cases in seen.items() if not cases], "explanations that nothing needs any more"
