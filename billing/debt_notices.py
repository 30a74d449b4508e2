"""Debt that stops requests: the customer is told once, each time that it falls below what it may owe."""

from datetime import datetime

from billing import notices
from relayadmin.db import server_cursor
from relayadmin.money import amount_text

IN_DEBT = "in_debt"

# Who is below the credit limit and was not told of it: since the first movement after the last that was not below. A
# limit that was lowered counts for what came before, too.
_UNTOLD = """
SELECT w.customer_id, -w.balance, w.credit_limit, fell.wallet_version, t.created_at
FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id
CROSS JOIN LATERAL (
    SELECT e.transfer_id, e.wallet_version FROM billing_entry e
    WHERE e.customer_id = w.customer_id AND e.wallet_version > coalesce((
        SELECT p.wallet_version FROM billing_entry p
        WHERE p.customer_id = w.customer_id AND p.wallet_version IS NOT NULL AND p.balance_after + w.credit_limit >= 0
        ORDER BY p.wallet_version DESC LIMIT 1
    ), 0)
    ORDER BY e.wallet_version LIMIT 1
) fell
JOIN billing_transfer t ON t.customer_id = w.customer_id AND t.id = fell.transfer_id
WHERE w.balance + w.credit_limit < 0 AND NOT c.is_house AND NOT EXISTS (
    SELECT FROM billing_notice n
    WHERE n.customer_id = w.customer_id AND n.kind = %s AND n.key = fell.wallet_version::text
)
ORDER BY w.customer_id LIMIT %s"""


def tell(*, at: datetime, limit: int = 1_000) -> int:
    """Tell customers whose keys have stopped for their debt how much they owe (USD); returns how many, up to `limit`.

    Debt within a credit limit stops nothing, and is not told. Can run at once with itself.
    """
    with server_cursor() as cursor:
        cursor.execute(_UNTOLD, [IN_DEBT, limit])
        untold = cursor.fetchall()
    return notices.announce_all(
        [
            notices.News(
                customer_id,
                IN_DEBT,
                str(version),
                {"debt": amount_text(debt), "credit_limit": amount_text(may_owe), "since": since.isoformat()},
            )
            for customer_id, debt, may_owe, version, since in untold
        ],
        at=at,
    )
