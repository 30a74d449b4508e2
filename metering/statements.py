"""A month's usage → invoice lines → billing.invoicing."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db import DataError

from billing import invoicing, ledger
from billing.invoicing import Line
from billing.models import Customer, OperatorSettings
from billing.periods import bounds, operator_timezone
from metering.explanations import price_note
from metering.meters import BY_NAME, NAMES
from metering.models import Model, PriceSet
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import EXACT, ZERO, total

_PAGE = 500
_ORDER = {name: place for place, name in enumerate(NAMES)}


class PeriodNotOver(ValueError):
    """The month has not ended in the operator's time zone."""


class FiguresDiffer(Exception):
    """The lines don't add up to what was charged; nothing is issued."""


@dataclass(slots=True)
class Closed:
    """Counts of customers, and why some failed: {public id: sentence}."""

    issued: int = 0
    skipped: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def close_invoices(*, period: date, at: datetime, customer: Customer | None = None) -> Closed:
    """Close a month for every customer, or one: each in its own transaction, issued at most once however many run.

    A customer without usage to invoice, or closed before, is skipped. Raises PeriodNotOver.
    """
    zone = operator_timezone()
    if at < bounds(period, zone)[1]:
        raise PeriodNotOver(f"{period:%Y-%m} is not over yet in {zone.key}")
    if customer is not None:
        customers, considered = iter([customer.pk]), 1
    else:
        customers, considered = _open_customers(period), Customer.objects.filter(is_house=False).count()
    closed = Closed()
    for customer_id in customers:
        try:
            closed.issued += close_customer(customer_id=customer_id, period=period, zone=zone, at=at)
        except (FiguresDiffer, DataError) as error:
            closed.failed += 1
            public_id = Customer.objects.values_list("public_id", flat=True).get(pk=customer_id)
            closed.reasons[public_id] = str(error)
    closed.skipped = max(0, considered - closed.issued - closed.failed)
    return closed


def close_last_month(*, at: datetime) -> dict[str, Any] | None:
    """Close the month before this one once its grace period is over; None before, and where nothing was left to do.

    Meant to be called every hour: what was missed, or failed and was mended, is caught up with.
    """
    settings = OperatorSettings.objects.get(pk=1)
    zone = ZoneInfo(settings.timezone)
    local = at.astimezone(zone)
    start, _ = bounds(date(local.year, local.month, 1), zone)
    due = start + timedelta(hours=settings.closing_grace_hours)
    if at < due:
        return None
    last = date(local.year, local.month, 1) - timedelta(days=1)
    closed = close_invoices(period=last.replace(day=1), at=at)
    if not closed.issued and not closed.failed:
        return None
    return {
        "period": f"{last:%Y-%m}",
        "issued": closed.issued,
        "skipped": closed.skipped,
        "failed": closed.failed,
        "reasons": closed.reasons,
    }


def _open_customers(period: date) -> Iterator[int]:
    """Customers with usage in periods not closed yet, up to this one; in pages, in order."""
    last = 0
    while True:
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT w.customer_id FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id"
                " WHERE w.customer_id > %s AND NOT c.is_house AND (w.closed_through IS NULL OR w.closed_through < %s)"
                "   AND EXISTS (SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id"
                "     AND h.period <= %s AND (w.closed_through IS NULL OR h.period > w.closed_through))"
                " ORDER BY w.customer_id LIMIT %s",
                [last, period, period, _PAGE],
            )
            page = [row[0] for row in cursor.fetchall()]
        if not page:
            return
        yield from page
        last = page[-1]


