"""Credit notes, what waits for a second person, and the form that takes lines of an invoice back."""

import secrets
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.validators import RegexValidator
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from billing import credit_notes, documents, manual
from billing.admin import html
from billing.admin.account_actions import person_of, sentence
from billing.admin.base import Figure, Panel, Question, ReadOnlyAdmin, see_other
from billing.admin.filters import CustomerFilter
from billing.admin.ledger import CustomerColumn
from billing.models import CreditNote, CreditNoteLine, CreditNoteRequest, Invoice
from relayadmin.files import pdf_response
from relayadmin.money import InvalidAmount, amount_text, cents_text, parse_amount

Asked = CreditNoteRequest.Status
TONES = {Asked.PENDING.label: "warning", Asked.ISSUED.label: "success", Asked.REJECTED.label: ""}


class VoidForm(forms.Form):
    """`key` is made when the form is shown, so a double click or a reload does its work once."""

    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="Stands on the credit note, for the customer."
    )
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])

    @classmethod
    def fresh(cls) -> "VoidForm":
        return cls(initial={"key": secrets.token_urlsafe(24)})


class CreditForm(VoidForm):
    lines = forms.CharField(
        label="Lines to take back",
        max_length=20_000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 6, "placeholder": "1\n3 2.50"}),
        help_text="One a row: the line's number, and how much of it (USD); without an amount, all that is left of it.",
    )
    field_order = ("lines", "reason", "key")

    def parts(self, invoice: Invoice) -> dict[int, Decimal]:
        """What the valid form takes back, by line. Raises credit_notes.InvalidCreditNote."""
        numbers = {str(line.position): line.pk for line in invoice.lines.all()}
        left = credit_notes.left_of(invoice).lines
        parts: dict[int, Decimal] = {}
        for row in self.cleaned_data["lines"].splitlines():
            position, _, amount = row.strip().partition(" ")
            if not position:
                continue
            line = numbers.get(position)
            if line is None or line in parts:
                raise credit_notes.InvalidCreditNote("lines", f"{position[:20]} is no line of it, or stands here twice")
            try:
                parts[line] = parse_amount(amount.strip()) if amount.strip() else left[line]
            except InvalidAmount as error:
                raise credit_notes.InvalidCreditNote("lines", f"line {position}: {error}") from error
        return parts


def lines_left(invoice: Invoice) -> Panel:
    """What is left of each line of an invoice, to choose from."""
    left, back = credit_notes.left_of(invoice), credit_notes.back_already(invoice)
    note = f"With the tax on it, {cents_text(left.total)} USD are left to take back."
    if back:
        note += f" Of its usage {amount_text(back)} USD are back already: it was rated again since."
    return Panel(
        title="Lines of the invoice",
        headers=("No.", "Description", "Amount", "Left"),
        rows=[
            (line.position, line.description, html.amount(line.amount), html.amount(left.lines[line.pk]))
            for line in invoice.lines.order_by("position")
        ],
        numbers=frozenset({2, 3}),
        total=("", "Subtotal", html.amount(invoice.subtotal), html.amount(left.subtotal)),
        note=note,
    )


def ask(request: HttpRequest, invoice: Invoice, form: VoidForm) -> str:
    """Do what a valid form asks for; what to say, or nothing where the form says why not."""
    try:
        row = credit_notes.ask(
            invoice_id=invoice.pk,
            parts=form.parts(invoice) if isinstance(form, CreditForm) else None,
            reason=form.cleaned_data["reason"],
            key=f"admin:{form.cleaned_data['key']}",
            person=person_of(request),
            at=timezone.now(),
        )
    except credit_notes.InvalidCreditNote as error:
        form.add_error(error.field if error.field in form.fields else None, sentence(error))
    except credit_notes.CreditNoteKeyConflict:
        form.add_error(None, "This form has done something else before. Open it anew from the invoice's page.")
    else:
        return told(row)
    return ""


def told(row: CreditNoteRequest) -> str:
    """What became of a credit note, for the operator."""
    if row.status == Asked.PENDING:
        return f"A credit note of {cents_text(row.total)} USD waits for a second person to approve it."
    if row.credit_note is None:
        return "Nothing is taken back."
    invoice = row.credit_note.invoice
    return f"{row.credit_note.number} takes back {cents_text(row.credit_note.total)} USD of {invoice.number}."


