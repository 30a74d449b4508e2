"""`openai.responses`: inclusive. `input_tokens` contains cached and cache-write tokens; they are taken out of it.

Source: the responses API's usage object (openai 3.54). `output_tokens` already contains reasoning. Cache writes live
for 30 minutes or 12 hours; without that split they are the provider's default of 30 minutes.
"""

from typing import Any

from metering.formats.base import (
    InvalidUsage,
    Usage,
    above_zero,
    check_total,
    optional_count,
    part,
    required_count,
    unknown_counter,
)
from metering.formats.openai_shape import fresh_of, tier_of, unknown_beside

_INPUT, _OUTPUT = "input_tokens_details.", "output_tokens_details."
_SPLIT = f"{_INPUT}cache_write_tokens_details."
_HALF_HOUR, _HALF_DAY = "ttl_30m_tokens", "ttl_12h_tokens"
_KNOWN = frozenset(
    {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
        "service_tier",
    }
)
_KNOWN_INPUT = frozenset({"cached_tokens", "cache_write_tokens", "cache_write_tokens_details"})
_KNOWN_SPLIT = frozenset({_HALF_HOUR, _HALF_DAY})
_KNOWN_OUTPUT = frozenset({"reasoning_tokens"})


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object. Raises InvalidUsage, also where parts are more than their whole."""
    prompt = required_count(usage, "input_tokens")
    output = required_count(usage, "output_tokens")
    inside, outside = part(usage, "input_tokens_details"), part(usage, "output_tokens_details")
    unknown = (
        unknown_beside(usage, _KNOWN)
        or unknown_counter(inside, _KNOWN_INPUT, _INPUT)
        or unknown_counter(part(inside, "cache_write_tokens_details", _INPUT), _KNOWN_SPLIT, _SPLIT)
        or unknown_counter(outside, _KNOWN_OUTPUT, _OUTPUT)
    )
    cached = optional_count(inside.get("cached_tokens"), "cached_tokens", _INPUT)
    half_hour, half_day = _writes(inside, unknown)
    reasoning = optional_count(outside.get("reasoning_tokens"), "reasoning_tokens", _OUTPUT)
    check_total(usage, "total_tokens", prompt + output, unknown=unknown)
    if reasoning > output and not unknown:
        raise InvalidUsage(f"usage.{_OUTPUT}reasoning_tokens is {reasoning}, more than usage.output_tokens, {output}")
    written = half_hour + half_day
    return Usage(
        above_zero(
            {
                "input": fresh_of(
                    prompt, cached=cached, written=written, audio=0, unknown=unknown, name="input_tokens"
                ),
                "cache_read": cached,
                "cache_write_30m": half_hour,
                "cache_write_12h": half_day,
                "output": output,
            }
        ),
        prompt,
        service_tier=tier_of(usage),
        unknown=unknown,
    )


def _writes(inside: dict[str, Any], unknown: str) -> tuple[int, int]:
    """(30-minute writes, 12-hour writes). Raises InvalidUsage where they part ways with the total."""
    total = inside.get("cache_write_tokens")
    if total is not None:
        total = optional_count(total, "cache_write_tokens", _INPUT)
    split = part(inside, "cache_write_tokens_details", _INPUT)
    if all(value is None for value in split.values()):
        return total or 0, 0
    half_hour = optional_count(split.get(_HALF_HOUR), _HALF_HOUR, _SPLIT)
    half_day = optional_count(split.get(_HALF_DAY), _HALF_DAY, _SPLIT)
    if total is not None and total != half_hour + half_day and not unknown:
        raise InvalidUsage(
            f"usage.{_INPUT}cache_write_tokens is {total},"
            f" but usage.{_INPUT}cache_write_tokens_details adds up to {half_hour + half_day}"
        )
    return half_hour, half_day
