"""The price source as rows: compared with what genai-prices itself would charge at the same moment."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from metering.price_sources.amendments import AMENDMENTS, amended
from metering.price_sources.book import Book, build_book
from metering.price_sources.channels import CHANNELS, LEFT_OUT
from metering.price_sources.genai import (
    Provider,
    Segment,
    SourceModel,
    SourceVariant,
    UnreadablePrices,
    read_model,
    read_providers,
    segments,
)
from metering.price_sources.model_facts import us_multiplier
from metering.price_sources.naming import read_name
from metering.price_sources.rows import UNIT_METERS, Family, Row, halved_batches, price_rows
from relayadmin.money import to_unit_price


@pytest.fixture(scope="module")
def providers() -> dict[str, Provider]:
    return read_providers()


@pytest.fixture(scope="module")
def book(providers: dict[str, Provider]) -> Book:
    return build_book(providers)


def price_at(rows: tuple[Row, ...], meter: str, at: datetime, prompt_tokens: int) -> Decimal | None:
    """A window of the day goes before the rest of the day, a higher tier before a lower."""
    held = [
        row
        for row in rows
        if row.meter == meter
        and (row.effective_from is None or row.effective_from <= at.date())
        and (row.effective_until is None or at.date() < row.effective_until)
        and (row.above_prompt_tokens == 0 or prompt_tokens > row.above_prompt_tokens)
        and (row.daily_from is None or row.daily_until is None or row.daily_from <= at.time() < row.daily_until)
    ]
    best = max(held, key=lambda row: (row.daily_from is not None, row.above_prompt_tokens), default=None)
    return None if best is None else best.unit_price


def edges(model: Any) -> Iterator[datetime]:
    """Moments at and around every bound of a model's prices, and some in between."""
    yield datetime(2023, 1, 1, 12, tzinfo=UTC)
    yield datetime(2030, 1, 1, 2, 30, tzinfo=UTC)
    days = {date(2025, 6, 1), date(2026, 11, 22)}
    times = {time(0), time(23, 59, 59, 999_999)}
    for option in model.prices if isinstance(model.prices, list) else ():
        match option.constraint:
            case StartDateConstraint(start_date=start):
                days |= {start - timedelta(days=1), start, start + timedelta(days=1)}
            case TimeOfDateConstraint(start_time=opens, end_time=closes):
                times |= {opens.replace(tzinfo=None), closes.replace(tzinfo=None)}
    for day in sorted(days):
        for moment in sorted(times):
            at = datetime.combine(day, moment, UTC)
            yield from (at - timedelta(microseconds=1), at, at + timedelta(microseconds=1))


def test_every_price_is_what_the_source_itself_would_take_at_any_moment(providers: dict[str, Provider]) -> None:
    read = {(provider, model.id): model for provider in providers for model in providers[provider].models}
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            source = read[provider.id, model.id]
            assert not source.problem
            rows = price_rows(source.segments, Family.OTHER)
            for at in edges(model):
                wanted = vars(model.get_prices(at))
                for unit, meter in UNIT_METERS.items():
                    value = wanted.get(unit)
                    for tier in getattr(value, "tiers", [None]):
                        for prompt in (1, *((tier.start, tier.start + 1) if tier else ())):
                            price = value if tier is None else value.base
                            for step in getattr(value, "tiers", ()):
                                price = step.price if prompt > step.start else price
                            found = price_at(rows, meter, at, prompt)
                            if price is None:
                                assert found is None or meter.startswith("cache_"), (model.id, meter, at)
                            else:
                                assert found == to_unit_price(price), (provider.id, model.id, meter, at, prompt)
                                compared += 1
    assert compared > 50_000


VARIANT_CONTEXTS = (
    ("batch", {"processing": "batch"}),
    ("flex", {"service_tier": "flex"}),
    ("priority", {"service_tier": "priority"}),
    ("fast", {"service_tier": "fast"}),
    ("fast", {"speed": "fast"}),
)


