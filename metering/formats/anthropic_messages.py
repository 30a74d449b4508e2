"""`anthropic.messages`: exclusive. `input_tokens` leaves out cache reads and writes; they stand beside it.

Source: the Messages API's usage object. `output_tokens` already contains thinking. A stream's `message_delta` carries
cumulative counts without the split of cache writes; a relay may send `{"message_start": …, "message_delta": …}`.
A response of several model calls lists them in `iterations`: `metering.formats.anthropic_iterations`.
"""

from typing import Annotated, Any

import msgspec

from metering.formats.anthropic_iterations import read_iterations
from metering.formats.anthropic_writes import FIVE_MINUTES, ONE_HOUR, has_split, writes_of
from metering.formats.base import (
    LARGEST_COUNT,
    InvalidUsage,
    Usage,
    optional_count,
    part,
    required_count,
    unknown_counter,
    word,
)

_KNOWN = frozenset(
    {
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
        "output_tokens_details",
        "server_tool_use",
        "service_tier",
        "speed",
        "inference_geo",
        "iterations",
    }
)
_KNOWN_TOOLS = frozenset({"web_search_requests", "web_fetch_requests"})
_KNOWN_OUTPUT = frozenset({"thinking_tokens"})
_STREAM = frozenset({"message_start", "message_delta"})


_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]


