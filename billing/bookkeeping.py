"""What a month was for the books: each account's movement, and what was owed either way at its end.

All from the ledger's entries, in the operator's time zone, by when they were booked. One statement, so one moment: its
figures belong together, and every month's movements add up to zero, as `check_ledger` demands of every transfer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from billing.models import Account, Grant, Transfer
from billing.periods import bounds
from relayadmin.csv import csv_lines
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, total

COLUMNS = ("month", "section", "item", "kind", "amount", "currency")
CASH = (Account.CASH_STRIPE, Account.CASH_MANUAL, Account.CASH_BANK)


@dataclass(frozen=True, slots=True)
class Ends:
    """What stood on the wallets at a moment: credit not used yet, which is owed to customers, and what they owed."""

    unused_credit: Decimal
    receivables: Decimal


@dataclass(frozen=True, slots=True)
class Summary:
    """A month's books. `moved`: (account, kind of transfer) → amount, signed as the ledger signs. Amounts in USD.

    `unused`: the unused credit at the end by the kind of grant.
    """

    month: date
    timezone: str
    moved: dict[tuple[str, str], Decimal]
    opening: Ends
    closing: Ends
    unused: dict[str, Decimal] = field(default_factory=dict)

    def account(self, account: str) -> Decimal:
        """What moved on an account, all kinds together."""
        return total([amount for (of, _), amount in self.moved.items() if of == account])

    @property
    def imbalance(self) -> Decimal:
        """The sum over all accounts: zero, or the books are broken."""
        return total(list(self.moved.values()))

    def lines(self) -> list[tuple[str, Decimal]]:
        """The figures that a bookkeeper asks for, each above zero when it is what its name says."""
        found: list[tuple[str, Decimal]] = [
            ("Revenue from usage", self.account(Account.REVENUE)),
            ("Other revenue", self.account(Account.OTHER_REVENUE)),
            ("Promotional usage", self.account(Account.PROMOTIONAL_USAGE)),
            ("Breakage (expired credit)", self.account(Account.BREAKAGE)),
            ("Tax", self.account(Account.TAX)),
            ("Rounding", self.account(Account.ROUNDING)),
            ("Processing fees", EXACT.minus(self.account(Account.PROCESSING_FEES))),
            ("Exchange-rate loss", EXACT.minus(self.account(Account.FX_DIFFERENCE))),
            ("Refunds taken from wallets", EXACT.minus(self._kind(Account.WALLET, Transfer.Kind.REFUND))),
            ("Disputes taken from wallets", EXACT.minus(self._kind(Account.WALLET, Transfer.Kind.DISPUTE))),
            ("Write-offs", EXACT.minus(self.account(Account.WRITE_OFFS))),
            ("Promotional credit given", EXACT.minus(self.account(Account.PROMOTIONAL_GRANTS))),
            ("Goodwill given", EXACT.minus(self.account(Account.GOODWILL))),
        ]
        found += [(f"{account.label}: in less out", EXACT.minus(self.account(account))) for account in CASH]
        return [
            *found,
            ("Liability from unused credit, month's end", self.closing.unused_credit),
            *((f"of it {Grant.Kind(kind).label.lower()}", amount) for kind, amount in sorted(self.unused.items())),
            ("Receivables, month's end", self.closing.receivables),
        ]

    def _kind(self, account: str, kind: str) -> Decimal:
        return self.moved.get((account, kind), ZERO)


# Transfers are found by the time they were booked, their entries by the range of numbers that these have: both tables
# have block-range indexes for it. What came after the month leads back from the wallets of today to its two ends.
_SUMMARY = """
WITH booked AS MATERIALIZED (
    SELECT min(id) AS first, max(id) AS last FROM billing_transfer WHERE created_at >= %(start)s
),
since AS MATERIALIZED (
    SELECT e.customer_id, e.account, t.kind, t.created_at >= %(end)s AS is_later, sum(e.amount) AS amount
    FROM billing_transfer t
    JOIN billing_entry e ON e.customer_id = t.customer_id AND e.transfer_id = t.id
    WHERE t.created_at >= %(start)s
        AND e.id >= (SELECT first * 16 FROM booked) AND e.id < (SELECT last * 16 + 16 FROM booked)
    GROUP BY 1, 2, 3, 4
),
ends AS (
    SELECT w.balance - coalesce(sum(s.amount), 0) AS opening,
           w.balance - coalesce(sum(s.amount) FILTER (WHERE s.is_later), 0) AS closing
    FROM billing_wallet w LEFT JOIN since s ON s.customer_id = w.customer_id AND s.account = 'wallet'
    GROUP BY w.customer_id, w.balance
),
later_uses AS (
    SELECT u.customer_id, u.grant_id, u.amount
    FROM billing_grantuse u JOIN billing_transfer t ON t.customer_id = u.customer_id AND t.id = u.transfer_id
    WHERE t.created_at >= %(end)s
    UNION ALL
    SELECT r.customer_id, r.grant_id, -r.amount
    FROM billing_grantreturn r JOIN billing_transfer t ON t.customer_id = r.customer_id AND t.id = r.transfer_id
    WHERE t.created_at >= %(end)s
),
later AS (SELECT customer_id, grant_id, sum(amount) AS used FROM later_uses GROUP BY 1, 2),
unused AS (
    SELECT g.kind, sum(g.remaining + coalesce(l.used, 0)) AS amount
    FROM billing_grant g
    JOIN billing_transfer t ON t.customer_id = g.customer_id AND t.id = g.transfer_id AND t.created_at < %(end)s
    LEFT JOIN later l ON l.customer_id = g.customer_id AND l.grant_id = g.id
    WHERE g.remaining > 0 OR l.used IS NOT NULL
    GROUP BY 1
)
SELECT 'moved', account, kind, sum(amount) FROM since WHERE NOT is_later GROUP BY 2, 3 HAVING sum(amount) <> 0
UNION ALL SELECT 'unused', kind, '', amount FROM unused WHERE amount <> 0
UNION ALL SELECT 'opening', 'credit', '', coalesce(sum(opening) FILTER (WHERE opening > 0), 0) FROM ends
UNION ALL SELECT 'opening', 'debt', '', coalesce(-sum(opening) FILTER (WHERE opening < 0), 0) FROM ends
UNION ALL SELECT 'closing', 'credit', '', coalesce(sum(closing) FILTER (WHERE closing > 0), 0) FROM ends
UNION ALL SELECT 'closing', 'debt', '', coalesce(-sum(closing) FILTER (WHERE closing < 0), 0) FROM ends
"""


def summary(month: date, zone: ZoneInfo) -> Summary:
    """The books of a month in a time zone; of one that has not ended, as they stand now."""
    start, end = bounds(month, zone)
    found: dict[str, dict[tuple[str, str], Decimal]] = {}
    with server_cursor() as cursor:
        cursor.execute(_SUMMARY, {"start": start, "end": end}, binary=True, prepare=False)
        for section, item, kind, amount in cursor.fetchall():
            found.setdefault(section, {})[item, kind] = amount
    opening, closing = found["opening"], found["closing"]
    return Summary(
        month=month,
        timezone=zone.key,
        moved=found.get("moved", {}),
        opening=Ends(opening["credit", ""], opening["debt", ""]),
        closing=Ends(closing["credit", ""], closing["debt", ""]),
        unused={kind: amount for (kind, _), amount in found.get("unused", {}).items()},
    )


def as_csv(books: Summary) -> Iterator[bytes]:
    """The summary's figures, then each account's movement by kind of transfer: these add up to zero."""
    month = f"{books.month:%Y-%m}"

    def rows() -> Iterator[tuple[Any, ...]]:
        for item, amount in books.lines():
            yield month, "summary", item, "", amount, "USD"
        for (account, kind), amount in sorted(books.moved.items()):
            yield month, "account", account, kind, amount, "USD"

    return csv_lines(COLUMNS, rows())
