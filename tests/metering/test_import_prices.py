"""The price book after an import, and what an import does to a book that is there already."""

import copy
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot

from metering import pricing
from metering.models import Channel, Model, ModelAlias, Price, PriceBookVersion, PriceImport
from metering.price_book import SOURCE, import_prices
from metering.price_sources.book import Book
from metering.rating import Unrateable
from tests.price_source import NOW, Source, new_source, plain, row
from tests.world import SONNET

LATER = NOW + timedelta(days=1)
pytestmark = pytest.mark.django_db


# --- what the real import put into the book


def prices(
    model: str, channel: str = "anthropic", *, at: datetime = NOW, prompt_tokens: int = 1000, variant: str = ""
) -> dict[str, tuple[str, str]]:
    """{meter: (cost, list price)} in USD per million or thousand."""
    table = pricing.current()
    model_id = table.catalog.resolve(model)
    assert model_id is not None
    asked = pricing.Asked(model_id, table.catalog.channels[channel], variant)
    card = table.card(asked, plan=table.list_plan, at=at, prompt_tokens=prompt_tokens)
    return {meter: (plain(price.cost), plain(price.charge)) for meter, price in card.meters.items()}


CLAUDE_METERS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
CLAUDE = {
    "claude-opus-4-20250514": "15 18.75 30 1.5 75",
    "claude-sonnet-4-20250514": "3 3.75 6 0.3 15",
    "claude-3-5-haiku-20241022": "0.8 1 1.6 0.08 4",
    "claude-3-5-sonnet-20241022": "3 3.75 6 0.3 15",
    "claude-opus-4-5": "5 6.25 10 0.5 25",
    "claude-opus-4-6": "5 6.25 10 0.5 25",
    "claude-opus-4-7": "5 6.25 10 0.5 25",
    "claude-opus-4-8": "5 6.25 10 0.5 25",
    "claude-opus-5": "5 6.25 10 0.5 25",
    "claude-opus-5-5": "4 5 8 0.2 20",
    "claude-sonnet-5": "2 2.5 4 0.2 10",
    "claude-sonnet-5-5": "2 2.5 4 0.1 10",
    "claude-haiku-4-5": "1 1.25 2 0.1 5",
    "claude-haiku-5-5": "0.1 0.125 0.2 0.01 0.5",
    "claude-fable-5-1": "10 12.5 20 0.25 50",
    "claude-fable-5-2": "8 10 16 0.2 40",
}


def claude(model: str, channel: str = "anthropic", **moment: Any) -> str:
    found = prices(model, channel, **moment)
    return " ".join(found[meter][0] for meter in CLAUDE_METERS)


@pytest.mark.parametrize(("model", "expected"), CLAUDE.items())
def test_claude_costs_what_its_maker_publishes(model: str, expected: str) -> None:
    found = prices(model)

    assert claude(model) == expected
    assert all(cost == charge for cost, charge in found.values()), "on its maker's channel, the list price"


def test_the_four_of_2025_cost_the_same_from_the_beginning_of_time() -> None:
    for model in list(CLAUDE)[:4]:
        assert claude(model, at=datetime(2025, 1, 1, tzinfo=UTC)) == CLAUDE[model]


def test_haiku_5_5_is_five_times_as_dear_above_100_000_prompt_tokens() -> None:
    assert claude("claude-haiku-5-5", prompt_tokens=100_000) == "0.1 0.125 0.2 0.01 0.5"
    assert claude("claude-haiku-5-5", prompt_tokens=100_001) == "0.5 0.625 1 0.05 2.5"


def test_long_prompts_of_sonnet_4_5_cost_twice_the_input_and_half_more_output() -> None:
    assert claude("claude-sonnet-4-5", prompt_tokens=200_000) == "3 3.75 6 0.3 15"
    assert claude("claude-sonnet-4-5", prompt_tokens=200_001) == "6 7.5 12 0.6 22.5"


def test_sonnet_4_is_flat() -> None:
    assert claude("claude-sonnet-4-20250514", prompt_tokens=900_000) == "3 3.75 6 0.3 15"


