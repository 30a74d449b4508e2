"""The price snapshot inside the genai-prices package, as frozen values. Pure: no Django, no network.

genai-prices picks the last conditional price whose condition holds: a start date (UTC), a window of the day (UTC), or
none; with none holding it takes the first. `segments` turns that list into stretches between the start dates, each
with a base price and the windows that override it, so that a price row can say the same with plain columns.

Beside them a model has variants: partial prices for requests whose context says so, perhaps from a date on. Of those
that a request fits, the first in the list that prices a unit wins; units that none of them prices cost the standard.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import pairwise
from typing import Any

from genai_prices.data_snapshot import get_snapshot

Tiers = tuple[tuple[int, Decimal], ...]  # (for prompts of more tokens than this, USD per the unit's size), ascending


# What a request's context says → the variant. What is not here has no rows.
VARIANTS = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "fast",
    ("speed", "fast"): "fast",
}


class UnreadablePrices(ValueError):
    """Prices that price rows cannot express; the message names what is in the way."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The prices of one stretch of time, or of one window of every day in it.

    `starts` and `ends` are UTC dates (half open), None without a bound; `daily_from` and `daily_until` are UTC times.
    `marks` says of units whose price is not the source's where it comes from.
    """

    starts: date | None
    ends: date | None
    daily_from: time | None
    daily_until: time | None
    prices: Mapping[str, Tiers]
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceVariant:
    """Other prices of some units for requests of one kind (`Price.variant`), from a UTC date on; None: always."""

    name: str
    starts: date | None
    prices: Mapping[str, Tiers]

    def holds_from(self, day: date | None) -> bool:
        """Whether it holds from a day on; None is the beginning of time."""
        return self.starts is None or (day is not None and self.starts <= day)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """One model of one provider. `exact` are names that mean it, `partial` are beginnings or parts of such names.

    Of two `variants` of one name the first goes before, unit by unit. `notes` say what of its prices is left out.
    """

    provider: str
    id: str
    label: str
    context_window: int | None
    exact: tuple[str, ...]
    partial: tuple[str, ...]
    segments: tuple[Segment, ...]
    problem: str = ""
    variants: tuple[SourceVariant, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> frozenset[str]:
        return frozenset(unit for segment in self.segments for unit in segment.prices)


@dataclass(frozen=True, slots=True)
class Provider:
    id: str
    models: tuple[SourceModel, ...]
    fallbacks: tuple[str, ...]


def read_providers() -> dict[str, Provider]:
    """Every provider of the installed package's snapshot, by genai-prices' id."""
    return {
        provider.id: Provider(
            id=provider.id,
            models=tuple(read_model(provider.id, model) for model in provider.models),
            fallbacks=tuple(provider.fallback_model_providers or ()),
        )
        for provider in get_snapshot().providers
    }


def read_model(provider: str, model: Any) -> SourceModel:
    """One model of the snapshot; `problem` says why its prices can't be read, if they can't."""
    exact: list[str] = []
    partial: list[str] = []
    _collect_names(model.match, exact, partial)
    problem = ""
    found: tuple[Segment, ...] = ()
    try:
        found = segments(model.prices)
    except UnreadablePrices as error:
        problem = str(error)
    variants, notes = _variants(model.price_variants or ())
    return SourceModel(
        provider=provider,
        id=model.id,
        label=model.name or "",
        context_window=model.context_window,
        exact=tuple(dict.fromkeys(exact)),
        partial=tuple(dict.fromkeys(partial)),
        segments=found,
        problem=problem,
        variants=variants,
        notes=notes,
    )


def _variants(options: Iterable[Any]) -> tuple[tuple[SourceVariant, ...], tuple[str, ...]]:
    """The variants that rows can express, in their order, and a sentence for each that they can't.

    One without prices is the standard under another name, and nothing to read.
    """
    found: list[SourceVariant] = []
    notes: list[str] = []
    for option in options:
        context = " and ".join(f"{key} {value}" for key, value in sorted(option.when.items()))
        name = VARIANTS.get(next(iter(option.when.items()))) if len(option.when) == 1 else None
        try:
            prices = _tiers(option.prices)
            if prices and name is None:
                raise UnreadablePrices("there is no such kind of request here")
            if prices and not (option.constraint is None or _is_dated(option.constraint)):
                raise UnreadablePrices("it holds in a window of the day")
        except UnreadablePrices as error:
            notes.append(f"prices for {context} left out: {error}")
            continue
        if prices and name is not None:
            found.append(SourceVariant(name, getattr(option.constraint, "start_date", None), prices))
    return tuple(found), tuple(dict.fromkeys(notes))


def _collect_names(clause: Any, exact: list[str], partial: list[str]) -> None:
    """The literals of a match rule; an `and` narrows what its parts say, so those count as partial only."""
    for alternative in getattr(clause, "or_", ()):
        _collect_names(alternative, exact, partial)
    for part in getattr(clause, "and_", ()):
        _collect_names(part, partial, partial)
    if hasattr(clause, "equals"):
        exact.append(clause.equals)
    for kind in ("starts_with", "contains", "ends_with"):
        if hasattr(clause, kind):
            partial.append(getattr(clause, kind))


def segments(prices: Any) -> tuple[Segment, ...]:
    """A model's prices as stretches of time, without gap or overlap; per stretch the base first, then its windows."""
    if not isinstance(prices, list):
        return (Segment(None, None, None, None, _tiers(prices)),)
    starts = sorted({option.constraint.start_date for option in prices if _is_dated(option.constraint)})
    bounds: list[date | None] = [None, *starts, None]
    return tuple(segment for begin, end in pairwise(bounds) for segment in _stretch(prices, begin, end))


