"""Every read of money that spans models; one customer's, never all."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet

from billing.models import Grant, Invoice, Transfer
from relayadmin import ids
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, total


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

    @property
    def debt(self) -> Decimal:
        """What no credit has paid yet; the next payment goes there first."""
        return max(ZERO, EXACT.subtract(total([grant.remaining for grant in self.grants]), self.balance))


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


_OWING_SINCE = """
SELECT t.created_at FROM billing_entry e
JOIN billing_transfer t ON t.customer_id = e.customer_id AND t.id = e.transfer_id
WHERE e.customer_id = %(customer)s AND e.wallet_version > coalesce((
    SELECT p.wallet_version FROM billing_entry p
    WHERE p.customer_id = %(customer)s AND p.wallet_version IS NOT NULL AND p.balance_after >= 0
    ORDER BY p.wallet_version DESC LIMIT 1
), 0)
ORDER BY e.wallet_version LIMIT 1
"""


def owing_since(customer_id: int) -> datetime | None:
    """When a customer's balance fell below zero, if it is there now."""
    with server_cursor() as cursor:
        cursor.execute(_OWING_SINCE, {"customer": customer_id})
        row = cursor.fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A transfer as it moved the wallet. Amounts in USD, `amount` above zero for more credit.

    `grant` is the public id of the grant it made, `invoice` of the invoice its usage stands on, once that is issued.
    """

    version: int
    id: str
    kind: str
    amount: Decimal
    balance_after: Decimal
    period: date | None
    reason: str
    document: str
    created_at: datetime
    actor: str
    grant: str | None
    invoice: str | None


@dataclass(frozen=True, slots=True)
class StatementFilter:
    """Which transfers of a wallet: from `start` until before `end`, and of one kind; None for all."""

    start: datetime | None = None
    end: datetime | None = None
    kind: str | None = None


# The wallet versions between which the wanted transfers lie. Numbers and versions are given out under the wallet's lock
# and rise together, but for transfers of one database statement: these may be out of order by as many versions as it
# had billing periods. `+ 0` makes PostgreSQL read the rows once; it would walk the primary key twice, from both ends.
_VERSIONS = """
SELECT (SELECT min(e.wallet_version) FROM billing_entry e
        WHERE e.customer_id = %(customer)s AND e.id >= t.first * 16 AND e.id < t.first * 16 + 16),
       (SELECT max(e.wallet_version) FROM billing_entry e
        WHERE e.customer_id = %(customer)s AND e.id >= t.last * 16 AND e.id < t.last * 16 + 16)
FROM (
    SELECT min(id + 0) AS first, max(id + 0) AS last FROM billing_transfer
    WHERE customer_id = %(customer)s
        AND (%(start)s::timestamptz IS NULL OR created_at >= %(start)s::timestamptz)
        AND (%(end)s::timestamptz IS NULL OR created_at < %(end)s::timestamptz)
        AND (%(kind)s::text IS NULL OR kind = %(kind)s::text)
) t
"""
_SLACK = 1_000

# Usage billed in a period stands on the invoice that closed it: the first one of that period or a later one.
_STATEMENT = """
SELECT m.wallet_version, m.id, m.kind, m.amount, m.balance_after, m.period, m.reason, m.document, m.created_at, m.actor,
       g.id, (
           SELECT i.public_id FROM billing_invoice i
           WHERE i.customer_id = m.customer_id AND i.period >= m.period AND i.status NOT IN ('draft', 'void')
           ORDER BY i.period LIMIT 1
       )
FROM (
    SELECT e.customer_id, e.wallet_version, t.id, t.kind, e.amount, e.balance_after, t.period, t.reason, t.document,
           t.created_at, t.actor
    FROM billing_entry e
    JOIN billing_transfer t ON t.customer_id = e.customer_id AND t.id = e.transfer_id
    WHERE e.customer_id = %(customer)s AND e.wallet_version < %(before)s AND e.wallet_version >= %(from)s
        AND (%(start)s::timestamptz IS NULL OR t.created_at >= %(start)s::timestamptz)
        AND (%(end)s::timestamptz IS NULL OR t.created_at < %(end)s::timestamptz)
        AND (%(kind)s::text IS NULL OR t.kind = %(kind)s::text)
    ORDER BY e.wallet_version DESC
    LIMIT %(limit)s
) m
LEFT JOIN billing_grant g ON m.kind = 'grant' AND g.customer_id = m.customer_id AND g.transfer_id = m.id
ORDER BY m.wallet_version DESC
"""


def statement(
    *, customer_id: int, before_version: int | None, limit: int, only: StatementFilter = StatementFilter()
) -> list[StatementRow]:
    """The wallet's transfers, newest first, from before a wallet version on."""
    wanted = {"customer": customer_id, "start": only.start, "end": only.end, "kind": only.kind}
    before = 2**63 - 1 if before_version is None else before_version
    first, last = _versions(wanted) if only != StatementFilter() else (0, before - 1)
    return _statement_page(wanted, first, min(before, last + 1), limit)


def whole_statement(
    *, customer_id: int, only: StatementFilter = StatementFilter(), page: int = 2_000
) -> Iterator[StatementRow]:
    """All of the wallet's transfers, newest first, in flat memory: a page at a time.

    Nothing stays open between pages, so a slow reader holds no transaction; rows are append-only and never renumbered,
    so pages belong together all the same.
    """
    wanted = {"customer": customer_id, "start": only.start, "end": only.end, "kind": only.kind}
    first, last = _versions(wanted) if only != StatementFilter() else (0, 2**63 - 2)
    before = last + 1
    while rows := _statement_page(wanted, first, before, page):
        yield from rows
        before = rows[-1].version


def _statement_page(wanted: dict[str, Any], first: int, before: int, limit: int) -> list[StatementRow]:
    with server_cursor() as cursor:
        cursor.execute(
            _STATEMENT,
            wanted | {"before": before, "from": first, "limit": limit},
            binary=True,
            # Planned for what is asked: a filter that is absent costs nothing.
            prepare=False,
        )
        return [_statement_row(wanted["customer"], *row) for row in cursor.fetchall()]


def _versions(wanted: dict[str, Any]) -> tuple[int, int]:
    """The first and last wallet version to look at for these transfers, rather too many."""
    with server_cursor() as cursor:
        cursor.execute(_VERSIONS, wanted, prepare=False)
        first, last = cursor.fetchone() or (None, None)
    return (0, 0) if first is None or last is None else (first - _SLACK, last + _SLACK)


def _statement_row(customer_id: int, *row: Any) -> StatementRow:
    version, number, kind, amount, balance_after, period, reason, document, created_at, actor, grant, invoice = row
    if not reason and kind == Transfer.Kind.USAGE:
        reason = f"Usage billed in {period:%Y-%m}"
    return StatementRow(
        version=version,
        id=ids.hot_id("tr", customer_id, number),
        kind=kind,
        amount=amount,
        balance_after=balance_after,
        period=period,
        reason=reason,
        document=document,
        created_at=created_at,
        actor=actor,
        grant=None if grant is None else ids.hot_id("gr", customer_id, grant),
        invoice=invoice,
    )


def invoices(*, customer_id: int) -> QuerySet[Invoice]:
    """A customer's invoices with their lines, newest first; drafts are not shown."""
    return (
        Invoice.objects.filter(customer_id=customer_id)
        .exclude(status=Invoice.Status.DRAFT)
        .prefetch_related("lines", "taxes")
        .order_by("-pk")
    )
