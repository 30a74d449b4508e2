"""Several model calls inside one answer of the Messages API: each is priced by itself, and none is lost or doubled."""

from collections.abc import Callable
from typing import Any

import pytest

from metering import formats
from metering.formats import InvalidUsage, Part, Usage

Entry = dict[str, Any]


def call(kind: str, fresh: int, output: int, *, read: int = 0, written: int = 0, **more: Any) -> Entry:
    counts = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return {"type": kind, "input_tokens": fresh, "output_tokens": output, **counts, **more}


def answer(*iterations: Entry, fresh: int, output: int, read: int = 0, written: int = 0, **more: Any) -> Usage:
    usage = call("", fresh, output, read=read, written=written, **more)
    del usage["type"]
    return formats.read("anthropic.messages", {**usage, "iterations": list(iterations)})


class TestOneCall:
    def test_an_ordinary_message_is_rated_as_a_whole(self) -> None:
        usage = answer(call("message", 10, 5, read=90, model="claude-x"), fresh=10, output=5, read=90)
        assert usage == Usage({"input": 10, "cache_read": 90, "output": 5}, 100)

    @pytest.mark.parametrize("iterations", [None, []])
    def test_none_at_all_are_no_parts(self, iterations: object) -> None:
        usage = {"input_tokens": 1, "output_tokens": 2, "iterations": iterations}
        assert formats.read("anthropic.messages", usage) == Usage({"input": 1, "output": 2}, 1)

    def test_a_call_of_nothing_beside_it_makes_no_parts(self) -> None:
        usage = answer(call("message", 10, 5), call("compaction", 0, 0), fresh=10, output=5)
        assert usage == Usage({"input": 10, "output": 5}, 10)

    def test_a_model_that_stepped_in_is_rated_by_its_own_name(self) -> None:
        usage = answer(call("fallback_message", 10, 5, model="claude-b"), fresh=10, output=5)
        assert usage.parts == (Part("fallback_message", "claude-b", {"input": 10, "output": 5}, 10),)

    HOURS = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2000}
    UNTOLD = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    CALL = {"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 2000}
    START = {"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_creation": UNTOLD}

    @pytest.mark.parametrize(
        "shape",
        [
            lambda usage: usage,
            lambda usage: {"message_delta": usage},
            lambda usage: {"message_start": TestOneCall.START, "message_delta": usage},
            lambda usage: {"message_start": {**TestOneCall.START, "cache_creation": None}, "message_delta": usage},
        ],
        ids=["bare", "bare delta", "stream", "stream that starts without a split"],
    )
    def test_its_lifetimes_count_where_the_top_level_tells_none(self, shape: Callable[[Entry], Entry]) -> None:
        """Row 15 for the one call of a response: only the call tells that its writes live for an hour."""
        usage = {**self.CALL, "iterations": [{"type": "message", **self.CALL, "cache_creation": self.HOURS}]}
        read = formats.read("anthropic.messages", shape(usage))
        assert read == Usage({"input": 5, "cache_write_1h": 2000, "output": 1}, 2005)

    def test_the_top_level_s_lifetimes_count_where_it_tells_none(self) -> None:
        usage = {**self.CALL, "cache_creation": self.HOURS, "iterations": [{"type": "message", **self.CALL}]}
        read = formats.read("anthropic.messages", usage)
        assert read == Usage({"input": 5, "cache_write_1h": 2000, "output": 1}, 2005)

    @pytest.mark.parametrize("told", [0, 1, 1999])
    def test_lifetimes_that_part_ways_are_refused_with_both_figures(self, told: int) -> None:
        top = {"ephemeral_5m_input_tokens": 2000 - told, "ephemeral_1h_input_tokens": told}
        usage = {**self.CALL, "cache_creation": top}
        usage["iterations"] = [{"type": "message", **self.CALL, "cache_creation": self.HOURS}]
        with pytest.raises(InvalidUsage, match=rf"ephemeral_1h_input_tokens is {told}, but .* add up to 2000"):
            formats.read("anthropic.messages", usage)

    def test_searches_stay_with_the_whole(self) -> None:
        usage = {**self.CALL, "iterations": [{"type": "message", **self.CALL, "cache_creation": self.HOURS}]}
        read = formats.read("anthropic.messages", {**usage, "server_tool_use": {"web_search_requests": 3}})
        assert read.quantities == {"input": 5, "cache_write_1h": 2000, "output": 1, "web_search": 3}
        assert read.parts == ()


class TestToolLoops:
    def test_each_call_of_a_loop_has_a_prompt_of_its_own(self) -> None:
        """Row 19: two prompts of 60,000 tokens are no prompt of 120,000."""
        usage = answer(
            call("message", 60_000, 100),
            call("message", 1_000, 200, read=60_000),
            fresh=61_000,
            output=300,
            read=60_000,
            server_tool_use={"web_search_requests": 2},
        )
        assert usage.quantities == {"input": 61_000, "cache_read": 60_000, "output": 300, "web_search": 2}
        assert usage.parts == (
            Part("message", None, {"input": 60_000, "output": 100}, 60_000),
            Part("message", None, {"input": 1_000, "cache_read": 60_000, "output": 200, "web_search": 2}, 61_000),
        )

    @pytest.mark.parametrize(
        ("field", "told", "added"),
        [
            ("input_tokens", 11, 10),
            ("output_tokens", 6, 5),
            ("cache_read_input_tokens", 0, 7),
            ("cache_creation_input_tokens", 4, 3),
        ],
    )
    def test_top_level_figures_that_are_no_sum_are_refused_with_both(self, field: str, told: int, added: int) -> None:
        usage = {**call("", 10, 5, read=7, written=3), field: told}
        usage["iterations"] = [call("message", 4, 2, read=7), call("message", 6, 3, written=3)]
        del usage["type"]
        with pytest.raises(InvalidUsage, match=rf"usage\.{field} is {told}, but .*iterations add up to {added}"):
            formats.read("anthropic.messages", usage)


class TestCallsBesideTheAnswer:
    def test_compaction_is_charged_though_the_top_level_leaves_it_out(self) -> None:
        usage = answer(call("compaction", 180_000, 3_500), call("message", 23_000, 1_000), fresh=23_000, output=1_000)
        assert usage.quantities == {"input": 203_000, "output": 4_500}
        assert usage.prompt_tokens == 23_000
        assert usage.parts == (
            Part("compaction", None, {"input": 180_000, "output": 3_500}, 180_000),
            Part("message", None, {"input": 23_000, "output": 1_000}, 23_000),
        )

    def test_a_pause_after_compaction_is_compaction_alone(self) -> None:
        usage = answer(call("compaction", 180_000, 3_500), fresh=0, output=0)
        assert usage.quantities == {"input": 180_000, "output": 3_500}
        assert [part.kind for part in usage.parts] == ["compaction"]

    def test_the_advisor_is_charged_by_its_own_model(self) -> None:
        usage = answer(
            call("message", 412, 89),
            call("advisor_message", 823, 1612, model="claude-big"),
            call("message", 1348, 442, read=412),
            fresh=1760,
            output=531,
            read=412,
        )
        assert usage.quantities == {"input": 2583, "cache_read": 412, "output": 2143}
        assert usage.prompt_tokens == 2172
        assert usage.parts[1] == Part("advisor_message", "claude-big", {"input": 823, "output": 1612}, 823)
        assert [part.model for part in usage.parts] == [None, "claude-big", None]

    @pytest.mark.parametrize("kind", ["advisor_message", "fallback_message"])
    def test_another_model_s_call_must_name_it(self, kind: str) -> None:
        with pytest.raises(InvalidUsage, match=r"usage\.iterations\[0\]\.model is missing"):
            answer(call(kind, 1, 1), fresh=1, output=1)

    def test_searches_without_an_answer_are_charged(self) -> None:
        usage = answer(call("compaction", 5, 6), fresh=0, output=0, server_tool_use={"web_search_requests": 1})
        assert usage.parts[-1] == Part("message", None, {"web_search": 1}, 0)
        assert usage.quantities == {"input": 5, "output": 6, "web_search": 1}


class TestFallback:
    def test_who_declined_halfway_is_charged_beside_who_answered(self) -> None:
        usage = answer(
            call("message", 535, 37, model="claude-a"),
            call("fallback_message", 412, 264, model="claude-b"),
            fresh=412,
            output=264,
        )
        assert usage.prompt_tokens == 412
        assert usage.quantities == {"input": 947, "output": 301}
        assert usage.parts == (
            Part("message", "claude-a", {"input": 535, "output": 37}, 535),
            Part("fallback_message", "claude-b", {"input": 412, "output": 264}, 412),
        )

    def test_who_declined_before_writing_anything_is_not_charged(self) -> None:
        usage = answer(
            call("message", 535, 0, model="claude-a"),
            call("fallback_message", 412, 264, model="claude-b"),
            fresh=412,
            output=264,
        )
        assert usage.quantities == {"input": 412, "output": 264}
        assert [part.model for part in usage.parts] == ["claude-b"]

    def test_an_attempt_that_wrote_in_an_earlier_call_is_charged_whole(self) -> None:
        usage = answer(
            call("message", 5, 3, model="claude-a"),
            call("message", 9, 0, model="claude-a"),
            call("fallback_message", 1, 1, model="claude-b"),
            fresh=1,
            output=1,
        )
        assert usage.quantities == {"input": 15, "output": 4}

    def test_the_top_level_is_the_whole_loop_of_who_answered(self) -> None:
        usage = answer(
            call("message", 535, 0, model="claude-a"),
            call("message", 400, 20, model="claude-b"),
            call("fallback_message", 500, 30, model="claude-b"),
            fresh=900,
            output=50,
        )
        assert [(part.kind, part.model, part.prompt_tokens) for part in usage.parts] == [
            ("message", "claude-b", 400),
            ("fallback_message", "claude-b", 500),
        ]

    def test_a_decliner_s_figures_at_the_top_are_refused(self) -> None:
        with pytest.raises(InvalidUsage, match=r"usage\.input_tokens is 947, but .* add up to 412"):
            answer(
                call("message", 535, 37, model="claude-a"),
                call("fallback_message", 412, 264, model="claude-b"),
                fresh=947,
                output=301,
            )


class TestCacheWrites:
    def test_each_call_tells_its_own_lifetimes(self) -> None:
        split = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}
        usage = answer(
            call("message", 1, 1, written=30, cache_creation=split),
            call("message", 1, 1, written=5, cache_creation={"ephemeral_5m_input_tokens": 5}),
            fresh=2,
            output=2,
            written=35,
        )
        assert usage.quantities["cache_write_5m"] == 15
        assert usage.quantities["cache_write_1h"] == 20
        assert usage.parts[0].quantities["cache_write_1h"] == 20

    def test_a_call_without_lifetimes_has_the_top_level_s(self) -> None:
        """Row 15 once more, where only the top level knows the lifetime."""
        usage = answer(
            call("compaction", 7, 7),
            call("message", 1, 1, written=30),
            fresh=1,
            output=1,
            written=30,
            cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        )
        assert usage.parts[1].quantities == {"input": 1, "cache_write_5m": 10, "cache_write_1h": 20, "output": 1}

    def test_a_call_without_any_lifetime_is_five_minutes(self) -> None:
        usage = answer(call("compaction", 7, 7), call("message", 1, 1, written=3), fresh=1, output=1, written=3)
        assert usage.quantities["cache_write_5m"] == 3

    def test_lifetimes_that_part_ways_are_refused_with_both_figures(self) -> None:
        with pytest.raises(InvalidUsage, match=r"ephemeral_1h_input_tokens is 20, but .* add up to 30"):
            answer(
                call("message", 1, 1, written=30, cache_creation={"ephemeral_1h_input_tokens": 30}),
                call("compaction", 7, 7),
                fresh=1,
                output=1,
                written=30,
                cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            )

    def test_a_call_whose_split_does_not_add_up_is_refused_by_its_place(self) -> None:
        with pytest.raises(InvalidUsage, match=r"iterations\[1\]\.cache_creation_input_tokens is 3, .* adds up to 2"):
            answer(
                call("message", 1, 1),
                call("message", 1, 1, written=3, cache_creation={"ephemeral_5m_input_tokens": 2}),
                fresh=2,
                output=2,
                written=3,
            )


