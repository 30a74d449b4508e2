"""What a request asks for beside the standard → the price variant it is rated at. Pure.

Source: Anthropic's `service_tier` (standard, priority, batch) and `speed` (standard, fast), OpenAI's `service_tier`
(default, flex, priority, fast) and its batch interface, Gemini's batch, flex and priority.
"""

from metering.rating import Unrateable

_TIERS = {
    "": "",
    "standard": "",
    "default": "",
    "auto": "",
    "batch": "batch",
    "flex": "flex",
    "priority": "priority",
    "fast": "fast",
}
_SPEEDS = {"": "", "standard": "", "fast": "fast"}
_GEOS = {"": False, "global": False, "not_available": False, "us": True}


def variant_of(service_tier: str, speed: str) -> str:
    """The variant, "" for the standard. Raises Unrateable for words without prices, alone or together."""
    tier, pace = _TIERS.get(service_tier), _SPEEDS.get(speed)
    if tier is None:
        raise Unrateable("unknown_service_tier", f"no prices for service tier {service_tier!r}")
    if pace is None:
        raise Unrateable("unknown_speed", f"no prices for speed {speed!r}")
    if tier and pace and tier != pace:
        raise Unrateable("unknown_service_tier", f"no prices for service tier {service_tier!r} at speed {speed!r}")
    return tier or pace


def is_in_us(inference_geo: str) -> bool:
    """Whether inference was kept in the US. Raises Unrateable for another place."""
    in_us = _GEOS.get(inference_geo)
    if in_us is None:
        raise Unrateable("unknown_inference_geo", f"no prices for inference in {inference_geo!r}")
    return in_us
