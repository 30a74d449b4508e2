"""`openai.chat`: inclusive. `prompt_tokens` contains cached, cache-write and audio tokens; they are taken out of it.

Source: the chat completions API's usage object. `completion_tokens` already contains reasoning. Cache writes without
a lifetime are the provider's default of 30 minutes.
"""

from typing import Any

from metering.formats.base import InvalidUsage, Usage, count, optional_count, part, unknown_counter, word

_KNOWN = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "service_tier",
    }
)
_KNOWN_PROMPT = frozenset({"cached_tokens", "cache_write_tokens", "audio_tokens", "text_tokens"})
_KNOWN_COMPLETION = frozenset(
    {
        "reasoning_tokens",
        "audio_tokens",
        "text_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    }
)


def read(usage: dict[str, Any]) -> Usage:
    """Read a usage object. Raises InvalidUsage, also where parts are more than their whole."""
    for name in ("prompt_tokens", "completion_tokens"):
        if usage.get(name) is None:
            raise InvalidUsage(f"usage.{name} is missing")
    prompt = count(usage["prompt_tokens"], "prompt_tokens")
    completion = count(usage["completion_tokens"], "completion_tokens")
    total = usage.get("total_tokens")
    if total is not None and count(total, "total_tokens") != prompt + completion:
        raise InvalidUsage(
            f"usage.total_tokens is {total}, but prompt_tokens and completion_tokens add up to {prompt + completion}"
        )
    inside = part(usage, "prompt_tokens_details")
    cached = optional_count(inside.get("cached_tokens"), "prompt_tokens_details.cached_tokens")
    written = optional_count(inside.get("cache_write_tokens"), "prompt_tokens_details.cache_write_tokens")
    audio = optional_count(inside.get("audio_tokens"), "prompt_tokens_details.audio_tokens")
    fresh = prompt - cached - written - audio
    if fresh < 0:
        raise InvalidUsage(
            f"usage.prompt_tokens is {prompt}, but cached ({cached}), cache-write ({written}) and audio ({audio})"
            " tokens inside it are more"
        )
    outside = part(usage, "completion_tokens_details")
    spoken = optional_count(outside.get("audio_tokens"), "completion_tokens_details.audio_tokens")
    reasoning = optional_count(outside.get("reasoning_tokens"), "completion_tokens_details.reasoning_tokens")
    if spoken > completion or reasoning > completion:
        raise InvalidUsage(
            f"usage.completion_tokens is {completion}, but audio ({spoken}) or reasoning ({reasoning}) tokens inside"
            " it are more"
        )
    unknown = (
        unknown_counter(usage, _KNOWN)
        or unknown_counter(inside, _KNOWN_PROMPT, "prompt_tokens_details.")
        or unknown_counter(outside, _KNOWN_COMPLETION, "completion_tokens_details.")
    )
    quantities = {
        "input": fresh,
        "cache_read": cached,
        "cache_write_30m": written,
        "audio_input": audio,
        "output": completion - spoken,
        "audio_output": spoken,
    }
    tier = word(usage, "service_tier", "standard")
    return Usage(
        {meter: quantity for meter, quantity in quantities.items() if quantity},
        prompt,
        service_tier="standard" if tier in {"default", "auto"} else tier,
        unknown=unknown,
    )
