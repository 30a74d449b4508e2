"""What a wallet did in a document's month: what its usage cost, who paid it, and how one balance became the other."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing import ledger
from billing.models import Invoice
from billing.periods import bounds, next_month
from relayadmin.db import server_cursor
from relayadmin.money import EXACT

# Wallet entries are read from where the customer's last document said on: all billed since, and all since its month
# ended, lies behind that version. A balance at a moment is that after the last entry made before it.
_MOVED = """
WITH moved AS MATERIALIZED (
    SELECT t.id, t.kind, t.created_at, e.amount, e.balance_after, e.wallet_version, t.kind IN ('usage', 'adjustment')
               AND t.period <= %(through)s AND t.period > coalesce(%(after)s::date, '-infinity') AS is_billed,
           coalesce(t.period > %(through)s, false) OR t.created_at >= %(end)s AS is_next
    FROM billing_entry e JOIN billing_transfer t ON t.customer_id = e.customer_id AND t.id = e.transfer_id
    WHERE e.customer_id = %(customer)s AND e.wallet_version >= coalesce((
        SELECT i.next_version FROM billing_invoice i WHERE i.customer_id = %(customer)s ORDER BY i.period DESC LIMIT 1
    ), 0)
), sides AS (
    SELECT coalesce(max(wallet_version) FILTER (WHERE created_at < %(start)s), 0) AS opened,
           coalesce(max(wallet_version) FILTER (WHERE created_at < %(end)s), 0) AS closed
    FROM moved
), sums AS (
    SELECT coalesce(-sum(m.amount) FILTER (WHERE m.is_billed), 0) AS charged,
           coalesce(-sum(m.amount) FILTER (
               WHERE m.kind IN ('usage', 'adjustment') AND m.wallet_version > s.opened AND m.wallet_version <= s.closed
           ), 0) AS charged_inside,
           coalesce(sum(m.amount) FILTER (
               WHERE m.kind = 'grant' AND m.wallet_version > s.opened AND m.wallet_version <= s.closed AND EXISTS (
                   SELECT FROM billing_grant g
                   WHERE g.customer_id = %(customer)s AND g.transfer_id = m.id AND g.kind = 'paid'
               )
           ), 0) AS topped_up,
           coalesce(max(m.balance_after) FILTER (WHERE m.wallet_version = s.opened), 0) AS opening,
           coalesce(max(m.balance_after) FILTER (WHERE m.wallet_version = s.closed), 0) AS closing,
           min(m.wallet_version) FILTER (WHERE m.is_next) - 1 AS next_version
    FROM moved m CROSS JOIN sides s
), uses AS (
    SELECT u.grant_id, u.amount FROM moved m
    JOIN billing_grantuse u ON u.customer_id = %(customer)s AND u.transfer_id = m.id WHERE m.is_billed
    UNION ALL
    SELECT r.grant_id, -r.amount FROM billing_grantreturn r JOIN moved m ON m.id = r.transfer_id
    WHERE r.customer_id = %(customer)s AND m.is_billed
), paid AS (
    SELECT coalesce(sum(u.amount) FILTER (WHERE g.kind = 'paid'), 0) AS by_paid,
           coalesce(sum(u.amount) FILTER (WHERE g.kind <> 'paid'), 0) AS by_promotional
    FROM uses u JOIN billing_grant g ON g.customer_id = %(customer)s AND g.id = u.grant_id
)
SELECT s.charged, p.by_paid, p.by_promotional, s.opening, s.closing, s.topped_up, s.charged - s.charged_inside,
       coalesce(s.next_version, %(version)s)
FROM sums s CROSS JOIN paid p
"""


@dataclass(frozen=True, slots=True)
class Movements:
    """What a document says of the wallet in [start, end), in USD, as the fields of `Invoice` explain.

    `charged` is what usage of the document's billing periods took off the wallet, adjustments included.
    """

    start: datetime
    end: datetime
    charged: Decimal
    by_paid: Decimal
    by_promotional: Decimal
    opening_balance: Decimal
    closing_balance: Decimal
    topped_up: Decimal
    charged_elsewhen: Decimal
    next_version: int

    @property
    def as_debt(self) -> Decimal:
        return EXACT.subtract(EXACT.subtract(self.charged, self.by_paid), self.by_promotional)

    @property
    def other(self) -> Decimal:
        """opening + topped up + other − charged = closing."""
        moved = EXACT.subtract(self.closing_balance, self.opening_balance)
        return EXACT.add(EXACT.subtract(moved, self.topped_up), self.charged)


def _bounds(wallet: ledger.LockedWallet, month: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """A document's bounds: the month's in a time zone, but it begins where the one of the month before ended.

    That is another moment if the operator's time zone has changed since.
    """
    start, end = bounds(month, zone)
    before = None
    if wallet.closed_through is not None and next_month(wallet.closed_through) == month:
        documents = Invoice.objects.filter(customer_id=wallet.customer_id, period=wallet.closed_through)
        before = documents.values_list("period_end", flat=True).first()
    return before or start, end


def read(wallet: ledger.LockedWallet, *, through: date, zone: ZoneInfo) -> Movements:
    """What moved a locked wallet for all that is billed after its last closed period, up to `through`.

    Balances and top-ups are those of that month. It does not read what earlier documents did.
    """
    start, end = _bounds(wallet, through, zone)
    with server_cursor() as cursor:
        cursor.execute(
            _MOVED,
            {
                "customer": wallet.customer_id,
                "version": wallet.version,
                "after": wallet.closed_through,
                "through": through,
                "start": start,
                "end": end,
            },
            binary=True,
        )
        row = cursor.fetchone()
    assert row is not None, "sums have one row"
    return Movements(start, end, *row)
