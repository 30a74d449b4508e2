"""Money of an invoice's payment that goes back: what no credit covers is due on the invoice again, until it returns.

A payment pays its invoice first, and what it paid beyond that is a grant of its own, which is taken back first. Of the
rest, credit that the customer has pays the invoice in its place; what becomes debt is due again.
"""

from datetime import datetime
from decimal import ROUND_DOWN, Context, Decimal

from django.db.models import Sum

from billing import ledger, notices, open_invoices, receivables
from billing.models import Account, Entry, Invoice, InvoiceReopening, TopUp, Transfer
from billing.notice_kinds import INVOICE_DUE_AGAIN
from billing.periods import operator_timezone
from relayadmin.money import CENT, EXACT, ZERO, cents_text, total

Status = Invoice.Status
_DOWN = Context(prec=80, rounding=ROUND_DOWN)


def paid_of_invoice(top_up: TopUp) -> Decimal:
    """What a payment has paid of the invoice that it names (USD); the rest of it, if any, became credit."""
    if top_up.invoice_id is None:
        return ZERO
    made = Transfer.objects.filter(
        customer_id=top_up.customer_id, kind=Transfer.Kind.PAYMENT, key=top_up.public_id
    ).first()
    if made is None:
        return ZERO
    return total([ZERO, *_on_wallet(made)])


def _on_wallet(transfer: Transfer) -> list[Decimal]:
    entries = Entry.objects.filter(customer_id=transfer.customer_id, transfer_id=transfer.pk, account=Account.WALLET)
    return list(entries.values_list("amount", flat=True))


def reopen(
    top_up: TopUp, *, transfer_id: int, taken: Decimal, own: Decimal, unpaid: Decimal, because: str, at: datetime
) -> None:
    """Note what a transfer has taken back of a payment, in the transaction that took it; the invoice is due again.

    `taken` (USD) is what it took off the locked wallet, of which `own` was of the payment's own grant and `unpaid` is
    debt. A void invoice stays void. `because`: what the customer is told.
    """
    if top_up.invoice_id is None:
        return
    invoice = Invoice.objects.get(pk=top_up.invoice_id)
    part = min(EXACT.subtract(taken, own), EXACT.subtract(paid_of_invoice(top_up), _gone(top_up)))
    if not part or invoice.status not in {*open_invoices.OPEN, Status.PAID}:
        return
    uncovered = _uncovered(invoice)
    row = InvoiceReopening(
        customer_id=top_up.customer_id,
        invoice=invoice,
        top_up=top_up,
        transfer_id=transfer_id,
        amount=part,
        created_at=at,
    )
    # Credit notes made credit of what was paid too much: that goes first, and pays nothing of the invoice.
    too_much = max(ZERO, -uncovered)
    by_credit = max(ZERO, EXACT.subtract(EXACT.subtract(part, unpaid), too_much))
    invoice.paid_by_credit = EXACT.add(invoice.paid_by_credit, by_credit)
    most = max(ZERO, EXACT.subtract(EXACT.add(uncovered, part), by_credit))
    row.due = min(part, unpaid, most).quantize(CENT, context=_DOWN)
    row.save(force_insert=True)
    if row.due:
        today = at.astimezone(operator_timezone()).date()
        invoice.due_on = invoice.due_on or today
        invoice.amount_due = EXACT.add(invoice.amount_due, row.due)
        invoice.status = Status.OVERDUE if invoice.due_on < today else Status.ISSUED
        invoice.paid_at = None
        _tell(invoice, row, because, at=at)
    invoice.save(update_fields=["paid_by_credit", "amount_due", "status", "paid_at", "due_on"])


def _gone(top_up: TopUp) -> Decimal:
    """What a payment does not pay of its invoice any more (USD)."""
    rows = InvoiceReopening.objects.filter(top_up=top_up).values_list("amount", "returned")
    return total([ZERO, *(EXACT.subtract(amount, returned) for amount, returned in rows)])


def _uncovered(invoice: Invoice) -> Decimal:
    """What is neither paid, credited nor due of an invoice (USD): written off; below zero, what was paid too much."""
    paid = [
        EXACT.subtract(paid_of_invoice(payment), _gone(payment))
        for payment in TopUp.objects.filter(invoice=invoice, status=TopUp.Status.PAID)
    ]
    credited = invoice.credit_notes.aggregate(sum=Sum("total"))["sum"] or ZERO
    return EXACT.subtract(invoice.total, total([invoice.paid_by_credit, invoice.amount_due, credited, *paid]))


def _tell(invoice: Invoice, row: InvoiceReopening, because: str, *, at: datetime) -> None:
    assert invoice.due_on is not None
    notices.announce(
        customer_id=invoice.customer_id,
        kind=INVOICE_DUE_AGAIN,
        key=f"{invoice.public_id}:{row.transfer_id}",
        data={
            "invoice": invoice.public_id,
            "number": invoice.number,
            "top_up": row.top_up.public_id,
            "amount": cents_text(row.due),
            "amount_due": cents_text(invoice.amount_due),
            "due_on": invoice.due_on.isoformat(),
            "because": because,
        },
        at=at,
    )


def pay_again(
    top_up: TopUp,
    *,
    wallet: ledger.LockedWallet,
    amount: Decimal,
    source: Account,
    key: str,
    reason: str,
    actor: str = "",
    at: datetime,
) -> Decimal:
    """Let money of a payment that came back (USD, on this account) pay its invoice again; returns what it paid.

    The rest is the caller's to give back: credit, which stands where credit had paid the invoice meanwhile.
    """
    rows = [row for row in InvoiceReopening.objects.filter(top_up=top_up).order_by("pk") if row.returned < row.amount]
    if not rows:
        return ZERO
    invoice = Invoice.objects.get(pk=rows[0].invoice_id)
    back = min(amount, _gone(top_up))
    due = min(back, invoice.amount_due) if invoice.status in open_invoices.OPEN else ZERO
    due = due.quantize(CENT, context=_DOWN)
    covered = receivables.cover(wallet, invoice, due, source=source, key=key, reason=reason, actor=actor, at=at)
    by_credit = ZERO if invoice.status == Status.VOID else min(EXACT.subtract(back, due), invoice.paid_by_credit)
    invoice.paid_by_credit = EXACT.subtract(invoice.paid_by_credit, by_credit)
    open_invoices.settle(invoice, due, at=at)
    rest = EXACT.add(due, by_credit)
    for row in rows:
        part = min(rest, EXACT.subtract(row.amount, row.returned))
        row.returned, rest = EXACT.add(row.returned, part), EXACT.subtract(rest, part)
        row.save(update_fields=["returned"])
    receivables.end_suspension(wallet.customer_id, at=at)
    return covered
