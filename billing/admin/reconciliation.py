"""Stripe's balance transactions as they were read and booked, and what they and our payments say differently."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from billing import stripe_differences, stripe_reconciliation
from billing.admin import alarms, html
from billing.admin.account_actions import sentence, who
from billing.admin.base import Figure, ReadOnlyAdmin, see_other
from billing.admin.filters import DaysFilter
from billing.admin.payment_columns import at_stripe, money
from billing.models import Customer, Dispute, Refund, StripeDifference, StripeTransaction, TopUp, Transfer
from relayadmin.money import amount_text

STATE_TONES = {"open": "danger", "explained": "info", "over": "success"}


class BookedFilter(DropdownFilter):
    title = "booked"
    parameter_name = "booked"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Booked"), ("no", "Not booked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[StripeTransaction]) -> QuerySet[StripeTransaction]:
        match self.value():
            case "yes":
                return queryset.exclude(booked_at=None)
            case "no":
                return queryset.filter(booked_at=None)
        return queryset


@admin.register(StripeTransaction)
class StripeTransactionAdmin(ReadOnlyAdmin):
    empty_text = "Nothing was read of Stripe's books yet: a job does it once a day, or manage.py reconcile_stripe."
    list_display = (
        "stripe_id",
        "category",
        "gross",
        "kept",
        "arrives",
        "belongs_to",
        "booked_badge",
        "occurred_at",
    )
    list_filter = ("category", BookedFilter, ("occurred_at", DaysFilter))
    list_select_related = ("top_up", "refund", "dispute")
    search_fields = ("stripe_id__exact", "source__exact", "top_up__public_id__exact", "refund__public_id__exact")
    search_help_text = "txn_…, ch_…, re_… or dp_… id, or a top-up's or refund's"
    sortable_by = ("occurred_at",)
    fields = (
        ("stripe_link", "type", "category"),
        ("gross", "kept", "arrives"),
        ("exchange_rate", "expected_amount", "net_usd_amount"),
        ("source", "belongs_to", "description"),
        ("occurred_at", "available_on", "booked_at"),
        "transfer_link",
    )

    @display(description="Amount")
    def gross(self, obj: StripeTransaction) -> str:
        return money(obj.amount, obj.currency)

    @display(description="Fee")
    def kept(self, obj: StripeTransaction) -> str:
        return money(obj.fee, obj.currency)

    @display(description="Net")
    def arrives(self, obj: StripeTransaction) -> str:
        return money(obj.net, obj.currency)

    @display(description="In the ledger before (USD)")
    def expected_amount(self, obj: StripeTransaction) -> str:
        return html.amount(obj.expected)

    @display(description="Moved on cash:stripe (USD)")
    def net_usd_amount(self, obj: StripeTransaction) -> str:
        return html.amount(obj.net_usd)

    @display(description="Belongs to")
    def belongs_to(self, obj: StripeTransaction) -> str:
        if obj.refund is not None:
            return html.link(html.object_url(Refund, obj.refund.pk), obj.refund.public_id)
        if obj.dispute is not None:
            return html.link(html.object_url(Dispute, obj.dispute.pk), obj.dispute.stripe_id)
        top_up = obj.top_up
        return html.NOTHING if top_up is None else html.link(html.object_url(TopUp, top_up.pk), top_up.public_id)

    @display(description="Booked", label={"booked": "success", "not booked": "warning"})
    def booked_badge(self, obj: StripeTransaction) -> str:
        return "not booked" if obj.booked_at is None else "booked"

    @display(description="Transfer")
    def transfer_link(self, obj: StripeTransaction) -> str:
        house = Customer.objects.get(is_house=True)
        settled = Transfer.objects.filter(customer=house, kind=Transfer.Kind.SETTLEMENT, key=obj.stripe_id).first()
        return html.hot_link(Transfer, house.pk, settled.pk if settled else None)

    @display(description="Transaction")
    def stripe_link(self, obj: StripeTransaction) -> str:
        return at_stripe("balance/transactions", obj.stripe_id)


class ExplainForm(forms.Form):
    note = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Why it is all right, or what was done about it. Stays with the difference, with your name.",
    )


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("explained", "Explained"), ("over", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[StripeDifference]) -> QuerySet[StripeDifference]:
        match self.value():
            case "open":
                return queryset.filter(resolved_at=None, explained_at=None)
            case "explained":
                return queryset.filter(resolved_at=None).exclude(explained_at=None)
            case "over":
                return queryset.exclude(resolved_at=None)
        return queryset


@admin.register(StripeDifference)
class StripeDifferenceAdmin(ReadOnlyAdmin):
    empty_text = "Stripe's books and ours say the same, as far as they have been compared."
    list_display = ("message", "kind", "state_badge", "how_much", "note", "explained_by", "first_seen", "last_seen")
    list_filter = (StateFilter, "kind", ("first_seen", DaysFilter))
    search_fields = ("subject__exact", "message")
    search_help_text = "Stripe's id, a top-up's or refund's, or a part of the message"
    sortable_by = ("first_seen",)
    actions_detail = ("explain",)
    fields = (
        "message",
        "advice",
        ("kind", "subject", "how_much"),
        ("state_badge", "first_seen", "last_seen", "resolved_at"),
        ("note", "explained_by", "explained_at"),
    )

    def has_explain_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.explain_difference")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or state_of(row) != "open":
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return shown

    @action(description="Explained…", url_path="explain", icon="task_alt", permissions=["explain"])
    def explain(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such difference.")
            return see_other(html.list_url(StripeDifference))
        form = ExplainForm(request.POST if request.method == "POST" else None)
        back = html.object_url(StripeDifference, row.pk)
        if form.is_valid():
            note = form.cleaned_data["note"]
            try:
                stripe_differences.explain(number=row.pk, note=note, person=who(request), at=timezone.now())
            except stripe_differences.CannotExplain as error:
                messages.info(request, sentence(error))
            else:
                self.log_change(request, row, f"Explained: {note}")
                messages.success(request, "Explained. It alarms nobody any more.")
            return see_other(back)
        return self.ask_form(
            request, form, title="Explain a difference", button="Explained", back=back, text=row.message
        )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        standing = stripe_reconciliation.standing()
        apart = standing.at_stripe - standing.in_ledger
        return [
            Figure("At Stripe", amount_text(standing.at_stripe), "USD, of all that is booked"),
            Figure("In the ledger", amount_text(standing.in_ledger), "USD, on cash:stripe"),
            Figure("Apart", amount_text(apart), "USD", tone="warning" if apart else ""),
            Figure("Not booked", f"{standing.unbooked:,}", "transactions", tone="warning" if standing.unbooked else ""),
        ]

    @display(description="State", label=STATE_TONES)
    def state_badge(self, obj: StripeDifference) -> str:
        return state_of(obj)

    @display(description="Amount")
    def how_much(self, obj: StripeDifference) -> str:
        return money(obj.amount, obj.currency)


def state_of(row: StripeDifference) -> str:
    if row.resolved_at is not None:
        return "over"
    return "open" if row.explained_at is None else "explained"


alarms.WHERE[stripe_differences.SOURCE] = lambda alarm: html.list_url(
    StripeDifference, f"state=open&kind__exact={alarm.kind.rpartition('.')[2]}"
)