def variant_price(rows: tuple[Row, ...], variant: str, meter: str, at: datetime, prompt: int) -> Decimal | None:
    """The variant's own price, else the standard one."""
    own = price_at(tuple(row for row in rows if row.variant == variant), meter, at, prompt)
    return price_at(tuple(row for row in rows if row.variant == ""), meter, at, prompt) if own is None else own


def test_every_variant_costs_what_the_source_itself_would_take(providers: dict[str, Provider]) -> None:
    read = {(provider, model.id): model for provider in providers for model in providers[provider].models}
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            source = read[provider.id, model.id]
            rows = price_rows(source.segments, Family.OTHER, source.variants)
            days = {date(2025, 1, 1), date(2030, 1, 1)} | {row.effective_from for row in rows if row.effective_from}
            for name, context in VARIANT_CONTEXTS:
                if not any(option.when == context for option in model.price_variants or ()):
                    continue
                for at in (datetime.combine(day, time(12), UTC) for day in days):
                    compared += compare_variant(model, rows, name, context, at)
    assert compared > 3_000


def compare_variant(model: Any, rows: tuple[Row, ...], name: str, context: dict[str, str], at: datetime) -> int:
    """How many prices were compared."""
    wanted, compared = vars(model.get_prices(at, context)), 0
    for unit, meter in UNIT_METERS.items():
        value = wanted.get(unit)
        for tier in (None, *getattr(value, "tiers", ())):
            price = getattr(value, "base", value) if tier is None else tier.price
            if price is not None:
                prompt = 1 if tier is None else tier.start + 1
                assert variant_price(rows, name, meter, at, prompt) == to_unit_price(price), (model.id, meter, at)
                compared += 1
    return compared


def variants_of(*options: PriceVariant) -> tuple[tuple[tuple[str, date | None], ...], tuple[str, ...]]:
    """What is read of a model with these variants: names with dates, and notes."""
    info = ModelInfo(
        id="m", match=ClauseEquals("m"), prices=ModelPrice(input_mtok=Decimal(2)), price_variants=list(options)
    )
    read = read_model("p", info)
    return tuple((variant.name, variant.starts) for variant in read.variants), read.notes


def test_the_standard_under_another_name_is_no_variant() -> None:
    assert variants_of(PriceVariant({"service_tier": "default"}, ModelPrice())) == ((), ())


def test_prices_for_requests_of_an_unknown_kind_are_left_out_with_a_note() -> None:
    price = ModelPrice(input_mtok=Decimal(1))

    assert variants_of(
        PriceVariant({"route": "eu"}, price),
        PriceVariant({"service_tier": "default"}, price),
        PriceVariant({"speed": "fast", "processing": "batch"}, price),
        PriceVariant({"processing": "batch"}, price, TimeOfDateConstraint(time(1), time(2))),
        PriceVariant({"processing": "batch"}, price, StartDateConstraint(date(2026, 10, 14))),
    ) == (
        (("batch", date(2026, 10, 14)),),
        (
            "prices for route eu left out: there is no such kind of request here",
            "prices for service_tier default left out: there is no such kind of request here",
            "prices for processing batch and speed fast left out: there is no such kind of request here",
            "prices for processing batch left out: it holds in a window of the day",
        ),
    )


def test_a_variants_cache_price_follows_its_own_input_price_unless_the_standard_has_one() -> None:
    half = (SourceVariant("flex", None, {"input_mtok": ((0, Decimal("1.5")),)}),)

    own = [row for row in price_rows(flat(input_mtok="3"), Family.OTHER, half) if row.variant]
    assert by_meter(tuple(own))["cache_read"] == ("1.5", "input price")
    own = [row for row in price_rows(flat(input_mtok="3", cache_read_mtok="0.3"), Family.OTHER, half) if row.variant]
    assert "cache_read" not in by_meter(tuple(own))
    own = [row for row in price_rows(flat(input_mtok="3"), Family.CLAUDE, half) if row.variant]
    assert by_meter(tuple(own))["cache_write_5m"] == ("1.875", "claude rule: 1.25 × input")


