"""From a source model's segments to price rows per meter, missing cache prices derived. Pure.

Units without a meter of ours, and so without rows: audio_hours, input_audio_hours, input_mchars,
input_document_kpages, input_annotated_document_kpages, input_text_messages_kcount, and whatever the source adds. A
model with nothing else is not in the book; usage of such a unit parks. output_reasoning_mtok and output_citation_mtok
price output tokens apart that our one output meter would hide: models that have them are left out whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import Enum
from itertools import pairwise

from metering.meters import BY_NAME, INPUT_PRICE, PER_MILLION, READ_PRICE
from metering.price_sources.genai import Segment, SourceVariant, Tiers
from relayadmin.money import EXACT, to_unit_price

UNIT_METERS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "cache_audio_read_mtok": "audio_cache_read",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "cache_image_read_mtok": "image_cache_read",
    "output_image_mtok": "image_output",
    "input_video_mtok": "video_input",
    "output_video_mtok": "video_output",
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "requests_kcount": "request",
}
CACHE_WRITE_UNIT = "cache_write_mtok"
SPLIT_OUTPUT_UNITS = frozenset({"output_reasoning_mtok", "output_citation_mtok"})
CACHE_WRITES = ("cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h")

# Anthropic's multiples of the input price, for Claude on every channel that names no price of its own.
CLAUDE_MULTIPLES = {
    "cache_write_5m": Decimal("1.25"),
    "cache_write_1h": Decimal(2),
    "cache_read": Decimal("0.1"),
}
# What batches cost where the maker's general rule is all there is; facts of the makers' price pages.
BATCH = "batch"
BATCH_MULTIPLE = Decimal("0.5")
HALF_PRICE = "half of the standard price"
# Kinds of request that cost a share of the standard price for long prompts too, and so have its tiers. OpenAI's model
# pages: above the mark 2 × input and 1.5 × output “for standard, batch, and flex”. Its page of priority (fast) leaves
# long prompts out, so a flat price there stays as it is.
IN_PROPORTION = frozenset({BATCH, "flex"})
TIER_IN_PROPORTION = "tier in proportion to the standard"
_RATIO = Context(prec=60, rounding=ROUND_HALF_EVEN)
WRITE_PRICE = "cache write price"
# Google tells tokens of images, video and sound apart in usage, and gives them a price of their own only where it
# differs from that of text: each with the meter of its cached tokens.
GEMINI_KINDS = (("image_input", "image_cache_read"), ("video_input", None), ("audio_input", "audio_cache_read"))


class Family(Enum):
    """Whose rules fill in a missing price, and which lifetime a plain cache write has."""

    CLAUDE = "claude"
    OPENAI = "openai"
    GEMINI = "gemini"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Row:
    """A price: USD per million tokens or per thousand calls, for prompts above a size, in a stretch of time (UTC)."""

    meter: str
    above_prompt_tokens: int
    unit_price: Decimal
    effective_from: date | None = None
    effective_until: date | None = None
    daily_from: time | None = None
    daily_until: time | None = None
    derived: str = ""
    variant: str = ""

    @property
    def per(self) -> int:
        return BY_NAME[self.meter].per


@dataclass(frozen=True, slots=True)
class _MeterPrice:
    tiers: Tiers
    derived: str = ""


def price_rows(segments: Sequence[Segment], family: Family, variants: Sequence[SourceVariant] = ()) -> tuple[Row, ...]:
    """Every row of one model on one channel; stretches in which a price stays the same are one row."""
    rows = [row for part in segments for row in _segment_rows(part, _meter_prices(part, family), "")]
    for name in dict.fromkeys(variant.name for variant in variants):
        own = [variant for variant in variants if variant.name == name]
        rows += [row for part in segments for row in _variant_rows(part, own, family)]
    return tuple(_joined(rows))


def halved_batches(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Batch rows at half the standard price of every token meter, up to where the first batch row of the source begins.

    Calls cost in a batch what they always do, so they have no row. Nothing, where batch rows hold from the beginning.
    """
    begins = [row.effective_from for row in rows if row.variant == BATCH]
    if None in begins:
        return ()
    until = min((day for day in begins if day is not None), default=None)
    return tuple(
        replace(
            row,
            variant=BATCH,
            unit_price=to_unit_price(EXACT.multiply(row.unit_price, BATCH_MULTIPLE)),
            effective_until=_earlier(row.effective_until, until),
            derived=HALF_PRICE,
        )
        for row in rows
        if row.variant == "" and row.per == PER_MILLION and _begins_before(row.effective_from, until)
    )


def _begins_before(begins: date | None, until: date | None) -> bool:
    return begins is None or until is None or begins < until


def _earlier(end: date | None, other: date | None) -> date | None:
    return other if end is None else end if other is None else min(end, other)


def _segment_rows(part: Segment, prices: "Mapping[str, _MeterPrice]", variant: str) -> Iterator[Row]:
    for meter, how in prices.items():
        for above, price in how.tiers:
            yield Row(
                meter,
                above,
                to_unit_price(price),
                part.starts,
                part.ends,
                part.daily_from,
                part.daily_until,
                how.derived,
                variant,
            )


