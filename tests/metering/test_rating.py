"""Usage × prices → amounts: exact, and never rounded."""

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import formats
from metering.formats import Usage
from metering.rating import MeterPrice, RateCard, Unrateable, most_that_can_cost, rate

M = 1_000_000
SONNET = {"input": "3", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6", "output": "15"}

unit_prices = st.decimals(0, 10**6, places=9, allow_nan=False)
quantities = st.integers(0, 10**12)


def card(prices: dict[str, str], per: int = M, cost_share: str = "1") -> RateCard:
    share = Decimal(cost_share)
    return RateCard({name: MeterPrice(Decimal(price), Decimal(price) * share, per) for name, price in prices.items()})


def usage(**counts: int) -> Usage:
    return Usage(counts, sum(counts.values()))


def test_the_worked_example_costs_exactly_0_02925() -> None:
    example = usage(input=1000, cache_write_5m=1000, cache_write_1h=2000, cache_read=10000, output=500)
    assert rate(example, card(SONNET)) == (Decimal("0.02925"), Decimal("0.02925"))


def test_the_same_call_costs_the_same_in_the_words_of_two_providers() -> None:
    """Row 14: one provider counts cached tokens inside the input, another beside it."""
    exclusive = {"input_tokens": 400, "cache_read_input_tokens": 800, "output_tokens": 300}
    inclusive = {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 800},
    }
    prices = card(SONNET)
    amounts = {
        rate(formats.read("anthropic.messages", exclusive), prices),
        rate(formats.read("openai.chat", inclusive), prices),
    }
    assert amounts == {(Decimal("0.00594"), Decimal("0.00594"))}


def test_one_hour_writes_cost_twice_the_input_and_five_minute_ones_a_quarter_more() -> None:
    assert rate(usage(cache_write_1h=M), card(SONNET))[0] == 6
    assert rate(usage(cache_write_5m=M), card(SONNET))[0] == Decimal("3.75")


def test_nothing_costs_nothing_even_without_prices() -> None:
    assert rate(usage(), card({})) == (0, 0)


def test_calls_are_priced_by_the_thousand() -> None:
    assert rate(usage(web_search=3), card({"web_search": "10"}, per=1000))[0] == Decimal("0.03")


def test_charge_and_cost_are_two_figures() -> None:
    assert rate(usage(input=M), card({"input": "3"}, cost_share="0.5")) == (3, Decimal("1.5"))


def test_a_meter_without_a_price_is_named_and_never_free() -> None:
    with pytest.raises(Unrateable, match="no price for audio_input") as caught:
        rate(usage(input=1, audio_input=1), card(SONNET))
    assert caught.value.reason == "no_price"


def test_a_trillion_tokens_at_the_dearest_price_are_exact() -> None:
    """Row 28: nothing ends at 2³² of anything."""
    assert rate(usage(output=10**12), card({"output": "999999.999999999"}))[0] == Decimal("999999999999.999000")


@given(st.dictionaries(st.sampled_from(sorted(SONNET)), st.tuples(quantities, unit_prices), min_size=1))
def test_an_amount_is_the_exact_sum_and_fits_15_decimals(lines: dict[str, tuple[int, Decimal]]) -> None:
    prices = RateCard({name: MeterPrice(price, price, M) for name, (_, price) in lines.items()})
    charge, cost = rate(usage(**{name: quantity for name, (quantity, _) in lines.items()}), prices)
    with localcontext(prec=200):
        assert charge == cost == sum(quantity * price for quantity, price in lines.values()) / M
    exponent = charge.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -15


@given(
    one=st.dictionaries(st.sampled_from(sorted(SONNET)), quantities),
    two=st.dictionaries(st.sampled_from(sorted(SONNET)), quantities),
)
def test_two_calls_together_cost_what_they_cost_apart(one: dict[str, int], two: dict[str, int]) -> None:
    prices = card(SONNET)
    both = {name: one.get(name, 0) + two.get(name, 0) for name in {*one, *two}}
    with localcontext(prec=60):
        assert rate(usage(**one), prices)[0] + rate(usage(**two), prices)[0] == rate(usage(**both), prices)[0]


@given(
    fresh=st.integers(0, 10**6),
    read=st.integers(0, 10**6),
    written=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    lifetime=st.sampled_from(["5m", "1h"]),
)
def test_a_request_never_costs_more_than_the_most_it_can_cost(
    fresh: int, read: int, written: int, output: int, lifetime: str
) -> None:
    prices = card(SONNET)
    meter = f"cache_write_{lifetime}"
    most = most_that_can_cost(
        input_tokens=fresh + read + written, max_output_tokens=output, write_meter=meter, web_searches=0, card=prices
    )
    assert rate(usage(**{"input": fresh, "cache_read": read, meter: written, "output": output}), prices)[0] <= most


def test_the_most_needs_a_price_only_for_what_may_happen() -> None:
    prices = card({"input": "3", "output": "15"})
    amounts = {"input_tokens": 1000, "max_output_tokens": 100, "web_searches": 0}
    assert most_that_can_cost(**amounts, write_meter=None, card=prices) == Decimal("0.0045")
    with pytest.raises(Unrateable, match="cache_write_1h"):
        most_that_can_cost(**amounts, write_meter="cache_write_1h", card=prices)
    with pytest.raises(Unrateable, match="web_search"):
        most_that_can_cost(**{**amounts, "web_searches": 1}, write_meter=None, card=prices)
