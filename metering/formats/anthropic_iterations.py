"""`iterations` of `anthropic.messages`: a response that made several model calls, each with its own counts. Exclusive.

Source: the beta Messages API (BetaIterationsUsage in anthropic 2.12, and its pages on compaction, the advisor tool and
refusals). The list is the provider's record of what it bills:

- `message`: a call of the model that answers; a loop of server tools makes several. The top-level figures are their
  sum, never compaction's or the advisor's.
- `compaction`, `advisor_message`: calls beside it. The advisor names a `model` of its own.
- `fallback_message`: the call, by the `model` it names, that answered after others declined. Those others are
  `message` calls of other models. The top-level figures are those of the model that answered, and of no other.
  One that declined before it wrote anything is listed but not charged here: the provider bills it in some categories
  of refusal only, and the usage object doesn't tell the category. One that declined later is charged.
"""

from itertools import groupby
from typing import Any

import msgspec

from metering.formats.anthropic_writes import has_split, writes_of
from metering.formats.base import (
    InvalidUsage,
    Part,
    Usage,
    above_zero,
    objects,
    optional_count,
    required_count,
    unknown_counter,
    word,
)

_ANSWERING = frozenset({"message", "fallback_message"})
_KINDS = _ANSWERING | {"compaction", "advisor_message"}
_NAMES_ITS_MODEL = frozenset({"fallback_message", "advisor_message"})
_KNOWN = frozenset(
    {
        "type",
        "model",
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
    }
)


class _Call(msgspec.Struct, gc=False):
    """One entry of the list. `is_split`: it tells its writes' lifetimes itself."""

    kind: str
    model: str | None
    fresh: int
    read: int
    five: int
    hour: int
    output: int
    is_split: bool

    @property
    def prompt(self) -> int:
        return self.fresh + self.read + self.five + self.hour


def read_iterations(usage: dict[str, Any], whole: Usage) -> Usage:
    """The same usage with its parts: `whole` is the top-level figures. Raises InvalidUsage where the two part ways.

    One ordinary `message` makes no parts; it may tell lifetimes that the top level doesn't. Web searches are counted
    for the response only, and belong to its last answering call.
    """
    calls, unknown = _calls(usage, whole.unknown)
    if unknown or not calls:
        # The event waits in the first case, and what adds up is not known.
        return msgspec.structs.replace(whole, unknown=unknown)
    answering = _answering(calls)
    _check_sums(usage, answering)
    if len(calls) == 1 and calls[0].kind == "message" and calls[0].hour == whole.quantities.get("cache_write_1h", 0):
        return whole
    _spread_writes(usage, answering, whole)
    parts = _parts(calls, answering, whole.quantities.get("web_search", 0))
    return msgspec.structs.replace(
        whole,
        quantities=above_zero(
            {
                meter: sum(part.quantities.get(meter, 0) for part in parts)
                for meter in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search")
            }
        ),
        prompt_tokens=sum(call.prompt for call in answering),
        parts=() if len(parts) == 1 and parts[0].kind == "message" and parts[0].model is None else parts,
    )


def _calls(usage: dict[str, Any], unknown: str) -> tuple[list[_Call], str]:
    """(the calls of a kind that we know, the first unknown counter: `unknown` where that is one, else theirs or "")."""
    calls = []
    for index, entry in enumerate(objects(usage, "iterations")):
        path = f"iterations[{index}]."
        kind = word(entry, "type", "", path)
        if kind not in _KINDS:
            if unknown_counter(entry, frozenset()):
                unknown = unknown or f"iterations[].{kind[:40] or 'type'}"
            continue
        model = word(entry, "model", "", path) or None
        if model is None and kind in _NAMES_ITS_MODEL:
            raise InvalidUsage(f"usage.{path}model is missing")
        unknown = unknown or unknown_counter(entry, _KNOWN, "iterations[].")
        five, hour, unknown_lifetime = writes_of(entry, path, is_waiting=unknown != "")
        calls.append(
            _Call(
                kind,
                model,
                required_count(entry, "input_tokens", path),
                optional_count(entry.get("cache_read_input_tokens"), "cache_read_input_tokens", path),
                five,
                hour,
                required_count(entry, "output_tokens", path),
                has_split(entry, path),
            )
        )
        unknown = unknown or unknown_lifetime.replace(path, "iterations[].")
    return calls, unknown


def _attempts(calls: list[_Call]) -> list[list[_Call]]:
    """The answering calls by attempt: a run of one model."""
    return [list(run) for _, run in groupby((call for call in calls if call.kind in _ANSWERING), lambda c: c.model)]


def _answering(calls: list[_Call]) -> list[_Call]:
    """The calls behind the returned message: the last attempt's."""
    attempts = _attempts(calls)
    return attempts[-1] if attempts else []


def _check_sums(usage: dict[str, Any], answering: list[_Call]) -> None:
    for name, total in (
        ("input_tokens", sum(call.fresh for call in answering)),
        ("cache_read_input_tokens", sum(call.read for call in answering)),
        ("cache_creation_input_tokens", sum(call.five + call.hour for call in answering)),
        ("output_tokens", sum(call.output for call in answering)),
    ):
        figure = usage.get(name)
        if figure is None and name == "cache_creation_input_tokens" and has_split(usage):
            five, hour, _ = writes_of(usage)
            figure = five + hour
        if (figure or 0) != total:
            raise InvalidUsage(f"usage.{name} is {figure or 0}, but the calls of usage.iterations add up to {total}")


def _spread_writes(usage: dict[str, Any], answering: list[_Call], whole: Usage) -> None:
    """Give writes without a lifetime the one that the top-level split still has to give, the longer one first."""
    if not has_split(usage):
        return
    told = whole.quantities.get("cache_write_1h", 0)
    left = told - sum(call.hour for call in answering)
    for call in answering:
        if not call.is_split:
            call.hour = min(max(left, 0), call.five)
            call.five -= call.hour
            left -= call.hour
    if left:
        raise InvalidUsage(
            f"usage.cache_creation.ephemeral_1h_input_tokens is {told},"
            f" but the calls of usage.iterations add up to {told - left}"
        )


def _parts(calls: list[_Call], answering: list[_Call], searches: int) -> tuple[Part, ...]:
    attempts = _attempts(calls)
    unbilled = {id(call) for attempt in attempts[:-1] if not any(c.output for c in attempt) for call in attempt}
    has_one_model = len(attempts) <= 1
    last = answering[-1] if answering else None
    parts = []
    for call in calls:
        if id(call) in unbilled:
            continue
        quantities = above_zero(
            {
                "input": call.fresh,
                "cache_read": call.read,
                "cache_write_5m": call.five,
                "cache_write_1h": call.hour,
                "output": call.output,
                "web_search": searches if call is last else 0,
            }
        )
        if quantities:
            model = None if call.kind == "message" and has_one_model else call.model
            parts.append(Part(call.kind, model, quantities, call.prompt))
    if searches and last is None:
        parts.append(Part("message", None, {"web_search": searches}, 0))
    return tuple(parts)
