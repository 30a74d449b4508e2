"""What each provider's usage object means: its own figures in, disjoint meters out."""

from typing import Any

import pytest

from metering import formats
from metering.formats import InvalidUsage, Usage

EXAMPLE = {
    "input_tokens": 1000,
    "cache_creation_input_tokens": 3000,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
    "cache_read_input_tokens": 10000,
    "output_tokens": 500,
    "output_tokens_details": {"thinking_tokens": 200},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
    "service_tier": "standard",
    "speed": "standard",
    "inference_geo": "us",
}
CHAT = {
    "prompt_tokens": 1200,
    "completion_tokens": 300,
    "total_tokens": 1500,
    "prompt_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 200, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 100, "audio_tokens": 0},
}


def anthropic(**changes: Any) -> Usage:
    return formats.read("anthropic.messages", {"input_tokens": 1, "output_tokens": 2, **changes})


def chat(**changes: Any) -> Usage:
    return formats.read("openai.chat", {"prompt_tokens": 100, "completion_tokens": 50, **changes})


class TestAnthropicMessages:
    def test_the_provider_s_own_example_becomes_disjoint_meters(self) -> None:
        assert formats.read("anthropic.messages", EXAMPLE) == Usage(
            quantities={
                "input": 1000,
                "cache_read": 10000,
                "cache_write_5m": 1000,
                "cache_write_1h": 2000,
                "output": 500,
                "web_search": 2,
            },
            prompt_tokens=14000,
            inference_geo="us",
        )

    def test_input_tokens_exclude_what_was_cached(self) -> None:
        read = anthropic(input_tokens=10, cache_read_input_tokens=90)
        assert read.quantities == {"input": 10, "cache_read": 90, "output": 2}
        assert read.prompt_tokens == 100

    def test_output_tokens_include_thinking(self) -> None:
        read = anthropic(output_tokens=500, output_tokens_details={"thinking_tokens": 500})
        assert read.quantities["output"] == 500

    @pytest.mark.parametrize(
        "split",
        [
            {},
            {"cache_creation": None},
            {"cache_creation": {}},
            {"cache_creation": {"ephemeral_5m_input_tokens": None, "ephemeral_1h_input_tokens": None}},
        ],
    )
    def test_a_total_of_writes_without_its_split_is_five_minutes_not_nothing(self, split: dict[str, Any]) -> None:
        """Row 16: the total of cache writes comes without its split and is billed 0."""
        read = anthropic(cache_creation_input_tokens=3000, **split)
        assert read.quantities["cache_write_5m"] == 3000
        assert read.prompt_tokens == 3001

    def test_one_hour_writes_are_told_from_five_minute_ones(self) -> None:
        """Row 15: one-hour writes (2×) priced as five-minute ones (1.25×)."""
        read = anthropic(cache_creation_input_tokens=7, cache_creation={"ephemeral_1h_input_tokens": 7})
        assert read.quantities == {"input": 1, "cache_write_1h": 7, "output": 2}

    def test_a_split_without_its_total_counts(self) -> None:
        read = anthropic(cache_creation={"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4})
        assert (read.quantities["cache_write_5m"], read.quantities["cache_write_1h"]) == (3, 4)

    def test_a_split_that_does_not_add_up_is_refused_with_both_figures(self) -> None:
        with pytest.raises(InvalidUsage, match=r"cache_creation_input_tokens is 3000.*adds up to 2999"):
            anthropic(
                cache_creation_input_tokens=3000,
                cache_creation={"ephemeral_5m_input_tokens": 999, "ephemeral_1h_input_tokens": 2000},
            )

    def test_a_split_under_a_total_of_zero_is_refused(self) -> None:
        with pytest.raises(InvalidUsage, match=r"is 0.*adds up to 5"):
            anthropic(cache_creation_input_tokens=0, cache_creation={"ephemeral_5m_input_tokens": 5})

    def test_a_lifetime_that_is_new_to_us_waits_for_its_meter(self) -> None:
        split = {"ephemeral_5m_input_tokens": 1, "ephemeral_24h_input_tokens": 9}
        read = anthropic(cache_creation_input_tokens=10, cache_creation=split)
        assert read.unknown == "cache_creation.ephemeral_24h_input_tokens"

    def test_everything_but_the_two_counts_may_be_null(self) -> None:
        nulls = dict.fromkeys(set(EXAMPLE) - {"input_tokens", "output_tokens"})
        assert anthropic(**nulls) == anthropic()
        assert anthropic() == Usage({"input": 1, "output": 2}, 1)

    def test_more_thinking_than_output_is_refused(self) -> None:
        with pytest.raises(InvalidUsage, match=r"thinking_tokens is 3, more than usage.output_tokens, 2"):
            anthropic(output_tokens_details={"thinking_tokens": 3})

    def test_words_that_change_the_price_are_kept(self) -> None:
        read = anthropic(service_tier="batch", speed="fast", inference_geo="eu")
        assert (read.service_tier, read.speed, read.inference_geo) == ("batch", "fast", "eu")

    def test_a_stream_is_one_call_whose_last_counts_win(self) -> None:
        """Row 17: the delta is cumulative; it is no second record, and nothing is added up."""
        start = {
            **EXAMPLE,
            "output_tokens": 1,
            "output_tokens_details": None,
            "server_tool_use": None,
        }
        delta = {
            "input_tokens": 1000,
            "cache_creation_input_tokens": 3000,
            "cache_read_input_tokens": 10000,
            "output_tokens": 500,
            "output_tokens_details": {"thinking_tokens": 200},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        }
        stream = formats.read("anthropic.messages", {"message_start": start, "message_delta": delta})
        assert stream == formats.read("anthropic.messages", EXAMPLE)

    def test_a_null_in_the_delta_does_not_hide_what_the_start_knew(self) -> None:
        stream = {
            "message_start": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 7},
            "message_delta": {"output_tokens": 9, "input_tokens": None, "cache_read_input_tokens": None},
        }
        assert formats.read("anthropic.messages", stream).quantities == {"input": 5, "cache_read": 7, "output": 9}

    def test_a_stream_cut_off_after_its_start_is_charged_what_is_known(self) -> None:
        stream = {"message_start": {"input_tokens": 5, "output_tokens": 1}}
        assert formats.read("anthropic.messages", stream).quantities == {"input": 5, "output": 1}

    def test_counts_beside_a_stream_s_two_objects_are_refused(self) -> None:
        with pytest.raises(InvalidUsage, match=r"usage.output_tokens stands beside message_start"):
            formats.read("anthropic.messages", {"message_start": {"input_tokens": 5}, "output_tokens": 1})

    @pytest.mark.parametrize("missing", ["input_tokens", "output_tokens"])
    @pytest.mark.parametrize("is_null", [False, True])
    def test_a_missing_required_count_is_refused_by_name(self, missing: str, is_null: bool) -> None:
        usage: dict[str, Any] = {"input_tokens": 1, "output_tokens": 2}
        if is_null:
            usage[missing] = None
        else:
            del usage[missing]
        with pytest.raises(InvalidUsage, match=rf"usage\.{missing} is missing"):
            formats.read("anthropic.messages", usage)

    @pytest.mark.parametrize(
        "field",
        [
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "cache_creation.ephemeral_5m_input_tokens",
            "cache_creation.ephemeral_1h_input_tokens",
            "server_tool_use.web_search_requests",
            "server_tool_use.web_fetch_requests",
            "output_tokens_details.thinking_tokens",
        ],
    )
    @pytest.mark.parametrize(
        ("value", "figure"),
        [
            (-1, "-1"),
            (1.5, "1.5"),
            (1.0, "1.0"),
            ("7", "'7'"),
            (True, "True"),
            (10**12 + 1, str(10**12 + 1)),
            ([], r"\[\]"),
        ],
    )
    def test_an_impossible_count_is_refused_with_field_and_figure(self, field: str, value: object, figure: str) -> None:
        outer, _, inner = field.partition(".")
        with pytest.raises(InvalidUsage, match=rf"usage\.{field.replace('.', '[.]')} must be .*{figure}"):
            anthropic(**{outer: {inner: value} if inner else value})

    @pytest.mark.parametrize("name", ["cache_creation", "server_tool_use", "output_tokens_details"])
    @pytest.mark.parametrize("value", [5, "text", [1], True])
    def test_a_part_that_is_no_object_is_refused(self, name: str, value: object) -> None:
        with pytest.raises(InvalidUsage, match=rf"usage\.{name} must be an object"):
            anthropic(**{name: value})

    @pytest.mark.parametrize("name", ["service_tier", "speed", "inference_geo"])
    def test_a_word_that_is_no_string_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidUsage, match=rf"usage\.{name} must be a string, not 5"):
            anthropic(**{name: 5})


