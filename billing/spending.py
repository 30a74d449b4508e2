"""Spend counters: what a customer and its keys have spent and hold in each day and month that has a limit.

The counters are rows beside the wallet, and its lock guards them. Limits are judged where the floor is, in
billing/sql/place_hold.sql; here is what happens to counters afterwards, and who sets limits. Only wallets with limits
count (`LockedWallet.counts_spend`), so that nobody else pays for it.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import msgspec
from django.db import connection

from billing.ledger import LockedWallet
from billing.models import SpendCounter, SpendLimit, Wallet
from billing.models.spending import CUSTOMER_SCOPE, Span
from billing.spend_notices import Passed, newly_passed, tell
from relayadmin.db import number_array, server_cursor, text_array

KEPT_DAYS = 62  # what is older than two months judges nothing, and is neither counted nor kept


class InvalidLimit(ValueError):
    """A limit that can't be set; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Change(msgspec.Struct, frozen=True, gc=False):
    """So much more spent and held (USD, below zero less) by a scope and its customer, in the windows of a moment."""

    customer_id: int
    scope: str
    moment: datetime
    spent: Decimal
    held: Decimal


# A window is counted from the one in which its limit was set, which was counted anew then. Nobody else inserts or
# changes a row in between: the wallet's lock is held. What is told comes back from the same statement.
_COUNT = f"""
WITH change AS MATERIALIZED (
    SELECT t.customer_id, l.scope, l.span, date_trunc(l.span, t.moment AT TIME ZONE o.timezone)::date AS starts_on,
           sum(t.spent) AS spent, sum(t.held) AS held
    FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::numeric[], %s::numeric[])
        AS t (customer_id, scope, moment, spent, held)
    JOIN (
        SELECT customer_id, scope, span, min(counts_from) AS counts_from FROM billing_spendlimit
        WHERE customer_id = ANY (%s::bigint[]) GROUP BY 1, 2, 3
    ) l ON l.customer_id = t.customer_id AND l.scope IN ('{CUSTOMER_SCOPE}', t.scope)
    CROSS JOIN (SELECT timezone FROM billing_operatorsettings WHERE id = 1) o
    WHERE date_trunc(l.span, t.moment AT TIME ZONE o.timezone)::date >= l.counts_from
        AND (t.moment AT TIME ZONE o.timezone)::date > (%s::timestamptz AT TIME ZONE o.timezone)::date - {KEPT_DAYS}
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
), changed AS (
    UPDATE billing_spendcounter c SET spent = c.spent + s.spent, held = c.held + s.held FROM change s
    WHERE c.customer_id = s.customer_id AND c.scope = s.scope AND c.span = s.span AND c.starts_on = s.starts_on
    RETURNING c.customer_id, c.scope, c.span, c.starts_on, c.spent, s.spent AS added
), new AS (
    INSERT INTO billing_spendcounter (customer_id, scope, span, starts_on, spent, held)
    SELECT customer_id, scope, span, starts_on, spent, held FROM change s WHERE NOT EXISTS (
        SELECT FROM billing_spendcounter c WHERE c.customer_id = s.customer_id AND c.scope = s.scope AND c.span = s.span
            AND c.starts_on = s.starts_on
    )
    RETURNING customer_id, scope, span, starts_on, spent, spent AS added
){newly_passed("(SELECT * FROM changed UNION ALL SELECT * FROM new)")}"""


def count(changes: Sequence[Change], *, wallets: Mapping[int, LockedWallet], at: datetime) -> None:
    """Add to the counters of those locked wallets that count, and tell of the limits that are thereby used."""
    assert connection.in_atomic_block
    counted = [change for change in changes if wallets[change.customer_id].counts_spend]
    if not counted:
        return
    with server_cursor() as cursor:
        cursor.execute(
            _COUNT,
            [
                number_array([change.customer_id for change in counted]),
                text_array([change.scope for change in counted]),
                text_array([change.moment.isoformat() for change in counted]),
                number_array([change.spent for change in counted]),
                number_array([change.held for change in counted]),
                number_array(sorted({change.customer_id for change in counted})),
                at,
            ],
        )
        passed = cursor.fetchall()
    tell([Passed(*row) for row in passed], at=at)


