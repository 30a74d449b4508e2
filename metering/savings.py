"""What caching saved. Pure: no Django."""

from collections.abc import Mapping
from decimal import Decimal

from metering.meters import PLAIN_METER
from relayadmin.money import EXACT, ZERO, line_amount


def cache_savings(quantities: Mapping[str, int], prices: Mapping[str, tuple[Decimal, int]]) -> Decimal:
    """What cached reads would have cost as plain input, less what caching cost; below zero if it cost more.

    Each cached token counts with its plain price less its own: reads save, dearer writes cost. `prices` are
    (unit price in USD, per) by meter; a meter without a plain price to compare with counts nothing.
    """
    saved = ZERO
    for meter, plain in PLAIN_METER.items():
        quantity = quantities.get(meter, 0)
        if quantity and meter in prices and plain in prices:
            own, per = prices[meter]
            saved = EXACT.add(saved, line_amount(quantity, EXACT.subtract(prices[plain][0], own), per))
    return saved
