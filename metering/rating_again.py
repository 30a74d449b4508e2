"""What an event would be rated at now, and whether that differs from what it counts as.

An event keeps its model, channel and account. Without `is_reparse` it keeps its quantities too: one whose usage today's
parser reads differently can't be rated again.
"""

from decimal import Decimal

import msgspec

from metering import formats
from metering.adjustments import Charged, Figures
from metering.formats import InvalidUsage, Usage
from metering.formats.base import Part
from metering.pricing import Asked
from metering.rating import REQUEST, RateCard, Unrateable, rate_in_units, with_request
from metering.settlement import RatedPart, Terms, charged_by
from metering.variants import is_in_us, variant_of
from relayadmin.db import number_array, server_cursor

_Prices = dict[str, tuple[Decimal, Decimal, int]]


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """What an event would be rated at now; amounts in units of 10⁻¹⁵ USD."""

    model_id: int
    channel_id: int
    card: RateCard
    quantities: dict[str, int]
    charge: int
    cost: int
    parts: tuple[RatedPart, ...] = ()


def rate_again(event: Charged, terms: Terms, *, is_reparse: bool) -> Fresh:
    """Rate an event that was not taken back at the prices of its own moment, as the book has them now.

    Raises Unrateable: also `unreadable` if today's parser refuses its usage, and `reads_differently`.
    """
    old = event.figures
    assert old is not None
    usage = _read(event)
    if not is_reparse and not _reads_the_same(old, usage):
        raise Unrateable("reads_differently", "today's parser reads other quantities; --reparse takes them over")
    if usage.unknown:
        raise Unrateable("unknown_counter", f"usage.{usage.unknown} is above zero and not known to {event.format}")
    plan = terms.plan(event.customer_id, event.occurred_at)
    asked = Asked(
        old.model_id,
        old.channel_id,
        variant_of(usage.service_tier, usage.speed),
        is_in_us(usage.inference_geo),
        event.account_id,
        *charged_by(plan, event),
    )

    def card_of(model_id: int, prompt_tokens: int) -> RateCard:
        own = asked._replace(model_id=model_id)
        return terms.table.card(own, plan=plan, at=event.occurred_at, prompt_tokens=prompt_tokens)

    if not usage.parts:
        card = card_of(old.model_id, usage.prompt_tokens)
        quantities = with_request(usage, card).quantities
        return Fresh(old.model_id, old.channel_id, card, quantities, *rate_in_units(quantities, card))
    parts = []
    for place, part in enumerate(usage.parts):
        model_id = _model_of(part, place, usage, old, terms, is_reparse=is_reparse)
        card = card_of(model_id, part.prompt_tokens)
        quantities = part.quantities
        if place == 0 and REQUEST in card.per_one:  # The response is one request, its first call's.
            quantities = {**quantities, REQUEST: 1}
        parts.append(RatedPart(part.kind, model_id, card, quantities, *rate_in_units(quantities, card)))
    return Fresh(
        parts[0].model_id,
        old.channel_id,
        parts[0].card,
        with_request(usage, parts[0].card).quantities,
        sum(part.charge_units for part in parts),
        sum(part.cost_units for part in parts),
        tuple(parts),
    )


def _read(event: Charged) -> Usage:
    try:
        return formats.read(event.format, msgspec.json.decode(event.usage_json))
    except (InvalidUsage, KeyError) as error:
        raise Unrateable("unreadable", f"today's {event.format} refuses its usage: {error}") from error


def _reads_the_same(old: Figures, usage: Usage) -> bool:
    was = [old.quantities, *(call.quantities for call in old.parts)]
    now = [usage.quantities, *(part.quantities for part in usage.parts)]
    return [_reported(quantities) for quantities in was] == [_reported(quantities) for quantities in now]


def _reported(quantities: dict[str, int]) -> dict[str, int]:
    """Without the request itself, which prices count and no usage object does."""
    return {meter: quantity for meter, quantity in quantities.items() if meter != REQUEST}


def _model_of(part: Part, place: int, usage: Usage, old: Figures, terms: Terms, *, is_reparse: bool) -> int:
    """The model of a call inside the response: as it was, or as its name says where it was read anew."""
    is_alike = len(usage.parts) == len(old.parts)
    if is_alike and (part.model is None or not is_reparse):
        return old.parts[place].model_id
    if part.model is None:
        return old.model_id
    model_id = terms.table.catalog.resolve(part.model)
    if model_id is None:
        raise Unrateable("unknown_model", f"no model or alias is called {part.model!r}")
    return model_id


class PriceSets:
    """The unit prices of price sets that events were rated at: (charge, cost, per) by meter."""

    def __init__(self) -> None:
        self._known: dict[int, _Prices] = {}

    def load(self, numbers: set[int]) -> None:
        """Read those that are not known yet."""
        missing = sorted(numbers - self._known.keys())
        if not missing:
            return
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT id, content -> 'meters' FROM metering_priceset WHERE id = ANY (%s::bigint[])",
                [number_array(missing)],
            )
            for number, meters in cursor.fetchall():
                self._known[number] = {
                    meter: (Decimal(price["charge"]), Decimal(price["cost"]), price["per"])
                    for meter, price in msgspec.json.decode(meters).items()
                }

    def is_same(self, old: Figures, fresh: Fresh) -> bool:
        """Whether nothing that is counted, charged or shown on a line would change."""
        was = [(call.model_id, call.quantities, call.price_set_id) for call in old.parts] or [
            (old.model_id, old.quantities, old.price_set_id)
        ]
        now = [(part.model_id, part.quantities, part.card) for part in fresh.parts] or [
            (fresh.model_id, fresh.quantities, fresh.card)
        ]
        return len(was) == len(now) and all(
            before[:2] == after[:2] and self._has_prices(before[2], after[2], before[1])
            for before, after in zip(was, now, strict=True)
        )

    def _has_prices(self, number: int, card: RateCard, quantities: dict[str, int]) -> bool:
        known = self._known[number]
        return all(
            known.get(meter) == (card.meters[meter].charge, card.meters[meter].cost, card.meters[meter].per)
            for meter in quantities
        )


def set_numbers(figures: Figures | None) -> tuple[int, ...]:
    if figures is None:
        return ()
    return tuple(call.price_set_id for call in figures.parts) or (figures.price_set_id,)
