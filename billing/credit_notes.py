"""Credit notes: documents that take back lines of an issued invoice, or all that is left of it, with its tax.

Of customers on account only: what is taken back goes to the wallet, where it lowers what is due first, and what was
paid becomes credit, gifts as the gifts that they were (billing.gift_returns). Prepaid usage has no tax invoice to
correct: its re-rating puts the money back, and stands on the next statement, or in a note of its own
(billing.correction_notes). A large one waits for a second person, and so do small ones of an invoice that together are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db.models import Sum

from billing import ledger, notices, receivables
from billing.invoicing import next_number
from billing.manual import AlreadyDecided, Person, SamePerson, needs_second_person
from billing.models import (
    BillingProfile,
    CreditNote,
    CreditNoteLine,
    CreditNoteRequest,
    Invoice,
    InvoiceLine,
)
from billing.notice_kinds import CREDIT_NOTE_ISSUED
from billing.taxes import share
from relayadmin.db import in_transaction
from relayadmin.money import EXACT, ZERO, amount_text, cents_text, has_decimals, parse_amount, to_cents, total

SERIES = "CN"
# By how much less (USD) an invoice's usage counts since it was issued, on no credit note of it: who rates it knows.
lowered_since: list[Callable[[Invoice], Decimal]] = []
Status = Invoice.Status
Asked = CreditNoteRequest.Status


class InvalidCreditNote(ValueError):
    """A credit note that can't be made; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class CreditNoteKeyConflict(Exception):
    """The key was used for another credit note."""


class UnknownRequest(LookupError):
    """There is no such request."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of an invoice: by line, of its subtotal and of its tax (USD)."""

    lines: Mapping[int, Decimal]
    subtotal: Decimal
    tax: Decimal

    @property
    def total(self) -> Decimal:
        return EXACT.add(self.subtotal, self.tax)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be taken back: by line, and what that makes of the subtotal and the tax (USD)."""

    parts: Mapping[int, Decimal]
    subtotal: Decimal
    tax: Decimal
    is_all: bool

    @property
    def total(self) -> Decimal:
        return EXACT.add(self.subtotal, self.tax)


def left_of(invoice: Invoice) -> Left:
    """What no credit note has taken back of an invoice; of lines that take something back themselves, below zero."""
    taken = dict(
        CreditNoteLine.objects.filter(credit_note__invoice=invoice)
        .values_list("invoice_line")
        .annotate(sum=Sum("amount"))
        .values_list("invoice_line", "sum")
    )
    before = CreditNote.objects.filter(invoice=invoice).aggregate(subtotal=Sum("subtotal"), tax=Sum("tax"))
    return Left(
        {line.pk: EXACT.subtract(line.amount, taken.get(line.pk, ZERO)) for line in invoice.lines.all()},
        EXACT.subtract(invoice.subtotal, before["subtotal"] or ZERO),
        EXACT.subtract(invoice.tax, before["tax"] or ZERO),
    )


def back_already(invoice: Invoice) -> Decimal:
    """What of an invoice's usage (USD) adjustments have put back: it stands on another document of the customer's."""
    return max(ZERO, total([ZERO, *(lowered(invoice) for lowered in lowered_since)]))


def tax_of(invoice: Invoice, subtotal: Decimal, left: Left) -> Decimal:
    """The tax (USD) that goes back with a part of an invoice's subtotal: its share, and with the last part the rest."""
    if subtotal == left.subtotal:
        return left.tax
    return min(left.tax, share(invoice.tax, subtotal, invoice.subtotal))


def ask(
    *,
    invoice_id: int,
    parts: Mapping[int, Decimal] | None,
    reason: str,
    key: str,
    person: Person,
    at: datetime,
) -> CreditNoteRequest:
    """Take back parts (USD) of an invoice's lines, by their numbers, or void it (None: all that is left); once per key.

    At once, or after a second person's look if it is large, together with what was taken back of the invoice without
    one before; the answer's `credit_note` is what was issued. Raises InvalidCreditNote, CreditNoteKeyConflict.
    """
    _check_texts(reason, key)

    def work() -> CreditNoteRequest:
        invoice, wallet = _lock(invoice_id)
        told = None if parts is None else {str(line): amount_text(part) for line, part in sorted(parts.items())}
        before = CreditNoteRequest.objects.filter(customer_id=invoice.customer_id, key=key).first()
        if before is not None:
            if (before.invoice_id, before.parts) != (invoice.pk, told):
                raise CreditNoteKeyConflict(f"the key {key!r} was used for another credit note; choose another key")
            return before
        wanted = _wanted(invoice, parts)
        row = CreditNoteRequest.objects.create(
            customer_id=invoice.customer_id,
            invoice=invoice,
            parts=told,
            total=wanted.total,
            reason=reason.strip(),
            key=key,
            needs_second_person=needs_second_person(EXACT.add(wanted.total, _issued_alone(invoice))),
            asked_by=person.name,
            asked_by_user_id=person.user_id,
            asked_at=at,
        )
        if not row.needs_second_person:
            _issue(row, invoice, wallet, wanted, person, at=at)
        return row

    return in_transaction(work)


