"""Where the price source is known to be wrong or silent: few, each with its reason. Pure.

An amendment applies only while the source still says what it said when the amendment was written; afterwards it is
reported and has no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from metering.price_sources.genai import Segment, SourceModel


@dataclass(frozen=True, slots=True)
class Amendment:
    """Other prices for one model on one channel, up to a date (None: for good).

    `said` is what the source must still say; `prices` replaces units, None removes one. `mark` stands on the rows.
    """

    channel: str
    source_id: str
    said: Mapping[str, Decimal]
    prices: Mapping[str, Decimal | None]
    until: date | None
    mark: str


AMENDMENTS = (
    # The maker's page of that time; the source has only the later price.
    Amendment(
        channel="anthropic",
        source_id="claude-sonnet-5-5",
        said={"input_mtok": Decimal(2), "cache_read_mtok": Decimal("0.1")},
        prices={"cache_read_mtok": Decimal("0.2")},
        until=date(2026, 10, 7),
        mark="amended: price before 2026-10-07",
    ),
    # Vertex asks more than the maker for this model; LiteLLM's table agrees. Its cache prices follow from the rule.
    Amendment(
        channel="vertex",
        source_id="claude-3-5-haiku",
        said={"input_mtok": Decimal("0.8"), "output_mtok": Decimal(4)},
        prices={
            "input_mtok": Decimal(1),
            "output_mtok": Decimal(5),
            "cache_write_mtok": None,
            "cache_read_mtok": None,
        },
        until=None,
        mark="amended: Vertex's own price",
    ),
)


def amended(channel: str, source: SourceModel) -> tuple[tuple[Segment, ...], str]:
    """The segments to use, and a sentence if an amendment has become pointless."""
    for amendment in AMENDMENTS:
        if (amendment.channel, amendment.source_id) != (channel, source.id):
            continue
        if len(source.segments) != 1 or not _still_says(source.segments[0], amendment.said):
            return (
                source.segments,
                f"{channel}: the amendment of {source.id} no longer fits its source; remove it",
            )
        return _apply(source.segments[0], amendment), ""
    return source.segments, ""


def _still_says(segment: Segment, said: Mapping[str, Decimal]) -> bool:
    return all(segment.prices.get(unit) == ((0, price),) for unit, price in said.items())


def _apply(segment: Segment, amendment: Amendment) -> tuple[Segment, ...]:
    prices = {unit: tiers for unit, tiers in segment.prices.items() if unit not in amendment.prices}
    prices |= {unit: ((0, price),) for unit, price in amendment.prices.items() if price is not None}
    marks = {unit: amendment.mark for unit, price in amendment.prices.items() if price is not None}
    changed = replace(segment, prices=prices, marks=marks, ends=amendment.until)
    return (changed,) if amendment.until is None else (changed, replace(segment, starts=amendment.until))
