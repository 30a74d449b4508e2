"""What a price set says beside its figures, in words for customers. Pure.

`content` is that of a PriceSet.
"""

from collections.abc import Mapping
from typing import Any

from metering.meters import BY_NAME, PER_MILLION
from metering.plan_terms import is_charged

_CHARGED = {"input": "only the input side is charged", "nothing": "nothing is charged"}


def price_note(content: Mapping[str, Any], meter: str) -> str:
    """Why a meter's unit price is another one than usual: "batch", "in the US", "aborted, not charged"; or ""."""
    waived = content.get("waived")
    if waived is not None and not is_charged(meter, waived["charged"]):
        return f"{waived['status']}, not charged"
    notes = [content["variant"]] if content.get("variant") else []
    if "geo" in content and BY_NAME[meter].per == PER_MILLION:
        notes.append(f"in the US (× {content['geo']})")
    return ", ".join(notes)


def waiver_note(content: Mapping[str, Any]) -> str | None:
    """Why not all of a request was charged, or None."""
    waived = content.get("waived")
    return None if waived is None else f"{waived['status']}: {_CHARGED[waived['charged']]}"
