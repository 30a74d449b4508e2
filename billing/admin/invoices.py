"""Invoices: frozen documents, to look at."""

from dataclasses import replace
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import documents, exports, manual, receivables, received
from billing.accounts import AccountClosed
from billing.admin import html, invoice_panels
from billing.admin.base import Figure, Panel, ReadOnlyAdmin, see_other
from billing.admin.credit_notes import CreditForm, VoidForm, lines_left
from billing.admin.credit_notes import ask as ask_credit_note
from billing.admin.filters import CustomerFilter, DaysFilter, PeriodFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.payment_forms import ReceivedForm, received_text
from billing.models import BillingProfile, Invoice, InvoiceLine, InvoiceSeries
from relayadmin.files import csv_response, pdf_response
from relayadmin.money import amount_text, cents_text


def _recorded(request: HttpRequest, invoice: Invoice, form: ReceivedForm) -> str:
    """Record what a valid form tells, for an invoice; what to say, or nothing where the form says why not."""
    payment = replace(form.payment(), invoice_id=invoice.pk)
    person = manual.Person(request.user.pk, request.user.get_username())
    try:
        return received_text(
            received.record(customer_id=invoice.customer_id, payment=payment, person=person, at=timezone.now())
        )
    except received.InvalidPayment as error:
        form.add_error(error.field if error.field in form.fields else None, f"{error}.")
    except (received.RecordedBefore, AccountClosed) as error:
        form.add_error("reference", f"{error}.")
    return ""


INVOICE_TONES = {"draft": "", "issued": "info", "paid": "success", "overdue": "danger", "void": "warning"}


