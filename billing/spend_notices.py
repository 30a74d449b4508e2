"""Customers are told when 80 % and when 100 % of a spend limit are spent: each once in a day or month of the limit.

Judged on what is spent, not on what is held: holds come and go with every request. A limit is told apart by whose it
is, what it spans, who owns it and how much it is, so one of another amount is told of anew, and one that was removed
and set again is not. A limit speaks of the day and month in which it was set or last changed, and of later ones: usage
that comes late is not held against an amount that didn't hold then.
"""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from billing import notices
from billing.ledger import LockedWallet
from billing.models.spending import Span
from relayadmin.db import server_cursor
from relayadmin.money import amount_text

SPEND_LIMIT_USED = "spend_limit_used"
PERCENTS = (80, 100)


class Passed(NamedTuple):
    """A limit, and what is spent (USD) in the window from `starts_on`: at least `percent` of its amount, newly."""

    customer_id: int
    scope: str
    span: str
    owner: str
    is_hard: bool
    amount: Decimal
    starts_on: date
    spent: Decimal
    percent: int


def newly_passed(counters: str) -> str:
    """A query for `Passed` rows, of counters with these columns and with `added`, of which they had not passed it.

    Of a limit of 0, both thresholds are passed by whatever is spent.
    """
    return f"""
SELECT l.customer_id, l.scope, l.span, l.owner, l.is_hard, l.amount::numeric, c.starts_on, c.spent::numeric, p.percent
FROM {counters} c
JOIN billing_spendlimit l ON l.customer_id = c.customer_id AND l.scope = c.scope AND l.span = c.span
CROSS JOIN (SELECT timezone FROM billing_operatorsettings WHERE id = 1) o
CROSS JOIN (VALUES {",".join(f"({percent})" for percent in PERCENTS)}) p (percent)
WHERE c.added > 0 AND c.spent > 0 AND c.spent * 100 >= l.amount * p.percent
    AND (c.spent <= c.added OR (c.spent - c.added) * 100 < l.amount * p.percent)
    AND c.starts_on >= date_trunc(l.span, l.created_at AT TIME ZONE o.timezone)::date"""


def tell(passed: Sequence[Passed], *, at: datetime) -> int:
    """Tell of these, each once however often it is asked; returns how many are new."""
    return notices.announce_all([_news(one) for one in passed], at=at)


def _news(one: Passed) -> notices.News:
    kind, amount = "hard" if one.is_hard else "soft", amount_text(one.amount)
    return notices.News(
        one.customer_id,
        SPEND_LIMIT_USED,
        # What is told at once is told in the order of keys: 080 before 100.
        f"{one.scope}:{one.span}:{one.owner}:{kind}:{amount}:{one.starts_on}:{one.percent:03}",
        {
            "scope": one.scope,
            "span": one.span,
            "starts_on": one.starts_on.isoformat(),
            "set_by": one.owner,
            "type": kind,
            "amount": amount,
            "spent": amount_text(one.spent),
            "percent": one.percent,
        },
    )


_STANDING = newly_passed(
    "(SELECT *, spent AS added FROM billing_spendcounter"
    " WHERE customer_id = %s AND scope = %s AND span = %s AND starts_on = %s)"
)


def tell_where_it_stands(wallet: LockedWallet, *, scope: str, span: Span, starts_on: date, at: datetime) -> int:
    """Tell of what the limits of one window have passed already: they, or the counter, were set; returns how many."""
    with server_cursor() as cursor:
        cursor.execute(_STANDING, [wallet.customer_id, scope, str(span), starts_on])
        return tell([Passed(*row) for row in cursor.fetchall()], at=at)
