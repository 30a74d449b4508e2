"""What every format makes of a provider's usage object, and the checks they share."""

from typing import Any

import msgspec

LARGEST_COUNT = 10**12


class InvalidUsage(ValueError):
    """A usage object that contradicts itself or its provider's shape; the message names field and figures."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One of several model calls inside a response, rated by itself. `model` is None for the event's own model."""

    kind: str
    model: str | None
    quantities: dict[str, int]
    prompt_tokens: int


class Usage(msgspec.Struct, frozen=True, gc=False):
    """A usage object as disjoint meters.

    `quantities`: meter → count above zero. `prompt_tokens`: all input-side tokens, which choose the price tier.
    The others change prices: what is absent or null is standard. `unknown`: the name of a counter above zero that
    this format does not know, or "".
    """

    quantities: dict[str, int]
    prompt_tokens: int
    service_tier: str = "standard"
    speed: str = "standard"
    inference_geo: str = ""
    unknown: str = ""
    parts: tuple[Part, ...] = ()


def count(value: object, name: str) -> int:
    """A count from 0 to 10¹². Raises InvalidUsage naming the field and what it was."""
    if type(value) is int:
        if 0 <= value <= LARGEST_COUNT:
            return value
        if value < 0:
            raise InvalidUsage(f"usage.{name} must be ≥ 0, not {_shown(value)}")
        raise InvalidUsage(f"usage.{name} must be at most 10^12, not {_shown(value)}")
    raise InvalidUsage(f"usage.{name} must be a whole number, not {_shown(value)}")


def optional_count(value: object, name: str) -> int:
    """As `count`; absent and null are 0."""
    return 0 if value is None else count(value, name)


def part(usage: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested object; absent and null are empty. Raises InvalidUsage for anything else."""
    value = usage.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidUsage(f"usage.{name} must be an object, not {_shown(value)}")
    return value


def word(usage: dict[str, Any], name: str, default: str) -> str:
    """A word such as a service tier; absent and null are the default."""
    value = usage.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise InvalidUsage(f"usage.{name} must be a string, not {_shown(value)}")
    return value


def unknown_counter(value: dict[str, Any], known: frozenset[str], path: str = "") -> str:
    """The path of the first counter above zero that is not `known`, or ""."""
    if value.keys() <= known:
        return ""
    for name in sorted(value.keys() - known):  # Sorted, so that a repeat names the same one in every process.
        if found := _above_zero(value[name], f"{path}{name}"):
            return found
    return ""


def _above_zero(value: object, path: str) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        return path if value > 0 else ""
    if isinstance(value, dict):
        return next((found for key in sorted(value) if (found := _above_zero(value[key], f"{path}.{key}"))), "")
    if isinstance(value, list):
        return next((found for item in value if (found := _above_zero(item, f"{path}[]"))), "")
    return ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
