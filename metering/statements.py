"""Closing a month for everybody: who has usage is listed once, and worked off by as many workers as there are.

The command, the scheduled job and the button in the admin do the same; a run goes on where another one ended.
"""

import re
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import DataError

from billing import alarms, period_closing
from billing.models import Customer, CustomerClosing, OperatorSettings, PeriodClosing
from billing.period_closing import Status
from billing.periods import bounds, operator_timezone
from metering.customer_month import FiguresDiffer, close_customer
from relayadmin.db import in_transaction, server_cursor

SOURCE = "closing"
# For so long after the grace period the schedule begins a closing; what was missed, a person starts.
BEGUN_WITHIN = timedelta(days=1)
STALLED_AFTER = timedelta(minutes=15)
_LOOK_AGAIN_S = 0.2


class PeriodNotOver(Exception):
    """The month has not ended in the operator's time zone."""


class InvalidMonth(ValueError):
    """A text that is no month such as 2026-11."""


@dataclass(slots=True)
class Closed:
    """Counts of customers, and why some failed: {public id: sentence}."""

    issued: int = 0
    skipped: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def close_invoices(*, period: date, at: datetime, customer: Customer | None = None, actor: str = "") -> Closed:
    """Close a month for every customer, or one, and return when each is done, whoever did it.

    A customer without usage to invoice, or whose invoice somebody else issued, is skipped. Raises PeriodNotOver.
    """
    closing = begin(period=period, at=at, customer=customer, actor=actor)
    only = None if customer is None else customer.pk
    closed = Closed()
    while True:
        closed.issued += work_off(closing, at=at, customer_id=only)
        if not period_closing.count_waiting(closing.pk, customer_id=only):
            break
        time.sleep(_LOOK_AGAIN_S)  # Others are at them; those of a worker that dies are taken over.
    period_closing.end(closing.pk)
    closed.reasons = dict(period_closing.parked(closing.pk, customer_id=only))
    closed.failed = len(closed.reasons)
    considered = 1 if customer is not None else Customer.objects.filter(is_house=False).count()
    closed.skipped = max(0, considered - closed.issued - closed.failed)
    return closed


def begin(*, period: date, at: datetime, customer: Customer | None = None, actor: str = "") -> PeriodClosing:
    """List whom to close a month for: whoever has usage on no invoice, and who is parked. Raises PeriodNotOver."""
    zone = operator_timezone()
    if at < bounds(period, zone)[1]:
        raise PeriodNotOver(f"{period:%Y-%m} is not over yet in {zone.key}")
    closing = period_closing.begin(period, at=at, actor=actor)
    only = None if customer is None else customer.pk

    def work() -> None:
        period_closing.try_again(closing.pk, customer_id=only)
        _list(closing.pk, period, only)
        if only is None:
            # What was begun for single customers begins for all of them now.
            PeriodClosing.objects.filter(pk=closing.pk, listed_at=None).update(begun_at=at, begun_by=actor)
            PeriodClosing.objects.filter(pk=closing.pk).update(listed_at=at, ended_at=None)

    in_transaction(work)
    return closing


_TO_INVOICE = """FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id
WHERE NOT c.is_house AND (w.closed_through IS NULL OR w.closed_through < %(period)s) AND EXISTS (
    SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id AND h.period <= %(period)s
        AND h.period > coalesce(w.closed_through, '-infinity')
)"""


