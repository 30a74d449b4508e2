"""What must hold whatever is used: sums, order, growth, and both sides of every boundary of the real price book."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metering import formats, pricing
from metering.models import UsageEvent, UsageHour
from metering.pricing import Asked, PriceTable
from metering.rating import RateCard, rate
from metering.variants import is_in_us, variant_of
from tests.concurrency.racing import assert_books_are_right
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

HAIKU, SONNET_4_6, SONNET_4 = "claude-haiku-5-5", "claude-sonnet-4-6", "claude-sonnet-4-20250514"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def charge(model: str, usage: dict[str, Any], *, at: datetime = NOW, channel: str | None = None) -> Decimal:
    """At list prices, an anthropic.messages object."""
    table, read = pricing.current(), formats.read("anthropic.messages", usage)
    number = table.catalog.resolve(model)
    assert number is not None
    place = table.catalog.models[number].maker_channel_id if channel is None else table.catalog.channels[channel]
    asked = Asked(number, place, variant_of(read.service_tier, read.speed), is_in_us(read.inference_geo))
    return rate(read, table.card(asked, plan=table.list_plan, at=at, prompt_tokens=read.prompt_tokens))[0]


def prompt(fresh: int, read: int = 0, written: int = 0, output: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
        **more,
    }


def costs(card: RateCard) -> dict[str, Decimal]:
    return {meter: price.cost for meter, price in card.meters.items()}


class TestTheBoundariesOfTiers:
    def test_haiku_5_5_is_cheap_at_100_000_and_five_times_as_dear_above_cached_tokens_counted(self) -> None:
        """Row 19."""
        assert charge(HAIKU, prompt(50_000, 30_000, 20_000, 1000)) == Decimal("0.0083")
        assert charge(HAIKU, prompt(50_001, 30_000, 20_000, 1000)) == 5 * (Decimal("0.0083") + Decimal("0.0000001"))

    def test_sonnet_4_6_is_dear_above_200_000_until_the_spring_and_flat_since(self) -> None:
        long = prompt(210_000, output=1000)
        assert charge(SONNET_4_6, long, at=datetime(2026, 3, 1, tzinfo=UTC)) == Decimal("1.26") + Decimal("0.0225")
        assert charge(SONNET_4_6, long, at=datetime(2026, 4, 1, tzinfo=UTC)) == Decimal("0.63") + Decimal("0.015")

    @pytest.mark.parametrize(
        ("moment", "factor"),
        [(datetime(2026, 3, 12, 23, 59, 59, 999999, tzinfo=UTC), 2), (datetime(2026, 3, 14, tzinfo=UTC), 1)],
    )
    def test_and_the_change_has_its_day(self, moment: datetime, factor: int) -> None:
        assert charge(SONNET_4_6, prompt(200_001), at=moment) == factor * Decimal("0.600003")

    def test_every_tier_of_the_book_begins_one_token_above_its_mark(self) -> None:
        table, tried = pricing.current(), 0
        for (model_id, channel_id), rows in sorted(table.costs.items()):
            marks = {row.above_prompt_tokens for row in rows if row.effective_until is None} - {0}
            for mark in sorted(marks):
                below, at_mark, above = (
                    costs(table.card(Asked(model_id, channel_id), plan=table.list_plan, at=NOW, prompt_tokens=size))
                    for size in (mark - 1, mark, mark + 1)
                )
                assert at_mark == below, (table.catalog.models[model_id].public_id, mark)
                tried += at_mark != above
        assert tried > 50


class TestWhatChangesAPrice:
    def test_a_batch_halves_every_token_and_stacks_with_caching(self) -> None:
        usage = prompt(1000, 10_000, 3000, 500, cache_creation={"ephemeral_1h_input_tokens": 3000})
        for model in (SONNET_4, HAIKU, SONNET_4_6):
            assert charge(model, {**usage, "service_tier": "batch"}) == charge(model, usage) / 2

    def test_a_batch_above_the_mark_is_half_of_the_dear_price(self) -> None:
        assert charge(HAIKU, prompt(100_001, service_tier="batch")) == Decimal("0.0500005") / 2

    def test_the_us_take_a_tenth_more_on_tokens_and_nothing_on_searches(self) -> None:
        searched = prompt(1000, output=1000, server_tool_use={"web_search_requests": 3})
        here, there = charge(HAIKU, {**searched, "inference_geo": "us"}), charge(HAIKU, searched)
        assert there == Decimal("0.0006") + Decimal("0.03")
        assert here == Decimal("0.0006") * Decimal("1.1") + Decimal("0.03")

    def test_fast_has_prices_of_its_own(self) -> None:
        million = prompt(10**6, output=10**6)
        assert charge("claude-opus-5-5", {**million, "speed": "fast"}) == 48
        assert charge("claude-opus-5-5", million) == 24

    def test_the_time_of_day_where_the_maker_has_windows(self) -> None:
        table = pricing.current()
        windows = {
            (model_id, channel_id): [row for row in rows if row.daily_from is not None and row.effective_until is None]
            for (model_id, channel_id), rows in table.costs.items()
        }
        (model_id, channel_id), rows = next((pair, found) for pair, found in sorted(windows.items()) if found)
        row = rows[0]
        assert row.daily_from is not None
        begins = NOW.replace(hour=row.daily_from.hour, minute=row.daily_from.minute, second=0)
        inside, before = (
            table.card(Asked(model_id, channel_id), plan=table.list_plan, at=at, prompt_tokens=1)
            for at in (begins, begins - timedelta(microseconds=1))
        )
        assert inside.meters[row.meter].cost == row.unit_price
        assert before.meters[row.meter].cost != row.unit_price


def cards(table: PriceTable, rng: random.Random, count: int) -> list[RateCard]:
    pairs = sorted(table.costs)
    found = []
    for model_id, channel_id in rng.sample(pairs, count):
        asked = Asked(model_id, channel_id)
        found.append(table.card(asked, plan=table.list_plan, at=NOW, prompt_tokens=rng.randrange(400_000)))
    return found


def test_more_of_anything_never_costs_less() -> None:
    rng = random.Random(5)
    for card in cards(pricing.current(), rng, 300):
        quantities = {meter: rng.randrange(10**6) for meter in card.meters}
        before = rate(formats.Usage(quantities, 0), card)
        for meter in quantities:
            after = rate(formats.Usage({**quantities, meter: quantities[meter] + rng.randrange(1, 1000)}, 0), card)
            assert after[0] >= before[0]
            assert after[1] >= before[1]


def everything_of(payer: Payer) -> list[tuple[Any, ...]]:
    """The hourly usage of a customer, without the customer."""
    columns = ("hour", "model_id", "price_set_id", "requests", "charge", "cost", "input", "cache_read", "output")
    return sorted(UsageHour.objects.filter(customer=payer.customer).values_list(*columns))


def test_the_price_of_a_batch_is_the_sum_of_its_events_in_whatever_order_and_parts_they_come() -> None:
    rng, relay = random.Random(11), Relay()
    payers = [make_payer(credit="1000") for _ in range(3)]
    drawn = [
        {
            "id": f"req_{number}",
            "model": rng.choice([HAIKU, SONNET_4, SONNET_4_6, "claude-opus-5-5"]),
            "occurred_at": (datetime.now(UTC) - timedelta(minutes=rng.randrange(600))).isoformat(),
            "usage": prompt(
                rng.randrange(250_000), rng.randrange(50_000), rng.randrange(1000), rng.randrange(5000),
                service_tier=rng.choice(["standard", "batch"]),
            ),
        }
        for number in range(60)
    ]  # fmt: skip
    for payer, parts in zip(payers, (1, 7, 60), strict=True):
        events = [make_event(payer, **event) for event in drawn]
        rng.shuffle(events)
        for part in range(parts):
            assert relay.report(*events[part::parts]).body["parked"] == 0
        alone = UsageEvent.objects.filter(customer=payer.customer).values_list("charge", flat=True)
        assert len(alone) == 60
        assert payer.balance == 1000 - sum(alone)
        assert_books_are_right(payer.customer)
    assert everything_of(payers[0]) == everything_of(payers[1]) == everything_of(payers[2])
