"""What a plan makes of a list price: which rule wins, what a fixed price does to its neighbours."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.plan_terms import PlanTerms, Policy, Rule, Standard, best_rule, charge_price, is_charged

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
MODEL, OTHER_MODEL, CHANNEL, OTHER_CHANNEL = 1, 2, 10, 11
LIST = {"input": Decimal(3), "cache_read": Decimal("0.3"), "cache_write_1h": Decimal(6), "output": Decimal(15)}


def rule(number: int = 1, **fields: Any) -> Rule:
    plain: dict[str, Any] = {
        "model_id": None,
        "family": "",
        "meter": "",
        "channel_id": None,
        "multiplier": Decimal(1),
        "unit_price": None,
        "effective_from": None,
        "effective_until": None,
    }
    if "unit_price" in fields:
        plain["multiplier"] = None
    return Rule(number, **{**plain, **fields})


def winner(
    *rules: Rule, meter: str = "input", at: datetime = AT, taken_from: dict[str, str] | None = None
) -> int | None:
    """The number of the rule that wins for claude-sonnet-4-5 on CHANNEL, in whatever order they come."""
    plan = PlanTerms(1, "p", Decimal(1), rules)
    standard = Standard(taken_from=taken_from or {})
    found = best_rule(plan.rules_for(MODEL, "claude-sonnet-4-5", CHANNEL), meter, at, standard)
    backwards = PlanTerms(1, "p", Decimal(1), rules[::-1])
    assert best_rule(backwards.rules_for(MODEL, "claude-sonnet-4-5", CHANNEL), meter, at, standard) == found
    return None if found is None else found.id


def prices(
    *rules: Rule,
    multiplier: str = "1",
    listed: dict[str, Decimal] = LIST,
    taken_from: dict[str, str] | None = None,
    factor: str = "1",
) -> dict[str, str]:
    """The plan's prices of a model, by meter."""
    plan = PlanTerms(1, "p", Decimal(multiplier), rules)
    fitting = plan.rules_for(MODEL, "claude-sonnet-4-5", CHANNEL)
    standard = Standard(listed, taken_from or {})
    found = {
        meter: charge_price(
            plan, best_rule(fitting, meter, AT, standard), meter, price, standard, factor=Decimal(factor)
        )
        for meter, price in listed.items()
    }
    return {meter: format(price.normalize(), "f") for meter, price in found.items()}


