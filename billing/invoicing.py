"""Invoices: frozen documents with numbers that have no gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import connection

from billing import ledger, notices
from billing.models import Customer, Invoice, InvoiceLine
from billing.notice_kinds import INVOICE_ISSUED
from billing.periods import bounds
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, cents_text, line_amount, to_cents, total

SERIES = "INV"
_BATCH = 500


class AlreadyClosed(Exception):
    """The period is closed for this customer: its invoice, if it had usage, is issued."""


@dataclass(frozen=True, slots=True)
class Line:
    """quantity × unit price ÷ per = amount, in USD; `usage_period` is the month the usage happened in."""

    usage_period: date
    description: str
    model: str
    meter: str
    quantity: Decimal
    unit_price: Decimal
    per: int

    @property
    def amount(self) -> Decimal:
        return line_amount(self.quantity, self.unit_price, self.per)


def issue(*, wallet: ledger.LockedWallet, period: date, lines: Sequence[Line], zone: ZoneInfo, at: datetime) -> Invoice:
    """Close a period of a locked wallet and issue its invoice, numbered in the same transaction.

    The usage was paid from the wallet as it happened, so nothing is due and nothing is posted: the rounding to the
    cent is shown, not charged. Raises AlreadyClosed.
    """
    assert connection.in_atomic_block
    if wallet.closed_through is not None and wallet.closed_through >= period:
        raise AlreadyClosed(f"{period:%Y-%m} is closed for customer number {wallet.customer_id}")
    ledger.close_period(wallet, period)
    customer = Customer.objects.get(pk=wallet.customer_id)
    exact = total([line.amount for line in lines])
    subtotal = to_cents(exact)
    start, end = bounds(period, zone)
    year = at.astimezone(zone).year
    sequence = _next_number(SERIES, year)
    invoice = Invoice.objects.create(
        customer=customer,
        series=SERIES,
        year=year,
        sequence=sequence,
        number=f"{SERIES}-{year}-{sequence:06d}",
        status=Invoice.Status.PAID,
        period=period,
        period_start=start,
        period_end=end,
        issued_at=at,
        customer_name=customer.name,
        customer_email=customer.email,
        exact_total=exact,
        subtotal=subtotal,
        tax=to_cents(ZERO),
        total=subtotal,
        paid_by_credit=subtotal,
        amount_due=to_cents(ZERO),
    )
    InvoiceLine.objects.bulk_create(_rows(invoice, lines, EXACT.subtract(subtotal, exact)), batch_size=_BATCH)
    _tell(invoice, at=at)
    return invoice


def _tell(invoice: Invoice, *, at: datetime) -> None:
    notices.announce(
        customer_id=invoice.customer_id,
        kind=INVOICE_ISSUED,
        key=invoice.public_id,
        data={
            "invoice": invoice.public_id,
            "number": invoice.number,
            "period": f"{invoice.period:%Y-%m}",
            "status": str(invoice.status),
            "total": cents_text(invoice.total),
            "amount_due": cents_text(to_cents(invoice.amount_due)),
            "due_on": invoice.due_on.isoformat() if invoice.due_on else None,
        },
        at=at,
    )


def _rows(invoice: Invoice, lines: Sequence[Line], rounding: Decimal) -> list[InvoiceLine]:
    rows = [
        InvoiceLine(
            invoice=invoice,
            position=position,
            usage_period=line.usage_period,
            description=line.description,
            model=line.model,
            meter=line.meter,
            quantity=line.quantity,
            unit_price=line.unit_price,
            per=line.per,
            amount=line.amount,
        )
        for position, line in enumerate(lines, start=1)
    ]
    if rounding:
        rows.append(
            InvoiceLine(invoice=invoice, position=len(rows) + 1, description="Rounding to the cent", amount=rounding)
        )
    return rows


def _next_number(series: str, year: int) -> int:
    """The next number; its row stays locked until the invoice is committed, so a rollback leaves no gap."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_invoiceseries AS s (series, year, last_number) VALUES (%s, %s, 1)"
            " ON CONFLICT (series, year) DO UPDATE SET last_number = s.last_number + 1 RETURNING last_number",
            [series, year],
        )
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])
