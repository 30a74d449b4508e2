"""Credit notes of usage that was put right: they document money that adjustments have moved, and post tax and rounding.

The document of the period in which the adjustments are booked shows their lines, and beside them the same amount the
other way round, "documented by credit note": its subtotal is not lowered a second time. Of a prepaid customer's
statement nothing is posted: the credit is back, and its tax was that of the top-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from billing import credit_notes, invoicing, ledger, receivables
from billing.credit_notes import InvalidCreditNote, left_of, tax_of
from billing.models import BillingProfile, CreditNote, CreditNoteLine, Invoice
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, amount_text, to_cents, total


@dataclass(frozen=True, slots=True)
class Part:
    """A line of such a note: quantity × unit price ÷ per = amount (USD); above zero as charged, below as rated again.

    `invoice_line` is the row of the invoice that it puts right, for there the parts' sum is taken back.
    """

    invoice_line: int
    description: str
    model: str
    meter: str
    quantity: Decimal
    unit_price: Decimal
    per: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """What a note would say (USD): whole cents."""

    subtotal: Decimal
    tax: Decimal

    @property
    def total(self) -> Decimal:
        return EXACT.add(self.subtotal, self.tax)


def quote(invoice: Invoice, exact: Decimal) -> Quote:
    """What a note of so much usage (USD) less on an invoice would say. Raises InvalidCreditNote: it can't be."""
    if invoice.status in {Invoice.Status.DRAFT, Invoice.Status.VOID}:
        raise InvalidCreditNote("invoice", f"it is {invoice.status}")
    subtotal, left = to_cents(exact), left_of(invoice)
    if subtotal <= 0:
        raise InvalidCreditNote("lines", "it is not lowered by a cent")
    if subtotal > left.subtotal:
        raise InvalidCreditNote("lines", f"only {amount_text(max(ZERO, left.subtotal))} USD of it are left")
    return Quote(subtotal, tax_of(invoice, subtotal, left))


def issue(
    *,
    invoice: Invoice,
    wallet: ledger.LockedWallet,
    parts: Sequence[Part],
    booked: date,
    source: str,
    key: str,
    reason: str,
    actor: str,
    at: datetime,
) -> CreditNote:
    """Issue a note of usage that adjustments, booked in an open period, have lowered on a locked wallet.

    `source` says what made it, `key` makes it once for the customer. In the caller's transaction. Raises
    InvalidCreditNote, and IntegrityError for a key that was used.
    """
    assert wallet.closed_through is None or booked > wallet.closed_through, "its document is issued"
    exact = total([part.amount for part in parts])
    quoted = quote(invoice, exact)
    _check_left(invoice, parts)
    note = CreditNote(
        customer_id=invoice.customer_id,
        invoice=invoice,
        key=key,
        reason=reason,
        actor=actor[:150],
        issued_at=at,
        subtotal=quoted.subtotal,
        tax=quoted.tax,
        total=quoted.total,
        documented=exact,
        booked_period=booked,
        source=source,
    )
    if invoice.terms == BillingProfile.Terms.ON_ACCOUNT:
        note.transfer_id = receivables.take_back(note, invoice, wallet, ZERO, at=at)
    credit_notes.save_numbered(note, invoice, at=at)
    CreditNoteLine.objects.bulk_create(
        CreditNoteLine(
            credit_note=note,
            position=position,
            invoice_line_id=part.invoice_line,
            description=part.description,
            model=part.model,
            meter=part.meter,
            quantity=part.quantity,
            unit_price=part.unit_price,
            per=part.per,
            amount=part.amount,
        )
        for position, part in enumerate(parts, start=1)
    )
    return note


def _check_left(invoice: Invoice, parts: Sequence[Part]) -> None:
    left = left_of(invoice).lines
    for line in {part.invoice_line for part in parts}:
        taken = total([part.amount for part in parts if part.invoice_line == line])
        if taken > max(ZERO, left[line]):
            raise InvalidCreditNote("lines", f"of a line {amount_text(max(ZERO, left[line]))} USD are left")


_DOCUMENTED = """
SELECT n.number, n.documented, i.period FROM billing_creditnote n JOIN billing_invoice i ON i.id = n.invoice_id
WHERE n.customer_id = %(customer)s AND n.booked_period > coalesce(%(after)s::date, '-infinity')
    AND n.booked_period <= %(through)s::date
ORDER BY n.id"""


def documented(customer_id: int, *, after: date | None, through: date) -> list[invoicing.Line]:
    """What notes document of adjustments booked in the periods after one, up to another: a line for each note."""
    with server_cursor() as cursor:
        cursor.execute(_DOCUMENTED, {"customer": customer_id, "after": after, "through": through})
        rows = cursor.fetchall()
    return [
        invoicing.Line(
            usage_period=period,
            description=f"Documented by credit note {number}",
            model="",
            meter="",
            quantity=Decimal(1),
            unit_price=exact,
            per=1,
            note=number,
        )
        for number, exact, period in rows
    ]
