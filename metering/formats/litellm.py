"""`litellm`: inclusive. `prompt_tokens` is input, cache writes and cache reads of whatever provider stood behind.

Source: litellm.Usage (litellm 1.109). Cache reads and writes may be named twice, at the top by Anthropic's names and
in the details by OpenAI's; the figures must agree. `cache_creation_token_details` splits the writes by lifetime;
without it they live for the default: 5 minutes where the top names them, as for Claude, else OpenAI's 30. Text, image
and video tokens of the prompt say what the input was made of and are input at the same price. What a channel adds to
OpenAI's shape comes through: Moonshot's `cached_tokens`, Groq's times, a `cost`.
"""

from typing import Any

from metering.formats.base import (
    InvalidUsage,
    Usage,
    above_zero,
    agreed_count,
    optional_count,
    part,
    required_count,
    unknown_counter,
    word,
)
from metering.formats.openai_shape import (
    check_other_names,
    completion_of,
    fresh_of,
    tier_of,
    unknown_beside,
    unknown_output,
)

_DETAILS = "prompt_tokens_details."
_SPLIT = f"{_DETAILS}cache_creation_token_details."
_KNOWN = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "cached_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "server_tool_use",
        "service_tier",
        "speed",
        "inference_geo",
    }
)
_KNOWN_PROMPT = frozenset(
    {
        "cached_tokens",
        "cached_tokens_details",
        "cache_write_tokens",
        "cache_creation_tokens",
        "cache_creation_token_details",
        "audio_tokens",
        "text_tokens",
        "image_tokens",
        "video_tokens",
        "web_search_requests",
    }
)
_METERS_OF_SPLIT = {
    "ephemeral_5m_input_tokens": "cache_write_5m",
    "ephemeral_30m_input_tokens": "cache_write_30m",
    "ephemeral_1h_input_tokens": "cache_write_1h",
    "ephemeral_12h_input_tokens": "cache_write_12h",
}
_KNOWN_SPLIT = frozenset(_METERS_OF_SPLIT)
# Cached tokens that are no text have prices of their own, and the audio inside the prompt may or may not hold them.
_KNOWN_CACHED = frozenset({"text_tokens"})
# A search for tools is billed by its tokens alone.
_KNOWN_TOOLS = frozenset({"web_search_requests", "tool_search_requests"})


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object. Raises InvalidUsage, also where two names of one figure differ."""
    prompt = required_count(usage, "prompt_tokens")
    completion = required_count(usage, "completion_tokens")
    check_other_names(usage, prompt, completion)
    inside = part(usage, "prompt_tokens_details")
    tools = part(usage, "server_tool_use")
    unknown = _unknown(usage, inside, tools)
    cached = agreed_count(
        {
            f"{_DETAILS}cached_tokens": inside.get("cached_tokens"),
            "cached_tokens": usage.get("cached_tokens"),
            "cache_read_input_tokens": usage.get("cache_read_input_tokens"),
            "prompt_cache_hit_tokens": usage.get("prompt_cache_hit_tokens"),
        }
    )
    writes = _writes(usage, inside, unknown)
    audio = optional_count(inside.get("audio_tokens"), "audio_tokens", _DETAILS)
    fresh = fresh_of(prompt, cached=cached or 0, written=sum(writes.values()), audio=audio, unknown=unknown)
    _check_misses(usage, prompt, unknown)
    outputs = completion_of(usage, completion, prompts=(prompt,), unknown=unknown)
    searches = agreed_count(
        {
            "server_tool_use.web_search_requests": tools.get("web_search_requests"),
            f"{_DETAILS}web_search_requests": inside.get("web_search_requests"),
        }
    )
    for name in ("text_tokens", "image_tokens", "video_tokens"):
        optional_count(inside.get(name), name, _DETAILS)
    return Usage(
        above_zero(
            {
                "input": fresh,
                "cache_read": cached or 0,
                **writes,
                "audio_input": audio,
                **outputs,
                "web_search": searches or 0,
            }
        ),
        prompt,
        service_tier=tier_of(usage),
        speed=word(usage, "speed", "standard"),
        inference_geo=word(usage, "inference_geo", ""),
        unknown=unknown,
    )


def _unknown(usage: dict[str, Any], inside: dict[str, Any], tools: dict[str, Any]) -> str:
    lifetimes = part(inside, "cache_creation_token_details", _DETAILS)
    cached = part(inside, "cached_tokens_details", _DETAILS)
    return (
        unknown_beside(usage, _KNOWN)
        or unknown_counter(inside, _KNOWN_PROMPT, _DETAILS)
        or unknown_counter(lifetimes, _KNOWN_SPLIT, _SPLIT)
        or unknown_counter(cached, _KNOWN_CACHED, f"{_DETAILS}cached_tokens_details.")
        or unknown_counter(tools, _KNOWN_TOOLS, "server_tool_use.")
        or unknown_output(usage)
    )


def _check_misses(usage: dict[str, Any], prompt: int, unknown: str) -> None:
    miss = usage.get("prompt_cache_miss_tokens")
    if miss is None:
        return
    both = optional_count(miss, "prompt_cache_miss_tokens")
    both += optional_count(usage.get("prompt_cache_hit_tokens"), "prompt_cache_hit_tokens")
    if both != prompt and not unknown:
        raise InvalidUsage(f"usage.prompt_tokens is {prompt}, but cache hits and misses add up to {both}")


def _writes(usage: dict[str, Any], inside: dict[str, Any], unknown: str) -> dict[str, int]:
    """Cache writes by meter. Raises InvalidUsage where names or split part ways."""
    at_top = usage.get("cache_creation_input_tokens")
    total = agreed_count(
        {
            "cache_creation_input_tokens": at_top,
            f"{_DETAILS}cache_write_tokens": inside.get("cache_write_tokens"),
            f"{_DETAILS}cache_creation_tokens": inside.get("cache_creation_tokens"),
        }
    )
    split = part(inside, "cache_creation_token_details", _DETAILS)
    if all(value is None for value in split.values()):
        return {"cache_write_30m" if at_top is None else "cache_write_5m": total or 0}
    writes = {meter: optional_count(split.get(name), name, _SPLIT) for name, meter in _METERS_OF_SPLIT.items()}
    added = sum(writes.values())
    if total is not None and total != added and not unknown:
        name = "cache_write_tokens" if inside.get("cache_write_tokens") is not None else "cache_creation_tokens"
        name = f"{_DETAILS}{name}" if at_top is None else "cache_creation_input_tokens"
        raise InvalidUsage(f"usage.{name} is {total}, but usage.{_SPLIT[:-1]} adds up to {added}")
    return writes
