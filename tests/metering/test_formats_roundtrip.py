"""Every format there and back: meters written as the provider would write them are read as the same meters.

So the meters of a format are disjoint (none is read into another), complete (none is lost) and add up to the
provider's own total; and whoever uses more is never read as using less.
"""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import formats
from metering.formats import InvalidUsage, Part
from metering.meters import PROMPT_METERS

Meters = dict[str, int]


def total(meters: Meters, *, prompt: bool | None = None) -> int:
    """The tokens of some meters: of the prompt's, of the others, or all."""
    return sum(
        quantity
        for meter, quantity in meters.items()
        if meter != "web_search" and (prompt is None or (meter in PROMPT_METERS) == prompt)
    )


def as_anthropic(meters: Meters) -> dict[str, Any]:
    five, hour = meters["cache_write_5m"], meters["cache_write_1h"]
    return {
        "input_tokens": meters["input"],
        "cache_read_input_tokens": meters["cache_read"],
        "cache_creation_input_tokens": five + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "output_tokens": meters["output"],
        "server_tool_use": {"web_search_requests": meters["web_search"]},
    }


def as_chat(meters: Meters) -> dict[str, Any]:
    return {
        "prompt_tokens": total(meters, prompt=True),
        "prompt_tokens_details": {
            "cached_tokens": meters["cache_read"],
            "cache_write_tokens": meters["cache_write_30m"],
            "audio_tokens": meters["audio_input"],
        },
        "completion_tokens": total(meters, prompt=False),
        "completion_tokens_details": {
            "audio_tokens": meters["audio_output"],
            "image_tokens": meters["image_output"],
        },
        "total_tokens": total(meters),
    }


def as_new_api(meters: Meters, *, is_exclusive: bool = False, names_both: bool = False) -> dict[str, Any]:
    five, hour = meters["cache_write_5m"], meters["cache_write_1h"]
    prompt = meters["input"] if is_exclusive else total(meters, prompt=True)
    details = {
        "cached_tokens": meters["cache_read"],
        "cached_creation_tokens": five + hour,
        "text_tokens": 0,
        "audio_tokens": 0,
        "image_tokens": 0,
    }
    if names_both:
        details["cache_write_tokens"] = five + hour
    return {
        "prompt_tokens": prompt,
        "input_tokens": prompt,
        "prompt_tokens_details": details,
        "input_tokens_details": dict(details) if names_both else None,
        "claude_cache_creation_5_m_tokens": five,
        "claude_cache_creation_1_h_tokens": hour,
        "completion_tokens": meters["output"],
        "output_tokens": meters["output"] if names_both else 0,
        "total_tokens": prompt + meters["output"],
        "usage_semantic": "anthropic" if is_exclusive else "openai",
        "usage_source": "anthropic",
        "cost": 0.0123,
    }


def as_deepseek(meters: Meters) -> dict[str, Any]:
    return {
        "prompt_tokens": total(meters, prompt=True),
        "prompt_cache_hit_tokens": meters["cache_read"],
        "prompt_cache_miss_tokens": meters["input"],
        "prompt_tokens_details": {"cached_tokens": meters["cache_read"]},
        "completion_tokens": meters["output"],
        "total_tokens": total(meters),
    }


def as_xai(meters: Meters) -> dict[str, Any]:
    """Its completions leave reasoning out, and its total counts it beside them."""
    reasoning = meters["output"] // 2
    return {
        "prompt_tokens": total(meters, prompt=True),
        "prompt_tokens_details": {"cached_tokens": meters["cache_read"], "text_tokens": meters["input"]},
        "completion_tokens": meters["output"] - reasoning,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total(meters),
        "num_sources_used": 0,
    }