def test_half_a_price_is_rounded_once_and_calls_are_not_halved() -> None:
    rows = halved_batches(price_rows(flat(input_mtok="0.000000001", requests_kcount="5"), Family.OTHER))

    assert by_meter(rows)["input"] == ("0.000000001", "half of the standard price")
    assert "request" not in by_meter(rows)
    assert {row.variant for row in rows} == {"batch"}
    assert halved_batches((*rows, *price_rows(flat(input_mtok="3"), Family.OTHER))) == ()


def test_deepseek_windows_hold_on_every_day_of_every_stretch(providers: dict[str, Provider]) -> None:
    source = next(m for m in providers["deepseek"].models if m.id == "deepseek-v4-flash")
    rows = price_rows(source.segments, Family.OTHER)

    def cost(*moment: int) -> Decimal | None:
        return price_at(rows, "input", datetime(*moment, tzinfo=UTC), 1)  # type: ignore[arg-type,misc]

    assert cost(2026, 8, 16, 12) == Decimal("0.14")
    assert cost(2026, 8, 17, 12) == Decimal("0.22")
    assert cost(2026, 9, 10, 12) == Decimal("0.15")
    assert [cost(2026, 9, 10, hour) for hour in (0, 1, 3, 4, 6, 9, 10)] == [
        Decimal(text) for text in ("0.15", "0.3", "0.3", "0.15", "0.3", "0.3", "0.15")
    ]
    assert price_at(rows, "cache_write_5m", datetime(2026, 9, 10, 2, tzinfo=UTC), 1) == Decimal("0.3")


def test_prices_that_rows_cannot_express_are_refused() -> None:
    base = ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1)))

    def window(opens: int, closes: int, **prices: Any) -> ConditionalPrice:
        return ConditionalPrice(TimeOfDateConstraint(time(opens), time(closes)), prices=ModelPrice(**prices))

    with pytest.raises(UnreadablePrices, match="cross midnight"):
        segments([base, window(22, 4, input_mtok=Decimal(2))])
    with pytest.raises(UnreadablePrices, match="overlap"):
        segments([base, window(1, 4, input_mtok=Decimal(2)), window(3, 5, input_mtok=Decimal(3))])
    with pytest.raises(UnreadablePrices, match="other units"):
        segments([base, window(1, 4, output_mtok=Decimal(2))])
    tiered = TieredPrices(base=Decimal(2), tiers=[Tier(start=1000, price=Decimal(3))])
    with pytest.raises(UnreadablePrices, match="tiers"):
        segments([base, window(1, 4, input_mtok=tiered)])


def flat(**prices: str) -> tuple[Segment, ...]:
    return (Segment(None, None, None, None, {unit: ((0, Decimal(price)),) for unit, price in prices.items()}),)


def by_meter(rows: tuple[Row, ...]) -> dict[str, tuple[str, str]]:
    return {row.meter: (f"{row.unit_price.normalize():f}", row.derived) for row in rows}


def test_missing_cache_prices_of_claude_follow_the_rule() -> None:
    rows = by_meter(price_rows(flat(input_mtok="3", output_mtok="15", cache_read_mtok="0.2"), Family.CLAUDE))

    assert rows["cache_read"] == ("0.2", "")
    assert rows["cache_write_5m"] == ("3.75", "claude rule: 1.25 × input")
    assert rows["cache_write_1h"] == ("6", "claude rule: 2 × input")
    assert "audio_input" not in rows


def test_missing_cache_prices_of_others_are_the_input_price() -> None:
    rows = by_meter(price_rows(flat(input_mtok="0.27", output_mtok="1.1"), Family.OTHER))

    caches = ("cache_read", "cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h")
    assert {meter: rows[meter] for meter in caches} == dict.fromkeys(caches, ("0.27", "input price"))


