"""`anthropic.messages`: exclusive. `input_tokens` leaves out cache reads and writes; they stand beside it.

Source: the Messages API's usage object. `output_tokens` already contains thinking. A stream's `message_delta` carries
cumulative counts without the split of cache writes; a relay may send `{"message_start": …, "message_delta": …}`.
"""

from typing import Any

from metering.formats.base import InvalidUsage, Usage, count, optional_count, part, unknown_counter, word

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
    }
)
_KNOWN_WRITES = frozenset({"ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"})
_KNOWN_TOOLS = frozenset({"web_search_requests", "web_fetch_requests"})
_KNOWN_OUTPUT = frozenset({"thinking_tokens"})
_STREAM = frozenset({"message_start", "message_delta"})


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object, or the two of a stream. Raises InvalidUsage."""
    if "message_start" in usage or "message_delta" in usage:
        usage = _of_stream(usage)
    for name in ("input_tokens", "output_tokens"):
        if usage.get(name) is None:
            raise InvalidUsage(f"usage.{name} is missing")
    fresh = count(usage["input_tokens"], "input_tokens")
    output = count(usage["output_tokens"], "output_tokens")
    read_tokens = optional_count(usage.get("cache_read_input_tokens"), "cache_read_input_tokens")
    written_5m, written_1h = _writes(usage)
    unknown = unknown_counter(usage, _KNOWN)

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
    tools = usage.get("server_tool_use")
    if tools is not None:
        tools = part(usage, "server_tool_use")
        searches = optional_count(tools.get("web_search_requests"), "server_tool_use.web_search_requests")
        # Fetches are counted by the provider but not billed beyond their tokens.
        optional_count(tools.get("web_fetch_requests"), "server_tool_use.web_fetch_requests")
        if searches:
            quantities["web_search"] = searches
        unknown = unknown or unknown_counter(tools, _KNOWN_TOOLS, "server_tool_use.")
    if usage.get("output_tokens_details") is not None:
        unknown = unknown or _check_output(part(usage, "output_tokens_details"), output)
    return Usage(
        quantities,
        fresh + read_tokens + written_5m + written_1h,
        service_tier=word(usage, "service_tier", "standard"),
        speed=word(usage, "speed", "standard"),
        inference_geo=word(usage, "inference_geo", ""),
        unknown=unknown or unknown_counter(part(usage, "cache_creation"), _KNOWN_WRITES, "cache_creation."),
    )


def _writes(usage: dict[str, Any]) -> tuple[int, int]:
    """Five-minute and one-hour cache writes; a total without its split is five minutes, the default lifetime."""
    total = usage.get("cache_creation_input_tokens")
    if total is not None:
        total = count(total, "cache_creation_input_tokens")
    split = usage.get("cache_creation")
    if split is None:
        return total or 0, 0
    split = part(usage, "cache_creation")
    if not any(value is not None for value in split.values()):
        return total or 0, 0
    five = optional_count(split.get("ephemeral_5m_input_tokens"), "cache_creation.ephemeral_5m_input_tokens")
    hour = optional_count(split.get("ephemeral_1h_input_tokens"), "cache_creation.ephemeral_1h_input_tokens")
    if unknown_counter(split, _KNOWN_WRITES):
        return five, hour  # A lifetime that is new to us: the event waits, and what adds up is not known.
    if total is not None and total != five + hour:
        raise InvalidUsage(
            f"usage.cache_creation_input_tokens is {total}, but usage.cache_creation adds up to {five + hour}"
        )
    return five, hour


def _check_output(details: dict[str, Any], output: int) -> str:
    thinking = optional_count(details.get("thinking_tokens"), "output_tokens_details.thinking_tokens")
    if thinking > output:
        raise InvalidUsage(
            f"usage.output_tokens_details.thinking_tokens is {thinking}, more than usage.output_tokens, {output}"
        )
    return unknown_counter(details, _KNOWN_OUTPUT, "output_tokens_details.")


def _of_stream(usage: dict[str, Any]) -> dict[str, Any]:
    """One object of a stream's two: the delta's counts are cumulative and win, the start knows the rest."""
    extra = usage.keys() - _STREAM
    if extra:
        raise InvalidUsage(f"usage.{min(extra)} stands beside message_start and message_delta")
    start, delta = part(usage, "message_start"), part(usage, "message_delta")
    return {**start, **{name: value for name, value in delta.items() if value is not None}}
