"""Low balances: customers are told once when less is left to spend than they want, and anew only after it was more.

Looked at by a sweep, not by settlements: those are many, and need nothing of it. What is left is balance and credit
limit; holds come and go with every request. A balance that falls and rises between two looks is not told of.
"""

from datetime import datetime

from billing import notices
from billing.notice_kinds import BALANCE_LOW
from relayadmin.db import in_transaction, number_array, server_cursor
from relayadmin.money import amount_text

_THRESHOLD = "coalesce(s.low_balance_below, o.low_balance_below)"
_WALLETS = """
FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id
CROSS JOIN (SELECT low_balance_below FROM billing_operatorsettings WHERE id = 1) o
LEFT JOIN billing_notificationsettings s ON s.customer_id = w.customer_id"""

_RISEN = f"""
DELETE FROM billing_lowbalance l WHERE EXISTS (
    SELECT {_WALLETS} WHERE w.customer_id = l.customer_id AND w.balance + w.credit_limit >= {_THRESHOLD}
)"""

# Whoever has never had more was not told that it fell: a new customer's first cent, or none.
_FALLEN = f"""
SELECT w.customer_id, w.version, w.balance, w.credit_limit, w.balance + w.credit_limit, {_THRESHOLD},
    EXISTS (
        SELECT FROM billing_entry e WHERE e.customer_id = w.customer_id AND e.wallet_version IS NOT NULL
            AND e.balance_after + w.credit_limit >= {_THRESHOLD}
    )
{_WALLETS}
WHERE w.balance + w.credit_limit < {_THRESHOLD} AND NOT c.is_house AND c.status <> 'closed' AND NOT EXISTS (
    SELECT FROM billing_lowbalance l WHERE l.customer_id = w.customer_id
)
ORDER BY w.customer_id LIMIT %s"""

_MARK = """
INSERT INTO billing_lowbalance (customer_id, since) SELECT number, %s FROM unnest(%s::bigint[]) AS t (number)
ON CONFLICT (customer_id) DO NOTHING RETURNING customer_id"""


def tell(*, at: datetime, limit: int = 1_000) -> int:
    """Tell customers whose balance has fallen (USD); returns how many, up to `limit`. Can run at once with itself."""

    def work() -> int:
        with server_cursor() as cursor:
            cursor.execute(_RISEN)
            cursor.execute(_FALLEN, [limit])
            fallen = cursor.fetchall()
            cursor.execute(_MARK, [at, number_array(row[0] for row in fallen)])
            ours = {customer_id for (customer_id,) in cursor.fetchall()}
        return notices.announce_all([_news(*row[:-1]) for row in fallen if row[0] in ours and row[-1]], at=at)

    return in_transaction(work)


def _news(customer_id: int, version: int, *amounts: object) -> notices.News:
    names = ("balance", "credit_limit", "left", "threshold")
    data = {name: amount_text(amount) for name, amount in zip(names, amounts, strict=True)}  # type: ignore[arg-type]
    return notices.News(customer_id, BALANCE_LOW, str(version), data)
