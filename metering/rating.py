"""Rating: usage + prices → amounts. Pure: no ORM, no clock, no settings.

The amount of a meter is quantity × unit price ÷ per, exact at 15 decimals; an event's amount is the sum of its meters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from metering.formats.base import Usage
from relayadmin.money import EXACT, POWERS, ZERO


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
    per_one: Mapping[str, tuple[Decimal, Decimal]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        per_one = {
            name: (
                EXACT.scaleb(price.charge, -POWERS[price.per]),
                EXACT.scaleb(price.cost, -POWERS[price.per]),
            )
            for name, price in self.meters.items()
        }
        object.__setattr__(self, "per_one", per_one)


def rate(usage: Usage, card: RateCard) -> tuple[Decimal, Decimal]:
    """The (charge, cost) of one event in USD. Raises Unrateable (`no_price`) for a meter that the card lacks."""
    charge = cost = ZERO
    multiply, add = EXACT.multiply, EXACT.add
    per_one = card.per_one
    for meter, quantity in usage.quantities.items():
        try:
            charge_one, cost_one = per_one[meter]
        except KeyError:
            raise Unrateable("no_price", f"no price for {meter}") from None
        charge = add(charge, multiply(quantity, charge_one))
        cost = add(cost, multiply(quantity, cost_one))
    return charge, cost


def most_that_can_cost(
    *, input_tokens: int, max_output_tokens: int, write_meter: str | None, web_searches: int, card: RateCard
) -> Decimal:
    """The most a request can cost in USD: every input token at the dearer of input and its write rate, all output.

    Raises Unrateable (`no_price`) for a meter that the card lacks.
    """
    quantities = {"input": input_tokens, "output": max_output_tokens, "web_search": web_searches}
    dearest_input = _charge_of(card, "input", input_tokens)
    if write_meter is not None:
        dearest_input = max(dearest_input, _charge_of(card, write_meter, input_tokens))
    result = EXACT.multiply(input_tokens, dearest_input)
    for meter in ("output", "web_search"):
        result = EXACT.add(
            result, EXACT.multiply(quantities[meter], _charge_of(card, meter, quantities[meter]))
        )
    return result


def _charge_of(card: RateCard, meter: str, quantity: int) -> Decimal:
    price = card.per_one.get(meter)
    if price is not None:
        return price[0]
    if quantity == 0:
        return ZERO
    raise Unrateable("no_price", f"no price for {meter}")
