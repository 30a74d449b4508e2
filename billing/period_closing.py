"""Closing a month, row by row: who is to be closed, who is being closed by whom, and how far it is.

A row is taken with SKIP LOCKED and held until its customer's document is committed; whoever dies lets go of it. Any
number of workers may take rows at once, on any number of machines. What is billed, metering knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.db import connection

from billing.models import CustomerClosing, PeriodClosing
from relayadmin.db import server_cursor
from relayadmin.money import ZERO

Status = CustomerClosing.Status
RATE_SPAN = timedelta(minutes=1)
_DIFFERENCE_LENGTH_MAX = 500


def begin(period: date, *, at: datetime, actor: str = "") -> PeriodClosing:
    """The closing of a month; made if there is none yet."""
    return PeriodClosing.objects.get_or_create(period=period, defaults={"begun_at": at, "begun_by": actor})[0]


def try_again(closing_id: int, *, customer_id: int | None = None) -> int:
    """Have parked customers, and those with nothing to invoice, looked at again; returns how many.

    Nobody whose month is closed by now, and no row that somebody holds.
    """
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_customerclosing c SET status = 'waiting' FROM ("
            "   SELECT c.id FROM billing_customerclosing c JOIN billing_periodclosing p ON p.id = c.closing_id"
            "   JOIN billing_wallet w ON w.customer_id = c.customer_id"
            "   WHERE c.closing_id = %s AND c.status IN ('parked', 'nothing')"
            "     AND (%s::bigint IS NULL OR c.customer_id = %s::bigint)"
            "     AND (w.closed_through IS NULL OR w.closed_through < p.period)"
            "   ORDER BY c.id FOR UPDATE OF c SKIP LOCKED"
            " ) again WHERE c.id = again.id",
            [closing_id, customer_id, customer_id],
        )
        return cursor.rowcount


def leave_overtaken() -> int:
    """Leave rows alone that were parked and whose month stands on a later month's document; returns how many."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_customerclosing c SET status = 'nothing' FROM billing_periodclosing p, billing_wallet w"
            " WHERE p.id = c.closing_id AND w.customer_id = c.customer_id"
            "   AND c.status = 'parked' AND w.closed_through >= p.period"
        )
        return cursor.rowcount


def take(closing_id: int, *, after: int, customer_id: int | None = None) -> tuple[int, int] | None:
    """Lock the first waiting row behind row `after` that nobody holds: (row, customer), or None if there is none.

    In the caller's transaction, before the wallet.
    """
    assert connection.in_atomic_block
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT id, customer_id FROM billing_customerclosing WHERE closing_id = %s AND status = 'waiting'"
            " AND id > %s AND (%s::bigint IS NULL OR customer_id = %s::bigint)"
            " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
            [closing_id, after, customer_id, customer_id],
        )
        row = cursor.fetchone()
    return None if row is None else (int(row[0]), int(row[1]))


def finish(row_id: int, status: str, *, difference: str = "") -> None:
    """Say what became of a row, unless somebody has said so meanwhile. The time is the real one, for the rate."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_customerclosing SET status = %s, difference = %s, ended_at = clock_timestamp()"
            " WHERE id = %s AND status = 'waiting'",
            [status, difference[:_DIFFERENCE_LENGTH_MAX], row_id],
        )


def count_waiting(closing_id: int, *, customer_id: int | None = None) -> int:
    """How many customers are still to be closed, held by somebody or not."""
    waiting = CustomerClosing.objects.filter(closing_id=closing_id, status=Status.WAITING)
    return (waiting if customer_id is None else waiting.filter(customer_id=customer_id)).count()


def end(closing_id: int) -> None:
    """Mark a closing of everybody as ended, if nobody waits any more. The time is the real one, for the rate."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_periodclosing SET ended_at = clock_timestamp()"
            " WHERE id = %s AND listed_at IS NOT NULL AND ended_at IS NULL AND NOT EXISTS ("
            "   SELECT FROM billing_customerclosing WHERE closing_id = %s AND status = 'waiting')",
            [closing_id, closing_id],
        )


def unfinished() -> list[PeriodClosing]:
    """Closings with customers that wait."""
    waiting = CustomerClosing.objects.filter(status=Status.WAITING).values("closing_id")
    return list(PeriodClosing.objects.filter(pk__in=waiting).order_by("period"))


def parked(closing_id: int, *, customer_id: int | None = None) -> list[tuple[str, str]]:
    """(public id, difference) of the customers parked now."""
    rows = CustomerClosing.objects.filter(closing_id=closing_id, status=Status.PARKED)
    if customer_id is not None:
        rows = rows.filter(customer_id=customer_id)
    return list(rows.order_by("pk").values_list("customer__public_id", "difference"))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a closing is, in customers; the rate over its last minute, or over all of it once it has ended."""

    issued: int
    nothing: int
    parked: int
    waiting: int
    per_second: Decimal
    ends_at: datetime | None

    @property
    def customers(self) -> int:
        return self.issued + self.nothing + self.parked + self.waiting


_COUNTS = """
SELECT c.closing_id, count(*) FILTER (WHERE c.status = 'issued'), count(*) FILTER (WHERE c.status = 'nothing'),
       count(*) FILTER (WHERE c.status = 'parked'), count(*) FILTER (WHERE c.status = 'waiting'),
       count(*) FILTER (WHERE c.ended_at > %(since)s), min(c.ended_at) FILTER (WHERE c.ended_at > %(since)s),
       min(c.ended_at), max(c.ended_at), count(c.ended_at)
FROM billing_customerclosing c WHERE c.closing_id = ANY (%(closings)s) GROUP BY c.closing_id"""


def progress_of(closings: Sequence[PeriodClosing], *, at: datetime) -> dict[int, Progress]:
    """How far these closings are, by number, in one statement."""
    found = {closing.pk: Progress(0, 0, 0, 0, ZERO, None) for closing in closings}
    with server_cursor() as cursor:
        cursor.execute(_COUNTS, {"since": at - RATE_SPAN, "closings": list(found)})
        for number, issued, nothing, parked_, waiting, *times in cursor.fetchall():
            rate = _rate(*times, is_over=not waiting, at=at)
            ends_at = at + timedelta(seconds=int(waiting / rate)) if waiting and rate else None
            found[number] = Progress(issued, nothing, parked_, waiting, rate, ends_at)
    return found


def _rate(
    lately: int,
    since: datetime | None,
    first: datetime | None,
    last: datetime | None,
    ended: int,
    *,
    is_over: bool,
    at: datetime,
) -> Decimal:
    begun, until, count = (first, last, ended) if is_over else (since, at, lately)
    if begun is None or until is None or count < 2:
        return ZERO
    return Decimal(count - 1) * 1000 / max((until - begun) // timedelta(milliseconds=1), 1)
