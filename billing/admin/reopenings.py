"""Payments of invoices that went back, and what came of it: to look at."""

from typing import Any

from django.contrib import admin
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Invoice, InvoiceReopening, TopUp, Transfer


@admin.register(InvoiceReopening)
class InvoiceReopeningAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No payment of an invoice has gone back."
    list_display = (
        "invoice_link",
        "customer_link",
        "top_up_link",
        "gone_amount",
        "due_amount",
        "returned_amount",
        "created_at",
    )
    list_filter = (CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer", "invoice", "top_up")
    search_fields = ("invoice__number__iexact", "top_up__public_id__exact", "customer__name")
    search_help_text = "The invoice's number, top_… id or the customer's name"
    sortable_by = ()
    fields = (
        ("invoice_link", "customer_link"),
        ("top_up_link", "transfer_link"),
        ("gone_amount", "due_amount", "returned_amount"),
        "created_at",
    )

    @display(description="Invoice")
    def invoice_link(self, obj: InvoiceReopening) -> str:
        return html.link(html.object_url(Invoice, obj.invoice_id), obj.invoice.number)

    @display(description="Payment")
    def top_up_link(self, obj: InvoiceReopening) -> str:
        return html.link(html.object_url(TopUp, obj.top_up_id), obj.top_up.public_id)

    @display(description="Transfer")
    def transfer_link(self, obj: InvoiceReopening) -> Any:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Went back (USD)")
    def gone_amount(self, obj: InvoiceReopening) -> str:
        return html.amount(obj.amount)

    @display(description="Due again (USD)")
    def due_amount(self, obj: InvoiceReopening) -> str:
        return html.amount(obj.due)

    @display(description="Returned (USD)")
    def returned_amount(self, obj: InvoiceReopening) -> str:
        return html.amount(obj.returned)