def _is_dated(constraint: Any) -> bool:
    return hasattr(constraint, "start_date")


def _stretch(options: Sequence[Any], begin: date | None, end: date | None) -> Iterable[Segment]:
    """The last option that holds throughout is the base; windows that stand behind it in the list override it."""
    windows: list[Any] = []
    base = options[0].prices
    for option in reversed(options):
        constraint = option.constraint
        if constraint is None or (_is_dated(constraint) and begin is not None and constraint.start_date <= begin):
            base = option.prices
            break
        if not _is_dated(constraint):
            windows.append(option)
    standard = _tiers(base)
    yield Segment(begin, end, None, None, standard)
    taken: list[tuple[time, time]] = []
    for option in reversed(windows):
        opens, closes = _utc(option.constraint.start_time), _utc(option.constraint.end_time)
        if opens >= closes or any(opens < until and since < closes for since, until in taken):
            raise UnreadablePrices("windows of the day that overlap or cross midnight")
        special = _tiers(option.prices)
        if {unit: _starts(tiers) for unit, tiers in special.items()} != {
            unit: _starts(tiers) for unit, tiers in standard.items()
        }:
            raise UnreadablePrices("a window of the day with other units or tiers than the rest of the day")
        taken.append((opens, closes))
        yield Segment(begin, end, opens, closes, special)


def _starts(tiers: Tiers) -> tuple[int, ...]:
    return tuple(start for start, _ in tiers)


def _utc(moment: time) -> time:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return datetime.combine(date(2000, 1, 1), aware).astimezone(UTC).time()


def _tiers(price: Any) -> dict[str, Tiers]:
    """Price units with a price: {"input_mtok": ((0, Decimal("3")), (200000, Decimal("6")))}."""
    found: dict[str, Tiers] = {}
    for unit, value in vars(price).items():
        if value is None:
            continue
        steps = [(0, value)]
        if hasattr(value, "tiers"):
            steps = [(0, value.base), *((tier.start, tier.price) for tier in value.tiers)]
        if any(type(amount) is not Decimal for _, amount in steps):
            raise UnreadablePrices(f"{unit} is not a decimal")
        found[unit] = tuple(steps)
    return found
