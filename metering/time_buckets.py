"""Days and months of a time zone, as moments in UTC."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from billing.periods import next_month

BUCKETS = ("hour", "day", "month")


def bucket_starts(bucket: str, *, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime] | None:
    """When each local day or month begins that lies at least partly in [start, end); None for hours, as stored.

    Usage is kept by full hours of UTC: where a zone's day begins at half past, that hour belongs to the day before.
    """
    if bucket == "hour":
        return None
    first = start.astimezone(zone).date()
    days = _days(first) if bucket == "day" else _months(first.replace(day=1))
    starts = []
    for day in days:
        begins = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        if begins >= end:
            break
        starts.append(begins)
    return starts


def _days(day: date) -> Iterator[date]:
    while True:
        yield day
        day += timedelta(days=1)


def _months(month: date) -> Iterator[date]:
    while True:
        yield month
        month = next_month(month)