class TestOpenAiChat:
    def test_the_provider_s_own_example_becomes_disjoint_meters(self) -> None:
        assert formats.read("openai.chat", CHAT) == Usage(
            quantities={"input": 200, "cache_read": 800, "cache_write_30m": 200, "output": 300}, prompt_tokens=1200
        )

    def test_prompt_tokens_include_what_was_cached(self) -> None:
        read = chat(prompt_tokens=100, prompt_tokens_details={"cached_tokens": 90})
        assert read.quantities == {"input": 10, "cache_read": 90, "output": 50}
        assert read.prompt_tokens == 100

    def test_completion_tokens_include_reasoning(self) -> None:
        assert chat(completion_tokens_details={"reasoning_tokens": 50}).quantities["output"] == 50

    def test_audio_is_taken_out_of_both_sides(self) -> None:
        read = chat(prompt_tokens_details={"audio_tokens": 30}, completion_tokens_details={"audio_tokens": 20})
        assert read.quantities == {"input": 70, "audio_input": 30, "output": 30, "audio_output": 20}

    def test_nulls_are_absent(self) -> None:
        nulls = dict.fromkeys(["total_tokens", "prompt_tokens_details", "completion_tokens_details", "service_tier"])
        assert chat(**nulls) == chat()

    @pytest.mark.parametrize(
        ("details", "figures"),
        [
            ({"cached_tokens": 101}, r"prompt_tokens is 100, but cached \(101\)"),
            ({"cached_tokens": 60, "cache_write_tokens": 41}, r"cached \(60\), cache-write \(41\)"),
            ({"cached_tokens": 60, "audio_tokens": 41}, r"audio \(41\)"),
        ],
    )
    def test_parts_that_are_more_than_the_prompt_are_refused(self, details: dict[str, int], figures: str) -> None:
        with pytest.raises(InvalidUsage, match=figures):
            chat(prompt_tokens_details=details)

    @pytest.mark.parametrize("name", ["reasoning_tokens", "audio_tokens"])
    def test_parts_that_are_more_than_the_completion_are_refused(self, name: str) -> None:
        with pytest.raises(InvalidUsage, match=r"completion_tokens is 50, .*51"):
            chat(completion_tokens_details={name: 51})

    def test_a_total_that_does_not_add_up_is_refused_with_both_figures(self) -> None:
        with pytest.raises(InvalidUsage, match=r"total_tokens is 151.*add up to 150"):
            chat(total_tokens=151)

    @pytest.mark.parametrize("missing", ["prompt_tokens", "completion_tokens"])
    def test_a_missing_required_count_is_refused_by_name(self, missing: str) -> None:
        with pytest.raises(InvalidUsage, match=rf"usage\.{missing} is missing"):
            chat(**{missing: None})

    @pytest.mark.parametrize("value", [-1, 0.5, "1", True, 10**13])
    @pytest.mark.parametrize(
        "field", ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details.cached_tokens"]
    )
    def test_an_impossible_count_is_refused_by_name(self, field: str, value: object) -> None:
        outer, _, inner = field.partition(".")
        with pytest.raises(InvalidUsage, match=rf"usage\.{field.replace('.', '[.]')} must be"):
            chat(**{outer: {inner: value} if inner else value})

    @pytest.mark.parametrize(("said", "meant"), [("default", "standard"), ("auto", "standard"), ("flex", "flex")])
    def test_the_default_tier_is_standard(self, said: str, meant: str) -> None:
        assert chat(service_tier=said).service_tier == meant