def _variant_rows(part: Segment, variants: Sequence[SourceVariant], family: Family) -> Iterator[Row]:
    """What requests of one variant pay apart from the standard in one stretch: its own prices, and what derives from
    them. Its tiers take the place of the standard's; where it has none, those of a share follow the standard's.
    """
    name = variants[0].name
    for piece in _pieces(part, variants):
        own: dict[str, Tiers] = {}
        for variant in variants:
            if variant.holds_from(piece.starts):
                own = {**variant.prices, **own}
        if own:
            marks = {unit: mark for unit, mark in piece.marks.items() if unit not in own}
            special = _meter_prices(replace(piece, prices={**piece.prices, **own}, marks=marks), family)
            standard = _meter_prices(piece, family)
            given = {meter for unit in own for meter in _meters_of(unit, family)}
            apart = {
                meter: how
                for meter, how in special.items()
                if meter in given or meter not in standard or how.tiers != standard[meter].tiers
            }
            yield from _segment_rows(piece, apart, name)
            if name in IN_PROPORTION:
                tiers = {meter: _in_proportion(how.tiers, standard.get(meter)) for meter, how in apart.items()}
                yield from _segment_rows(piece, tiers, name)


def _in_proportion(own: Tiers, standard: _MeterPrice | None) -> _MeterPrice:
    """The standard's tiers at the share of it that a flat price is; none for a price with tiers of its own."""
    base = standard.tiers[0][1] if standard is not None else None
    if standard is None or not base or len(own) > 1:
        return _MeterPrice(())
    price = own[0][1]
    return _MeterPrice(
        tuple((above, _RATIO.divide(_RATIO.multiply(tier, price), base)) for above, tier in standard.tiers[1:]),
        TIER_IN_PROPORTION,
    )


def _pieces(part: Segment, variants: Sequence[SourceVariant]) -> Iterator[Segment]:
    """A segment cut where a variant begins in it."""
    inside = {
        variant.starts
        for variant in variants
        if variant.starts is not None
        and (part.starts is None or part.starts < variant.starts)
        and (part.ends is None or variant.starts < part.ends)
    }
    for begin, end in pairwise((part.starts, *sorted(inside), part.ends)):
        yield replace(part, starts=begin, ends=end)


def _meter_prices(segment: Segment, family: Family) -> dict[str, _MeterPrice]:
    found = {
        meter: _MeterPrice(tiers, segment.marks.get(unit, ""))
        for unit, tiers in segment.prices.items()
        for meter in _meters_of(unit, family)
    }
    write = segment.prices.get(CACHE_WRITE_UNIT)
    if "input" in found:
        for meter in ("cache_read", *CACHE_WRITES):
            if meter not in found:
                found[meter] = _derived(meter, found["input"].tiers, write, family)
        if family is Family.GEMINI:
            for meter, cached in GEMINI_KINDS:
                if meter not in found:
                    found[meter] = _MeterPrice(found["input"].tiers, INPUT_PRICE)
                    if cached is not None:
                        found.setdefault(cached, _MeterPrice(found["cache_read"].tiers, READ_PRICE))
    return found


def _meters_of(unit: str, family: Family) -> tuple[str, ...]:
    """The meter that a unit of the source prices; none if we have none."""
    if unit == CACHE_WRITE_UNIT:
        return ("cache_write_30m" if family is Family.OPENAI else "cache_write_5m",)
    return (UNIT_METERS[unit],) if unit in UNIT_METERS else ()


def _derived(meter: str, input_tiers: Tiers, write: Tiers | None, family: Family) -> _MeterPrice:
    """The price of a cache meter for which the source has none, tier by tier.

    Claude follows Anthropic's multiples. Elsewhere a write of a lifetime the source does not tell apart costs what it
    asks for a write, and all that is left costs as much as plain input.
    """
    if family is Family.CLAUDE:
        multiple = CLAUDE_MULTIPLES.get(meter)
        if multiple is not None:
            tiers = tuple((above, EXACT.multiply(price, multiple)) for above, price in input_tiers)
            return _MeterPrice(tiers, f"claude rule: {multiple} × input")
    elif write is not None and meter in CACHE_WRITES:
        return _MeterPrice(write, WRITE_PRICE)
    return _MeterPrice(input_tiers, INPUT_PRICE)


def _joined(rows: list[Row]) -> list[Row]:
    """Rows that differ only in their stretch, and touch, made one."""
    open_ends: dict[object, int] = {}
    joined: list[Row] = []
    for row in rows:
        same = replace(row, effective_from=None, effective_until=None)
        before = open_ends.get((same, row.effective_from))
        if before is None or row.effective_from is None:
            joined.append(row)
            before = len(joined) - 1
        else:
            joined[before] = replace(joined[before], effective_until=row.effective_until)
        open_ends[(same, row.effective_until)] = before
    return joined