@pytest.mark.parametrize(
    ("model", "flat", "long"),
    [
        ("claude-sonnet-4-6", "3 3.75 6 0.3 15", "6 7.5 12 0.6 22.5"),
        ("claude-opus-4-6", "5 6.25 10 0.5 25", "10 12.5 20 1 37.5"),
    ],
)
def test_long_prompts_of_4_6_were_dearer_until_2026_03_13(model: str, flat: str, long: str) -> None:
    end = datetime(2026, 3, 13, tzinfo=UTC)

    assert claude(model, at=end - timedelta(microseconds=1), prompt_tokens=200_001) == long
    assert claude(model, at=end - timedelta(microseconds=1), prompt_tokens=200_000) == flat
    assert claude(model, at=end, prompt_tokens=200_001) == flat
    ends = Price.objects.filter(model__public_id=model, channel__name="anthropic", above_prompt_tokens=200_000)
    assert {row.effective_until for row in ends} == {end}


def test_cache_reads_of_sonnet_5_5_became_cheaper_on_2026_10_07() -> None:
    change = datetime(2026, 10, 7, tzinfo=UTC)

    assert claude("claude-sonnet-5-5", at=change - timedelta(microseconds=1)) == "2 2.5 4 0.2 10"
    assert claude("claude-sonnet-5-5", at=change) == "2 2.5 4 0.1 10"


@pytest.mark.parametrize("model", ["claude-opus-4-5", "claude-sonnet-4-6", "claude-haiku-5-5", "claude-opus-5-5"])
def test_bedrocks_regional_endpoints_cost_ten_per_cent_more(model: str) -> None:
    regional, world = prices(model, "bedrock-regional"), prices(model, "bedrock")

    for meter in CLAUDE_METERS:
        assert Decimal(regional[meter][0]) == Decimal(world[meter][0]) * Decimal("1.1")
        assert regional[meter][1] == world[meter][1], "the list price is the maker's"


def test_on_bedrock_older_models_cost_the_same_at_both_endpoints() -> None:
    for model in list(CLAUDE)[:4]:
        assert claude(model, "bedrock") == claude(model, "bedrock-regional") == CLAUDE[model]


def test_haiku_3_5_is_dearer_on_vertex() -> None:
    assert claude("claude-3-5-haiku-20241022", "vertex") == "1 1.25 2 0.1 5"
    assert prices("claude-3-5-haiku-20241022", "vertex")["input"] == ("1", "0.8")


def test_web_search_costs_ten_dollars_a_thousand() -> None:
    assert prices("claude-sonnet-4-20250514")["web_search"] == ("10", "10")
    assert Price.objects.get(model__public_id="claude-opus-4-5", kind="charge", meter="web_search").per == 1000


def test_derived_prices_say_so() -> None:
    marks = {
        (row.channel and row.channel.name, row.meter): row.derived
        for row in Price.objects.filter(model__public_id=SONNET, variant="").select_related("channel")
    }

    assert marks["anthropic", "cache_write_1h"] == marks[None, "cache_write_1h"] == ""
    assert marks["bedrock", "cache_write_1h"] == "claude rule: 2 × input"
    assert marks["bedrock", "cache_read"] == ""
    assert marks["azure", "input"] == "price on anthropic"


BATCHES_CAME_TO_THE_SOURCE = datetime(2026, 10, 14, tzinfo=UTC)


def halves(costs: str) -> str:
    return " ".join(plain(Decimal(cost) / 2) for cost in costs.split())


@pytest.mark.parametrize(("model", "expected"), CLAUDE.items())
def test_a_batch_costs_half_and_so_do_its_cache_reads_and_writes(model: str, expected: str) -> None:
    for at in (NOW, datetime(2026, 10, 7, tzinfo=UTC), BATCHES_CAME_TO_THE_SOURCE):
        assert claude(model, at=at, variant="batch") == halves(expected)


@pytest.mark.parametrize("channel", ["bedrock", "bedrock-regional", "vertex"])
def test_a_batch_of_claude_costs_half_in_the_clouds_too(channel: str) -> None:
    for model in CLAUDE:
        for prompt in (1000, 250_000):
            moment = {"prompt_tokens": prompt}
            assert claude(model, channel, variant="batch", **moment) == halves(claude(model, channel, **moment))


