"""Invoices: frozen documents, to look at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.decorators import display

from billing.admin import html, invoice_panels
from billing.admin.base import Figure, Panel, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter, PeriodFilter
from billing.admin.ledger import CustomerColumn
from billing.models import BillingProfile, Invoice, InvoiceLine, InvoiceSeries
from relayadmin.money import amount_text, cents_text

INVOICE_TONES = {"draft": "", "issued": "info", "paid": "success", "overdue": "danger", "void": "warning"}


@admin.register(Invoice)
class InvoiceAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No invoice yet; the first are issued when a month with usage has ended."
    list_display = (
        "number",
        "customer_link",
        "period",
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
        return [*invoice_panels.panels(obj)]

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
        return html.amount(obj.subtotal)

    @display(description="Tax", ordering="tax")
    def tax_amount(self, obj: Invoice) -> str:
        return html.amount(obj.tax)

    @display(description="Total", ordering="total")
    def total_amount(self, obj: Invoice) -> str:
        return html.amount(obj.total)

    @display(description="Due", ordering="amount_due")
    def due_amount(self, obj: Invoice) -> str:
        return html.amount(obj.amount_due)


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
