"""`gemini.generate`: inclusive. `promptTokenCount` contains `cachedContentTokenCount`, which is taken out of it.

Source: usageMetadata of generateContent (google-genai 3.4). Input is the prompt and, beside it, what tools gave back
(`toolUsePromptTokenCount`); output is the candidates and, beside them, the thoughts; `totalTokenCount` is all four.
The details say how many tokens were audio, image or video, inside the count they belong to; what they leave open is
text, and documents are text. Cached video has no meter of its own and is a cache read like text.
"""

from typing import Any

from metering.formats.base import (
    InvalidUsage,
    Usage,
    above_zero,
    check_total,
    objects,
    optional_count,
    required_count,
    unknown_counter,
    word,
)

_PROMPT, _CACHED, _TOOLS, _ANSWER = (
    "promptTokenCount",
    "cachedContentTokenCount",
    "toolUsePromptTokenCount",
    "candidatesTokenCount",
)
_DETAILS_OF = {
    _PROMPT: "promptTokensDetails",
    _CACHED: "cacheTokensDetails",
    _TOOLS: "toolUsePromptTokensDetails",
    _ANSWER: "candidatesTokensDetails",
}
_KNOWN = frozenset(_DETAILS_OF) | frozenset(_DETAILS_OF.values())
_KNOWN |= {"thoughtsTokenCount", "totalTokenCount", "trafficType", "serviceTier"}
_KNOWN_DETAIL = frozenset({"modality", "tokenCount"})
_TEXT = frozenset({"TEXT", "DOCUMENT", "MODALITY_UNSPECIFIED"})
_MEDIA = ("AUDIO", "IMAGE", "VIDEO")
_TIERS = {
    "TRAFFIC_TYPE_UNSPECIFIED": "standard",
    "ON_DEMAND": "standard",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "UNSPECIFIED": "standard",
    "STANDARD": "standard",
    "PRIORITY": "priority",
    "FLEX": "flex",
}


def read(usage: dict[str, Any]) -> Usage:
    """Read a usageMetadata object. Raises InvalidUsage, also where parts are more than their whole.

    Google leaves out counts that are zero, so all but the prompt's may be missing.
    """
    unknown = unknown_counter(usage, _KNOWN)
    prompt = required_count(usage, _PROMPT)
    cached, tools, answer, thoughts = (
        optional_count(usage.get(name), name) for name in (_CACHED, _TOOLS, _ANSWER, "thoughtsTokenCount")
    )
    in_prompt, told_prompt, unknown = _media(usage, _PROMPT, unknown)
    in_cache, told_cache, unknown = _media(usage, _CACHED, unknown)
    in_tools, told_tools, unknown = _media(usage, _TOOLS, unknown)
    in_answer, told_answer, unknown = _media(usage, _ANSWER, unknown)
    fresh = {kind: in_prompt[kind] - in_cache[kind] for kind in _MEDIA}
    text = prompt - cached - sum(fresh.values())
    check_total(usage, "totalTokenCount", prompt + answer + tools + thoughts, unknown=unknown)
    if not unknown:
        if cached > prompt:
            raise InvalidUsage(f"usage.{_CACHED} is {cached}, more than usage.{_PROMPT}, {prompt}")
        for name, whole, told in (
            (_PROMPT, prompt, told_prompt),
            (_CACHED, cached, told_cache),
            (_TOOLS, tools, told_tools),
            (_ANSWER, answer, told_answer),
        ):
            if told > whole:
                raise InvalidUsage(f"usage.{name} is {whole}, but usage.{_DETAILS_OF[name]} adds up to {told}")
        _check_inside(in_prompt, in_cache, text, prompt, cached)
    return Usage(
        above_zero(
            {
                "input": text + tools - sum(in_tools.values()),
                "cache_read": cached - in_cache["AUDIO"] - in_cache["IMAGE"],
                "audio_input": fresh["AUDIO"] + in_tools["AUDIO"],
                "audio_cache_read": in_cache["AUDIO"],
                "image_input": fresh["IMAGE"] + in_tools["IMAGE"],
                "image_cache_read": in_cache["IMAGE"],
                "video_input": fresh["VIDEO"] + in_tools["VIDEO"],
                "output": answer - sum(in_answer.values()) + thoughts,
                "audio_output": in_answer["AUDIO"],
                "image_output": in_answer["IMAGE"],
                "video_output": in_answer["VIDEO"],
            }
        ),
        prompt + tools,
        service_tier=_tier(usage),
        unknown=unknown,
    )


def _media(usage: dict[str, Any], name: str, unknown: str) -> tuple[dict[str, int], int, str]:
    """(audio, image and video tokens of one count, those and text together, the first unknown counter).

    `unknown`: one that was found before, or "".
    """
    details = _DETAILS_OF[name]
    found = dict.fromkeys(_MEDIA, 0)
    total = 0
    for index, detail in enumerate(objects(usage, details)):
        path = f"{details}[{index}]."
        modality = word(detail, "modality", "TEXT", path).upper()
        tokens = optional_count(detail.get("tokenCount"), "tokenCount", path)
        total += tokens
        if modality in found:
            found[modality] += tokens
        elif tokens and modality not in _TEXT:
            unknown = unknown or f"{details}[].{modality[:40]}"
        unknown = unknown or unknown_counter(detail, _KNOWN_DETAIL, f"{details}[].")
    return found, total, unknown


def _check_inside(in_prompt: dict[str, int], in_cache: dict[str, int], text: int, prompt: int, cached: int) -> None:
    """Hold the cached tokens against the prompt's, kind by kind."""
    for kind in _MEDIA:
        if in_cache[kind] > in_prompt[kind]:
            raise InvalidUsage(
                f"usage.cacheTokensDetails has {in_cache[kind]} {kind} tokens,"
                f" but usage.promptTokensDetails only {in_prompt[kind]}"
            )
    if text < 0:
        raise InvalidUsage(
            f"usage.{_PROMPT} is {prompt}, but cached tokens ({cached}) and those of audio, image and video that are"
            f" not among them ({prompt - cached - text}) are more"
        )


def _tier(usage: dict[str, Any]) -> str:
    """Vertex tells a traffic type, the Gemini API a service tier; a word that is new to us stays as it was given."""
    traffic, tier = (
        _TIERS.get(said.upper(), said)
        for said in (word(usage, "trafficType", "STANDARD"), word(usage, "serviceTier", "STANDARD"))
    )
    if traffic != "standard" != tier and traffic != tier:
        raise InvalidUsage(f"usage.trafficType means {traffic[:40]}, but usage.serviceTier is {tier[:40]}")
    return tier if traffic == "standard" else traffic