@admin.register(CreditNote)
class CreditNoteAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No credit note yet: “Credit…” on an invoice's page takes lines of it back."
    actions_detail: Any = ("open_pdf",)
    list_display = ("number", "customer_link", "invoice_link", "total_amount", "reason", "issued_at")
    list_filter = (CustomerFilter,)
    list_select_related = ("customer", "invoice")
    search_fields = ("number__istartswith", "public_id__exact", "invoice__number__iexact", "customer__name")
    search_help_text = "Number, cn_… id, the invoice's number or the customer's name"
    sortable_by = ()
    fields = (
        ("number", "public_id"),
        ("customer_link", "invoice_link"),
        "reason",
        ("actor", "issued_at"),
        ("source", "booked_period"),
    )

    def has_read_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.view_creditnote")

    @action(description="PDF", url_path="pdf", icon="picture_as_pdf", permissions=["read"])
    def open_pdf(self, request: HttpRequest, object_id: str) -> HttpResponse:
        note = self.get_object(request, object_id)
        if note is None:
            messages.error(request, "There is no such credit note.")
            return see_other(html.list_url(CreditNote))
        return pdf_response(documents.credit_note_pdf(note), note.number)

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return [
            Figure("Subtotal", cents_text(obj.subtotal), "USD"),
            Figure("Tax", cents_text(obj.tax), "USD"),
            Figure("Total", cents_text(obj.total), "USD, taken back"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [
            Panel(
                title="Lines",
                headers=("No.", "Line of the invoice", "Quantity", "Unit price", "Taken back"),
                rows=[
                    (
                        line.position,
                        line.description,
                        html.quantity(line.quantity),
                        html.unit_price(line.unit_price, line.per),
                        html.amount(line.amount),
                    )
                    for line in obj.lines.order_by("position")
                ],
                numbers=frozenset({2, 3, 4}),
                total=("", "Subtotal, to the cent", "", "", html.amount(obj.subtotal)),
            )
        ]

    @display(description="Invoice")
    def invoice_link(self, obj: CreditNote) -> str:
        return html.link(html.object_url(Invoice, obj.invoice_id), obj.invoice.number)

    @display(description="Total")
    def total_amount(self, obj: CreditNote) -> str:
        return html.amount(obj.total)


@admin.register(CreditNoteLine)
class CreditNoteLineAdmin(ReadOnlyAdmin):
    list_display = ("credit_note_link", "position", "description", "line_amount")
    list_select_related = ("credit_note",)
    ordering = ("-credit_note_id", "position")
    search_fields = ("credit_note__number__iexact", "credit_note__invoice__number__iexact")
    search_help_text = "Number of the credit note or of its invoice"
    fields = ("credit_note_link", "position", "description", "line_amount")
    sortable_by = ()

    @display(description="Credit note")
    def credit_note_link(self, obj: CreditNoteLine) -> str:
        return html.link(html.object_url(CreditNote, obj.credit_note_id), obj.credit_note.number)

    @display(description="Taken back")
    def line_amount(self, obj: CreditNoteLine) -> str:
        return html.amount(obj.amount)


@admin.register(CreditNoteRequest)
class CreditNoteRequestAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Nobody has asked for a credit note yet."
    actions_detail: Any = ("approve", "reject")
    list_display = ("invoice_link", "customer_link", "status_badge", "total_amount", "reason", "asked_by", "asked_at")
    list_filter = ("status", CustomerFilter)
    list_select_related = ("customer", "invoice")
    search_fields = ("invoice__number__iexact", "customer__name", "customer__public_id__exact")
    search_help_text = "The invoice's number, the customer's name or cus_… id"
    sortable_by = ()
    fields = (
        ("invoice_link", "customer_link"),
        ("status_badge", "total_amount"),
        "what",
        "reason",
        ("asked_by", "asked_at"),
        ("decided_by", "decided_at"),
    )

    def has_decide_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.credit_invoice")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        row = self.get_object(request, str(object_id))
        if row is None or row.status != Asked.PENDING:
            return []
        is_own = row.asked_by_user_id is not None and row.asked_by_user_id == request.user.pk
        return [one for one in shown if not (is_own and one.action_name.endswith("_approve"))]

    @action(description="Approve", url_path="approve", icon="check", permissions=["decide"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, "Approve", is_approved=True)

    @action(description="Reject", url_path="reject", icon="close", permissions=["decide"])
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, "Reject", is_approved=False)

    def _decide(self, request: HttpRequest, object_id: str, word: str, *, is_approved: bool) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such request.")
            return see_other(html.list_url(CreditNoteRequest))
        url = html.object_url(CreditNoteRequest, row.pk)
        if request.method != "POST":
            return self.ask(
                request,
                Question(
                    title=f"{word} {cents_text(row.total)} USD of {row.invoice.number}?",
                    text=f"Asked for by {row.asked_by}: {row.reason}",
                    button=word,
                    back=url,
                    is_dangerous=is_approved,
                ),
            )
        try:
            if is_approved:
                row = credit_notes.approve(request_id=row.pk, person=person_of(request), at=timezone.now())
            else:
                row = credit_notes.reject(request_id=row.pk, person=person_of(request), at=timezone.now())
            messages.success(request, told(row))
        except manual.AlreadyDecided:
            messages.error(request, "Somebody has decided on it before.")
        except (manual.SamePerson, credit_notes.InvalidCreditNote) as error:
            messages.error(request, sentence(error))
        return see_other(url)

    @display(description="Invoice")
    def invoice_link(self, obj: CreditNoteRequest) -> str:
        return html.link(html.object_url(Invoice, obj.invoice_id), obj.invoice.number)

    @display(description="Status", label=TONES)
    def status_badge(self, obj: CreditNoteRequest) -> str:
        return str(obj.get_status_display())

    @display(description="Total (USD)")
    def total_amount(self, obj: CreditNoteRequest) -> str:
        return html.amount(obj.total)

    @display(description="What")
    def what(self, obj: CreditNoteRequest) -> str:
        if obj.parts is None:
            return "All that is left: the invoice is void then"
        places = dict(obj.invoice.lines.filter(pk__in=obj.parts).values_list("pk", "position"))
        rows = sorted((places.get(int(line), 0), amount_text(parse_amount(part))) for line, part in obj.parts.items())
        return ", ".join(f"{part} of line {place}" for place, part in rows)