def approve(*, request_id: int, person: Person, at: datetime) -> CreditNoteRequest:
    """Issue what waits, as somebody else than who asked for it.

    Raises UnknownRequest, AlreadyDecided, SamePerson, InvalidCreditNote (it goes on waiting then).
    """

    def work() -> CreditNoteRequest:
        row, invoice, wallet = _lock_request(request_id)
        if row.asked_by_user_id is not None and row.asked_by_user_id == person.user_id:
            raise SamePerson("a second person has to approve it")
        parts = None if row.parts is None else {int(line): parse_amount(part) for line, part in row.parts.items()}
        _issue(row, invoice, wallet, _wanted(invoice, parts), person, at=at)
        return row

    return in_transaction(work)


def reject(*, request_id: int, person: Person, at: datetime) -> CreditNoteRequest:
    """Strike what waits, whatever has become of its invoice meanwhile. Raises UnknownRequest, AlreadyDecided."""

    def work() -> CreditNoteRequest:
        customer_id = CreditNoteRequest.objects.filter(pk=request_id).values_list("customer_id", flat=True).first()
        if customer_id is None:
            raise UnknownRequest("there is no such request")
        ledger.lock_wallets([customer_id])
        row = _pending(request_id)
        row.status, row.decided_by, row.decided_by_user_id = Asked.REJECTED, person.name, person.user_id
        row.decided_at = at
        row.save()
        return row

    return in_transaction(work)


def _lock(invoice_id: int) -> tuple[Invoice, ledger.LockedWallet]:
    """An invoice as it is under its wallet's lock, if it can be credited."""
    customer_id = Invoice.objects.values_list("customer_id", flat=True).get(pk=invoice_id)
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    invoice = Invoice.objects.get(pk=invoice_id)
    if invoice.terms != BillingProfile.Terms.ON_ACCOUNT:
        raise InvalidCreditNote("invoice", "a usage statement is put right by rating its usage again")
    if invoice.status in {Status.DRAFT, Status.VOID}:
        raise InvalidCreditNote("invoice", f"it is {invoice.status}: nothing of it is left to credit")
    return invoice, wallet


def _lock_request(request_id: int) -> tuple[CreditNoteRequest, Invoice, ledger.LockedWallet]:
    invoice_id = CreditNoteRequest.objects.filter(pk=request_id).values_list("invoice_id", flat=True).first()
    if invoice_id is None:
        raise UnknownRequest("there is no such request")
    invoice, wallet = _lock(invoice_id)
    return _pending(request_id), invoice, wallet


def _pending(request_id: int) -> CreditNoteRequest:
    """A request that waits, of a customer whose wallet is locked."""
    row = CreditNoteRequest.objects.get(pk=request_id)
    if row.status != Asked.PENDING:
        raise AlreadyDecided(row.status)
    return row


def _issued_alone(invoice: Invoice) -> Decimal:
    """What was taken back of an invoice (USD) without a second person's look."""
    alone = CreditNoteRequest.objects.filter(invoice=invoice, status=Asked.ISSUED, needs_second_person=False)
    return alone.aggregate(sum=Sum("credit_note__total"))["sum"] or ZERO


def _wanted(invoice: Invoice, parts: Mapping[int, Decimal] | None) -> _Wanted:
    """Judge parts by what is left of an invoice whose wallet is locked."""
    left = left_of(invoice)
    if parts is None:
        rest = {line: part for line, part in left.lines.items() if part}
        if not rest and not left.total:
            raise InvalidCreditNote("invoice", "nothing of it is left to credit")
        _check_usage("invoice", invoice, rest, left)
        return _Wanted(rest, left.subtotal, left.tax, is_all=True)
    wanted = {line: part for line, part in parts.items() if part}
    for line, part in wanted.items():
        if line not in left.lines:
            raise InvalidCreditNote("lines", "there is no such line on the invoice")
        if not part.is_finite() or part < 0 or not has_decimals(part, 15):
            raise InvalidCreditNote("lines", "the part of a line must be above zero, with at most 15 decimals")
        if part > left.lines[line]:
            raise InvalidCreditNote("lines", f"of the line {amount_text(max(ZERO, left.lines[line]))} USD are left")
    _check_usage("lines", invoice, wanted, left)
    subtotal = to_cents(total(list(wanted.values())))
    if not wanted or not subtotal:
        raise InvalidCreditNote("lines", "a credit note must take back a cent at least")
    if subtotal > left.subtotal:
        raise InvalidCreditNote("lines", f"only {amount_text(left.subtotal)} USD of the invoice are left")
    return _Wanted(wanted, subtotal, tax_of(invoice, subtotal, left), is_all=False)