def test_a_batch_is_judged_by_the_tiers_and_dates_of_the_standard_price() -> None:
    assert claude("claude-haiku-5-5", prompt_tokens=100_000, variant="batch") == "0.05 0.0625 0.1 0.005 0.25"
    assert claude("claude-haiku-5-5", prompt_tokens=100_001, variant="batch") == "0.25 0.3125 0.5 0.025 1.25"
    before = BATCHES_CAME_TO_THE_SOURCE - timedelta(microseconds=1)
    assert claude("claude-haiku-5-5", at=before, prompt_tokens=100_001, variant="batch") == "0.25 0.3125 0.5 0.025 1.25"
    dear = datetime(2026, 3, 1, tzinfo=UTC)
    assert claude("claude-sonnet-4-6", at=dear, prompt_tokens=210_000, variant="batch") == "3 3.75 6 0.3 11.25"
    assert claude("claude-sonnet-4-6", prompt_tokens=210_000, variant="batch") == "1.5 1.875 3 0.15 7.5"
    dearer_reads = datetime(2026, 10, 6, tzinfo=UTC)
    assert claude("claude-sonnet-5-5", at=dearer_reads, variant="batch") == "1 1.25 2 0.1 5"


def test_calls_cost_the_same_in_a_batch() -> None:
    assert prices("claude-opus-4-5", variant="batch")["web_search"] == ("10", "10")


def test_derived_batch_prices_say_so_and_end_where_the_sources_begin() -> None:
    rows = Price.objects.filter(model__public_id="claude-opus-5-5", kind="cost", variant="batch", meter="input")
    found = {(row.channel.name, row.derived, row.effective_from, row.effective_until) for row in rows if row.channel}

    half = "half of the standard price"
    assert found == {
        ("anthropic", half, None, BATCHES_CAME_TO_THE_SOURCE),
        ("anthropic", "", BATCHES_CAME_TO_THE_SOURCE, None),
        ("bedrock", half, None, None),
        ("bedrock-regional", half, None, None),
        ("vertex", half, None, None),
    }


def test_openais_batches_cost_half_before_the_source_says_so_and_what_it_says_afterwards() -> None:
    before = BATCHES_CAME_TO_THE_SOURCE - timedelta(microseconds=1)

    for at, cache_read in ((before, "0.25"), (BATCHES_CAME_TO_THE_SOURCE, "0.5")):
        found = prices("o3", "openai", at=at, variant="batch")
        assert [found[meter][0] for meter in ("input", "cache_read", "output")] == ["1", cache_read, "4"]


def test_fast_mode_has_prices_of_its_own() -> None:
    assert claude("claude-opus-5-5", variant="fast") == "8 10 16 0.4 40"
    assert prices("claude-opus-5-5", variant="fast")["web_search"] == ("10", "10")
    assert [prices("o3", "openai", variant="fast")[meter][0] for meter in ("input", "output")] == ["3.5", "14"]


def test_a_flat_price_of_a_share_of_the_standard_has_its_tiers_in_proportion() -> None:
    """OpenAI: prompts above 272,000 tokens cost 2 × input and 1.5 × output for standard, batch and flex."""
    for variant, prompt, expected in (
        ("flex", 272_000, ("15", "15", "90")),
        ("flex", 272_001, ("30", "30", "135")),
        ("batch", 272_001, ("30", "30", "135")),
    ):
        found = prices("gpt-5.5-pro", "openai", prompt_tokens=prompt, variant=variant)
        assert tuple(found[meter][0] for meter in ("input", "cache_read", "output")) == expected
    tiers = Price.objects.filter(model__public_id="gpt-5.5-pro", variant="flex", above_prompt_tokens=272_000)
    assert set(tiers.values_list("derived", flat=True)) == {"tier in proportion to the standard"}
    assert prices("gpt-5.5", "openai", prompt_tokens=300_000, variant="flex")["input"] == ("5", "5"), "its own tier"


@pytest.mark.parametrize(("model", "dear"), [("gpt-5.4", "5"), ("gpt-5.5", "12.5")])
def test_a_flat_price_of_priority_holds_for_long_prompts_too(model: str, dear: str) -> None:
    """OpenAI's page of that tier says that it excludes long context, so none is expected."""
    for variant in ("priority", "fast"):
        assert prices(model, "openai", prompt_tokens=300_000, variant=variant)["input"] == (dear, dear)