def as_responses(meters: Meters) -> dict[str, Any]:
    short, long = meters["cache_write_30m"], meters["cache_write_12h"]
    return {
        "input_tokens": total(meters, prompt=True),
        "input_tokens_details": {
            "cached_tokens": meters["cache_read"],
            "cache_write_tokens": short + long,
            "cache_write_tokens_details": {"ttl_30m_tokens": short, "ttl_12h_tokens": long},
        },
        "output_tokens": meters["output"],
        "output_tokens_details": {"reasoning_tokens": meters["output"]},
        "total_tokens": total(meters),
    }


def as_converse(meters: Meters) -> dict[str, Any]:
    five, hour = meters["cache_write_5m"], meters["cache_write_1h"]
    return {
        "inputTokens": meters["input"],
        "outputTokens": meters["output"],
        "totalTokens": total(meters),
        "cacheReadInputTokens": meters["cache_read"],
        "cacheWriteInputTokens": five + hour,
        "cacheDetails": [{"ttl": "1h", "inputTokens": hour}, {"ttl": "5m", "inputTokens": five}],
    }


def as_invoke(meters: Meters) -> dict[str, Any]:
    metrics = {
        "inputTokenCount": meters["input"],
        "outputTokenCount": meters["output"],
        "cacheReadInputTokenCount": meters["cache_read"],
        "cacheWriteInputTokenCount": meters["cache_write_5m"],
    }
    return {"amazon-bedrock-invocationMetrics": metrics}


def as_gemini(meters: Meters) -> dict[str, Any]:
    def details(**counts: int) -> list[dict[str, Any]]:
        return [{"modality": kind, "tokenCount": tokens} for kind, tokens in counts.items()]

    sound, picture = meters["audio_cache_read"], meters["image_cache_read"]
    cached = meters["cache_read"] + sound + picture
    tools = meters["input"] // 3
    thoughts = meters["output"] // 2
    prompt = total(meters, prompt=True) - tools
    return {
        "promptTokenCount": prompt,
        "promptTokensDetails": details(
            AUDIO=meters["audio_input"] + sound, IMAGE=meters["image_input"] + picture, VIDEO=meters["video_input"]
        ),
        "cachedContentTokenCount": cached,
        "cacheTokensDetails": details(AUDIO=sound, IMAGE=picture, TEXT=meters["cache_read"]),
        "toolUsePromptTokenCount": tools,
        "candidatesTokenCount": total(meters, prompt=False) - thoughts,
        "candidatesTokensDetails": details(
            AUDIO=meters["audio_output"], IMAGE=meters["image_output"], VIDEO=meters["video_output"]
        ),
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": total(meters),
    }


def as_litellm(meters: Meters) -> dict[str, Any]:
    writes = {name: meters[f"cache_write_{name}"] for name in ("5m", "30m", "1h", "12h")}
    written = sum(writes.values())
    return {
        "prompt_tokens": total(meters, prompt=True),
        "prompt_tokens_details": {
            "cached_tokens": meters["cache_read"],
            "cache_creation_tokens": written,
            "cache_creation_token_details": {f"ephemeral_{name}_input_tokens": n for name, n in writes.items()},
            "audio_tokens": meters["audio_input"],
        },
        "cache_read_input_tokens": meters["cache_read"],
        "cache_creation_input_tokens": written,
        "completion_tokens": total(meters, prompt=False),
        "completion_tokens_details": {
            "audio_tokens": meters["audio_output"],
            "image_tokens": meters["image_output"],
            "video_tokens": meters["video_output"],
        },
        "total_tokens": total(meters),
        "server_tool_use": {"web_search_requests": meters["web_search"]},
    }