@admin.register(Invoice)
class InvoiceAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No invoice yet; the first are issued when a month with usage has ended."
    actions_detail: Any = ("open_pdf", "lines_csv", "record_payment", "credit", "void")
    list_display = (
        "number",
        "customer_link",
        "month",
        "status_badge",
        "subtotal_amount",
        "tax_amount",
        "total_amount",
        "due_amount",
        "issued_at",
    )
    list_filter = ("status", CustomerFilter, PeriodFilter, ("issued_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = (
        "number__istartswith",
        "public_id__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "Invoice number, inv_… id, customer's name or cus_… id"
    fields = (
        ("number", "public_id"),
        ("customer_link", "status_badge"),
        ("period", "issued_at"),
        ("period_start", "period_end", "timezone"),
        ("supplier", "customer_then"),
        ("terms_text", "order_reference"),
        ("language", "paper"),
        ("due_on", "paid_at"),
    )

    def has_read_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.view_invoice")

    @action(description="PDF", url_path="pdf", icon="picture_as_pdf", permissions=["read"])
    def open_pdf(self, request: HttpRequest, object_id: str) -> HttpResponse:
        invoice = self.get_object(request, object_id)
        if invoice is None:
            return self.not_there(request)
        return pdf_response(documents.invoice_pdf(invoice), invoice.number)

    @action(description="CSV of lines", url_path="lines-csv", icon="table", permissions=["read"])
    def lines_csv(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        invoice = self.get_object(request, object_id)
        if invoice is None:
            return self.not_there(request)
        return csv_response(exports.invoice_lines(invoice), invoice.number)

    def not_there(self, request: HttpRequest) -> HttpResponse:
        messages.error(request, "There is no such invoice.")
        return see_other(html.list_url(Invoice))

    def has_record_payment_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.record_payment")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        invoice = self.get_object(request, str(object_id))
        if invoice is None:
            return []
        hidden = set() if invoice.status in receivables.OPEN else {"record_payment"}
        is_over = invoice.status in {Invoice.Status.DRAFT, Invoice.Status.VOID}
        if is_over or invoice.terms != BillingProfile.Terms.ON_ACCOUNT:
            hidden |= {"credit", "void"}
        return [one for one in shown if one.action_name not in {f"billing_invoice_{name}" for name in hidden}]

    def has_credit_invoice_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.credit_invoice")

    @action(description="Credit…", url_path="credit", icon="undo", permissions=["credit_invoice"])
    def credit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._take_back(
            request,
            object_id,
            CreditForm,
            "Credit",
            "Takes lines back, with tax in proportion, by a credit note with a number of its own. It lowers what is"
            " due; what was paid becomes credit.",
        )

    @action(description="Void…", url_path="void", icon="block", permissions=["credit_invoice"])
    def void(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._take_back(
            request,
            object_id,
            VoidForm,
            "Void",
            "Takes back all that is left of it, by a credit note; it is void then.",
        )

    def _take_back(
        self, request: HttpRequest, object_id: str, kind: type[VoidForm], word: str, text: str
    ) -> HttpResponse:
        invoice = self.get_object(request, object_id)
        if invoice is None:
            messages.error(request, "There is no such invoice.")
            return see_other(html.list_url(Invoice))
        back = html.object_url(Invoice, invoice.pk)
        form = kind(request.POST) if request.method == "POST" else kind.fresh()
        if form.is_valid() and (said := ask_credit_note(request, invoice, form)):
            messages.success(request, said)
            return see_other(back)
        return self.ask_form(
            request,
            form,
            title=f"{word} {invoice.number}",
            button=word,
            back=back,
            text=text,
            figures=self.figures(request, invoice)[:5],
            is_dangerous=True,
            panels=[lines_left(invoice)],
        )

    @action(description="Record a payment…", url_path="record-payment", icon="payments", permissions=["record_payment"])
    def record_payment(self, request: HttpRequest, object_id: str) -> HttpResponse:
        invoice = self.get_object(request, object_id)
        if invoice is None or invoice.status not in receivables.OPEN:
            messages.error(request, "Nothing is due on it.")
            return see_other(html.list_url(Invoice))
        back = html.object_url(Invoice, invoice.pk)
        asked = request.POST if request.method == "POST" else None
        form = ReceivedForm(asked, initial={"pay_amount": cents_text(invoice.amount_due), "currency": "USD"})
        if form.is_valid() and (said := _recorded(request, invoice, form)):
            messages.success(request, said)
            return see_other(back)
        return self.ask_form(
            request,
            form,
            title=f"Record a payment of {invoice.number}",
            button="Record",
            back=back,
            text=f"{cents_text(invoice.amount_due)} USD are due. A bank transfer or cash that is there, once for each"
            " reference; what is more than due is recorded as credit, on the customer's page.",
            figures=self.figures(request, invoice),
        )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        due = f"until {obj.due_on}" if obj.due_on else obj.currency
        return [
            Figure("Subtotal", cents_text(obj.subtotal), f"{amount_text(obj.exact_total)} before rounding"),
            Figure("Tax", cents_text(obj.tax), obj.currency),
            Figure("Total", cents_text(obj.total), obj.currency),
            Figure("Paid by credit", cents_text(obj.paid_by_credit), obj.currency),
            Figure("Amount due", cents_text(obj.amount_due), due, tone="warning" if obj.amount_due else ""),
            Figure("Saved through caching", amount_text(obj.savings), "against the same tokens as plain input"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [*invoice_panels.panels(obj), *invoice_panels.payments(obj), *invoice_panels.credit_notes(obj)]

    @display(description="Period", ordering="period")
    def month(self, obj: Invoice) -> str:
        return f"{obj.period:%Y-%m}"

    @display(description="Supplier, as it was")
    def supplier(self, obj: Invoice) -> str:
        return html.lines(
            obj.supplier_name or html.NOTHING,
            *obj.supplier_address.splitlines(),
            obj.supplier_tax_number,
            obj.supplier_email,
        )

    @display(description="Customer, as it was")
    def customer_then(self, obj: Invoice) -> str:
        return html.lines(
            obj.customer_name,
            *obj.customer_address.splitlines(),
            obj.customer_country,
            obj.customer_tax_number,
            obj.customer_email,
        )

    @display(description="Terms")
    def terms_text(self, obj: Invoice) -> str:
        return dict(BillingProfile.Terms.choices).get(obj.terms, obj.terms)

    @display(description="Status", label=INVOICE_TONES)
    def status_badge(self, obj: Invoice) -> str:
        return obj.status

    @display(description="Subtotal", ordering="subtotal")
    def subtotal_amount(self, obj: Invoice) -> str:
        return html.number(cents_text(obj.subtotal))

    @display(description="Tax", ordering="tax")
    def tax_amount(self, obj: Invoice) -> str:
        return html.number(cents_text(obj.tax))

    @display(description="Total", ordering="total")
    def total_amount(self, obj: Invoice) -> str:
        return html.number(cents_text(obj.total))

    @display(description="Due", ordering="amount_due")
    def due_amount(self, obj: Invoice) -> str:
        return html.number(cents_text(obj.amount_due))


@admin.register(InvoiceLine)
class InvoiceLineAdmin(ReadOnlyAdmin):
    list_display = (
        "invoice_number",
        "position",
        "description",
        "model",
        "meter",
        "quantity_amount",
        "unit_price_amount",
        "line_amount",
    )
    list_select_related = ("invoice",)
    list_filter = ("usage_period",)
    ordering = ("-invoice_id", "position")
    search_fields = ("invoice__number__iexact", "invoice__public_id__exact", "model__iexact", "meter__iexact")
    search_help_text = "Invoice number, inv_… id, model or meter"
    fields = (
        "invoice_link",
        "position",
        "usage_period",
        "description",
        "model",
        "meter",
        "quantity_amount",
        "unit_price_amount",
        "multiplier",
        "line_amount",
    )

    @display(description="Invoice", ordering="invoice__number")
    def invoice_number(self, obj: InvoiceLine) -> str:
        return obj.invoice.number

    @display(description="Invoice")
    def invoice_link(self, obj: InvoiceLine) -> str:
        return html.link(html.object_url(Invoice, obj.invoice_id), obj.invoice.number)

    @display(description="Quantity", ordering="quantity")
    def quantity_amount(self, obj: InvoiceLine) -> str:
        return html.quantity(obj.quantity)

    @display(description="Unit price", ordering="unit_price")
    def unit_price_amount(self, obj: InvoiceLine) -> str:
        return html.unit_price(obj.unit_price, obj.per)

    @display(description="Amount", ordering="amount")
    def line_amount(self, obj: InvoiceLine) -> str:
        return html.amount(obj.amount)


@admin.register(InvoiceSeries)
class InvoiceSeriesAdmin(ReadOnlyAdmin):
    list_display = ("series", "year", "last_number")
    list_filter = ("year",)
    search_fields = ("series",)
    search_help_text = "Series"