@pytest.mark.parametrize(
    ("model", "channel", "variant", "at"),
    [
        ("claude-opus-5-5", "anthropic", "flex", NOW),
        (SONNET, "anthropic", "fast", NOW),
        ("claude-opus-5-5", "azure", "batch", NOW),
        ("gpt-5.5", "azure", "priority", NOW),
        ("gpt-5.5", "openai", "flex", datetime(2026, 10, 11, 23, 59, tzinfo=UTC)),
        ("gemini-2.5-pro", "google", "batch", datetime(2026, 10, 13, 23, 59, tzinfo=UTC)),
    ],
)
def test_a_variant_without_a_price_parks(model: str, channel: str, variant: str, at: datetime) -> None:
    with pytest.raises(Unrateable, match=f"{model} on {channel} has no {variant} price"):
        prices(model, channel, at=at, variant=variant)


def test_openais_cache_writes_have_their_lifetimes() -> None:
    found = prices("gpt-6-sol", "openai")

    assert (found["cache_write_30m"][0], found["cache_write_12h"][0], found["cache_read"][0]) == ("2.5", "2.5", "0.2")
    assert prices("gpt-4o", "openai")["cache_write_30m"][0] == "2.5", "no price of its own: as dear as input"


def test_deepseek_costs_what_the_source_takes_at_every_quarter_of_an_hour() -> None:
    provider = next(provider for provider in get_snapshot().providers if provider.id == "deepseek")
    days = [date(2026, 8, 16), date(2026, 8, 17), date(2026, 9, 9), date(2026, 9, 10), date(2026, 11, 22)]
    moments = [
        datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=15 * quarter, microseconds=shift)
        for day in days
        for quarter in range(96)
        for shift in (0, -1)
    ]
    for model in provider.models:
        for at in moments:
            theirs: Any = model.get_prices(at)
            ours = prices(model.id, "deepseek", at=at)
            assert Decimal(ours["input"][0]) == theirs.input_mtok, (model.id, at)
            assert Decimal(ours["output"][0]) == theirs.output_mtok, (model.id, at)
            assert Decimal(ours["cache_read"][0]) == (theirs.cache_read_mtok or theirs.input_mtok), (model.id, at)
            assert ours["cache_write_5m"][0] == ours["input"][0]


def test_every_model_on_every_channel_has_a_price_and_every_model_a_list_price() -> None:
    pairs: dict[tuple[int | None, int], set[str]] = {}
    rows = Price.objects.filter(source=SOURCE).order_by()
    for channel_id, model_id, meter in rows.values_list("channel_id", "model_id", "meter"):
        pairs.setdefault((channel_id, model_id), set()).add(meter)

    for pair, meters in pairs.items():
        assert meters & {"input", "output", "request"}, pair
    assert {model for channel, model in pairs if channel is None} == {model for _, model in pairs}


# --- importing into a book that is there already


@pytest.fixture
def source() -> Source:
    return new_source()


def version() -> int:
    return PriceBookVersion.objects.get().version


def test_importing_the_same_again_changes_nothing() -> None:
    before = version(), Price.objects.count(), ModelAlias.objects.count()

    summary = import_prices(approve=True, dry_run=False, at=LATER)

    assert (summary.created, summary.pending) == (0, 0)
    assert summary.unchanged == Price.objects.count() > 25_000
    assert (version(), Price.objects.count(), ModelAlias.objects.count()) == before


def test_a_models_first_import_applies_at_once_and_from_the_beginning_of_time(source: Source) -> None:
    before = version()

    assert source.bring_in() == (4, 0, 0)

    assert source.stored() == source.stored("cost", "anthropic")
    assert source.stored() == [("input", 0, "3", None, None), ("output", 0, "15", None, None)]
    assert ModelAlias.objects.get(name=f"{source.public_id}-alias").model.public_id == source.public_id
    assert version() == before + 1


def test_dated_rows_keep_their_dates(source: Source) -> None:
    source.rows = (row(effective_until=date(2026, 3, 13)), row(price="2", effective_from=date(2026, 3, 13)))

    source.bring_in()

    change = datetime(2026, 3, 13, tzinfo=UTC)
    assert set(source.stored()) == {("input", 0, "3", None, change), ("input", 0, "2", change, None)}
    assert source.bring_in(at=LATER, approve=True) == (0, 4, 0)


