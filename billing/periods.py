"""Billing periods: calendar months in the operator's time zone, named by their first day. Pure but for `timezone`."""

from datetime import UTC, date, datetime
from math import floor
from zoneinfo import ZoneInfo

from billing.models import OperatorSettings

_QUARTER_S = 900
_months: dict[tuple[str, int], date] = {}


def operator_timezone() -> ZoneInfo:
    """The time zone that bounds billing months."""
    name = OperatorSettings.objects.values_list("timezone", flat=True).get(pk=1)
    return ZoneInfo(name)


def month_of(at: datetime, zone: ZoneInfo, epoch_s: int | None = None) -> date:
    """The first day of the month that a moment lies in; `epoch_s` is the same moment, if the caller knows it."""
    # Offsets of time zones are whole quarters of an hour today; older ones were odd, so old moments aren't cached.
    quarter = (floor(at.timestamp()) if epoch_s is None else epoch_s) // _QUARTER_S
    if quarter < 0:
        return _month_of(at, zone)
    month = _months.get((zone.key, quarter))
    if month is None:
        if len(_months) > 50_000:
            _months.clear()
        month = _months[zone.key, quarter] = _month_of(at, zone)
    return month


def _month_of(at: datetime, zone: ZoneInfo) -> date:
    try:
        local = at.astimezone(zone)
    except OverflowError:
        local = at.astimezone(UTC)
    return date(local.year, local.month, 1)


def next_month(month: date) -> date:
    """The first day of the month after this one."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def bounds(month: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """A month's half-open bounds in UTC, right across changes of daylight-saving time."""
    after = next_month(month)
    start = datetime(month.year, month.month, 1, tzinfo=zone).astimezone(UTC)
    return start, datetime(after.year, after.month, 1, tzinfo=zone).astimezone(UTC)


def billing_period(month: date, closed_through: date | None) -> date:
    """The period that usage of a month is billed in: its own, or the first open one if that is closed."""
    if closed_through is None or month > closed_through:
        return month
    return next_month(closed_through)
