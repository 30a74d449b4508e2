"""`bedrock.invoke`: exclusive. `inputTokenCount` leaves out cache reads and writes; they stand beside it.

Source: `amazon-bedrock-invocationMetrics`, the object that ends an InvokeModel stream; it may come bare or under that
key. It doesn't split cache writes, which are then five minutes, the default. The body of a Claude model's answer holds
Anthropic's own object, which does: that is `anthropic.messages`.
"""

from typing import Any

from metering.formats.base import Usage, above_zero, optional_count, part, required_count, unknown_counter

_KEY = "amazon-bedrock-invocationMetrics"
_KNOWN = frozenset(
    {
        "inputTokenCount",
        "outputTokenCount",
        "cacheReadInputTokenCount",
        "cacheWriteInputTokenCount",
        "invocationLatency",  # milliseconds
        "firstByteLatency",
    }
)


def read(usage: dict[str, Any]) -> Usage:
    """Read the metrics. Raises InvalidUsage."""
    metrics, path, beside = usage, "", ""
    if _KEY in usage:
        metrics, path = part(usage, _KEY), f"{_KEY}."
        beside = unknown_counter(usage, frozenset({_KEY}))
    fresh = required_count(metrics, "inputTokenCount", path)
    output = required_count(metrics, "outputTokenCount", path)
    cached = optional_count(metrics.get("cacheReadInputTokenCount"), "cacheReadInputTokenCount", path)
    written = optional_count(metrics.get("cacheWriteInputTokenCount"), "cacheWriteInputTokenCount", path)
    return Usage(
        above_zero({"input": fresh, "cache_read": cached, "cache_write_5m": written, "output": output}),
        fresh + cached + written,
        unknown=beside or unknown_counter(metrics, _KNOWN, path),
    )
