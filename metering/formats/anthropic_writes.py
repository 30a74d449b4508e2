"""How Anthropic's objects name cache writes: a total, and where known how much of it lives for which time.

Source: `cache_creation_input_tokens` and `cache_creation` of the Messages API, at the top and in each iteration.
"""

from typing import Any

from metering.formats.base import InvalidUsage, optional_count, part, unknown_counter

FIVE_MINUTES = "ephemeral_5m_input_tokens"
ONE_HOUR = "ephemeral_1h_input_tokens"
_KNOWN = frozenset({FIVE_MINUTES, ONE_HOUR})


def writes_of(usage: dict[str, Any], path: str = "", *, is_waiting: bool = False) -> tuple[int, int, str]:
    """(five-minute writes, one-hour writes, unknown counter or ""); a total without its split is five minutes.

    Raises InvalidUsage where the split does not add up to the total, unless the usage `is_waiting` for another counter.
    """
    total = usage.get("cache_creation_input_tokens")
    if total is not None:
        total = optional_count(total, "cache_creation_input_tokens", path)
    if not has_split(usage, path):
        return total or 0, 0, ""
    split = usage["cache_creation"]
    five = optional_count(split.get(FIVE_MINUTES), f"cache_creation.{FIVE_MINUTES}", path)
    hour = optional_count(split.get(ONE_HOUR), f"cache_creation.{ONE_HOUR}", path)
    if not split.keys() <= _KNOWN:
        unknown = unknown_counter(split, _KNOWN, f"{path}cache_creation.")
        if unknown:
            return five, hour, unknown  # A lifetime that is new to us: the event waits, and what adds up is not known.
    if total is not None and total != five + hour and not is_waiting:
        raise InvalidUsage(
            f"usage.{path}cache_creation_input_tokens is {total},"
            f" but usage.{path}cache_creation adds up to {five + hour}"
        )
    return five, hour, ""


def has_split(usage: dict[str, Any], path: str = "") -> bool:
    """Whether lifetimes are told; an object of nulls tells nothing. Raises InvalidUsage for what is no object."""
    split = part(usage, "cache_creation", path)
    return split.get(FIVE_MINUTES) is not None or any(value is not None for value in split.values())