def put_limit(
    wallet: LockedWallet,
    *,
    scope: str,
    span: Span,
    owner: SpendLimit.Owner,
    is_hard: bool,
    amount: Decimal,
    starts_on: date,
    timezone: str,
    actor: str,
    at: datetime,
) -> bool:
    """Set or change a limit of a locked wallet; true if nothing of this scope and span was counted before.

    `starts_on` is the window that this moment lies in, in the operator's `timezone`. Where the answer is true the
    caller counts that window anew, with `put_counter`, before it gives the lock back. Raises InvalidLimit.
    """
    exponent = amount.as_tuple().exponent
    if not amount.is_finite() or amount < 0 or (isinstance(exponent, int) and exponent < -15):
        raise InvalidLimit("amount", "a spend limit must be 0 or more USD, with at most 15 decimals")
    before = list(
        SpendLimit.objects.filter(customer_id=wallet.customer_id, scope=scope, span=span).order_by("counts_from")
    )
    SpendLimit.objects.update_or_create(
        customer_id=wallet.customer_id,
        scope=scope,
        span=span,
        owner=owner,
        is_hard=is_hard,
        defaults={"amount": amount, "actor": actor, "created_at": at},
        create_defaults={
            "amount": amount,
            "actor": actor,
            "created_at": at,
            "counts_from": before[0].counts_from if before else starts_on,
            "timezone": before[0].timezone if before else timezone,
        },
    )
    if not wallet.counts_spend:
        Wallet.objects.filter(customer_id=wallet.customer_id).update(counts_spend=True)
        wallet.counts_spend = True
    return not before


def put_counter(
    wallet: LockedWallet, *, scope: str, span: Span, starts_on: date, spent: Decimal, held: Decimal
) -> None:
    """Set the counter of one window of a locked wallet."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_spendcounter (customer_id, scope, span, starts_on, spent, held)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (customer_id, scope, span, starts_on)"
            " DO UPDATE SET spent = excluded.spent, held = excluded.held",
            [wallet.customer_id, scope, str(span), starts_on, spent, held],
        )


def remove_limits(wallet: LockedWallet, limits: Sequence[SpendLimit]) -> None:
    """Take limits of a locked wallet away; what nothing limits any more is no longer counted."""
    SpendLimit.objects.filter(customer_id=wallet.customer_id, pk__in=[limit.pk for limit in limits]).delete()
    left = set(SpendLimit.objects.filter(customer_id=wallet.customer_id).values_list("scope", "span"))
    for scope, span in {(limit.scope, limit.span) for limit in limits} - left:
        SpendCounter.objects.filter(customer_id=wallet.customer_id, scope=scope, span=span).delete()
    if not left:
        Wallet.objects.filter(customer_id=wallet.customer_id).update(counts_spend=False)
        wallet.counts_spend = False


def forget_counters(wallet: LockedWallet) -> None:
    """Drop every counter of a locked wallet, because their windows no longer are what they were."""
    SpendCounter.objects.filter(customer_id=wallet.customer_id).delete()


def held_since(wallet: LockedWallet, *, scope: str, start: datetime, end: datetime) -> Decimal:
    """What open holds of a locked wallet hold that were placed from `start` to before `end`, in USD."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(remaining), 0) FROM billing_hold"
            " WHERE customer_id = %s AND status = 'open' AND created_at >= %s AND created_at < %s"
            f" AND (%s = '{CUSTOMER_SCOPE}' OR scope = %s)",
            [wallet.customer_id, start, end, scope, scope],
        )
        (held,) = cursor.fetchone() or (Decimal(0),)
    return held


def remove_old(*, today: date, limit: int = 10_000) -> int:
    """Remove counters that judge nothing any more, at most `limit`; returns how many."""
    with server_cursor() as cursor:
        cursor.execute(
            "DELETE FROM billing_spendcounter WHERE (customer_id, scope, span, starts_on) IN ("
            " SELECT customer_id, scope, span, starts_on FROM billing_spendcounter"
            f" WHERE starts_on < %s::date - {KEPT_DAYS + 31} LIMIT %s)",
            [today, limit],
        )
        return cursor.rowcount
