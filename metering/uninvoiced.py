"""Usage that should be on an invoice by now and is not: of customers who were parked, or missed."""

import threading
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from billing.models import OperatorSettings
from billing.periods import bounds, month_of
from metering.meters import NAMES
from relayadmin.db import server_cursor

# After the grace period, closing may take so long.
CLOSING_TAKES = timedelta(hours=3)
MOST = 1_000
KEPT_S = 60

_lock = threading.Lock()
_kept: tuple[float, "Uninvoiced"] | None = None


@dataclass(frozen=True, slots=True)
class Uninvoiced:
    """Customers with usage in a period up to `through` that none of their invoices covers; `most` of them at most."""

    through: date
    customers: tuple[int, ...]

    @property
    def is_cut(self) -> bool:
        return len(self.customers) >= MOST


def due_through(at: datetime) -> date:
    """The last month that must be invoiced by now: over, with its grace period and the time that closing takes."""
    settings = OperatorSettings.objects.get(pk=1)
    zone = ZoneInfo(settings.timezone)
    wait = timedelta(hours=settings.closing_grace_hours) + CLOSING_TAKES
    month = month_of(at, zone)
    while True:
        month = (month - timedelta(days=1)).replace(day=1)
        if bounds(month, zone)[1] + wait <= at:
            return month


def look(*, at: datetime) -> Uninvoiced:
    """Who has usage that no invoice covers, by number.

    One probe into the index for each wallet; only of those found are the hours read, for a month whose usage was taken
    back altogether has nothing to invoice.
    """
    through = due_through(at)
    has_quantity = " OR ".join(f"sum({name}) <> 0" for name in NAMES)
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT w.customer_id FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id"
            " WHERE NOT c.is_house AND (w.closed_through IS NULL OR w.closed_through < %s)"
            "   AND EXISTS (SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id"
            "     AND h.period > coalesce(w.closed_through, '-infinity'::date) AND h.period <= %s)"
            "   AND EXISTS (SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id"
            "     AND h.period > coalesce(w.closed_through, '-infinity'::date) AND h.period <= %s"
            f"    GROUP BY h.model_id, h.price_set_id HAVING {has_quantity})"
            " ORDER BY w.customer_id LIMIT %s",
            [through, through, through, MOST],
        )
        return Uninvoiced(through=through, customers=tuple(row[0] for row in cursor.fetchall()))


def recent(*, at: datetime) -> Uninvoiced:
    """The same, at most a minute old: right after a month in which nothing was closed, looking takes long."""
    global _kept
    with _lock:
        now = time.monotonic()
        if _kept is None or now - _kept[0] >= KEPT_S:
            _kept = now, look(at=at)
        return _kept[1]


def forget() -> None:
    """Look anew at once; for tests."""
    global _kept
    _kept = None
