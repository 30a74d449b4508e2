"""Disputes: what payers' banks take back, and until when evidence is due."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from billing import disputes
from billing.admin import alarms, html
from billing.admin.base import Figure, Panel, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.payment_columns import TopUpColumn, at_stripe, money
from billing.models import Dispute, Entry, StripeTransaction, Transfer
from relayadmin.money import amount_text

DISPUTE_TONES = {
    "needs response": "danger",
    "warning needs response": "warning",
    "under review": "info",
    "warning under review": "info",
    "won": "success",
    "warning closed": "success",
    "prevented": "success",
    "lost": "danger",
}


class OpenFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Dispute]) -> QuerySet[Dispute]:
        match self.value():
            case "open":
                return queryset.filter(ended_at=None)
            case "ended":
                return queryset.exclude(ended_at=None)
        return queryset


@admin.register(Dispute)
class DisputeAdmin(CustomerColumn, TopUpColumn, ReadOnlyAdmin):
    empty_text = "No payment was disputed yet."
    list_display = (
        "stripe_id",
        "customer_link",
        "top_up_link",
        "status_badge",
        "reason",
        "disputed_amount",
        "taken_amount",
        "returned_amount",
        "evidence_due_by",
        "created_at",
    )
    list_filter = (OpenFilter, "reason", CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer", "top_up")
    search_fields = (
        "stripe_id__exact",
        "top_up__public_id__exact",
        "top_up__charge_id__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "dp_…, ch_… or top_… id, customer's name or cus_… id"
    sortable_by = ("created_at", "evidence_due_by")
    fields = (
        ("stripe_link", "customer_link", "top_up_link"),
        ("status_badge", "reason"),
        ("disputed_amount", "evidence_due_by"),
        ("taken_amount", "returned_amount", "unpaid_amount"),
        ("created_at", "ended_at", "look_at"),
    )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        kept = obj.taken - obj.returned
        return [
            Figure("Taken", amount_text(obj.taken), "USD, off the wallet"),
            Figure("Given back", amount_text(obj.returned), "USD, as paid credit"),
            Figure("Kept", amount_text(kept), "USD, taken and not returned", tone="danger" if kept else ""),
            Figure("Became debt", amount_text(obj.unpaid), "USD, no credit was left for it"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [_transfers(obj), _movements(obj)]

    @display(description="Status", label=DISPUTE_TONES)
    def status_badge(self, obj: Dispute) -> str:
        return obj.status.replace("_", " ")

    @display(description="Disputed")
    def disputed_amount(self, obj: Dispute) -> str:
        return money(obj.pay_amount, obj.currency)

    @display(description="Taken (USD)")
    def taken_amount(self, obj: Dispute) -> str:
        return html.amount(obj.taken)

    @display(description="Given back (USD)")
    def returned_amount(self, obj: Dispute) -> str:
        return html.amount(obj.returned)

    @display(description="Became debt (USD)")
    def unpaid_amount(self, obj: Dispute) -> str:
        return html.amount(obj.unpaid)

    @display(description="At Stripe: evidence is sent there")
    def stripe_link(self, obj: Dispute) -> str:
        return at_stripe("disputes", obj.stripe_id)


def _transfers(dispute: Dispute) -> Panel:
    kinds = [Transfer.Kind.DISPUTE, Transfer.Kind.GRANT]
    of = Transfer.objects.filter(
        customer_id=dispute.customer_id, kind__in=kinds, key__startswith=disputes.transfer_key(dispute, "")
    )
    numbers = list(of.order_by("pk").values_list("pk", "created_at"))
    wallet = Entry.objects.filter(customer_id=dispute.customer_id, account="wallet")
    amounts = dict(wallet.filter(transfer_id__in=[pk for pk, _ in numbers]).values_list("transfer_id", "amount"))
    return Panel(
        title="What it moved on the wallet",
        headers=("Transfer", "Amount (USD)", "At (UTC)"),
        rows=[
            (html.hot_link(Transfer, dispute.customer_id, pk), html.amount(amounts.get(pk)), html.moment(at))
            for pk, at in numbers
        ],
        numbers=frozenset({1}),
        empty="Nothing: the funds were not withdrawn, or nothing had been credited.",
    )


def _movements(dispute: Dispute) -> Panel:
    rows = StripeTransaction.objects.filter(source=dispute.stripe_id).order_by("occurred_at")
    return Panel(
        title="What it moved at Stripe, as of the last reconciliation",
        headers=("Transaction", "What", "Amount", "Fee", "At (UTC)"),
        rows=[
            (
                html.link(html.object_url(StripeTransaction, row.pk), row.stripe_id),
                row.category.replace("_", " "),
                money(row.amount, row.currency),
                money(row.fee, row.currency),
                html.moment(row.occurred_at),
            )
            for row in rows
        ],
        numbers=frozenset({2, 3}),
        empty="The daily reconciliation has not seen any of it yet.",
    )


alarms.WHERE[disputes.SOURCE] = lambda alarm: html.list_url(Dispute, f"q={alarm.subject}")