def close_customer(*, customer_id: int, period: date, zone: ZoneInfo, at: datetime) -> bool:
    """Close one customer's month under its wallet's lock; whether an invoice was issued. Raises FiguresDiffer."""

    def work() -> bool:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        if wallet.closed_through is not None and wallet.closed_through >= period:
            return False
        lines, charged = _lines(customer_id, after=wallet.closed_through, through=period, zone=zone)
        if not lines:
            return False
        added = total([line.amount for line in lines])
        if added != charged:
            raise FiguresDiffer(f"the lines add up to {added} USD, but {charged} USD was charged")
        posted = _posted(customer_id, after=wallet.closed_through, through=period)
        if posted != charged:
            raise FiguresDiffer(f"{charged} USD of usage was counted, but {posted} USD was taken off the wallet")
        invoicing.issue(wallet=wallet, period=period, lines=lines, zone=zone, at=at)
        return True

    return in_transaction(work)


def _posted(customer_id: int, *, after: date | None, through: date) -> Decimal:
    """What the ledger took off the wallet for the usage of these billing periods, adjustments included."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(-sum(e.amount), 0) FROM billing_transfer t"
            " JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id BETWEEN t.id * 16 AND t.id * 16 + 15"
            " WHERE t.customer_id = %s AND t.kind IN ('usage', 'adjustment') AND t.period <= %s"
            "   AND t.period > coalesce(%s::date, '-infinity') AND e.account = 'wallet'",
            [customer_id, through, after],
        )
        row = cursor.fetchone()
    return row[0] if row else ZERO


def _lines(customer_id: int, *, after: date | None, through: date, zone: ZoneInfo) -> tuple[list[Line], Decimal]:
    """Invoice lines by month of use, model, meter and unit price; and what the hourly usage says was charged."""
    rows = _usage(customer_id, after=after, through=through, zone=zone)
    sets = PriceSet.objects.in_bulk({row["price_set_id"] for row in rows})
    names = dict(Model.objects.filter(pk__in={row["model_id"] for row in rows}).values_list("pk", "public_id"))
    sums: dict[tuple[date, str, str, str, Decimal, int], Decimal] = defaultdict(lambda: ZERO)
    for row in rows:
        content = sets[row["price_set_id"]].content
        for meter in NAMES:
            if row[meter]:
                price, note = content["meters"][meter], price_note(content, meter)
                key = (row["month"], names[row["model_id"]], meter, note, Decimal(price["charge"]), price["per"])
                sums[key] = EXACT.add(sums[key], row[meter])
    # The invoice's own month first, then usage of earlier months under their own.
    ordered = sorted(sums, key=lambda key: (-_months(key[0]), key[1], _ORDER[key[2]], key[3], key[4]))
    lines = [
        Line(
            usage_period=month,
            description=_describe(model, meter, note, month, through)
            + ", taken back" * (sums[month, model, meter, note, price, per] < 0),
            model=model,
            meter=meter,
            quantity=sums[month, model, meter, note, price, per],
            unit_price=price,
            per=per,
        )
        for month, model, meter, note, price, per in ordered
        if sums[month, model, meter, note, price, per]
    ]
    return lines, total([row["charge"] for row in rows])


def _months(month: date) -> int:
    return month.year * 12 + month.month


def _describe(model: str, meter: str, note: str, month: date, period: date) -> str:
    label = f"{model}: {BY_NAME[meter].label.lower()}{', ' * bool(note)}{note}"
    return label if month == period else f"{label}, used in {month:%B %Y}"


def _usage(customer_id: int, *, after: date | None, through: date, zone: ZoneInfo) -> list[dict[str, Any]]:
    # An hour can hold the end of one month and the beginning of the next, where offsets are not whole hours: then the
    # billing period tells which.
    sums = ", ".join(f"sum({meter}) AS {meter}" for meter in NAMES)
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN date_trunc('month', (hour + interval '59 minutes') AT TIME ZONE %s)::date = period"
            "   THEN period"
            "   ELSE greatest(date_trunc('month', hour AT TIME ZONE %s), '0001-01-01')::date END AS month,"
            f" model_id, price_set_id, sum(charge) AS charge, {sums}"
            " FROM metering_usagehour WHERE customer_id = %s AND period <= %s"
            "   AND period > coalesce(%s::date, '-infinity') GROUP BY 1, 2, 3",
            [zone.key, zone.key, customer_id, through, after],
        )
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
