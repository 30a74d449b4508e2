"""What OpenAI's usage objects and their many imitations share: tiers, and how completions divide."""

from typing import Any

from metering.formats.base import InvalidUsage, optional_count, part, unknown_counter, word

_INSIDE = "completion_tokens_details."
_STANDARD = frozenset({"default", "auto", "unspecified"})
_KNOWN_COMPLETION = frozenset(
    {
        "reasoning_tokens",
        "audio_tokens",
        "text_tokens",
        "image_tokens",
        "video_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    }
)


def tier_of(usage: dict[str, Any]) -> str:
    """The service tier; the default by its several names is "standard", any other word stays as it was given."""
    tier = word(usage, "service_tier", "standard")
    return "standard" if tier in _STANDARD else tier


def unknown_output(usage: dict[str, Any]) -> str:
    """The first counter above zero inside the completion that is not known, or ""."""
    return unknown_counter(part(usage, "completion_tokens_details"), _KNOWN_COMPLETION, _INSIDE)


def completion_of(usage: dict[str, Any], completion: int, *, unknown: str) -> dict[str, int]:
    """Output meters that add up to `completion`. Reasoning is output like any other.

    Raises InvalidUsage where the parts are more than the whole, unless an `unknown` counter makes the event wait.
    """
    inside = part(usage, "completion_tokens_details")
    if not inside:
        return {"output": completion}
    spoken = optional_count(inside.get("audio_tokens"), "audio_tokens", _INSIDE)
    drawn = optional_count(inside.get("image_tokens"), "image_tokens", _INSIDE)
    filmed = optional_count(inside.get("video_tokens"), "video_tokens", _INSIDE)
    reasoning = optional_count(inside.get("reasoning_tokens"), "reasoning_tokens", _INSIDE)
    if (spoken + drawn + filmed > completion or reasoning > completion) and not unknown:
        raise InvalidUsage(
            f"usage.completion_tokens is {completion}, but audio ({spoken}), image ({drawn}) and video ({filmed})"
            f" tokens or reasoning ({reasoning}) tokens inside it are more"
        )
    return {
        "output": completion - spoken - drawn - filmed,
        "audio_output": spoken,
        "image_output": drawn,
        "video_output": filmed,
    }


def fresh_of(prompt: int, *, cached: int, written: int, audio: int, unknown: str, name: str = "prompt_tokens") -> int:
    """What is left of an inclusive prompt.

    Raises InvalidUsage where its parts are more than the whole, unless an `unknown` counter makes the event wait.
    """
    fresh = prompt - cached - written - audio
    if fresh < 0 and not unknown:
        raise InvalidUsage(
            f"usage.{name} is {prompt}, but cached ({cached}), cache-write ({written}) and audio ({audio})"
            " tokens inside it are more"
        )
    return fresh