class TestTheMostSpecificRule:
    def test_a_model_goes_before_its_family_and_that_before_everything(self) -> None:
        everything, family, model = rule(1), rule(2, family="claude-"), rule(3, model_id=MODEL)
        assert winner(everything) == 1
        assert winner(everything, family) == 2
        assert winner(everything, family, model) == 3

    def test_the_longer_family_goes_first(self) -> None:
        assert winner(rule(1, family="claude-sonnet-4"), rule(2, family="claude-")) == 1

    def test_a_model_s_rule_goes_before_a_family_s_that_names_the_meter(self) -> None:
        assert winner(rule(1, model_id=MODEL), rule(2, family="claude-", meter="input", channel_id=CHANNEL)) == 1

    def test_the_meter_goes_before_the_channel(self) -> None:
        assert winner(rule(1, model_id=MODEL, channel_id=CHANNEL), rule(2, model_id=MODEL, meter="input")) == 2
        assert winner(rule(1, model_id=MODEL, channel_id=CHANNEL), rule(2, model_id=MODEL)) == 1

    def test_of_equals_the_one_that_began_last_wins_and_then_the_newer(self) -> None:
        yesterday, today = AT - timedelta(days=1), AT
        assert winner(rule(3), rule(2, effective_from=yesterday), rule(1, effective_from=today)) == 1
        assert winner(rule(1), rule(2)) == 2

    def test_a_rule_holds_from_its_first_moment_to_before_its_last(self) -> None:
        bounded = rule(1, effective_from=AT, effective_until=AT + timedelta(hours=1))
        moments = [AT - timedelta(microseconds=1), AT, AT + timedelta(minutes=59), AT + timedelta(hours=1)]
        assert [winner(bounded, at=at) for at in moments] == [None, 1, 1, None]

    @pytest.mark.parametrize(
        "fields",
        [
            {"model_id": OTHER_MODEL},
            {"family": "claude-opus"},
            {"family": "laude-"},
            {"channel_id": OTHER_CHANNEL},
            {"meter": "output"},
        ],
    )
    def test_a_rule_for_something_else_does_not_count(self, fields: dict[str, Any]) -> None:
        assert winner(rule(1, **fields)) is None

    def test_a_rule_for_input_covers_cache_meters_that_no_rule_names(self) -> None:
        of_input, of_reads = rule(1, meter="input"), rule(2, meter="cache_read")
        assert winner(of_input, meter="cache_read") == 1
        assert winner(of_input, of_reads, meter="cache_read") == 2
        assert winner(of_input, meter="output") is None
        assert winner(of_input, meter="audio_input") is None

    @pytest.mark.parametrize("kind", ["audio", "image"])
    def test_a_rule_for_another_kind_of_input_covers_its_cache_meter(self, kind: str) -> None:
        of_kind, of_text = rule(1, meter=f"{kind}_input"), rule(2, meter="input")
        assert winner(of_kind, of_text, meter=f"{kind}_cache_read") == 1
        assert winner(of_text, meter=f"{kind}_cache_read") is None
        assert winner(of_kind, meter="cache_read") is None

    def test_a_rule_covers_the_prices_that_the_list_has_taken_over_from_its_meter(self) -> None:
        taken = {"image_input": "input", "image_cache_read": "cache_read", "video_input": "input"}
        of_input, of_reads = rule(1, meter="input"), rule(2, meter="cache_read")
        of_images = rule(3, meter="image_input")
        assert [winner(of_input, meter=meter, taken_from=taken) for meter in taken] == [1, 1, 1]
        assert winner(of_input, of_reads, meter="image_cache_read", taken_from=taken) == 2
        assert winner(of_input, of_reads, of_images, meter="image_cache_read", taken_from=taken) == 3
        assert winner(of_input, of_images, meter="image_input", taken_from=taken) == 3
        assert winner(of_input, of_reads, meter="image_input", taken_from=taken) == 1
        assert winner(of_input, meter="audio_input", taken_from=taken) is None

    def test_a_rule_for_input_goes_before_one_for_everything_on_cache_meters(self) -> None:
        assert winner(rule(1, meter="input"), rule(2), meter="cache_write_1h") == 1


