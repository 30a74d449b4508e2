"""What an event would be rated at now, and whether that differs from what it counts as.

An event keeps its model, channel and account. Without `is_reparse` it keeps its quantities too, and is rated by what it
was rated by, as its price sets say it: variant, place and prompt size. If today's parser reads something else of these
that decides a price, the event can't be rated again.
"""

from collections.abc import Sequence
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


class _Prices(msgspec.Struct, frozen=True, gc=False):
    """Unit prices of a meter, USD per `per`."""

    charge: Decimal
    cost: Decimal
    per: int


class RatedBy(msgspec.Struct, frozen=True, gc=False):
    """What a price set says of the requests that were rated by it, as PriceSet.content has it."""

    meters: dict[str, _Prices]
    variant: str = ""
    place: str = ""
    prompt: dict[str, int] = {}

    @property
    def in_us(self) -> bool:
        return self.place == "us"

    def is_for(self, prompt_tokens: int) -> bool:
        """Whether a prompt of this size is rated by it."""
        return self.prompt.get("above", -1) < prompt_tokens <= self.prompt.get("up_to", prompt_tokens)


_decode_set = msgspec.json.Decoder(RatedBy).decode


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """What an event would be rated at now; amounts in units of 10⁻¹⁵ USD."""

    model_id: int
    channel_id: int
    card: RateCard
    quantities: dict[str, int]
    charge: int
    cost: int
    parts: tuple[RatedPart, ...] = ()


def rate_again(event: Charged, terms: Terms, known: "PriceSets", *, is_reparse: bool) -> Fresh:
    """Rate an event that was not taken back at the prices of its own moment, as the book has them now.

    `known` has the event's price sets. Raises Unrateable: also `unreadable` if today's parser refuses its usage, and
    `reads_differently`.
    """
    old = event.figures
    assert old is not None
    usage = _read(event)
    variant, in_us = variant_of(usage.service_tier, usage.speed), is_in_us(usage.inference_geo)
    if not is_reparse:
        then = [known.of(number) for number in set_numbers(old)]
        if not (_has_quantities(usage, old) and _is_rated_by(usage, variant, then)):
            raise Unrateable("reads_differently", "today's parser reads it differently; --reparse takes that over")
        if in_us != then[0].in_us and _has_us_prices(old, terms):
            raise Unrateable("reads_differently", "today's parser reads another place; --reparse takes that over")
        in_us = then[0].in_us
    if usage.unknown:
        raise Unrateable("unknown_counter", f"usage.{usage.unknown} is above zero and not known to {event.format}")
    plan = terms.plan(event.customer_id, event.occurred_at)
    asked = Asked(old.model_id, old.channel_id, variant, in_us, event.account_id, *charged_by(plan, event))

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


def _has_quantities(usage: Usage, old: Figures) -> bool:
    was = [old.quantities, *(call.quantities for call in old.parts)]
    now = [usage.quantities, *(part.quantities for part in usage.parts)]
    return [_reported(quantities) for quantities in was] == [_reported(quantities) for quantities in now]


def _is_rated_by(usage: Usage, variant: str, then: Sequence[RatedBy]) -> bool:
    """Whether what is read belongs to these price sets, call by call, as far as variant and prompt size go."""
    sizes = [part.prompt_tokens for part in usage.parts] or [usage.prompt_tokens]
    return all(by.variant == variant and by.is_for(size) for by, size in zip(then, sizes, strict=True))


def _has_us_prices(old: Figures, terms: Terms) -> bool:
    """Whether the place decides a price: whether one of the event's models costs something else in the US."""
    models = {call.model_id for call in old.parts} or {old.model_id}
    return any(terms.table.catalog.models[model_id].us_multiplier != 1 for model_id in models)


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
    """The price sets that events were rated by."""

    def __init__(self) -> None:
        self._known: dict[int, RatedBy] = {}

    def load(self, numbers: set[int]) -> None:
        """Read those that are not known yet."""
        missing = sorted(numbers - self._known.keys())
        if not missing:
            return
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT id, content FROM metering_priceset WHERE id = ANY (%s::bigint[])", [number_array(missing)]
            )
            self._known.update({number: _decode_set(content) for number, content in cursor.fetchall()})

    def of(self, number: int) -> RatedBy:
        """One that was loaded."""
        return self._known[number]

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
        before = self._known[number].meters
        return all(
            meter in before
            and (before[meter].charge, before[meter].cost, before[meter].per) == (price.charge, price.cost, price.per)
            for meter, price in ((meter, card.meters[meter]) for meter in quantities)
        )


def set_numbers(figures: Figures | None) -> tuple[int, ...]:
    """The price sets of an event's calls, in their order; none if it was taken back."""
    if figures is None:
        return ()
    return tuple(call.price_set_id for call in figures.parts) or (figures.price_set_id,)