def test_a_dry_run_counts_and_writes_nothing(source: Source) -> None:
    before = version()

    assert source.bring_in(dry_run=True) == (4, 0, 0)

    assert not source.exists
    assert version() == before


def test_a_changed_price_waits_for_approval(source: Source) -> None:
    source.bring_in()
    before = version()
    source.rows = (row(price="4"), row("output", "15"))

    assert source.bring_in(at=LATER) == (0, 2, 2)

    assert source.stored() == [("input", 0, "3", None, None), ("output", 0, "15", None, None)]
    assert version() == before


def test_an_approved_change_holds_from_its_moment_and_leaves_the_past(source: Source) -> None:
    source.bring_in()
    source.rows = (row(price="4"), row("output", "15"))

    assert source.bring_in(at=LATER, approve=True, dry_run=True) == (2, 2, 0)
    assert source.bring_in(at=LATER, approve=True) == (2, 2, 0)

    assert set(source.stored()) == {
        ("input", 0, "3", None, LATER),
        ("input", 0, "4", LATER, None),
        ("output", 0, "15", None, None),
    }
    assert prices(source.public_id, at=LATER - timedelta(microseconds=1))["input"] == ("3", "3")
    assert prices(source.public_id, at=LATER)["input"] == ("4", "4")
    assert source.bring_in(at=LATER + timedelta(days=1), approve=True) == (0, 4, 0)


def test_a_price_that_goes_away_waits_for_approval_and_ends_then(source: Source) -> None:
    source.rows = (row(), row(price="6", above=200_000))
    source.bring_in()
    source.rows = (row(),)

    assert source.bring_in(at=LATER) == (0, 2, 2)
    assert source.bring_in(at=LATER, approve=True) == (0, 2, 0)

    assert source.stored() == [("input", 0, "3", None, None), ("input", 200_000, "6", None, LATER)]


def test_a_new_meter_of_a_known_model_waits_too(source: Source) -> None:
    source.bring_in()
    source.rows = (*source.rows, row("web_search", "10"))

    assert source.bring_in(at=LATER) == (0, 4, 2)
    assert source.bring_in(at=LATER, approve=True) == (2, 4, 0)

    assert ("web_search", 0, "10", None, None) in source.stored(), "usage has waited for it"


def test_a_variants_price_changes_by_itself(source: Source) -> None:
    source.rows = (*source.rows, row(price="1.5", variant="batch"))
    source.bring_in()
    source.rows = (row(), row("output", "15"), row(price="2", variant="batch"))

    assert source.bring_in(at=LATER) == (0, 4, 2)
    assert source.bring_in(at=LATER, approve=True) == (2, 4, 0)

    assert prices(source.public_id, at=LATER)["input"] == ("3", "3")
    assert prices(source.public_id, at=LATER, variant="batch")["input"] == ("2", "2")
    assert prices(source.public_id, at=NOW, variant="batch")["input"] == ("1.5", "1.5")


def test_an_operators_price_of_a_batch_leaves_the_standard_to_the_source(source: Source) -> None:
    source.rows = (*source.rows, row(price="1.5", variant="batch"))
    source.bring_in()
    Price.objects.filter(model__public_id=source.public_id, variant="batch").update(source="operator")
    source.rows = (row(price="4"), row("output", "15"), row(price="2", variant="batch"))

    assert source.bring_in(at=LATER, approve=True) == (2, 4, 0)

    assert prices(source.public_id, at=LATER)["input"] == ("4", "4")
    assert prices(source.public_id, at=LATER, variant="batch")["input"] == ("1.5", "1.5")


def test_a_new_channel_of_a_known_model_applies_at_once(source: Source) -> None:
    source.bring_in()
    source.resold = (row(price="5"),)

    assert source.bring_in(at=LATER) == (1, 4, 0)

    assert source.stored("cost", "vertex") == [("input", 0, "5", None, None)]


def test_an_announced_price_that_is_taken_back_never_comes_into_force(source: Source) -> None:
    rise = date(2026, 12, 24)
    source.rows = (row(effective_until=rise), row(price="9", effective_from=rise))
    source.bring_in()
    source.rows = (row(),)

    assert source.bring_in(at=LATER, approve=True) == (2, 0, 0)

    assert set(source.stored()) == {("input", 0, "3", None, LATER), ("input", 0, "3", LATER, None)}


