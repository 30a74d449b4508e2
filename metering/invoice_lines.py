"""A customer's hourly usage → the lines of its document; each recomputes as quantity × unit price ÷ per."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

from billing.invoicing import Line
from metering.explanations import price_note
from metering.meters import BY_NAME, NAMES, PLAIN_METER
from metering.models import PriceSet
from metering.savings import cache_savings
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, total

_ORDER = {name: place for place, name in enumerate(NAMES)}
_MULTIPLIER_DECIMALS = 6
_ROUNDING = Context(prec=80, rounding=ROUND_HALF_UP)
_MAX_KNOWN = 20_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What one price set says on lines, by meter: (unit price in USD, per), the note, and the multiple of input's."""

    prices: Mapping[str, tuple[Decimal, int]]
    notes: Mapping[str, str]
    multipliers: Mapping[str, Decimal | None]


# Price sets never change, so a process reads each once.
_known: dict[int, Terms] = {}


class PriceMissing(Exception):
    """Hourly usage of a meter for which its own price set has no price."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The lines of a document, what the hourly usage behind them says was charged, and what caching saved (USD)."""

    lines: Sequence[Line]
    charged: Decimal
    savings: Decimal


def read(customer_id: int, *, after: date | None, through: date, zone: ZoneInfo) -> Usage:
    """What is billed in the periods after one, up to another: by month of use, model, meter and unit price.

    The document's own month first, then usage of earlier months, each under its own. Raises PriceMissing.
    """
    rows = _sums(customer_id, after=after, through=through, zone=zone)
    terms = terms_of({row["price_set_id"] for row in rows})
    sums: dict[tuple[date, str, str, str, Decimal, int, Decimal | None], Decimal] = defaultdict(lambda: ZERO)
    savings = ZERO
    for row in rows:
        said = terms[row["price_set_id"]]
        quantities = {meter: quantity for meter in NAMES if (quantity := row[meter])}
        savings = EXACT.add(savings, cache_savings(quantities, said.prices))
        for meter, quantity in quantities.items():
            if meter not in said.prices:
                raise PriceMissing(f"price set {row['price_set_id']} has no price of {meter}")
            price, per = said.prices[meter]
            key = (row["month"], row["model"], meter, said.notes[meter], price, per, said.multipliers[meter])
            sums[key] = EXACT.add(sums[key], quantity)
    ordered = sorted(
        (key for key in sums if sums[key]),
        key=lambda key: (-_months(key[0]), key[1], _ORDER[key[2]], key[3], key[4], key[6] or ZERO),
    )
    lines = []
    for key in ordered:
        month, model, meter, note, price, per, multiplier = key
        text = describe(model, meter, note, month, through) + ", taken back" * (sums[key] < 0)
        lines.append(Line(month, text, model, meter, sums[key], price, per, multiplier, note))
    return Usage(lines, total([row["charge"] for row in rows]), savings)


def _months(month: date) -> int:
    return month.year * 12 + month.month


def describe(model: str, meter: str, note: str, month: date, period: date) -> str:
    """What a line of a period's document says of a meter's usage in a month."""
    label = f"{model}: {BY_NAME[meter].label.lower()}{', ' * bool(note)}{note}"
    return label if month == period else f"{label}, used in {month:%B %Y}"


def terms_of(numbers: set[int]) -> dict[int, Terms]:
    """What price sets say on lines, by number."""
    missing = numbers - _known.keys()
    if len(_known) + len(missing) > _MAX_KNOWN:
        _known.clear()
        missing = numbers
    for row in PriceSet.objects.filter(pk__in=missing) if missing else ():
        _known[row.pk] = _read_terms(row.content)
    return {number: _known[number] for number in numbers}


def _read_terms(content: Mapping[str, Any]) -> Terms:
    prices = {meter: (Decimal(price["charge"]), price["per"]) for meter, price in content["meters"].items()}
    return Terms(
        prices,
        {meter: price_note(content, meter) for meter in prices},
        {meter: _multiplier(prices, meter) for meter in prices},
    )


def _multiplier(prices: Mapping[str, tuple[Decimal, int]], meter: str) -> Decimal | None:
    """A cache meter's price as a multiple of its plain meter's, with at most six decimals: 1.25."""
    plain = prices.get(PLAIN_METER.get(meter, ""))
    if plain is None or not plain[0]:
        return None
    multiple = _ROUNDING.divide(prices[meter][0], plain[0])
    return _ROUNDING.normalize(multiple.quantize(Decimal(1).scaleb(-_MULTIPLIER_DECIMALS), context=_ROUNDING))


def forget() -> None:
    """Drop what is remembered; for tests that change databases."""
    _known.clear()


def _sums(customer_id: int, *, after: date | None, through: date, zone: ZoneInfo) -> list[dict[str, Any]]:
    # An hour can hold the end of one month and the beginning of the next, where offsets are not whole hours: then the
    # billing period tells which.
    sums = ", ".join(f"sum({meter}) AS {meter}" for meter in NAMES)
    with server_cursor() as cursor:
        cursor.execute(
            "WITH sums AS (SELECT"
            " CASE WHEN date_trunc('month', (hour + interval '59 minutes') AT TIME ZONE %(zone)s)::date = period"
            "   THEN period"
            "   ELSE greatest(date_trunc('month', hour AT TIME ZONE %(zone)s), '0001-01-01')::date END AS month,"
            f" model_id, price_set_id, sum(charge) AS charge, {sums}"
            " FROM metering_usagehour WHERE customer_id = %(customer)s AND period <= %(through)s"
            "   AND period > coalesce(%(after)s::date, '-infinity') GROUP BY 1, 2, 3)"
            " SELECT sums.*, m.public_id AS model FROM sums JOIN metering_model m ON m.id = sums.model_id",
            {"zone": zone.key, "customer": customer_id, "through": through, "after": after},
            binary=True,
        )
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