class TestStreams:
    START = {
        "input_tokens": 10,
        "output_tokens": 1,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "service_tier": "priority",
    }

    def test_writes_of_later_calls_live_for_the_default(self) -> None:
        delta = {"input_tokens": 15, "output_tokens": 9, "cache_creation_input_tokens": 37}
        usage = formats.read("anthropic.messages", {"message_start": self.START, "message_delta": delta})
        assert usage.quantities == {"input": 15, "cache_write_5m": 17, "cache_write_1h": 20, "output": 9}

    def test_or_for_as_long_as_the_calls_say(self) -> None:
        hour = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 7}
        delta = {
            "input_tokens": 15,
            "output_tokens": 9,
            "cache_creation_input_tokens": 37,
            "iterations": [
                call("message", 10, 4, written=30, cache_creation=self.START["cache_creation"]),
                call("message", 5, 5, written=7, cache_creation=hour),
            ],
        }
        usage = formats.read("anthropic.messages", {"message_start": self.START, "message_delta": delta})
        assert usage.quantities == {"input": 15, "cache_write_5m": 10, "cache_write_1h": 27, "output": 9}
        assert usage.service_tier == "priority"

    def test_fewer_writes_than_at_the_start_are_refused(self) -> None:
        delta = {"output_tokens": 9, "cache_creation_input_tokens": 29}
        with pytest.raises(InvalidUsage, match=r"is 29, but .* adds up to 30"):
            formats.read("anthropic.messages", {"message_start": self.START, "message_delta": delta})