class TestMeters:
    def test_are_taken_as_they_stand(self) -> None:
        read = formats.read("meters", {"input": 1000, "cache_write_5m": 3000, "output": 5, "web_search": 2})
        assert read == Usage({"input": 1000, "cache_write_5m": 3000, "output": 5, "web_search": 2}, 4000)

    def test_zero_is_zero(self) -> None:
        assert formats.read("meters", {"input": 0}) == Usage({}, 0)

    def test_none_at_all_is_refused(self) -> None:
        with pytest.raises(InvalidUsage, match="names no meter"):
            formats.read("meters", {})

    @pytest.mark.parametrize("name", ["inputs", "Input", "", "cache_write", "customer_id", "x" * 5000])
    def test_an_unknown_meter_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(InvalidUsage, match=rf"usage\.{name[:60]} is not a meter"):
            formats.read("meters", {name: 1})

    @pytest.mark.parametrize("value", [-1, 0.5, "1", True, None, 10**12 + 1])
    def test_an_impossible_count_is_refused(self, value: object) -> None:
        with pytest.raises(InvalidUsage, match=r"usage\.input must be"):
            formats.read("meters", {"input": value})


class TestEveryFormat:
    @pytest.mark.parametrize("name", formats.FORMATS)
    @pytest.mark.parametrize("usage", [None, [], "text", 5, True])
    def test_refuses_what_is_no_object(self, name: str, usage: object) -> None:
        with pytest.raises(InvalidUsage, match="usage must be an object"):
            formats.read(name, usage)

    @pytest.mark.parametrize(
        ("usage", "unknown"),
        [
            ({"tool_tokens": 5}, "tool_tokens"),
            ({"tool_tokens": 0.5}, "tool_tokens"),
            ({"tool_tokens": {"deep": [{"er": 1}]}}, "tool_tokens.deep[].er"),
            ({"tool_tokens": 0}, ""),
            ({"tool_tokens": -5}, ""),
            ({"tool_tokens": None}, ""),
            ({"is_cached": True}, ""),
            ({"note": "5"}, ""),
            ({"zeta": 5, "alpha": {"y": 1, "x": 1}}, "alpha.x"),
            ({"tries": [{"type": "first", "input_tokens": 3}]}, "tries[].input_tokens"),
        ],
    )
    def test_names_a_counter_it_does_not_know(self, usage: dict[str, Any], unknown: str) -> None:
        assert anthropic(**usage).unknown == unknown
        assert chat(**usage).unknown == unknown

    def test_names_unknown_counters_inside_the_parts_it_knows(self) -> None:
        assert anthropic(server_tool_use={"code_requests": 1}).unknown == "server_tool_use.code_requests"
        assert anthropic(output_tokens_details={"spoken": 1}).unknown == "output_tokens_details.spoken"
        assert chat(prompt_tokens_details={"video_tokens": 1}).unknown == "prompt_tokens_details.video_tokens"
        assert chat(completion_tokens_details={"x": 1}).unknown == "completion_tokens_details.x"

    def test_an_absurd_figure_is_cut_short_in_the_message(self) -> None:
        for value in (10**4000, -(10**4000), "9" * 4000):
            with pytest.raises(InvalidUsage) as caught:
                anthropic(input_tokens=value)
            assert len(str(caught.value)) < 120
