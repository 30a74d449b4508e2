"""`openai.chat`: inclusive. `prompt_tokens` contains cached, cache-write and audio tokens; they are taken out of it.

Exclusive only where a relay says `"usage_semantic": "anthropic"`: then cached and cache-write tokens stand beside
`prompt_tokens`, and the total may count them or not.

Source: the chat completions API's usage object (openai 3.54), with what relays of the new-api family, DeepSeek,
Moonshot, OpenRouter, Perplexity, Groq and xAI add. `completion_tokens` already contains reasoning, except xAI's, which
the total tells. Text and image tokens of the prompt say what the input was made of: both are input at the same price,
and part of them may be among the cached. Cache writes without a lifetime live for the default of whose they are:
OpenAI's 30 minutes, Claude's (by the new-api family's names or its `usage_source`) 5 minutes.
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

_HIT, _MISS = "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"
_CLAUDE_5M, _CLAUDE_1H = "claude_cache_creation_5_m_tokens", "claude_cache_creation_1_h_tokens"
_DETAILS = "prompt_tokens_details."
_CACHED = f"{_DETAILS}cached_tokens"
_CLAUDE_TOTAL, _OPENAI_TOTAL = f"{_DETAILS}cached_creation_tokens", f"{_DETAILS}cache_write_tokens"
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
        "service_tier",
        "usage_semantic",
        "usage_source",
        _HIT,
        _MISS,
        _CLAUDE_5M,
        _CLAUDE_1H,
    }
)
_KNOWN_PROMPT = frozenset(
    {
        "cached_tokens",
        "cache_write_tokens",
        "cached_creation_tokens",
        "audio_tokens",
        "text_tokens",
        "image_tokens",
    }
)


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object. Raises InvalidUsage, also where parts are more than their whole."""
    prompt = required_count(usage, "prompt_tokens")
    completion = required_count(usage, "completion_tokens")
    check_other_names(usage, prompt, completion)
    is_exclusive = word(usage, "usage_semantic", "openai") == "anthropic"
    inside = part(usage, "prompt_tokens_details")
    unknown = unknown_beside(usage, _KNOWN) or unknown_counter(inside, _KNOWN_PROMPT, _DETAILS) or unknown_output(usage)
    cached = _cached(usage, inside, prompt, unknown)
    is_claude = is_exclusive or word(usage, "usage_source", "") == "anthropic"
    writes = _writes(usage, inside, unknown, is_claude=is_claude)
    written = sum(writes.values())
    audio = optional_count(inside.get("audio_tokens"), "audio_tokens", _DETAILS)
    beside = cached + written if is_exclusive else 0
    for name in ("text_tokens", "image_tokens"):
        if name in inside and optional_count(inside[name], name, _DETAILS) > prompt + beside and not unknown:
            raise InvalidUsage(
                f"usage.{_DETAILS}{name} is {inside[name]}, more than the whole prompt, {prompt + beside}"
            )
    fresh = fresh_of(prompt + beside, cached=cached, written=written, audio=audio, unknown=unknown)
    outputs = completion_of(usage, completion, prompts=(prompt, prompt + beside), unknown=unknown)
    return Usage(
        above_zero({"input": fresh, "cache_read": cached, **writes, "audio_input": audio, **outputs}),
        prompt + beside,
        service_tier=tier_of(usage),
        unknown=unknown,
    )


def _cached(usage: dict[str, Any], inside: dict[str, Any], prompt: int, unknown: str) -> int:
    """Cache reads, by OpenAI's name, Moonshot's, or DeepSeek's, whose hits and misses are the whole prompt."""
    if _HIT not in usage and _MISS not in usage and "cached_tokens" not in usage:
        return optional_count(inside.get("cached_tokens"), "cached_tokens", _DETAILS)
    cached = (
        agreed_count(
            {
                _CACHED: inside.get("cached_tokens"),
                "cached_tokens": usage.get("cached_tokens"),
                _HIT: usage.get(_HIT),
            }
        )
        or 0
    )
    if usage.get(_MISS) is not None:
        hit, miss = optional_count(usage.get(_HIT), _HIT), optional_count(usage[_MISS], _MISS)
        if hit + miss != prompt and not unknown:
            raise InvalidUsage(f"usage.prompt_tokens is {prompt}, but cache hits and misses add up to {hit + miss}")
    return cached


def _writes(usage: dict[str, Any], inside: dict[str, Any], unknown: str, *, is_claude: bool) -> dict[str, int]:
    """Cache writes by meter. Raises InvalidUsage where the names for the total, or the split, part ways."""
    claude, openai = inside.get("cached_creation_tokens"), inside.get("cache_write_tokens")
    total = openai if claude is None else agreed_count({_CLAUDE_TOTAL: claude, _OPENAI_TOTAL: openai})
    if total is not None and claude is None:
        total = optional_count(total, _OPENAI_TOTAL)
    five, hour = optional_count(usage.get(_CLAUDE_5M), _CLAUDE_5M), optional_count(usage.get(_CLAUDE_1H), _CLAUDE_1H)
    if five or hour:
        if total is not None and total != five + hour and not unknown:
            raise InvalidUsage(
                f"usage.{_OPENAI_TOTAL if claude is None else _CLAUDE_TOTAL} is {total},"
                f" but usage.{_CLAUDE_5M} and {_CLAUDE_1H} add up to {five + hour}"
            )
        return {"cache_write_5m": five, "cache_write_1h": hour}
    if is_claude or openai is None:
        return {"cache_write_5m": total or 0}
    return {"cache_write_30m": total or 0}