class TestWhatIsNewToUs:
    @pytest.mark.parametrize("kind", ["planner_message", "", None])
    def test_a_kind_with_counts_waits(self, kind: str | None) -> None:
        usage = answer(call("message", 1, 1), {"type": kind, "input_tokens": 5}, fresh=6, output=1)
        assert usage.unknown == f"iterations[].{kind or 'type'}"
        assert usage.parts == ()

    def test_a_kind_without_counts_does_not(self) -> None:
        usage = answer(call("message", 1, 1), {"type": "planner_message", "input_tokens": 0}, fresh=1, output=1)
        assert usage == Usage({"input": 1, "output": 1}, 1)

    def test_a_counter_or_lifetime_inside_a_known_kind_waits(self) -> None:
        assert answer(call("message", 1, 1, x=3), fresh=1, output=1).unknown == "iterations[].x"
        split = {"ephemeral_24h_input_tokens": 3}
        usage = answer(call("message", 1, 1, written=3, cache_creation=split), fresh=1, output=1, written=3)
        assert usage.unknown == "iterations[].cache_creation.ephemeral_24h_input_tokens"

    @pytest.mark.parametrize(
        ("iterations", "message"),
        [
            ({}, r"usage\.iterations must be a list, not \{\}"),
            ([5], r"usage\.iterations\[0\] must be an object, not 5"),
            ([{"type": 5}], r"usage\.iterations\[0\]\.type must be a string, not 5"),
            ([{"type": "message", "input_tokens": 1}], r"usage\.iterations\[0\]\.output_tokens is missing"),
            ([call("message", -1, 1)], r"usage\.iterations\[0\]\.input_tokens must be ≥ 0, not -1"),
            ([call("message", 1, 1, model=5)], r"usage\.iterations\[0\]\.model must be a string, not 5"),
            ([call("message", 1, 1, cache_creation=5)], r"iterations\[0\]\.cache_creation must be an object, not 5"),
        ],
    )
    def test_what_is_no_list_of_calls_is_refused_by_its_place(self, iterations: object, message: str) -> None:
        with pytest.raises(InvalidUsage, match=message):
            formats.read("anthropic.messages", {"input_tokens": 1, "output_tokens": 1, "iterations": iterations})