class _Split(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    ephemeral_5m_input_tokens: _Count
    ephemeral_1h_input_tokens: _Count


class _OneCall(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What a usage object nearly always is: one call's counts, every one of them sound, without server tools."""

    input_tokens: _Count
    output_tokens: _Count
    cache_creation_input_tokens: _Count = 0
    cache_read_input_tokens: _Count = 0
    cache_creation: _Split | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    server_tool_use: None = None


_one_call = msgspec.json.Decoder(_OneCall)


def read_one_call(usage: bytes | msgspec.Raw) -> Usage | None:
    """As `read`, from JSON, at a third of the time; None for all but the usual shape, which `read` is to look into."""
    try:
        found = _one_call.decode(usage)
    except msgspec.DecodeError:
        return None
    fresh, read_tokens, output = found.input_tokens, found.cache_read_input_tokens, found.output_tokens
    written, written_1h, split = found.cache_creation_input_tokens, 0, found.cache_creation
    if split is not None:
        written_1h = split.ephemeral_1h_input_tokens
        if split.ephemeral_5m_input_tokens + written_1h != written:
            return None
    quantities = {}
    if fresh:
        quantities["input"] = fresh
    if read_tokens:
        quantities["cache_read"] = read_tokens
    if written > written_1h:
        quantities["cache_write_5m"] = written - written_1h
    if written_1h:
        quantities["cache_write_1h"] = written_1h
    if output:
        quantities["output"] = output
    tier, speed = found.service_tier, found.speed
    return Usage(
        quantities,
        fresh + read_tokens + written,
        "standard" if tier is None else tier,
        "standard" if speed is None else speed,
        found.inference_geo or "",
    )


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object, or the two of a stream. Raises InvalidUsage."""
    if "message_start" in usage or "message_delta" in usage:
        usage = _of_stream(usage)
    get = usage.get
    unknown = "" if usage.keys() <= _KNOWN else unknown_counter(usage, _KNOWN)
    fresh, output = get("input_tokens"), get("output_tokens")
    if type(fresh) is not int or not 0 <= fresh <= LARGEST_COUNT:
        fresh = required_count(usage, "input_tokens")
    if type(output) is not int or not 0 <= output <= LARGEST_COUNT:
        output = required_count(usage, "output_tokens")
    read_tokens = get("cache_read_input_tokens")
    if type(read_tokens) is not int or not 0 <= read_tokens <= LARGEST_COUNT:
        read_tokens = optional_count(read_tokens, "cache_read_input_tokens")
    written_5m, written_1h = get("cache_creation_input_tokens"), 0
    if get("cache_creation") is not None:
        written_5m, written_1h, unknown_lifetime = writes_of(usage, is_waiting=unknown != "")
        unknown = unknown or unknown_lifetime
    elif type(written_5m) is not int or not 0 <= written_5m <= LARGEST_COUNT:
        written_5m = optional_count(written_5m, "cache_creation_input_tokens")

    quantities = {}
    if fresh:
        quantities["input"] = fresh
    if read_tokens:
        quantities["cache_read"] = read_tokens
    if written_5m:
        quantities["cache_write_5m"] = written_5m
    if written_1h:
        quantities["cache_write_1h"] = written_1h
    if output:
        quantities["output"] = output
    if get("server_tool_use") is not None:
        searches, unknown_tool = _searches(usage)
        if searches:
            quantities["web_search"] = searches
        unknown = unknown or unknown_tool
    if get("output_tokens_details") is not None:
        unknown = _check_output(usage, output, unknown)
    tier, speed, geo = get("service_tier"), get("speed"), get("inference_geo")
    found = Usage(
        quantities,
        fresh + read_tokens + written_5m + written_1h,
        tier if type(tier) is str else word(usage, "service_tier", "standard"),
        speed if type(speed) is str else word(usage, "speed", "standard"),
        geo if type(geo) is str else word(usage, "inference_geo", ""),
        unknown,
    )
    return found if get("iterations") is None else read_iterations(usage, found)


def _searches(usage: dict[str, Any]) -> tuple[int, str]:
    tools = part(usage, "server_tool_use")
    # Fetches are counted by the provider but not billed beyond their tokens.
    optional_count(tools.get("web_fetch_requests"), "server_tool_use.web_fetch_requests")
    return (
        optional_count(tools.get("web_search_requests"), "server_tool_use.web_search_requests"),
        unknown_counter(tools, _KNOWN_TOOLS, "server_tool_use."),
    )


def _check_output(usage: dict[str, Any], output: int, unknown: str) -> str:
    """The first unknown counter, `unknown` where that is one; without any, thinking must be inside the output."""
    details = part(usage, "output_tokens_details")
    thinking = optional_count(details.get("thinking_tokens"), "output_tokens_details.thinking_tokens")
    unknown = unknown or unknown_counter(details, _KNOWN_OUTPUT, "output_tokens_details.")
    if thinking > output and not unknown:
        raise InvalidUsage(
            f"usage.output_tokens_details.thinking_tokens is {thinking}, more than usage.output_tokens, {output}"
        )
    return unknown


def _of_stream(usage: dict[str, Any]) -> dict[str, Any]:
    """One object of a stream's two: the delta's counts are cumulative and win, the start knows the rest."""
    extra = usage.keys() - _STREAM
    if extra:
        raise InvalidUsage(f"usage.{min(extra)} stands beside message_start and message_delta")
    start, delta = part(usage, "message_start"), part(usage, "message_delta")
    merged = {**start, **{name: value for name, value in delta.items() if value is not None}}
    if delta.get("cache_creation") is None and has_split(start):
        _add_later_writes(merged, start, delta)
    return merged


def _add_later_writes(merged: dict[str, Any], start: dict[str, Any], delta: dict[str, Any]) -> None:
    """Writes of later calls in a loop of server tools: the delta counts them, the start's split doesn't know them.

    Where `iterations` tells their lifetimes it is asked instead; else they live for the default, five minutes.
    """
    five, hour, unknown = writes_of(
        start, "message_start.", is_waiting=not start.keys() <= _KNOWN and unknown_counter(start, _KNOWN) != ""
    )
    total = optional_count(delta.get("cache_creation_input_tokens"), "cache_creation_input_tokens")
    if unknown or total <= five + hour:
        return
    iterations = delta.get("iterations")
    if isinstance(iterations, list) and any(isinstance(item, dict) and has_split(item) for item in iterations):
        del merged["cache_creation"]
    else:
        merged["cache_creation"] = {FIVE_MINUTES: total - hour, ONE_HOUR: hour}
