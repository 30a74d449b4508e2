"""`bedrock.converse`: exclusive. `inputTokens` leaves out cache reads and writes; `totalTokens` counts all four.

Source: TokenUsage of bedrock-runtime (botocore 1.44). `cacheDetails` splits the writes by lifetime; without it they
are five minutes, the default. `serviceTier` stands beside the usage object in a response; a relay may put it inside,
as the word or as `{"type": …}`.
"""

from typing import Any

from metering.formats.base import (
    InvalidUsage,
    Usage,
    above_zero,
    check_total,
    objects,
    optional_count,
    part,
    required_count,
    unknown_counter,
    word,
)

_KNOWN = frozenset(
    {
        "inputTokens",
        "outputTokens",
        "totalTokens",
        "cacheReadInputTokens",
        "cacheWriteInputTokens",
        "cacheDetails",
        "serviceTier",
    }
)
_KNOWN_DETAIL = frozenset({"ttl", "inputTokens"})
_LIFETIMES = frozenset({"5m", "1h"})


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object. Raises InvalidUsage, also where the total is not the sum."""
    unknown = unknown_counter(usage, _KNOWN)
    fresh = required_count(usage, "inputTokens")
    output = required_count(usage, "outputTokens")
    cached = optional_count(usage.get("cacheReadInputTokens"), "cacheReadInputTokens")
    five, hour, unknown = _writes(usage, unknown)
    prompt = fresh + cached + five + hour
    check_total(usage, "totalTokens", prompt + output, unknown=unknown)
    return Usage(
        above_zero(
            {"input": fresh, "cache_read": cached, "cache_write_5m": five, "cache_write_1h": hour, "output": output}
        ),
        prompt,
        service_tier=_tier(usage),
        unknown=unknown,
    )


def _writes(usage: dict[str, Any], unknown: str) -> tuple[int, int, str]:
    """(five-minute writes, one-hour writes, the first unknown counter: `unknown` where that is one, else theirs)."""
    total = usage.get("cacheWriteInputTokens")
    if total is not None:
        total = optional_count(total, "cacheWriteInputTokens")
    details = objects(usage, "cacheDetails")
    if not details:
        return total or 0, 0, unknown
    by_lifetime = dict.fromkeys(_LIFETIMES, 0)
    for index, detail in enumerate(details):
        path = f"cacheDetails[{index}]."
        lifetime = word(detail, "ttl", "", path)
        written = required_count(detail, "inputTokens", path)
        if lifetime in _LIFETIMES:
            by_lifetime[lifetime] += written
        elif written:
            unknown = unknown or f"cacheDetails[].{lifetime[:40] or 'ttl'}"
        unknown = unknown or unknown_counter(detail, _KNOWN_DETAIL, "cacheDetails[].")
    five, hour = by_lifetime["5m"], by_lifetime["1h"]
    if total is not None and total != five + hour and not unknown:
        raise InvalidUsage(f"usage.cacheWriteInputTokens is {total}, but usage.cacheDetails adds up to {five + hour}")
    return five, hour, unknown


def _tier(usage: dict[str, Any]) -> str:
    value = usage.get("serviceTier")
    if isinstance(value, dict):
        tier = word(part(usage, "serviceTier"), "type", "standard", "serviceTier.")
    else:
        tier = word(usage, "serviceTier", "standard")
    return "standard" if tier == "default" else tier
