"""Receipts: frozen documents, to look at and to print."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action, display

from billing import receipt_pdf, receipts
from billing.admin import html
from billing.admin.base import Figure, ReadOnlyAdmin, see_other
from billing.admin.currencies import ModeColumn
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Invoice, Receipt, TopUp
from relayadmin.files import pdf_response


@admin.register(Receipt)
class ReceiptAdmin(ModeColumn, CustomerColumn, ReadOnlyAdmin):
    empty_text = "No receipt yet; each paid top-up gets one within a minute."
    actions_detail = ("open_pdf",)
    list_display = (
        "number",
        "customer_link",
        "paid_text",
        "credited_text",
        "invoice_link",
        "paid_with",
        "paid_at",
        "issued_at",
        "mode_badge",
    )
    list_filter = ("series", "currency", "is_sandbox", CustomerFilter, ("paid_at", DaysFilter))
    list_select_related = ("customer", "top_up__invoice")
    sortable_by = ()
    search_fields = (
        "number__istartswith",
        "public_id__exact",
        "top_up__public_id__exact",
        "invoice_number__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "Number, an invoice's too, rcp_… or top_… id, customer's name or cus_… id"
    fields = (
        ("number", "public_id"),
        ("customer_link", "top_up_link"),
        ("paid_at", "issued_at", "timezone"),
        ("paid_with", "reference"),
        "invoice_link",
        ("supplier_name", "supplier_tax_number", "supplier_email"),
        "supplier_address",
        ("customer_name", "customer_email"),
        "mode_badge",
    )

    def has_read_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.view_receipt")

    @action(description="PDF", url_path="pdf", icon="picture_as_pdf", permissions=["read"])
    def open_pdf(self, request: HttpRequest, object_id: str) -> HttpResponse:
        receipt = self.get_object(request, object_id)
        if receipt is None:
            messages.error(request, "There is no such receipt.")
            return see_other(html.list_url(Receipt))
        figures = receipts.figures(receipt)
        return pdf_response(receipt_pdf.render(figures), figures.number)

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        shown = receipts.figures(obj)
        rate = "" if shown.currency == "USD" else f"at {shown.rate} {shown.currency} for 1 USD"
        tone = "warning" if shown.is_sandbox else ""
        return [
            Figure("Paid", f"{shown.paid} {shown.currency}", "no real money" if shown.is_sandbox else rate, tone=tone),
            *([Figure("Paid of the invoice", f"{shown.invoice_paid} USD", rate)] if shown.invoice_number else []),
            Figure("Credited", f"{shown.credited} USD", "" if shown.invoice_number else rate),
        ]

    @display(description="Paid")
    def paid_text(self, obj: Receipt) -> str:
        shown = receipts.figures(obj)
        return html.number(f"{shown.paid} {shown.currency}")

    @display(description="Credited (USD)")
    def credited_text(self, obj: Receipt) -> str:
        return html.number(receipts.figures(obj).credited)

    @display(description="Paid with")
    def paid_with(self, obj: Receipt) -> str:
        return receipts.figures(obj).paid_with

    @display(description="Invoice")
    def invoice_link(self, obj: Receipt) -> str:
        invoice = obj.top_up.invoice
        return html.NOTHING if invoice is None else html.link(html.object_url(Invoice, invoice.pk), invoice.number)

    @display(description="Top-up")
    def top_up_link(self, obj: Receipt) -> str:
        return html.link(html.object_url(TopUp, obj.top_up_id), obj.top_up.public_id)
