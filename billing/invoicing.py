"""Invoices and usage statements: frozen documents with numbers that have no gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import connection

from billing import ledger, notices, receivables
from billing.billing_profiles import profile_of
from billing.invoice_movements import Movements
from billing.models import BillingProfile, Customer, Invoice, InvoiceTax, OperatorSettings, TopUp
from billing.notice_kinds import INVOICE_ISSUED
from billing.periods import next_month
from billing.taxes import Tax, taxes_of
from relayadmin.db import copy_rows, copy_text, server_cursor
from relayadmin.money import EXACT, ZERO, cents_text, line_amount, to_cents, total

SERIES = "INV"
ROUNDING = "Rounding to the cent"
_NULL = "\\N"


class AlreadyClosed(Exception):
    """The period is closed for this customer: its invoice, if it had usage, is issued."""


@dataclass(frozen=True, slots=True)
class Line:
    """quantity × unit price ÷ per = amount, in USD; `usage_period` is the month the usage happened in.

    `multiplier`: of a meter of caching, its price as a multiple of the input price; None where there is none. `note`:
    why its price is another one than usual, such as "batch".
    """

    usage_period: date
    description: str
    model: str
    meter: str
    quantity: Decimal
    unit_price: Decimal
    per: int
    multiplier: Decimal | None = None
    note: str = ""

    @property
    def amount(self) -> Decimal:
        return line_amount(self.quantity, self.unit_price, self.per)


def issue(
    *,
    wallet: ledger.LockedWallet,
    period: date,
    lines: Sequence[Line],
    moved: Movements,
    savings: Decimal,
    zone: ZoneInfo,
    at: datetime,
) -> Invoice:
    """Close a period of a locked wallet and issue its document, numbered in the same transaction.

    Its lines add up to what was charged, and what credit notes document of that (billing.correction_notes).
    Prepaid: the usage was paid as it happened, so nothing is due or posted, and the rounding is shown, not charged. On
    account: tax and rounding are posted, and what no credit has paid is due. Raises AlreadyClosed.
    """
    assert connection.in_atomic_block
    if wallet.closed_through is not None and wallet.closed_through >= period:
        raise AlreadyClosed(f"{period:%Y-%m} is closed for customer number {wallet.customer_id}")
    ledger.close_period(wallet, period)
    customer = Customer.objects.get(pk=wallet.customer_id)
    profile = profile_of(customer)
    invoice = _document(customer, profile, period=period, moved=moved, zone=zone, at=at)
    invoice.exact_total, invoice.savings = total([line.amount for line in lines]), savings
    invoice.subtotal = to_cents(invoice.exact_total)
    is_on_account = profile.terms == BillingProfile.Terms.ON_ACCOUNT
    # What credit notes document of it was put back beside this document: it was no less usage, but another movement.
    documented = EXACT.subtract(invoice.exact_total, moved.charged)
    invoice.other_movements = EXACT.add(invoice.other_movements, documented)
    if is_on_account:
        invoice.charged_as_debt = EXACT.add(invoice.charged_as_debt, documented)
    last_day = next_month(period) - timedelta(days=1)
    taxes = taxes_of(profile, subtotal=invoice.subtotal, on=last_day) if is_on_account else ()
    invoice.tax = to_cents(total([tax.amount for tax in taxes]))
    invoice.total = invoice.paid_by_credit = EXACT.add(invoice.subtotal, invoice.tax)
    invoice.amount_due = to_cents(ZERO)
    if is_on_account:
        receivables.post_invoice(invoice, wallet, at=at)
    invoice.pk = _write_lines(lines, EXACT.subtract(invoice.subtotal, invoice.exact_total))
    # From here on other closings wait: the series is locked until the commit, so that a rollback leaves no gap.
    invoice.sequence = next_number(SERIES, invoice.year)
    invoice.number = f"{SERIES}-{invoice.year}-{invoice.sequence:06d}"
    invoice.save(force_insert=True)
    if taxes:
        _save_taxes(invoice, taxes)
    _announce(invoice)
    return invoice


def _document(
    customer: Customer, profile: BillingProfile, *, period: date, moved: Movements, zone: ZoneInfo, at: datetime
) -> Invoice:
    """The copies that a document keeps: of supplier and customer as they are now, and of what the wallet did."""
    supplier = OperatorSettings.objects.get(pk=1)
    return Invoice(
        customer=customer,
        series=SERIES,
        year=at.astimezone(zone).year,
        status=Invoice.Status.PAID,
        period=period,
        period_start=moved.start,
        period_end=moved.end,
        issued_at=at,
        paid_at=at,
        terms=profile.terms,
        customer_name=profile.legal_name or customer.name,
        customer_email=customer.email,
        customer_address=profile.address,
        customer_country=profile.country,
        customer_tax_number=profile.tax_number,
        order_reference=profile.order_reference,
        supplier_name=supplier.name,
        supplier_address=supplier.address,
        supplier_tax_number=supplier.tax_number,
        supplier_email=supplier.email,
        language=profile.language,
        paper=profile.paper,
        timezone=zone.key,
        is_sandbox=TopUp.objects.filter(customer=customer, is_sandbox=True, status=TopUp.Status.PAID).exists(),
        opening_balance=moved.opening_balance,
        closing_balance=moved.closing_balance,
        topped_up=moved.topped_up,
        other_movements=moved.other,
        charged_elsewhen=moved.charged_elsewhen,
        paid_by_promotional=moved.by_promotional,
        charged_as_debt=moved.as_debt,
        next_version=moved.next_version,
    )


_LINE_COLUMNS = (
    "invoice_id, position, usage_period, description, model, meter, note, quantity, unit_price, per, multiplier, amount"
)


def _write_lines(lines: Sequence[Line], rounding: Decimal) -> int:
    """Write the lines of a document to come; returns its number. Its row is looked for at the commit only."""
    with server_cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('billing_invoice', 'id'))")
        (number,) = cursor.fetchone() or (0,)
        rows = [
            f"{number}\t{position}\t{line.usage_period}\t{copy_text(line.description)}\t{copy_text(line.model)}"
            f"\t{line.meter}\t{copy_text(line.note)}\t{line.quantity}\t{line.unit_price}\t{line.per}"
            f"\t{_NULL if line.multiplier is None else line.multiplier}\t{line.amount}"
            for position, line in enumerate(lines, start=1)
        ]
        if rounding:
            nothing = "\t".join([_NULL] * 4)
            rows.append(f"{number}\t{len(rows) + 1}\t{_NULL}\t{ROUNDING}\t\t\t\t{nothing}\t{rounding}")
        copy_rows(cursor, "billing_invoiceline", _LINE_COLUMNS, rows)
    return int(number)


def _save_taxes(invoice: Invoice, taxes: Sequence[Tax]) -> None:
    InvoiceTax.objects.bulk_create(
        InvoiceTax(
            invoice=invoice,
            name=tax.name,
            rate=tax.rate,
            base=tax.base,
            amount=tax.amount,
            is_reverse_charge=tax.is_reverse_charge,
            note=tax.note,
        )
        for tax in taxes
    )


def _announce(invoice: Invoice) -> None:
    notices.announce(
        customer_id=invoice.customer_id,
        kind=INVOICE_ISSUED,
        key=invoice.public_id,
        data={
            "invoice": invoice.public_id,
            "number": invoice.number,
            "period": f"{invoice.period:%Y-%m}",
            "status": invoice.status,
            "total": cents_text(invoice.total),
            "amount_due": cents_text(invoice.amount_due),
            "due_on": invoice.due_on.isoformat() if invoice.due_on else None,
        },
        at=invoice.issued_at,
    )


def next_number(series: str, year: int) -> int:
    """The next number of a series; its row stays locked until the commit, so that a rollback leaves no gap."""
    assert connection.in_atomic_block
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_invoiceseries AS s (series, year, last_number) VALUES (%s, %s, 1)"
            " ON CONFLICT (series, year) DO UPDATE SET last_number = s.last_number + 1 RETURNING last_number",
            [series, year],
        )
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])