def test_a_write_price_without_a_lifetime_is_that_of_every_lifetime() -> None:
    rows = by_meter(price_rows(flat(input_mtok="2", cache_write_mtok="2.5"), Family.OPENAI))

    assert rows["cache_write_30m"] == ("2.5", "")
    assert rows["cache_write_12h"] == rows["cache_write_5m"] == ("2.5", "cache write price")


def test_models_without_token_prices_get_no_cache_prices() -> None:
    assert by_meter(price_rows(flat(requests_kcount="5", audio_hours="1"), Family.OTHER)) == {"request": ("5", "")}


def test_zero_is_a_price_and_a_unit_price_is_rounded_once() -> None:
    rows = by_meter(price_rows(flat(input_mtok="0", output_mtok="0.0000000005"), Family.OTHER))

    assert rows["input"] == (*rows["cache_read"][:1], "") == ("0", "")
    assert rows["output"] == ("0.000000001", "")


def test_an_amendment_applies_while_the_source_still_says_the_same(providers: dict[str, Provider]) -> None:
    for amendment in AMENDMENTS:
        provider = next(channel.provider for channel in CHANNELS if channel.name == amendment.channel)
        source = next(m for m in providers[provider].models if m.id == amendment.source_id)
        assert amended(amendment.channel, source)[1] == ""

    changed = SourceModel("anthropic", "claude-sonnet-5-5", "", None, (), (), flat(input_mtok="9"))
    found, note = amended("anthropic", changed)
    assert found == changed.segments
    assert "no longer fits" in note


@pytest.mark.parametrize(
    ("channel", "name", "vendor", "rest"),
    [
        ("bedrock", "global.anthropic.claude-sonnet-4-20250514-v1:0", "anthropic", "claude-sonnet-4-20250514"),
        ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0", "anthropic", "claude-3-5-sonnet-20241022"),
        ("bedrock", "amazon.titan-embed-text-v2:0", "amazon", "titan-embed-text-v2"),
        ("bedrock", "meta.llama3-3-70b-instruct-v1:0", "meta", "llama-3.3-70b-instruct"),
        ("bedrock", "meta.llama3-70b-instruct-v1:0", "meta", "llama-3-70b-instruct"),
        ("bedrock", "openai.gpt-oss-120b-1:0", "openai", "gpt-oss-120b"),
        ("fireworks", "accounts/fireworks/models/glm-5p2", "", "glm-5.2"),
        ("cloudflare", "@cf/meta/llama-3.2-1b-instruct", "meta", "llama-3.2-1b-instruct"),
        ("cerebras", "zai-glm-4.7", "zai", "glm-4.7"),
        ("openrouter", "z-ai/glm-5.3:batch", "zai", "glm-5.3:batch"),
        ("avian", "Meta-Llama-3.1-8B-Instruct", "meta", "llama-3.1-8b-instruct"),
        ("groq", "llama-3.3-70b-versatile", "", "llama-3.3-70b-versatile"),
    ],
)
def test_a_name_is_read_without_its_host(channel: str, name: str, vendor: str, rest: str) -> None:
    read = read_name(channel, name)

    assert (read.vendor, read.rest) == (vendor, rest)


def test_one_model_is_sold_on_many_channels(book: Book) -> None:
    channels: dict[str, set[str]] = {}
    for channel, public_id in book.costs:
        channels.setdefault(public_id, set()).add(channel)

    clouds = {"anthropic", "bedrock", "bedrock-regional", "vertex", "azure", "openrouter"}
    assert channels["claude-opus-4-5"] == clouds
    assert channels["claude-sonnet-5-5"] == clouds
    assert {"openai", "azure", "bedrock"} <= channels["gpt-5.5"]
    assert {"google", "vertex", "openrouter"} <= channels["gemini-2.5-pro"]
    assert {"zai", "bedrock", "fireworks", "together"} <= channels["GLM-5.3"]
    assert {"bedrock", "openrouter", "novita", "avian"} <= channels["meta-llama/llama-3.3-70b-instruct"]


