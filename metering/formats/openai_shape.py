"""What OpenAI's usage objects and their many imitations share: tiers, and how completions divide."""

from typing import Any

from metering.formats.base import InvalidUsage, count, optional_count, part, unknown_counter, word

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

# What relays and channels add that is no count: dollars, in whole or by part, and seconds.
_DOLLARS = frozenset({"cost", "cost_details", "cost_in_usd_ticks"})
_SECONDS = frozenset({"completion_time", "prompt_time", "queue_time", "total_time"})
# What they tell again under another name.
_AGAIN = {"input_tokens_details": "prompt_tokens_details", "output_tokens_details": "completion_tokens_details"}
_UPSTREAM = "billing_usage"
_TOLD_BESIDE_IT = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "cached_creation_tokens",
        "cache_write_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "ephemeral_5m_input_tokens",
        "ephemeral_1h_input_tokens",
        "claude_cache_creation_5_m_tokens",
        "claude_cache_creation_1_h_tokens",
        "text_tokens",
        "audio_tokens",
        "image_tokens",
        "reasoning_tokens",
    }
)


def tier_of(usage: dict[str, Any]) -> str:
    """The service tier; the default by its several names is "standard", any other word stays as it was given."""
    tier = word(usage, "service_tier", "standard")
    return "standard" if tier in _STANDARD else tier


def unknown_beside(usage: dict[str, Any], known: frozenset[str]) -> str:
    """The first counter above zero of the object itself that is not `known`, or "".

    Passed over: money and seconds, that is `cost` and its like (OpenRouter, LiteLLM, xAI; Perplexity's by part) and the
    times that Groq measures; details that only repeat the other name's; the counts of new-api's `billing_usage`, the
    upstream's object, that stand beside it too. Whatever else is inside of these is a counter like any other.
    """
    if usage.keys() <= known:
        return ""
    others = {name: _less_passed_over(usage, name) for name in usage.keys() - known}
    return unknown_counter(others, frozenset())


def _less_passed_over(usage: dict[str, Any], name: str) -> object:
    value = usage[name]
    if name in _DOLLARS:
        if isinstance(value, dict):
            return {key: inner for key, inner in value.items() if not (key.endswith("_cost") and _holds_nothing(inner))}
        return None if _holds_nothing(value) else value
    if name in _SECONDS:
        return None if _holds_nothing(value) else value
    if name in _AGAIN:
        return None if value == usage.get(_AGAIN[name]) else value
    return _less_told(value) if name == _UPSTREAM else value


def _less_told(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: _less_told(inner) for key, inner in value.items() if not (key in _TOLD_BESIDE_IT and _holds_nothing(inner))
    }


def _holds_nothing(value: object) -> bool:
    return not isinstance(value, dict | list)


def check_other_names(usage: dict[str, Any], prompt: int, completion: int) -> None:
    """Hold `input_tokens` and `output_tokens` against the counts that they name again; zero tells nothing.

    Raises InvalidUsage with both figures.
    """
    if usage.get("input_tokens") is None and usage.get("output_tokens") is None:
        return
    for other, name, figure in (
        ("input_tokens", "prompt_tokens", prompt),
        ("output_tokens", "completion_tokens", completion),
    ):
        told = usage.get(other)
        if told is not None and optional_count(told, other) not in (0, figure):
            raise InvalidUsage(f"usage.{name} is {figure}, but usage.{other} is {told}")


def unknown_output(usage: dict[str, Any]) -> str:
    """The first counter above zero inside the completion that is not known, or ""."""
    return unknown_counter(part(usage, "completion_tokens_details"), _KNOWN_COMPLETION, _INSIDE)


def completion_of(usage: dict[str, Any], completion: int, *, prompts: tuple[int, ...], unknown: str) -> dict[str, int]:
    """Output meters; the total is held against `completion` and any of the `prompts`, the sizes it may count.

    Reasoning is output like any other. OpenAI counts it inside the completion, xAI beside it: where the total is the
    sum of prompt, completion and reasoning, and not of the first two, it stands beside. Raises InvalidUsage where the
    total is no sum or parts are more than their whole, unless an `unknown` counter makes the event wait.
    """
    inside = part(usage, "completion_tokens_details")
    spoken = drawn = filmed = reasoning = 0
    if inside:
        spoken = optional_count(inside.get("audio_tokens"), "audio_tokens", _INSIDE)
        drawn = optional_count(inside.get("image_tokens"), "image_tokens", _INSIDE)
        filmed = optional_count(inside.get("video_tokens"), "video_tokens", _INSIDE)
        reasoning = optional_count(inside.get("reasoning_tokens"), "reasoning_tokens", _INSIDE)
    beside = _beside(usage, completion, prompts, reasoning, unknown)
    if not unknown:
        if spoken + drawn + filmed > completion:
            raise InvalidUsage(
                f"usage.completion_tokens is {completion}, but audio ({spoken}), image ({drawn}) and video ({filmed})"
                " tokens inside it are more"
            )
        if reasoning > completion and not beside:
            raise InvalidUsage(
                f"usage.completion_tokens is {completion}, but usage.{_INSIDE}reasoning_tokens is {reasoning},"
                " and usage.total_tokens does not count them beside it"
            )
    return {
        "output": completion - spoken - drawn - filmed + beside,
        "audio_output": spoken,
        "image_output": drawn,
        "video_output": filmed,
    }


def _beside(usage: dict[str, Any], completion: int, prompts: tuple[int, ...], reasoning: int, unknown: str) -> int:
    """The reasoning that the total counts beside the completion. Raises InvalidUsage where the total is neither sum."""
    total = usage.get("total_tokens")
    if total is None:
        return 0
    rest = count(total, "total_tokens") - completion
    if rest in prompts:
        return 0
    if rest - reasoning in prompts:
        return reasoning
    if unknown:
        return 0
    added = prompts[0] + completion
    other = f", or to {added + reasoning} with reasoning beside the completion" if reasoning else ""
    raise InvalidUsage(f"usage.total_tokens is {total}, but its parts add up to {added}{other}")


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
