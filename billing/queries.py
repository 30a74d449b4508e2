"""Every read of money that spans models; one customer's, never all."""

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from django.db.models import QuerySet

from billing.models import Grant, Invoice
from relayadmin import ids
from relayadmin.db import server_cursor
from relayadmin.money import EXACT


@dataclass(frozen=True, slots=True)
class GrantLeft:
    """A grant that is not used up. Amounts in USD."""

    id: str
    kind: str
    amount: Decimal
    remaining: Decimal
    priority: int
    is_refundable: bool
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class GrantToCome:
    """A grant that begins later, and is in no balance yet. Amount in USD."""

    id: str
    kind: str
    amount: Decimal
    priority: int
    is_refundable: bool
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """A wallet and its grants in the order in which they are used, as of one moment. Amounts in USD."""

    balance: Decimal
    held: Decimal
    credit_limit: Decimal
    grants: list[GrantLeft] = field(default_factory=list)
    scheduled_grants: list[GrantToCome] = field(default_factory=list)

    @property
    def available(self) -> Decimal:
        """What a new hold may take."""
        return EXACT.add(EXACT.subtract(self.balance, self.held), self.credit_limit)


_BALANCE = """
SELECT w.balance, w.held, w.credit_limit, g.*
FROM billing_wallet w
LEFT JOIN (
    SELECT customer_id, id, kind, amount, remaining, priority, is_refundable, coalesce(effective_at, created_at),
           expires_at, created_at
    FROM billing_grant WHERE remaining > 0
    UNION ALL
    SELECT customer_id, id, kind, amount, NULL, priority, is_refundable, effective_at, expires_at, created_at
    FROM billing_scheduledgrant WHERE posted_at IS NULL AND cancelled_at IS NULL
) g ON g.customer_id = w.customer_id
WHERE w.customer_id = %s
ORDER BY g.priority, g.expires_at NULLS LAST, g.id
"""


def balance_of(customer_id: int) -> Balance:
    """A customer's balance, in one statement, so that its figures belong together."""
    with server_cursor() as cursor:
        cursor.execute(_BALANCE, [customer_id], binary=True)
        rows = cursor.fetchall()
    balance = Balance(*rows[0][:3])
    for number, kind, amount, remaining, *rest in (row[4:] for row in rows if row[4] is not None):
        public_id = ids.hot_id("gr", customer_id, number)
        if remaining is None:
            balance.scheduled_grants.append(GrantToCome(public_id, kind, amount, *rest))
        else:
            balance.grants.append(GrantLeft(public_id, kind, amount, remaining, *rest))
    balance.scheduled_grants.sort(key=lambda grant: (grant.effective_at, grant.id))
    return balance


def grant_left(grant: Grant) -> GrantLeft:
    """A grant as the balance shows it."""
    return GrantLeft(
        grant.public_id,
        grant.kind,
        grant.amount,
        grant.remaining,
        grant.priority,
        grant.is_refundable,
        grant.effective_at or grant.created_at,
        grant.expires_at,
        grant.created_at,
    )


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A transfer as it moved the wallet. Amounts in USD, `amount` above zero for more credit."""

    version: int
    id: str
    kind: str
    amount: Decimal
    balance_after: Decimal
    period: date | None
    reason: str
    document: str
    created_at: datetime


_STATEMENT = """
SELECT e.wallet_version, t.id, t.kind, e.amount, e.balance_after, t.period, t.reason, t.document, t.created_at
FROM billing_entry e
JOIN billing_transfer t ON t.customer_id = e.customer_id AND t.id = e.transfer_id
WHERE e.customer_id = %s AND e.wallet_version IS NOT NULL AND e.wallet_version < %s
ORDER BY e.wallet_version DESC
LIMIT %s
"""


def statement(*, customer_id: int, before_version: int | None, limit: int) -> list[StatementRow]:
    """The wallet's transfers, newest first, from before a wallet version on."""
    with server_cursor() as cursor:
        cursor.execute(
            _STATEMENT, [customer_id, 2**63 - 1 if before_version is None else before_version, limit], binary=True
        )
        return [
            StatementRow(version, ids.hot_id("tr", customer_id, number), *rest)
            for version, number, *rest in cursor.fetchall()
        ]


def invoices(*, customer_id: int) -> QuerySet[Invoice]:
    """A customer's invoices with their lines, newest first; drafts are not shown."""
    return (
        Invoice.objects.filter(customer_id=customer_id)
        .exclude(status=Invoice.Status.DRAFT)
        .prefetch_related("lines")
        .order_by("-pk")
    )