PLAIN = ("input", "cache_read", "output")
CLAUDE = (*PLAIN, "cache_write_5m", "cache_write_1h")
WRITERS: list[tuple[str, Callable[[Meters], dict[str, Any]], tuple[str, ...]]] = [
    ("anthropic.messages", as_anthropic, (*CLAUDE, "web_search")),
    ("openai.chat", as_chat, (*PLAIN, "cache_write_30m", "audio_input", "audio_output", "image_output")),
    ("openai.chat", as_new_api, CLAUDE),
    ("openai.chat", lambda meters: as_new_api(meters, names_both=True), CLAUDE),
    ("openai.chat", lambda meters: as_new_api(meters, is_exclusive=True), CLAUDE),
    ("openai.chat", as_deepseek, PLAIN),
    ("openai.chat", as_xai, PLAIN),
    ("litellm", as_xai, PLAIN),
    ("openai.responses", as_responses, (*PLAIN, "cache_write_30m", "cache_write_12h")),
    ("bedrock.converse", as_converse, CLAUDE),
    ("bedrock.invoke", as_invoke, (*PLAIN, "cache_write_5m")),
    (
        "gemini.generate",
        as_gemini,
        (
            *PLAIN,
            "audio_input",
            "audio_cache_read",
            "image_input",
            "image_cache_read",
            "video_input",
            "audio_output",
            "image_output",
            "video_output",
        ),
    ),
    (
        "litellm",
        as_litellm,
        (
            *CLAUDE,
            "cache_write_30m",
            "cache_write_12h",
            "audio_input",
            "audio_output",
            "image_output",
            "video_output",
            "web_search",
        ),
    ),
]
TOTALS = ("total_tokens", "totalTokens", "totalTokenCount")


@st.composite
def written(draw: st.DrawFn) -> tuple[str, Callable[[Meters], dict[str, Any]], Meters]:
    name, write, names = draw(st.sampled_from(WRITERS))
    counts = st.integers(0, 3) | st.integers(0, 10**10)
    return name, write, {meter: draw(counts) for meter in names}


def test_every_provider_s_format_is_written_here() -> None:
    assert {name for name, _, _ in WRITERS} == set(formats.FORMATS) - {"meters"}


@given(written())
def test_meters_are_read_as_they_were_written(
    case: tuple[str, Callable[[Meters], dict[str, Any]], Meters],
) -> None:
    name, write, meters = case
    read = formats.read(name, write(meters))
    assert read.quantities == {meter: quantity for meter, quantity in meters.items() if quantity}
    assert read.prompt_tokens == total(meters, prompt=True)
    assert (read.unknown, read.parts) == ("", ())


@given(written(), st.data())
def test_one_more_of_anything_is_one_more_in_all(
    case: tuple[str, Callable[[Meters], dict[str, Any]], Meters], data: st.DataObject
) -> None:
    name, write, meters = case
    meter = data.draw(st.sampled_from(sorted(meters)))
    before = formats.read(name, write(meters))
    after = formats.read(name, write({**meters, meter: meters[meter] + 1}))
    assert sum(after.quantities.values()) == sum(before.quantities.values()) + 1
    assert after.prompt_tokens - before.prompt_tokens == (meter in PROMPT_METERS)
    assert all(after.quantities[name] >= quantity for name, quantity in before.quantities.items())


@given(written(), st.sampled_from([-1, 1, 1000]))
def test_a_total_that_is_not_the_sum_is_refused_with_both_figures(
    case: tuple[str, Callable[[Meters], dict[str, Any]], Meters], error: int
) -> None:
    name, write, meters = case
    usage = write(meters)
    field = next((field for field in TOTALS if field in usage), None)
    if field is None:
        return
    right, wrong = usage[field], usage[field] + error
    beside = total(meters) if usage.get("usage_semantic") == "anthropic" else right
    without_reasoning = usage.get("prompt_tokens", right) + usage.get("completion_tokens", 0)
    if wrong < 0 or wrong in (beside, without_reasoning):
        return
    usage[field] = wrong
    with pytest.raises(InvalidUsage) as caught:
        formats.read(name, usage)
    assert str(wrong) in str(caught.value)
    assert str(right) in str(caught.value)