class TestAPrice:
    def test_without_a_rule_is_the_list_price_times_the_plan_s_multiplier(self) -> None:
        assert prices(multiplier="1.2") == {
            "input": "3.6",
            "cache_read": "0.36",
            "cache_write_1h": "7.2",
            "output": "18",
        }

    def test_a_rule_s_multiplier_stands_in_place_of_the_plan_s(self) -> None:
        assert prices(rule(multiplier=Decimal("0.5"), meter="output"), multiplier="1.2")["output"] == "7.5"

    def test_zero_makes_a_model_free(self) -> None:
        assert set(prices(rule(model_id=MODEL, multiplier=Decimal(0))).values()) == {"0"}

    def test_cache_prices_keep_their_multiple_of_a_fixed_input_price(self) -> None:
        assert prices(rule(meter="input", unit_price=Decimal(2)), multiplier="1.2") == {
            "input": "2",
            "cache_read": "0.2",
            "cache_write_1h": "4",
            "output": "18",
        }

    def test_a_cache_price_with_a_rule_of_its_own_does_not_move(self) -> None:
        fixed = rule(1, meter="input", unit_price=Decimal(2))
        assert prices(fixed, rule(2, meter="cache_read", unit_price=Decimal("0.25")))["cache_read"] == "0.25"

    def test_each_cache_price_keeps_its_multiple_of_its_own_input_price(self) -> None:
        listed = {"input": Decimal("0.3"), "audio_input": Decimal(1), "audio_cache_read": Decimal("0.1")}
        assert prices(rule(meter="audio_input", unit_price=Decimal(3)), listed=listed) == {
            "input": "0.3",
            "audio_input": "3",
            "audio_cache_read": "0.3",
        }

    def test_what_the_list_took_over_keeps_its_proportion_to_a_fixed_price(self) -> None:
        listed = {"input": Decimal("0.3"), "image_input": Decimal("0.3"), "image_cache_read": Decimal("0.03")}
        taken = {"image_input": "input", "image_cache_read": "cache_read"}
        fixed = rule(meter="input", unit_price=Decimal("0.6"))
        assert prices(fixed, listed=listed, taken_from=taken) == {
            "input": "0.6",
            "image_input": "0.6",
            "image_cache_read": "0.06",
        }
        assert prices(fixed, listed=listed)["image_input"] == "0.3"

    def test_is_rounded_once_after_all_that_multiplies_it(self) -> None:
        listed = {"input": Decimal("0.010000003"), "cache_read": Decimal("0.010000003")}
        assert prices(multiplier="1.5", listed=listed, factor="1.1")["input"] == "0.016500005"
        assert prices(rule(multiplier=Decimal("1.5")), listed=listed, factor="1.1")["input"] == "0.016500005"
        assert prices(rule(meter="input", unit_price=Decimal("0.000000005")), listed=listed, factor="1.1") == {
            "input": "0.000000006",
            "cache_read": "0.000000006",
        }

    def test_a_fixed_price_keeps_the_proportions_of_tiers_and_variants(self) -> None:
        plan, fixed = PlanTerms(1, "p"), rule(meter="input", unit_price=Decimal("2.4"))
        long_prompt = charge_price(plan, fixed, "input", Decimal(6), Standard(LIST))
        batch = charge_price(plan, fixed, "input", Decimal("1.5"), Standard(LIST))
        assert (long_prompt, batch) == (Decimal("4.8"), Decimal("1.2"))

    def test_a_fixed_price_in_place_of_nothing_is_the_price_and_moves_nothing(self) -> None:
        free = {**LIST, "input": Decimal(0)}
        assert prices(rule(meter="input", unit_price=Decimal(2)), listed=free) == {
            "input": "2",
            "cache_read": "0.3",
            "cache_write_1h": "6",
            "output": "15",
        }

    @given(
        listed=st.decimals(0, 10**4, places=9, allow_nan=False),
        fixed=st.decimals(0, 10**4, places=9, allow_nan=False),
        reference=st.decimals(Decimal("0.000000001"), 10**4, places=9, allow_nan=False),
    )
    def test_has_never_more_than_nine_decimals_and_is_never_negative(
        self, listed: Decimal, fixed: Decimal, reference: Decimal
    ) -> None:
        plan = PlanTerms(1, "p", Decimal("1.234567"))
        for one in (None, rule(multiplier=Decimal("0.333333")), rule(meter="input", unit_price=fixed)):
            price = charge_price(plan, one, "cache_read", listed, Standard({"input": reference}))
            assert price >= 0
            assert isinstance(exponent := price.as_tuple().exponent, int)
            assert exponent >= -9


class TestWhatIsChargedOfARequestThatDidNotComplete:
    def test_is_everything_known_unless_a_policy_says_otherwise(self) -> None:
        assert PlanTerms(1, "p").charged_for("aborted", AT) == "known"
        plan = PlanTerms(1, "p", policies=(Policy(None, "input", "nothing"),))
        assert [plan.charged_for(status, AT) for status in ("completed", "aborted", "failed")] == [
            "known",
            "input",
            "nothing",
        ]

    def test_is_judged_by_the_policy_of_the_moment(self) -> None:
        plan = PlanTerms(
            1, "p", policies=(Policy(AT, "nothing", "known"), Policy(AT + timedelta(days=1), "input", "known"))
        )
        moments = [AT - timedelta(seconds=1), AT, AT + timedelta(days=2)]
        assert [plan.charged_for("aborted", at) for at in moments] == ["known", "nothing", "input"]

    def test_the_input_side_is_every_token_that_went_in(self) -> None:
        charged = {meter for meter in (*LIST, "audio_input", "web_search") if is_charged(meter, "input")}
        assert charged == {"input", "cache_read", "cache_write_1h", "audio_input"}
        assert not is_charged("input", "nothing")
        assert is_charged("output", "known")
