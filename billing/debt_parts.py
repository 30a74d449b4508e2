"""What a debt is made of: usage that no grant has paid, and what invoices, debits, refunds and disputes made of it."""

from collections.abc import Sequence
from decimal import Decimal

from billing import ledger
from relayadmin.db import server_cursor, text_array
from relayadmin.money import EXACT, ZERO

# Of each debit, refund, dispute and invoice that made debt: that part, and the least that was owed from then until the
# next one, or until now.
_DEBITS = """
SELECT d.unpaid, (
    SELECT max(e.balance_after) FROM billing_entry e
    WHERE e.customer_id = d.customer_id AND e.wallet_version >= d.wallet_version
        AND (d.next_version IS NULL OR e.wallet_version < d.next_version)
)
FROM (
    SELECT customer_id, unpaid, wallet_version, lead(wallet_version) OVER (ORDER BY wallet_version) AS next_version
    FROM (
        SELECT customer_id, unpaid, wallet_version FROM billing_walletadjustment
        WHERE customer_id = %(customer)s AND unpaid > 0
        UNION ALL
        -- Who has debt has no credit left: what a transfer took below zero is what it made of debt.
        SELECT e.customer_id, least(-e.amount, -e.balance_after) - CASE WHEN %(less_due)s THEN coalesce(r.due, 0)
                   ELSE 0 END, e.wallet_version
        FROM billing_transfer t JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16
        LEFT JOIN billing_invoicereopening r ON r.customer_id = t.customer_id AND r.transfer_id = t.id
        WHERE t.customer_id = %(customer)s AND t.kind = ANY (%(kinds)s::text[]) AND e.account = 'wallet'
            AND e.amount < 0 AND e.balance_after < 0
    ) made
) d
ORDER BY d.wallet_version
"""


# What stands as debt besides usage; of an invoice that is tax and rounding.
_BY_HAND = ("refund", "dispute")
_ALL = (*_BY_HAND, "invoice")


def of_usage(wallet: ledger.LockedWallet, debt: Decimal) -> Decimal:
    """How much of a locked wallet's debt (USD) is usage: what is paid or written off counts for usage first.

    Usage that stands as debt was posted as revenue; tax, debits by hand, refunds and disputes were not.
    """
    return EXACT.subtract(debt, _made(wallet, debt, _ALL, less_due=False))


def by_hand(wallet: ledger.LockedWallet, debt: Decimal) -> Decimal:
    """How much of a locked wallet's debt (USD) is due on no invoice: debits by hand, refunds and disputes.

    What of these was an invoice's payment is due on that invoice again.
    """
    return _made(wallet, debt, _BY_HAND, less_due=True)


def _made(wallet: ledger.LockedWallet, debt: Decimal, kinds: Sequence[str], *, less_due: bool) -> Decimal:
    if not debt:
        return ZERO
    with server_cursor() as cursor:
        values = {"customer": wallet.customer_id, "kinds": text_array(kinds), "less_due": less_due}
        cursor.execute(_DEBITS, values, binary=True)
        debits = cursor.fetchall()
    made = ZERO
    for unpaid, highest_balance in debits:
        made = min(EXACT.add(made, unpaid), max(ZERO, -highest_balance))
    return min(made, debt)
