"""A price set as rows of a table, alone or with one event's quantities."""

from collections.abc import Mapping
from decimal import Decimal

from billing.admin import html
from metering.meters import BY_NAME, NAMES
from metering.models import Price, PriceSet
from relayadmin.money import EXACT, ZERO, line_amount

_ORDER = {name: position for position, name in enumerate(NAMES)}


def meter_label(name: str) -> str:
    meter = BY_NAME.get(name)
    return meter.label if meter else name


def price_row(number: int | None) -> str:
    """A link to a price row; a dash where a rule of the plan gave the price."""
    return html.NOTHING if number is None else html.link(html.object_url(Price, number), f"price {number}")


def set_rows(prices: PriceSet) -> list[tuple[object, ...]]:
    """(meter, charge, cost, charge's price row, cost's price row)."""
    meters = prices.content.get("meters", {})
    return [
        (
            meter_label(name),
            html.unit_price(price["charge"], price["per"]),
            html.unit_price(price["cost"], price["per"]),
            price_row(price.get("charge_price")),
            price_row(price.get("cost_price")),
        )
        for name, price in sorted(meters.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER)))
    ]


def meter_rows(
    quantities: Mapping[str, int], prices: PriceSet | None
) -> tuple[list[tuple[object, ...]], tuple[Decimal, Decimal]]:
    """(meter, quantity, unit price, charge, unit cost, cost, margin) by meter, and the sums of charge and cost."""
    meters = prices.content.get("meters", {}) if prices else {}
    rows: list[tuple[object, ...]] = []
    charges = costs = ZERO
    for name, count in sorted(quantities.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))):
        price = meters.get(name)
        if price is None:
            rows.append((meter_label(name), html.quantity(count), *[html.NOTHING] * 5))
            continue
        charge = line_amount(count, Decimal(price["charge"]), price["per"])
        cost = line_amount(count, Decimal(price["cost"]), price["per"])
        charges, costs = EXACT.add(charges, charge), EXACT.add(costs, cost)
        rows.append(
            (
                meter_label(name),
                html.quantity(count),
                html.unit_price(price["charge"], price["per"]),
                html.amount(charge),
                html.unit_price(price["cost"], price["per"]),
                html.amount(cost),
                html.amount(EXACT.subtract(charge, cost)),
            )
        )
    return rows, (charges, costs)
