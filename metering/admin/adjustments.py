"""What was put right: single adjustments of events, and the jobs that rated events again. To look at."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import Figure, Panel, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter, PeriodFilter
from billing.admin.hot import HotModelAdmin
from billing.admin.ledger import CustomerColumn
from billing.models import CreditNote, Customer, Invoice, Transfer
from metering.admin.event_panels import (
    NEW,
    OLD,
    adjusted_side,
    cause_link,
    money_figures,
    price_panels,
    taken_back_panel,
)
from metering.models import Rerating, ReratingNote, UsageAdjustment, UsageEvent
from relayadmin.money import amount_text

_NOTES = 200
KIND_TONES = {"rerating": "info", "reparse": "info", "correction": "warning"}


@admin.register(UsageAdjustment)
class UsageAdjustmentAdmin(CustomerColumn, HotModelAdmin):
    empty_text = "Nothing was put right yet: every event counts as it came."
    list_display = (
        "public_id",
        "customer_link",
        "event_link",
        "kind_badge",
        "old_amount",
        "new_amount",
        "difference_amount",
        "period",
        "created_at",
    )
    list_filter = (CustomerFilter, "kind", PeriodFilter, ("created_at", DaysFilter))
    fields = (
        ("public_id", "customer_link"),
        ("event_link", "step"),
        ("kind_badge", "cause_link"),
        ("period", "transfer_link"),
        ("reason", "created_at"),
    )
    search_words = "a customer's name, a cus_…, evt_… or tr_… id"
    search_ids = {"evt": "event_number", "tr": "transfer_id"}

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageAdjustment]:
        queryset: QuerySet[UsageAdjustment] = super().get_queryset(request)
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return queryset.defer("old_quantities", "new_quantities", "old_parts", "new_parts") if is_list else queryset

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return [
            *money_figures(obj.old_charge, obj.old_cost, when="before", hint="what the customer paid until then, USD"),
            *money_figures(obj.new_charge, obj.new_cost, when="after", hint="what the customer pays since, USD"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        panels: list[Panel] = []
        for name, when in ((OLD, "before"), (NEW, "after")):
            side = adjusted_side(obj, name)
            panels += [taken_back_panel(obj, when=when)] if side is None else price_panels(side, when=when)
        return panels

    @display(description="Event")
    def event_link(self, obj: UsageAdjustment) -> str:
        return html.hot_link(UsageEvent, obj.customer_id, obj.event_number)

    @display(description="Kind", label=KIND_TONES)
    def kind_badge(self, obj: UsageAdjustment) -> str:
        return obj.kind

    @display(description="Because of")
    def cause_link(self, obj: UsageAdjustment) -> str:
        return cause_link(obj)

    @display(description="Transfer")
    def transfer_link(self, obj: UsageAdjustment) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Charge before")
    def old_amount(self, obj: UsageAdjustment) -> str:
        return html.amount(obj.old_charge)

    @display(description="Charge after")
    def new_amount(self, obj: UsageAdjustment) -> str:
        return html.amount(obj.new_charge)

    @display(description="Difference")
    def difference_amount(self, obj: UsageAdjustment) -> str:
        return html.amount(obj.new_charge - obj.old_charge)


@admin.register(Rerating)
class ReratingAdmin(ReadOnlyAdmin):
    empty_text = "No events were rated again yet; “python manage.py rerate” shows what would change, and changes it."
    list_display = (
        "number",
        "start",
        "end",
        "model",
        "customer",
        "events",
        "old_amount",
        "new_amount",
        "difference_amount",
        "actor",
        "created_at",
        "finished_at",
    )
    list_select_related = ("model", "customer")
    fields = (
        ("number", "actor"),
        ("start", "end"),
        ("model", "customer"),
        ("is_reparse", "by_credit_note"),
        "reason",
        ("created_at", "finished_at"),
        ("events", "reached_customer"),
    )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return [
            Figure("Charge before", amount_text(obj.old_charge), "of the events put right, USD"),
            Figure("Charge after", amount_text(obj.new_charge), "USD"),
            Figure("Difference", amount_text(obj.new_charge - obj.old_charge), "what customers pay more, USD"),
            Figure("Cost before", amount_text(obj.old_cost), "USD"),
            Figure("Cost after", amount_text(obj.new_cost), "USD"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        notes = [
            row.credit_note
            for row in obj.notes.select_related("credit_note__customer", "credit_note__invoice").order_by("pk")[:_NOTES]
        ]
        return [
            Panel(
                title="Credit notes",
                headers=("Credit note", "Customer", "Invoice", "Usage, exactly", "Tax", "Total"),
                rows=[
                    (
                        html.link(html.object_url(CreditNote, note.pk), note.number),
                        html.link(html.object_url(Customer, note.customer_id), note.customer.name),
                        html.link(html.object_url(Invoice, note.invoice_id), note.invoice.number),
                        html.amount(note.documented),
                        html.amount(note.tax),
                        html.amount(note.total),
                    )
                    for note in notes
                ],
                numbers=frozenset({3, 4, 5}),
                empty="None: all of it stands on the next invoice of each customer.",
            )
        ]

    @display(description="No.")
    def number(self, obj: Rerating) -> str:
        return str(obj.pk)

    @display(description="Charge before")
    def old_amount(self, obj: Rerating) -> str:
        return html.amount(obj.old_charge)

    @display(description="Charge after")
    def new_amount(self, obj: Rerating) -> str:
        return html.amount(obj.new_charge)

    @display(description="Difference")
    def difference_amount(self, obj: Rerating) -> str:
        return html.amount(obj.new_charge - obj.old_charge)


@admin.register(ReratingNote)
class ReratingNoteAdmin(ReadOnlyAdmin):
    empty_text = "No re-rating has ended in a credit note yet."
    list_display = ("rerating_link", "credit_note_link", "customer_name", "total_amount", "issued_at")
    list_select_related = ("rerating", "credit_note__customer")
    sortable_by = ()
    search_fields = ("credit_note__number__iexact", "credit_note__customer__name")
    search_help_text = "The credit note's number or the customer's name"
    fields = (
        ("rerating_link", "credit_note_link"),
        ("customer_name", "total_amount"),
        ("issued_at", "last_adjustment"),
    )

    @display(description="Re-rating")
    def rerating_link(self, obj: ReratingNote) -> str:
        return html.link(html.object_url(Rerating, obj.rerating_id), str(obj.rerating))

    @display(description="Credit note")
    def credit_note_link(self, obj: ReratingNote) -> str:
        return html.link(html.object_url(CreditNote, obj.credit_note_id), obj.credit_note.number)

    @display(description="Customer")
    def customer_name(self, obj: ReratingNote) -> str:
        return str(obj.credit_note.customer.name)

    @display(description="Total (USD)")
    def total_amount(self, obj: ReratingNote) -> str:
        return html.amount(obj.credit_note.total)

    @display(description="Issued at")
    def issued_at(self, obj: ReratingNote) -> str:
        return html.moment(obj.credit_note.issued_at)
