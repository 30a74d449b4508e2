"""Rating: usage + prices → amounts. Pure: no ORM, no clock, no settings.

The amount of a meter is quantity × unit price ÷ per, exact at 15 decimals; an event's amount is the sum of its meters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from metering.formats.base import Usage
from relayadmin.money import AMOUNT_DECIMALS, EXACT, POWERS

REQUEST = "request"


class Unrateable(Exception):
    """Usage that can't be rated yet: `reason` is the code of why it is parked."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class MeterPrice:
    """The two unit prices of a meter, in USD per `per` (1,000,000 tokens or 1,000 calls), at most 9 decimals."""

    charge: Decimal
    cost: Decimal
    per: int
    charge_price_id: int | None = None
    cost_price_id: int | None = None


@dataclass(frozen=True, slots=True)
class RateCard:
    """All prices that hold for one request: model, channel, plan, moment and prompt size are chosen already.

    `digest` names the card's content; equal cards have equal digests.
    """

    meters: Mapping[str, MeterPrice]
    digest: bytes = b""
    content: Mapping[str, object] = field(default_factory=dict)
    # (charge, cost) of one token or call in units of 10⁻¹⁵ USD: whole numbers, because unit prices have 9 decimals.
    per_one: Mapping[str, tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        per_one = {
            name: (_in_units(price.charge, price.per), _in_units(price.cost, price.per))
            for name, price in self.meters.items()
        }
        object.__setattr__(self, "per_one", per_one)


def _in_units(unit_price: Decimal, per: int) -> int:
    units = EXACT.scaleb(unit_price, AMOUNT_DECIMALS - POWERS[per])
    assert units == units.to_integral_value(), f"{unit_price} per {per} has more than {AMOUNT_DECIMALS} decimals"
    return int(units)


def amount_of(units: int) -> Decimal:
    """Units of 10⁻¹⁵ USD as an amount in USD."""
    return EXACT.scaleb(Decimal(units), -AMOUNT_DECIMALS)


def amount_literal(units: int) -> str:
    """The same as a number that PostgreSQL reads; much cheaper than through a Decimal."""
    return f"{units}e-15"


def with_request(usage: Usage, card: RateCard) -> Usage:
    """Usage with the request itself counted, where the model has a fee for each: no usage object reports it.

    A request that used nothing has no fee.
    """
    if REQUEST not in card.per_one or REQUEST in usage.quantities or not usage.quantities:
        return usage
    return msgspec.structs.replace(usage, quantities={**usage.quantities, REQUEST: 1})


def rate(usage: Usage, card: RateCard) -> tuple[Decimal, Decimal]:
    """The (charge, cost) of one event in USD. Raises Unrateable (`no_price`) for a meter that the card lacks."""
    charge, cost = rate_in_units(usage.quantities, card)
    return amount_of(charge), amount_of(cost)


def rate_in_units(quantities: Mapping[str, int], card: RateCard) -> tuple[int, int]:
    """The (charge, cost) of quantities by meter, in units of 10⁻¹⁵ USD. Raises Unrateable as `rate` does."""
    charge = cost = 0
    per_one = card.per_one
    try:
        for meter, quantity in quantities.items():
            charge_one, cost_one = per_one[meter]
            charge += quantity * charge_one
            cost += quantity * cost_one
    except KeyError as missing:
        raise Unrateable("no_price", f"no price for {missing.args[0]}") from None
    return charge, cost


def most_that_can_cost(
    *, input_tokens: int, max_output_tokens: int, write_meter: str | None, web_searches: int, card: RateCard
) -> Decimal:
    """The most a request can cost in USD: every input token at the dearer of input and its write rate, all output.

    Raises Unrateable (`no_price`) for a meter that the card lacks.
    """
    one = _charge_of(card, "input", input_tokens)
    if write_meter is not None:
        one = max(one, _charge_of(card, write_meter, input_tokens))
    units = input_tokens * one
    units += max_output_tokens * _charge_of(card, "output", max_output_tokens)
    units += web_searches * _charge_of(card, "web_search", web_searches)
    units += _charge_of(card, REQUEST, 0)
    return amount_of(units)


def _charge_of(card: RateCard, meter: str, quantity: int) -> int:
    price = card.per_one.get(meter)
    if price is not None:
        return price[0]
    if quantity == 0:
        return 0
    raise Unrateable("no_price", f"no price for {meter}")