def _list(closing_id: int, period: date, customer_id: int | None) -> None:
    """A row for each customer with usage in periods not closed yet, up to this one; in one statement."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_customerclosing (closing_id, customer_id, status, difference)"
            f" SELECT %(closing)s, w.customer_id, 'waiting', '' {_TO_INVOICE}"
            " AND (%(customer)s::bigint IS NULL OR w.customer_id = %(customer)s::bigint)"
            " ORDER BY w.customer_id ON CONFLICT (closing_id, customer_id) DO NOTHING",
            {"closing": closing_id, "period": period, "customer": customer_id},
        )


def work_off(closing: PeriodClosing, *, at: datetime, customer_id: int | None = None) -> int:
    """Close customers of a month until none waits that nobody else is at; how many invoices this issued."""
    zone = operator_timezone()
    issued = last = 0
    while True:
        done = _close_next(closing, zone, at=at, after=last, customer_id=customer_id)
        if done is None:
            return issued
        last = done.row_id
        issued += done.is_issued


@dataclass(frozen=True, slots=True)
class _Done:
    row_id: int
    is_issued: bool


class _Parked(Exception):
    def __init__(self, row_id: int, difference: str) -> None:
        super().__init__(difference)
        self.row_id = row_id


def _close_next(
    closing: PeriodClosing, zone: ZoneInfo, *, at: datetime, after: int, customer_id: int | None
) -> _Done | None:
    """Close the next customer that waits, in a transaction of its own; park it if its figures differ."""

    def work() -> _Done | None:
        taken = period_closing.take(closing.pk, after=after, customer_id=customer_id)
        if taken is None:
            return None
        row_id, number = taken
        try:
            is_issued = close_customer(customer_id=number, period=closing.period, zone=zone, at=at)
        except (FiguresDiffer, DataError) as error:
            raise _Parked(row_id, str(error)) from error
        period_closing.finish(row_id, Status.ISSUED if is_issued else Status.NOTHING)
        return _Done(row_id, is_issued)

    try:
        return in_transaction(work)
    except _Parked as parked:
        period_closing.finish(parked.row_id, Status.PARKED, difference=str(parked))
        return _Done(parked.row_id, is_issued=False)


def read_month(text: str) -> date:
    """The first day of a month such as 2026-11. Raises InvalidMonth."""
    found = re.fullmatch(r"(\d{4})-(\d{2})", text, re.ASCII)
    if found and "0001" <= found[1] <= "9998" and 1 <= int(found[2]) <= 12:
        return date(int(found[1]), int(found[2]), 1)
    raise InvalidMonth(f"a month must be written such as 2026-11, not {text!r}")


def due_month(*, at: datetime) -> tuple[date, datetime]:
    """The last month that should be closed by now, and since when: its end plus the grace period."""
    settings = OperatorSettings.objects.get(pk=1)
    zone, grace = ZoneInfo(settings.timezone), timedelta(hours=settings.closing_grace_hours)
    local = at.astimezone(zone)
    month = date(local.year, local.month, 1)
    if at < bounds(month, zone)[0] + grace:
        month = _month_before(month)
    return _month_before(month), bounds(month, zone)[0] + grace


def _month_before(month: date) -> date:
    return (month - timedelta(days=1)).replace(day=1)


def begin_due(*, at: datetime, actor: str = "") -> PeriodClosing | None:
    """Begin the closing of the month whose grace period has just ended, or list who came since.

    None at any other time, and where nobody is left to close.
    """
    period, since = due_month(at=at)
    if at >= since + BEGUN_WITHIN:
        return None
    known = PeriodClosing.objects.filter(period=period, listed_at__isnull=False).first()
    if known is not None and not _count_to_invoice(period):
        return None
    return begin(period=period, at=at, actor=actor)


def _count_to_invoice(period: date) -> int:
    with server_cursor() as cursor:
        cursor.execute(f"SELECT count(*) {_TO_INVOICE}", {"period": period})
        (count,) = cursor.fetchone() or (0,)
    return int(count)


def watch(*, at: datetime) -> alarms.Watched:
    """Keep an alarm open for a month that nobody began to close, for closings that stand still, and for the parked."""
    period_closing.leave_overtaken()
    return alarms.report([*_missed(at), *_stalled(at), *_parked()], source=SOURCE, at=at)


def _missed(at: datetime) -> list[alarms.Sighting]:
    period, since = due_month(at=at)
    if at < since + STALLED_AFTER * 6 or PeriodClosing.objects.filter(period=period, listed_at__isnull=False).exists():
        return []
    count = _count_to_invoice(period)
    if not count:
        return []
    month = f"{period:%Y-%m}"
    message = f"{month} was not closed: {count:,} customers have usage that stands on no invoice."
    advice = "The scheduled job did not run when it was time. Start it with “Close a month” in the list of closings."
    return [alarms.Sighting(f"{SOURCE}.missed", month, month, count, message, advice)]


def _stalled(at: datetime) -> list[alarms.Sighting]:
    seen = []
    for closing in period_closing.unfinished():
        rows = CustomerClosing.objects.filter(closing=closing)
        begun = closing.listed_at or closing.begun_at
        if begun > at - STALLED_AFTER or rows.filter(ended_at__gt=at - STALLED_AFTER).exists():
            continue
        month, count = str(closing), rows.filter(status=Status.WAITING).count()
        message = f"The closing of {month} stands still: {count:,} customers wait, none was closed for 15 minutes."
        advice = "Is a worker running? It goes on by itself as soon as one does."
        seen.append(alarms.Sighting(f"{SOURCE}.stalled", month, month, count, message, advice))
    return seen


def _parked() -> list[alarms.Sighting]:
    counts: dict[date, int] = {}
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT p.period, count(*) FROM billing_customerclosing c"
            " JOIN billing_periodclosing p ON p.id = c.closing_id"
            " JOIN billing_wallet w ON w.customer_id = c.customer_id"
            " WHERE c.status = 'parked' AND (w.closed_through IS NULL OR w.closed_through < p.period)"
            " GROUP BY p.period ORDER BY p.period"
        )
        counts = dict(cursor.fetchall())
    advice = "The closing's page shows each difference. Put it right, then “Try again”."
    return [
        alarms.Sighting(
            f"{SOURCE}.parked",
            f"{period:%Y-%m}",
            f"{period:%Y-%m}",
            count,
            f"{count:,} customers got no invoice for {period:%Y-%m}: their figures don't agree.",
            advice,
        )
        for period, count in counts.items()
    ]
