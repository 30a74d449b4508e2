"""What is due on a customer's invoices, and what lowers it but payments that name one: credit, and debt written off.

A debt's oldest part is paid first, so what new credit pays of a debt it pays of the oldest invoice. Invariant: what is
due, whole cents, is no more than the debt, but for usage that was taken back and stands on the next invoice.
"""

from datetime import datetime
from decimal import ROUND_UP, Context, Decimal

from django.db.models import QuerySet

from billing import ledger
from billing.models import Invoice
from relayadmin.money import CENT, EXACT, ZERO, total

Status = Invoice.Status
OPEN = (Status.ISSUED, Status.OVERDUE)
# Of a customer's invoice of a period: the period up to which the one before reaches.
COVERED_BEFORE = """coalesce((
    SELECT max(i.period) FROM billing_invoice i
    WHERE i.customer_id = %(customer)s AND i.period < %(period)s AND i.status <> 'draft'
), '-infinity')"""
_UP = Context(prec=80, rounding=ROUND_UP)


def due_of(customer_id: int) -> Decimal:
    """What is due on all of a customer's invoices (USD)."""
    return total(list(_open(customer_id).values_list("amount_due", flat=True)))


def lower(wallet: ledger.LockedWallet, paid: Decimal, *, at: datetime, by_credit: bool) -> None:
    """Take what was paid of a locked wallet's debt (USD) off what is due, the oldest invoice first.

    A fraction of a cent counts as one, so that never more is due than owed; it comes with the next invoice.
    """
    rest = paid.quantize(CENT, context=_UP)
    for invoice in _open(wallet.customer_id):
        part = min(rest, invoice.amount_due)
        if not part:
            return
        rest = EXACT.subtract(rest, part)
        if by_credit:
            invoice.paid_by_credit = EXACT.add(invoice.paid_by_credit, part)
        settle(invoice, part, at=at)


def lower_by_note(
    invoice: Invoice, wallet: ledger.LockedWallet, amount: Decimal, *, cured: Decimal, at: datetime
) -> None:
    """Take a credit note's total (USD) off what is due on its invoice, which nobody owes any more.

    Of other invoices no more than what the note has cured of the locked wallet's debt beyond that.
    """
    due = min(max(ZERO, amount), invoice.amount_due)
    if due:
        settle(invoice, due, at=at)
    other = EXACT.subtract(min(cured, amount), due)
    if other > 0:
        lower(wallet, other, at=at, by_credit=True)


def settle(invoice: Invoice, part: Decimal, *, at: datetime) -> None:
    """Take a part off what is due on an invoice of a locked wallet, and save it; nothing due is paid."""
    assert ZERO <= part <= invoice.amount_due
    invoice.amount_due = EXACT.subtract(invoice.amount_due, part)
    if not invoice.amount_due and invoice.status in OPEN:
        invoice.status, invoice.paid_at = Status.PAID, at
    invoice.save(update_fields=["amount_due", "paid_by_credit", "status", "paid_at"])


def _open(customer_id: int) -> QuerySet[Invoice]:
    return Invoice.objects.filter(customer_id=customer_id, status__in=OPEN).order_by("pk")