def test_another_derivation_of_the_same_price_is_no_change(source: Source) -> None:
    source.rows = (row(), row("cache_read", "3", derived="input price"))
    source.bring_in()
    source.rows = (row(), row("cache_read", "3"))

    assert source.bring_in(at=LATER) == (0, 4, 0)


def test_an_operators_price_is_left_alone(source: Source) -> None:
    source.bring_in()
    mine = Price.objects.filter(model__public_id=source.public_id, meter="input", kind="charge")
    mine.update(source="operator", unit_price="7")
    source.rows = (row(price="4"), row("output", "15"))

    assert source.bring_in(at=LATER, approve=True) == (1, 3, 0)

    assert source.stored() == [("input", 0, "7", None, None), ("output", 0, "15", None, None)]
    assert prices(source.public_id, at=LATER)["input"] == ("4", "7")


def test_the_maker_and_aliases_that_an_operator_chose_stay(source: Source) -> None:
    source.resold = (row(price="5"),)
    source.bring_in()
    Model.objects.filter(public_id=source.public_id).update(maker=Channel.objects.get(name="vertex"))
    other = Model.objects.get(public_id="claude-opus-5")
    ModelAlias.objects.filter(name=f"{source.public_id}-alias").update(model=other)

    created, unchanged, pending = source.bring_in(at=LATER, approve=True)

    assert (created, unchanged, pending) == (1, 3, 0), "the list price follows the new maker"
    assert ("input", 0, "5", LATER, None) in source.stored()
    assert ModelAlias.objects.get(name=f"{source.public_id}-alias").model == other


def test_a_model_that_the_source_drops_keeps_its_prices(source: Source) -> None:
    source.bring_in()
    gone = Book(source.book.channels, (), {}, ())

    summary = import_prices(approve=True, dry_run=False, at=LATER, book=gone)

    assert (summary.created, summary.unchanged, summary.pending) == (0, 0, 0)
    assert source.stored() == [("input", 0, "3", None, None), ("output", 0, "15", None, None)]


# --- prices below zero


def unfit(source: Source, *, approve: bool = True, dry_run: bool = False) -> tuple[str, ...]:
    """What an import leaves out, without the model's id; the same for its list and its maker's channel."""
    told = import_prices(approve=approve, dry_run=dry_run, at=LATER, book=source.book).unfit
    on_the_list = [text.removeprefix(f"{source.public_id} on the list, ") for text in told if "on the list" in text]
    at_cost = [text.removeprefix(f"{source.public_id} on anthropic, ") for text in told if "on anthropic" in text]
    assert len(told) == 2 * len(on_the_list)
    assert on_the_list == at_cost
    return tuple(on_the_list)


@pytest.mark.parametrize("approve", [False, True])
def test_a_new_models_price_below_zero_is_left_out_and_all_else_applies(source: Source, *, approve: bool) -> None:
    source.rows = (row(price="-1"), row("output", "15"))

    assert unfit(source, approve=approve, dry_run=True) == ("input: -1",)
    assert unfit(source, approve=approve) == ("input: -1",)

    assert source.stored() == source.stored("cost", "anthropic") == [("output", 0, "15", None, None)]
    assert "input" not in prices(source.public_id), "usage waits"


def test_what_was_left_out_waits_as_a_first_price_in_the_next_import(source: Source) -> None:
    source.rows = (row(price="-1"), row("output", "15"))
    source.bring_in()
    assert source.bring_in(at=LATER) == (0, 2, 2)
    assert set(PriceImport.objects.get(status="pending").lines.values_list("second_look", "is_first")) == {
        ("below zero: it can't be approved, only left out", True)
    }
    source.rows = (row(), row("output", "15"))
    assert source.bring_in(at=LATER, approve=True) == (2, 2, 0)
    assert ("input", 0, "3", None, None) in source.stored(), "from the beginning: nothing was charged without it"