def test_a_model_that_nobody_sells_first_hand_has_its_first_reseller_as_maker(book: Book) -> None:
    makers = {model.public_id: model.maker for model in book.models}

    assert makers["meta-llama/llama-3.3-70b-instruct"] == "bedrock"
    assert makers["groq/llama-3.3-70b-versatile"] == "groq"
    assert makers["gemini-2.5-pro"] == "google"


def test_editions_stay_apart(book: Book) -> None:
    rows = {pair: by_meter(found) for pair, found in book.costs.items()}

    assert rows["openrouter", "anthropic/claude-opus-4.5:batch"]["input"][0] == "2.5"
    assert rows["openrouter", "claude-opus-4-5"]["input"][0] == "5"


def test_the_fold_of_a_cloud_onto_the_makers_price_is_marked(book: Book) -> None:
    assert {row.derived for row in book.costs["azure", "gpt-4o"]} == {"price on openai"}
    assert all(row.derived == "" for row in book.costs["azure", "o1"] if row.meter in {"input", "output"})


def test_every_pair_has_a_price_for_what_a_request_always_has(book: Book) -> None:
    for pair, rows in book.costs.items():
        assert {row.meter for row in rows} & {"input", "output", "request"}, pair


def test_no_name_belongs_to_two_models(book: Book) -> None:
    names = [name for model in book.models for name in (model.public_id, *model.aliases)]

    assert len(names) == len(set(names))
    assert max(map(len, names)) <= 255


def test_a_model_keeps_the_id_and_maker_it_has_in_the_book(providers: dict[str, Provider]) -> None:
    known = {"meta-llama/Llama-3.3-70B-Instruct": "groq"}

    models = {model.public_id: model for model in build_book(providers, known).models}

    assert models["meta-llama/Llama-3.3-70B-Instruct"].maker == "groq"
    assert "meta-llama/llama-3.3-70b-instruct" not in models


def test_output_priced_by_kind_keeps_a_model_out_with_a_note(book: Book) -> None:
    assert "sonar-deep-research" not in {model.public_id for model in book.models}
    assert "perplexity: sonar-deep-research left out: its output is priced by kind" in book.notes


@pytest.mark.parametrize(
    ("public_id", "multiplier"),
    [
        ("claude-3-5-haiku-20241022", "1"),
        ("claude-opus-4-20250514", "1"),
        ("claude-opus-4-5", "1"),
        ("claude-opus-4-6", "1.1"),
        ("claude-sonnet-4-6", "1.1"),
        ("claude-opus-4-8", "1.1"),
        ("claude-opus-5", "1.1"),
        ("claude-sonnet-5-5", "1.1"),
        ("claude-haiku-5-5", "1.1"),
        ("claude-fable-5-2", "1.1"),
        ("claude-mythos-5-2", "1.1"),
        ("gpt-5", "1"),
    ],
)
def test_inference_kept_in_the_us_costs_more_from_claude_4_6_on(public_id: str, multiplier: str) -> None:
    assert us_multiplier(public_id) == Decimal(multiplier)


def test_every_provider_of_the_source_is_a_channel_or_left_out_for_a_reason(providers: dict[str, Provider]) -> None:
    channels = {channel.provider for channel in CHANNELS}

    assert channels | LEFT_OUT.keys() >= providers.keys()
    assert not channels & LEFT_OUT.keys()


def test_the_channels_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "channels.md").read_text()

    for channel in CHANNELS:
        assert f"| `{channel.name}` | {channel.label} | `{channel.provider}` |" in page
    for provider in LEFT_OUT:
        assert f"`{provider}`" in page