@given(written(), st.integers(1, 10**9))
def test_a_total_that_holds_a_counter_new_to_us_is_waited_for_and_not_refused(
    case: tuple[str, Callable[[Meters], dict[str, Any]], Meters], new: int
) -> None:
    name, write, meters = case
    usage = write(meters)
    for field in TOTALS:
        if field in usage:
            usage[field] += new
    known = {meter: quantity for meter, quantity in meters.items() if quantity}
    inside = usage.get("amazon-bedrock-invocationMetrics", usage)
    inside["new_kind_of_tokens"] = new
    read = formats.read(name, usage)
    assert read.unknown.endswith("new_kind_of_tokens")
    if write is not as_xai:  # What is new to us may be what the total counts beside the completion.
        assert read.quantities == known


def shuffled(value: Any, order: random.Random) -> Any:
    """The same object with the keys of every object in another order; lists keep theirs."""
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(written(), st.randoms(use_true_random=False))
def test_the_order_of_keys_makes_no_other_event(
    case: tuple[str, Callable[[Meters], dict[str, Any]], Meters], order: random.Random
) -> None:
    name, write, meters = case
    usage = write(meters)
    read, again = formats.read(name, usage), formats.read(name, shuffled(usage, order))
    assert json.dumps(read.quantities) == json.dumps(again.quantities)


calls = st.fixed_dictionaries({meter: st.integers(0, 3) | st.integers(0, 10**9) for meter in CLAUDE})


def added(several: list[Meters]) -> Meters:
    return {meter: sum(one[meter] for one in several) for meter in CLAUDE} | {"web_search": 0}


@given(
    tried=st.lists(calls, max_size=2),
    beside=st.lists(st.tuples(st.sampled_from(["compaction", "advisor_message"]), calls), max_size=3),
    answered=st.lists(calls, min_size=1, max_size=3),
    tells_lifetimes=st.booleans(),
    top_tells=st.booleans(),
    searches=st.integers(0, 5),
)
def test_parts_add_up_to_all_that_is_billed(
    tried: list[Meters],
    beside: list[tuple[str, Meters]],
    answered: list[Meters],
    tells_lifetimes: bool,
    top_tells: bool,
    searches: int,
) -> None:
    """Calls of models that declined, calls beside the answer, and the answer's own."""

    def entry(kind: str, meters: Meters, model: str | None) -> dict[str, Any]:
        usage = as_anthropic({**meters, "web_search": 0})
        if not tells_lifetimes:
            del usage["cache_creation"]
        return {"type": kind, "model": model, **usage, "server_tool_use": None}

    model = "claude-z" if tried else None
    entries = [entry("message", meters, f"claude-{place}") for place, meters in enumerate(tried)]
    entries += [entry(kind, meters, "claude-advisor") for kind, meters in beside]
    entries += [entry("message", meters, model) for meters in answered]
    usage = as_anthropic({**added(answered), "web_search": searches})
    if not top_tells:
        del usage["cache_creation"]
    read = formats.read("anthropic.messages", {**usage, "iterations": entries})

    billed = added([*(meters for meters in tried if meters["output"]), *(meters for _, meters in beside), *answered])
    billed["web_search"] = searches
    if tells_lifetimes:
        assert read.quantities == {meter: quantity for meter, quantity in billed.items() if quantity}
    assert total(read.quantities) == total(billed)
    assert read.prompt_tokens == total(added(answered), prompt=True)
    assert read.unknown == ""
    if read.parts:
        assert list(_summed(read.parts).items()) == list(read.quantities.items())
        assert all(part.prompt_tokens == total(part.quantities, prompt=True) for part in read.parts)
        assert all(quantity > 0 for part in read.parts for quantity in part.quantities.values())
    else:
        assert not (tried and read.quantities)
        assert total(billed) == total(added(answered))


def _summed(parts: tuple[Part, ...]) -> Meters:
    meters = (*PLAIN[:2], "cache_write_5m", "cache_write_1h", "output", "web_search")
    sums = {meter: sum(part.quantities.get(meter, 0) for part in parts) for meter in meters}
    return {meter: quantity for meter, quantity in sums.items() if quantity}