@pytest.mark.parametrize(
    ("rows", "left_out", "kept"),
    [
        ((row(), row(price="-6", above=200_000)), ("input: 3", "input above 200,000: -6"), []),
        ((row(price="-3"), row(price="6", above=200_000)), ("input: -3",), ["6"]),
        (
            (row(), row(price="-1", variant="batch"), row("output", "7", variant="batch")),
            ("batch input: -1", "batch output: 7"),
            ["3"],
        ),
    ],
    ids=["long prompts at the price of short ones", "short prompts wait", "batches at the standard price"],
)
def test_nothing_stands_in_for_a_new_models_price_below_zero(
    source: Source, rows: tuple[Any, ...], left_out: tuple[str, ...], kept: list[str]
) -> None:
    source.rows = (*rows, row("web_search", "10"))
    assert unfit(source) == left_out
    stored = Price.objects.filter(model__public_id=source.public_id, kind="charge").exclude(meter="web_search")
    assert [plain(price) for price in stored.values_list("unit_price", flat=True)] == kept


def test_an_approved_import_leaves_out_what_is_below_zero_and_keeps_it_pending(source: Source) -> None:
    source.rows = (row(), row("output", "15"), row("cache_read", "0.3"))
    source.bring_in()
    source.rows = (row(price="-1"), row("output", "16"), row("cache_read", "0.3"))

    assert unfit(source, dry_run=True) == ("input: -1",)
    assert source.bring_in(at=LATER, approve=True) == (2, 2, 2)

    assert set(source.stored()) == {
        ("cache_read", 0, "0.3", None, None),
        ("input", 0, "3", None, None),
        ("output", 0, "15", None, LATER),
        ("output", 0, "16", LATER, None),
    }
    pending = PriceImport.objects.get(status="pending")
    assert set(pending.lines.values_list("meter", "unit_price")) == {("input", Decimal(-1))}
    assert source.bring_in(at=LATER + timedelta(hours=1)) == (0, 4, 2)
    assert PriceImport.objects.get(status="pending") == pending, "the next import finds the same"


def test_the_prices_of_one_meter_in_time_are_left_out_together(source: Source) -> None:
    source.bring_in()
    rise = date(2026, 12, 24)
    source.rows = (row(price="3.1", effective_until=rise), row(price="-9", effective_from=rise), row("output", "15"))
    assert source.bring_in(at=LATER, approve=True) == (0, 2, 4)
    assert source.stored() == [("input", 0, "3", None, None), ("output", 0, "15", None, None)]


def test_nothing_stands_in_for_a_first_price_below_zero(source: Source) -> None:
    source.bring_in()
    batches = row(price="-1", variant="batch"), row("output", "7", variant="batch")
    source.rows = (*source.rows, *batches, row("web_search", "10"))
    assert source.bring_in(at=LATER, approve=True) == (2, 4, 4)
    with pytest.raises(Unrateable, match="has no batch price"):
        prices(source.public_id, variant="batch")


def test_the_command_says_which_prices_are_below_zero_and_applies_the_rest() -> None:
    providers = copy.deepcopy(get_snapshot().providers)
    (maker,) = (provider for provider in providers if provider.id == "anthropic")
    (model,) = (model for model in maker.models if model.id == "claude-opus-5-5")
    assert not isinstance(model.prices, list)
    model.prices.output_mtok = Decimal(-20)
    model.prices.cache_read_mtok = Decimal("0.21")
    out, err = StringIO(), StringIO()
    set_custom_snapshot(DataSnapshot(providers=providers, from_auto_update=False))
    try:
        call_command("import_prices", "--approve", stdout=out, stderr=err)
    finally:
        set_custom_snapshot(None)

    counts, said = json.loads(out.getvalue()), err.getvalue()
    assert counts["created"] > 0
    assert counts["pending"] > 0
    assert f"{counts['pending']} prices are left out, and what held before stays: they are below zero" in said
    assert "claude-opus-5-5 on the list, output: -20" in said
    assert f"{counts['pending']} of these wait under Price imports" in said
    found = prices("claude-opus-5-5", at=datetime.now(UTC) + timedelta(minutes=1))
    assert (found["output"], found["cache_read"]) == (("20", "20"), ("0.21", "0.21"))


def test_the_command_prints_one_json_object() -> None:
    out, err = StringIO(), StringIO()

    call_command("import_prices", "--source", "genai-prices", "--dry-run", stdout=out, stderr=err)

    counts = json.loads(out.getvalue())
    assert counts.keys() == {"models", "created", "unchanged", "pending"}
    assert counts["models"] == Model.objects.count()
    assert counts["created"] == counts["pending"] == 0
    assert "left out" in err.getvalue()