def _check_usage(field: str, invoice: Invoice, parts: Mapping[int, Decimal], left: Left) -> None:
    """Refuse usage that is back already: it was put right since, and stands on another document."""
    back = back_already(invoice)
    if not back:
        return
    usage = set(invoice.lines.filter(quantity__isnull=False).values_list("pk", flat=True))
    most = EXACT.subtract(total([ZERO, *(left.lines[line] for line in usage)]), back)
    if total([ZERO, *(part for line, part in parts.items() if line in usage)]) > most:
        raise InvalidCreditNote(
            field,
            f"{amount_text(back)} USD of its usage are back already, rated again since it was issued, and stand on"
            f" another document: of its usage {amount_text(max(ZERO, most))} USD at most can be credited",
        )


def _issue(
    row: CreditNoteRequest,
    invoice: Invoice,
    wallet: ledger.LockedWallet,
    wanted: _Wanted,
    person: Person,
    *,
    at: datetime,
) -> None:
    lines = {line.pk: line for line in invoice.lines.filter(pk__in=wanted.parts)}
    usage = total([ZERO, *(part for line, part in wanted.parts.items() if lines[line].quantity is not None)])
    note = CreditNote(
        customer_id=invoice.customer_id,
        invoice=invoice,
        key=row.key,
        reason=row.reason,
        actor=(row.asked_by if row.asked_by == person.name else f"{row.asked_by} and {person.name}")[:150],
        issued_at=at,
        subtotal=wanted.subtotal,
        tax=wanted.tax,
        total=wanted.total,
    )
    if wanted.is_all:
        invoice.status, invoice.voided_at = Status.VOID, at
        invoice.voided_by, invoice.voided_because = note.actor, row.reason
        invoice.save(update_fields=["status", "voided_at", "voided_by", "voided_because"])
    note.transfer_id = receivables.take_back(note, invoice, wallet, usage, at=at)
    save_numbered(note, invoice, at=at)
    CreditNoteLine.objects.bulk_create(
        _line(note, position, lines[line], part)
        for position, (line, part) in enumerate(
            sorted(wanted.parts.items(), key=lambda item: lines[item[0]].position), start=1
        )
    )
    row.credit_note, row.status, row.decided_at = note, Asked.ISSUED, at
    row.decided_by, row.decided_by_user_id = person.name, person.user_id
    row.save()


def save_numbered(note: CreditNote, invoice: Invoice, *, at: datetime) -> None:
    """Give a note its number, save it and tell its customer; what is due on its invoice is lowered by now.

    Its series is locked from here to the commit, so that no number is lost.
    """
    note.series, note.year = SERIES, at.astimezone(ZoneInfo(invoice.timezone)).year
    note.sequence = next_number(note.series, note.year)
    note.number = f"{note.series}-{note.year}-{note.sequence:06d}"
    note.save(force_insert=True)
    notices.announce(
        customer_id=note.customer_id,
        kind=CREDIT_NOTE_ISSUED,
        key=note.public_id,
        data={
            "credit_note": note.public_id,
            "number": note.number,
            "invoice": invoice.public_id,
            "invoice_number": invoice.number,
            "total": cents_text(note.total),
            "amount_due": cents_text(invoice.amount_due),
            "reason": note.reason,
        },
        at=at,
    )


def _line(note: CreditNote, position: int, line: InvoiceLine, part: Decimal) -> CreditNoteLine:
    is_whole = part == line.amount
    return CreditNoteLine(
        credit_note=note,
        position=position,
        invoice_line=line,
        description=line.description,
        quantity=line.quantity if is_whole else None,
        unit_price=line.unit_price if is_whole else None,
        per=line.per if is_whole else None,
        amount=part,
    )


def _check_texts(reason: str, key: str) -> None:
    for name, text, longest in (("reason", reason, 500), ("key", key, 255)):
        if not text.strip() or len(text) > longest or "\x00" in text:
            raise InvalidCreditNote(name, f"{name} must have 1 to {longest} characters, and no NUL")
