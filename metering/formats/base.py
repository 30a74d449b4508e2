"""What every format makes of a provider's usage object, and the checks they share."""

from typing import Any

import msgspec

LARGEST_COUNT = 10**12


class InvalidUsage(ValueError):
    """A usage object that contradicts itself or its provider's shape; the message names field and figures."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One of several model calls inside a response, rated by itself.

    `kind`: the provider's word for it. `model`: its name there, None for the event's own. `quantities`: meter → count
    above zero. `prompt_tokens`: this call's input side, which chooses its price tier.
    """

    kind: str
    model: str | None
    quantities: dict[str, int]
    prompt_tokens: int


class Usage(msgspec.Struct, frozen=True, gc=False):
    """A usage object as disjoint meters.

    `quantities`: meter → count above zero, all that is billed, in an order that does not depend on the input's.
    `prompt_tokens`: all input-side tokens, which choose the price tier. The next three change prices: what is absent
    or null is standard. `unknown`: the name of a counter above zero that this format does not know, or "". Its event
    waits, with the quantities that are known: which sums contain the counter is not, so none of its object is checked.

    `parts`: the calls of a response that made several, in their order; they add up to `quantities` meter by meter, and
    each is rated by itself. `prompt_tokens` is then that of the calls that made the returned message, together.
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


def optional_count(value: object, name: str, path: str = "") -> int:
    """As `count` of `path` + `name`; absent and null are 0."""
    if type(value) is int and 0 <= value <= LARGEST_COUNT:
        return value
    return 0 if value is None else count(value, path + name)


def required_count(usage: dict[str, Any], name: str, path: str = "") -> int:
    """As `count`. Raises InvalidUsage also where it is absent or null."""
    value = usage.get(name)
    if value is None:
        raise InvalidUsage(f"usage.{path}{name} is missing")
    return count(value, path + name)


def agreed_count(figures: dict[str, object]) -> int | None:
    """The one count that several fields name, by path; None where all are absent or null.

    Raises InvalidUsage naming two that differ.
    """
    found: int | None = None
    first = ""
    for name, value in figures.items():
        if value is None:
            continue
        figure = count(value, name)
        if found is None:
            found, first = figure, name
        elif figure != found:
            raise InvalidUsage(f"usage.{first} is {found}, but usage.{name} is {figure}")
    return found


def check_total(usage: dict[str, Any], name: str, *sums: int, unknown: str) -> None:
    """Hold the provider's own total, where there is one, against what was counted; any of the sums will do.

    Raises InvalidUsage with both figures. An `unknown` counter may be in the total, which then is only a count.
    """
    total = usage.get(name)
    if total is not None and count(total, name) not in sums and not unknown:
        raise InvalidUsage(f"usage.{name} is {total}, but its parts add up to {sums[0]}")


def above_zero(quantities: dict[str, int]) -> dict[str, int]:
    """The quantities above zero, in the same order; with an unknown counter what is left of a whole may be below it."""
    return {meter: quantity for meter, quantity in quantities.items() if quantity > 0}


def part(usage: dict[str, Any], name: str, path: str = "") -> dict[str, Any]:
    """A nested object; absent and null are empty. Raises InvalidUsage for anything else."""
    value = usage.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidUsage(f"usage.{path}{name} must be an object, not {_shown(value)}")
    return value


def objects(usage: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of nested objects; absent and null are empty. Raises InvalidUsage for anything else."""
    value = usage.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidUsage(f"usage.{name} must be a list, not {_shown(value)}")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise InvalidUsage(f"usage.{name}[{index}] must be an object, not {_shown(item)}")
    return value


def word(usage: dict[str, Any], name: str, default: str, path: str = "") -> str:
    """A word such as a service tier; absent and null are the default."""
    value = usage.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise InvalidUsage(f"usage.{path}{name} must be a string, not {_shown(value)}")
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
