"""Whatever a provider counts, the meters add up to it: no token twice, none lost."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import formats
from metering.formats import InvalidUsage, Usage, anthropic_messages
from metering.meters import NAMES, PROMPT_METERS
from tests.world import EXAMPLE_USAGE

counts = st.integers(0, 10**12)
small = st.integers(0, 10**11)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def prompt_of(quantities: dict[str, int]) -> int:
    return sum(quantity for meter, quantity in quantities.items() if meter in PROMPT_METERS)


@given(fresh=counts, read=counts, five=small, hour=small, output=counts, searches=small, has_total=st.booleans())
def test_anthropic_s_meters_add_up_to_input_and_writes_and_reads(
    fresh: int, read: int, five: int, hour: int, output: int, searches: int, has_total: bool
) -> None:
    usage: dict[str, Any] = {
        "input_tokens": fresh,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "server_tool_use": {"web_search_requests": searches},
    }
    if has_total:
        usage["cache_creation_input_tokens"] = five + hour
    found = formats.read("anthropic.messages", usage)
    assert found.prompt_tokens == prompt_of(found.quantities) == fresh + read + five + hour
    assert found.quantities.get("output", 0) == output
    assert found.quantities.get("web_search", 0) == searches
    assert sum(found.quantities.values()) == fresh + read + five + hour + output + searches
    assert all(found.quantities.values()), "zeros are left out"


@given(cached=small, written=small, spoken_in=small, fresh=small, spoken_out=small, rest=small)
def test_openai_s_meters_add_up_to_its_own_total(
    cached: int, written: int, spoken_in: int, fresh: int, spoken_out: int, rest: int
) -> None:
    prompt, completion = cached + written + spoken_in + fresh, spoken_out + rest
    found = formats.read(
        "openai.chat",
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": written,
                "audio_tokens": spoken_in,
            },
            "completion_tokens_details": {"audio_tokens": spoken_out, "reasoning_tokens": rest},
        },
    )
    assert found.prompt_tokens == prompt_of(found.quantities) == prompt
    assert sum(found.quantities.values()) == prompt + completion
    assert found.quantities.get("input", 0) == fresh
    assert found.quantities.get("cache_read", 0) == cached
    assert all(found.quantities.values()), "zeros are left out"


@given(st.dictionaries(st.sampled_from(NAMES), counts, min_size=1))
def test_our_own_meters_add_up_to_themselves(usage: dict[str, int]) -> None:
    found = formats.read("meters", usage)
    assert found.quantities == {meter: quantity for meter, quantity in usage.items() if quantity}
    assert found.prompt_tokens == prompt_of(usage)


@given(fresh=small, read=small, output=small)
def test_exclusive_and_inclusive_reports_of_one_call_are_the_same_usage(fresh: int, read: int, output: int) -> None:
    exclusive = formats.read(
        "anthropic.messages", {"input_tokens": fresh, "cache_read_input_tokens": read, "output_tokens": output}
    )
    inclusive = formats.read(
        "openai.chat",
        {
            "prompt_tokens": fresh + read,
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": read},
        },
    )
    assert exclusive == inclusive


@given(
    name=st.sampled_from(["anthropic.messages", "openai.chat"]),
    extra=st.text(min_size=1, max_size=10).filter(lambda text: "token" not in text and "message" not in text),
    value=st.integers(1) | st.floats(min_value=1e-9, allow_infinity=False),
    outer=st.sampled_from(["", "cache_creation", "server_tool_use", "output_tokens_details"])
    | st.sampled_from(["", "prompt_tokens_details", "completion_tokens_details"]),
)
def test_a_counter_nobody_knows_is_never_passed_over(name: str, extra: str, value: float, outer: str) -> None:
    usage: dict[str, Any] = {"input_tokens": 1, "output_tokens": 1}
    if name == "openai.chat":
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
    if outer:
        usage[outer] = {extra: value}
    else:
        usage[extra] = value
    try:
        found = formats.read(name, usage)
    except InvalidUsage:
        assert extra in {"speed", "inference_geo", "service_tier", "cache_creation", "server_tool_use", "iterations"}
        return
    assert found.unknown


@given(
    name=st.sampled_from(sorted(formats.FORMATS)),
    usage=st.dictionaries(
        st.sampled_from(
            [
                "input_tokens",
                "output_tokens",
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "cache_creation",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
                "prompt_tokens_details",
                "completion_tokens_details",
                "server_tool_use",
                "message_start",
                "message_delta",
                "iterations",
                "usage_semantic",
                "prompt_cache_hit_tokens",
                "prompt_cache_miss_tokens",
                "claude_cache_creation_1_h_tokens",
                "input_tokens_details",
                "output_tokens_details",
                "inputTokens",
                "outputTokens",
                "cacheDetails",
                "serviceTier",
                "inputTokenCount",
                "outputTokenCount",
                "amazon-bedrock-invocationMetrics",
                "promptTokenCount",
                "cachedContentTokenCount",
                "promptTokensDetails",
                "cacheTokensDetails",
                "trafficType",
                "speed",
                "input",
            ]
        ),
        json_values | small,
    ),
)
def test_whatever_it_is_it_is_read_or_refused_and_never_negative(name: str, usage: dict[str, Any]) -> None:
    try:
        found = formats.read(name, usage)
    except InvalidUsage:
        return
    assert all(type(quantity) is int and 0 < quantity <= 10**12 * 4 for quantity in found.quantities.values())
    assert set(found.quantities) <= set(NAMES)
    if not found.parts and not found.unknown:
        assert found.prompt_tokens == prompt_of(found.quantities)


_ODD = st.sampled_from([None, 0, 1, 10**12, 10**12 + 1, -1, 1.0, 1.5, True, "1", "", {}, [], 10**30])
_FIELDS = [
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "service_tier",
    "speed",
    "inference_geo",
    "server_tool_use",
    "iterations",
    "new_tokens",
]
_FEW = st.integers(0, 2) | small


@settings(max_examples=1_000)
@given(
    sound=st.fixed_dictionaries(
        {"input_tokens": _FEW, "output_tokens": _FEW},
        optional={
            "cache_read_input_tokens": _FEW,
            "service_tier": st.sampled_from(["batch", "", None]),
            "speed": st.sampled_from(["fast", "", None]),
            "inference_geo": st.sampled_from(["us", "", None]),
        },
    ),
    five=_FEW,
    hour=_FEW,
    off=st.sampled_from([0, 0, 0, 1, -1]),
    told=st.sampled_from(["nothing", "total", "split", "both"]),
    odd=st.none() | st.tuples(st.sampled_from(_FIELDS), _ODD),
    odd_split=st.none() | st.tuples(st.sampled_from(["ephemeral_5m_input_tokens", "ephemeral_9d_input_tokens"]), _ODD),
)
def test_what_is_read_at_once_is_what_is_read_field_by_field(
    sound: dict[str, Any],
    five: int,
    hour: int,
    off: int,
    told: str,
    odd: tuple[str, Any] | None,
    odd_split: tuple[str, Any] | None,
) -> None:
    usage = dict(sound)
    if told in {"total", "both"}:
        usage["cache_creation_input_tokens"] = five + hour + off
    if told in {"split", "both"}:
        split = {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}
        usage["cache_creation"] = split | dict([odd_split] if odd_split else [])
    usage |= dict([odd] if odd else [])
    assert _read_or_refused(lambda: formats.read_json("anthropic.messages", msgspec.json.encode(usage))) == (
        _read_or_refused(lambda: formats.read("anthropic.messages", usage))
    )


def test_one_call_with_its_cache_writes_is_read_at_once() -> None:
    assert anthropic_messages.read_one_call(msgspec.json.encode(EXAMPLE_USAGE)) == (
        formats.read("anthropic.messages", EXAMPLE_USAGE)
    )


def _read_or_refused(reading: Callable[[], Usage]) -> Usage | str:
    try:
        return reading()
    except InvalidUsage as error:
        return str(error)
