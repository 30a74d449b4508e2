"""Spend limits of customers and their keys: set, removed, and counted anew from what was charged.

Limits are judged, and counters kept, in billing (billing.spending); what only metering knows is here: whose spend an
event is, in which moment's day and month it counts, and what was spent before there was a limit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from billing import ledger, spending
from billing.models import SpendCounter, SpendLimit
from billing.models.spending import CUSTOMER_SCOPE, Span
from billing.periods import bounds, operator_timezone
from billing.spend_notices import tell_where_it_stands
from metering.models import ApiKey
from relayadmin.db import in_transaction, number_array, server_cursor
from relayadmin.money import EXACT, ZERO

# An event ends after its hold was placed, give or take how far clocks are apart.
MOST_APART = timedelta(days=1)


def key_scope(api_key_id: int) -> str:
    """What counters of spend call a key, by its number."""
    return f"key:{api_key_id}"


def scope_of(api_key_id: int | None) -> str:
    """The scope of a key's limits or, without one, of the customer's."""
    return CUSTOMER_SCOPE if api_key_id is None else key_scope(api_key_id)


def moment_of(occurred_at: datetime, placed_at: datetime | None) -> datetime:
    """The moment in whose day and month an event counts: when its hold was placed, or when it occurred without one.

    A hold that is more than a day younger than the event is none that the event can have waited for.
    """
    if placed_at is None or occurred_at < placed_at - MOST_APART:
        return occurred_at
    return placed_at


class Adjusted(msgspec.Struct, frozen=True, gc=False):
    """By how much an event that was charged came to count more or less (USD)."""

    customer_id: int
    number: int
    api_key_id: int
    occurred_at: datetime
    difference: Decimal


def count_adjusted(adjusted: Sequence[Adjusted], *, wallets: Mapping[int, ledger.LockedWallet], at: datetime) -> None:
    """Take adjustments of locked wallets' events over into the counters that the events stand in."""
    counted = [item for item in adjusted if item.difference and wallets[item.customer_id].counts_spend]
    if not counted:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT e.customer_id, e.id, h.created_at FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, id)"
            " JOIN metering_usageevent e ON e.customer_id = t.customer_id AND e.id = t.id"
            " JOIN billing_hold h ON h.customer_id = e.customer_id AND h.id = e.hold_id",
            [number_array([item.customer_id for item in counted]), number_array([item.number for item in counted])],
            binary=True,
        )
        placed = {(customer_id, number): placed_at for customer_id, number, placed_at in cursor.fetchall()}
    spending.count(
        [
            spending.Change(
                item.customer_id,
                key_scope(item.api_key_id),
                moment_of(item.occurred_at, placed.get((item.customer_id, item.number))),
                item.difference,
                ZERO,
            )
            for item in counted
        ],
        wallets=wallets,
        at=at,
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit to set: USD a day or a month, for all of a customer or, with `api_key_id`, for one of its keys."""

    span: Span
    amount: Decimal
    is_hard: bool = True
    api_key_id: int | None = None

    @property
    def scope(self) -> str:
        return scope_of(self.api_key_id)


def set_limit(customer_id: int, limit: Limit, *, owner: SpendLimit.Owner, actor: str, at: datetime) -> None:
    """Set or change a limit, effective at the next authorization; what was spent in its window already counts.

    Raises spending.InvalidLimit, ledger.UnknownCustomer.
    """

    def work() -> None:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        _put(wallet, limit, owner=owner, actor=actor, at=at)

    in_transaction(work)


def replace_limits(
    customer_id: int,
    limits: Sequence[Limit],
    *,
    owner: SpendLimit.Owner,
    api_key_id: int | None,
    actor: str,
    at: datetime,
) -> None:
    """Make these an owner's only limits of a customer (`api_key_id` None) or of one key; all at once.

    Raises spending.InvalidLimit, ledger.UnknownCustomer.
    """
    scope = scope_of(api_key_id)
    assert all(limit.scope == scope for limit in limits)

    def work() -> None:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        kept = {(limit.span, limit.is_hard) for limit in limits}
        own = SpendLimit.objects.filter(customer_id=customer_id, scope=scope, owner=owner)
        # New ones first: what is counted for an old one goes on for a new one of the same window.
        for limit in limits:
            _put(wallet, limit, owner=owner, actor=actor, at=at)
        spending.remove_limits(wallet, [limit for limit in own if (limit.span, limit.is_hard) not in kept])

    in_transaction(work)


def _put(wallet: ledger.LockedWallet, limit: Limit, *, owner: SpendLimit.Owner, actor: str, at: datetime) -> None:
    zone = operator_timezone()
    starts_on = window_of(at, limit.span, zone)
    is_new = spending.put_limit(
        wallet,
        scope=limit.scope,
        span=limit.span,
        owner=owner,
        is_hard=limit.is_hard,
        amount=limit.amount,
        starts_on=starts_on,
        timezone=zone.key,
        actor=actor,
        at=at,
    )
    if is_new:
        _count_window(wallet, limit.scope, limit.span, starts_on, zone)
    tell_where_it_stands(wallet, scope=limit.scope, span=limit.span, starts_on=starts_on, at=at)


def window_of(at: datetime, span: Span, zone: ZoneInfo) -> date:
    """The first day of the day or month that a moment lies in."""
    today = at.astimezone(zone).date()
    return today if span == Span.DAY else today.replace(day=1)


def window_bounds(starts_on: date, span: Span, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """A window's half-open bounds, right across changes of daylight-saving time."""
    if span == Span.MONTH:
        return bounds(starts_on, zone)
    first, after = (
        datetime(day.year, day.month, day.day, tzinfo=zone) for day in (starts_on, starts_on + timedelta(days=1))
    )
    return first, after


# What events count for now, by the moment of their hold or their own, as `moment_of` says.
_SPENT = """
SELECT coalesce(sum(coalesce(a.new_charge, e.charge)), 0)
FROM metering_usageevent e
LEFT JOIN billing_hold h ON h.customer_id = e.customer_id AND h.id = e.hold_id
LEFT JOIN LATERAL (
    SELECT new_charge FROM metering_usageadjustment a
    WHERE a.customer_id = e.customer_id AND a.event_number = e.id ORDER BY step DESC LIMIT 1
) a ON true
CROSS JOIN LATERAL (
    SELECT CASE WHEN e.occurred_at < h.created_at - interval '1 day' THEN e.occurred_at
                ELSE coalesce(h.created_at, e.occurred_at) END AS moment
) m
WHERE e.customer_id = %s AND e.occurred_at >= %s AND (%s::bigint IS NULL OR e.api_key_id = %s)
    AND m.moment >= %s AND m.moment < %s"""


def _count_window(wallet: ledger.LockedWallet, scope: str, span: Span, starts_on: date, zone: ZoneInfo) -> None:
    start, end = window_bounds(starts_on, span, zone)
    api_key_id = None if scope == CUSTOMER_SCOPE else int(scope.partition(":")[2])
    with server_cursor() as cursor:
        cursor.execute(_SPENT, [wallet.customer_id, start - MOST_APART, api_key_id, api_key_id, start, end])
        (spent,) = cursor.fetchone() or (ZERO,)
    held = spending.held_since(wallet, scope=scope, start=start, end=end)
    spending.put_counter(wallet, scope=scope, span=span, starts_on=starts_on, spent=spent, held=held)


def counted_elsewhere(*, limit: int = 500) -> list[int]:
    """Numbers of customers, the first few, with limits that are counted in another time zone than the operator's."""
    found = SpendLimit.objects.exclude(timezone=operator_timezone().key)
    return list(found.order_by("customer_id").values_list("customer_id", flat=True).distinct()[:limit])


def count_anew(customer_ids: Sequence[int], *, at: datetime) -> None:
    """Count these customers' limits from the windows of this moment on: the operator's time zone has changed."""

    def work() -> None:
        zone = operator_timezone()
        for wallet in ledger.lock_wallets(customer_ids).values():
            spending.forget_counters(wallet)
            for scope, span in (
                SpendLimit.objects.filter(customer_id=wallet.customer_id)
                .order_by("scope", "span")
                .values_list("scope", "span")
                .distinct()
            ):
                starts_on = window_of(at, Span(span), zone)
                SpendLimit.objects.filter(customer_id=wallet.customer_id, scope=scope, span=span).update(
                    counts_from=starts_on, timezone=zone.key
                )
                _count_window(wallet, scope, Span(span), starts_on, zone)
                tell_where_it_stands(wallet, scope=scope, span=Span(span), starts_on=starts_on, at=at)

    in_transaction(work)


def keys_of(scopes: Iterable[str]) -> dict[str, ApiKey]:
    """The keys that scopes stand for; the customer's own scope stands for none."""
    numbers = {int(scope.partition(":")[2]) for scope in scopes if scope.startswith("key:")}
    return {key_scope(number): key for number, key in ApiKey.objects.in_bulk(numbers).items()} if numbers else {}


def key_ids_of(scopes: Iterable[str]) -> dict[str, str]:
    """The public ids of the keys that scopes stand for, for messages to customers."""
    return {scope: key.public_id for scope, key in keys_of(scopes).items()}


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit, and what is spent and held (USD) of it in the day or month that a moment lies in."""

    limit: SpendLimit
    spent: Decimal
    held: Decimal
    resets_at: datetime

    @property
    def left(self) -> Decimal:
        """Below zero where usage cost more than was held, or where the limit was set below what was spent."""
        return EXACT.subtract(self.limit.amount, EXACT.add(self.spent, self.held))


def standings(limits: Sequence[SpendLimit], *, at: datetime) -> list[Standing]:
    """How far these limits are used at a moment, in their order; two queries, whoever's they are."""
    zone = operator_timezone()
    windows = {span: window_of(at, span, zone) for span in Span}
    counters = {
        (counter.customer_id, counter.scope, counter.span, counter.starts_on): counter
        for counter in SpendCounter.objects.filter(
            customer_id__in={limit.customer_id for limit in limits},
            scope__in={limit.scope for limit in limits},
            starts_on__in=set(windows.values()),
        )
    }
    found = []
    for limit in limits:
        span = Span(limit.span)
        counter = counters.get((limit.customer_id, limit.scope, limit.span, windows[span]))
        found.append(
            Standing(
                limit,
                ZERO if counter is None else counter.spent,
                ZERO if counter is None else counter.held,
                window_bounds(windows[span], span, zone)[1],
            )
        )
    return found
