"""Refunds: what is on its way back, and what somebody has to pay out."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import refunds
from billing.admin import alarms, html
from billing.admin.account_actions import sentence, who
from billing.admin.account_forms import ReasonForm
from billing.admin.base import Question, ReadOnlyAdmin, see_other
from billing.admin.customer_panels import customer_figures
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.payment_columns import TopUpColumn, at_stripe, money
from billing.models import Grant, Refund, Transfer
from billing.tasks import send_refunds
from relayadmin.money import amount_text

REFUND_TONES = {"pending": "warning", "succeeded": "success", "failed": "danger"}


class PayOutForm(forms.Form):
    reference = forms.CharField(
        max_length=255,
        widget=UnfoldAdminTextInputWidget,
        help_text="The bank transfer's or the receipt's number, by which it is found again.",
    )


class ByHandFilter(DropdownFilter):
    title = "paid out"
    parameter_name = "by"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("hand", "By hand"), ("stripe", "By Stripe")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Refund]) -> QuerySet[Refund]:
        by_hand = Q(top_up=None) | Q(top_up__origin__in=refunds.BY_HAND)
        return {"hand": queryset.filter(by_hand), "stripe": queryset.exclude(by_hand)}.get(self.value() or "", queryset)


@admin.register(Refund)
class RefundAdmin(CustomerColumn, TopUpColumn, ReadOnlyAdmin):
    empty_text = "Nothing was refunded yet; a customer's page and a top-up's page have “Refund”."
    list_display = (
        "public_id",
        "customer_link",
        "top_up_link",
        "status_badge",
        "taken_amount",
        "goes_back",
        "origin",
        "what_waits",
        "created_at",
    )
    list_filter = ("status", "origin", ByHandFilter, CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer", "top_up")
    search_fields = (
        "public_id__exact",
        "stripe_id__exact",
        "reference__exact",
        "top_up__public_id__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "ref_…, re_… or top_… id, reference, customer's name or cus_… id"
    sortable_by = ("created_at",)
    actions_detail = ("pay_out", "give_up", "ask_now")
    fields = (
        ("public_id", "customer_link"),
        ("top_up_link", "grant_link", "transfer_link"),
        ("status_badge", "origin"),
        ("taken_amount", "goes_back", "unpaid_amount"),
        ("reason", "actor", "created_at"),
        ("reference", "ended_by", "ended_at"),
        ("stripe_link", "attempts", "look_at"),
        "failure",
    )

    def has_refund_top_up_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.refund_top_up")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or row.status != Refund.Status.PENDING:
            return []
        wanted = ("_pay_out", "_give_up") if refunds.is_by_hand(row) else ("_ask_now",)
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return [one for one in shown if one.action_name.endswith(wanted)]

    @action(description="Mark as paid out…", url_path="pay-out", icon="payments", permissions=["refund_top_up"])
    def pay_out(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._by_hand(
            request,
            object_id,
            PayOutForm(request.POST if request.method == "POST" else None),
            lambda row, form: refunds.pay_out(
                refund_id=row.pk, reference=form.cleaned_data["reference"], person=who(request), at=timezone.now()
            ),
            button="Mark as paid out",
            text="The money has left your bank or till. It is booked, and can't be taken back here.",
        )

    @action(description="Give back to the wallet…", url_path="give-up", icon="undo", permissions=["refund_top_up"])
    def give_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._by_hand(
            request,
            object_id,
            ReasonForm(request.POST if request.method == "POST" else None),
            lambda row, form: refunds.give_up(
                refund_id=row.pk, reason=form.cleaned_data["reason"], person=who(request), at=timezone.now()
            ),
            button="Give back",
            text="Nothing was paid out: the customer gets the credit back, with the expiry that it had.",
        )

    @action(description="Ask Stripe now", url_path="ask-now", icon="sync", permissions=["refund_top_up"])
    def ask_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return see_other(html.list_url(Refund))
        back = html.object_url(Refund, row.pk)
        if request.method != "POST":
            text = "What was not sent yet is sent; of what was, Stripe is asked what became of it."
            return self.ask(request, Question("Ask Stripe now", text, "Ask Stripe", back, is_dangerous=False))
        refunds.ask_soon(refund_id=row.pk, at=timezone.now())
        send_refunds.delay()
        messages.success(request, "A worker sends it, or asks what became of it, within a minute.")
        return see_other(back)

    def _by_hand(
        self,
        request: HttpRequest,
        object_id: str,
        form: forms.Form,
        do: Callable[[Refund, forms.Form], Refund],
        *,
        button: str,
        text: str,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such refund.")
            return see_other(html.list_url(Refund))
        back = html.object_url(Refund, row.pk)
        if form.is_valid():
            try:
                done = do(row, form)
            except refunds.InvalidRefund as error:
                form.add_error(error.field, sentence(error))
            except (refunds.NotByHand, refunds.SamePerson) as error:
                messages.error(request, sentence(error))
                return see_other(back)
            else:
                self.log_change(request, done, f"{done.get_status_display()}.")
                messages.success(request, f"{done.get_status_display()}: {amount_text(done.amount)} USD.")
                return see_other(back)
        title = f"{button}: {row.pay_amount.normalize():f} {row.currency} for {row.customer.name}"
        return self.ask_form(request, form, title=title, button=button, back=back, text=text)

    def figures(self, request: HttpRequest, obj: Any) -> list[Any]:
        return customer_figures(obj.customer)

    @display(description="Status", label=REFUND_TONES)
    def status_badge(self, obj: Refund) -> str:
        return obj.status

    @display(description="Taken (USD)", ordering="amount")
    def taken_amount(self, obj: Refund) -> str:
        return html.amount(obj.amount)

    @display(description="Became debt")
    def unpaid_amount(self, obj: Refund) -> str:
        return html.amount(obj.unpaid)

    @display(description="Goes back")
    def goes_back(self, obj: Refund) -> str:
        return money(obj.pay_amount, obj.currency)

    @display(description="Waits for")
    def what_waits(self, obj: Refund) -> str:
        if obj.status != Refund.Status.PENDING:
            return html.NOTHING
        if refunds.is_by_hand(obj):
            return "somebody to pay it out"
        return "Stripe's word" if obj.stripe_id else obj.failure[:80] or "being sent"

    @display(description="Grant")
    def grant_link(self, obj: Refund) -> str:
        return html.hot_link(Grant, obj.customer_id, obj.grant_id)

    @display(description="Transfer")
    def transfer_link(self, obj: Refund) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="At Stripe")
    def stripe_link(self, obj: Refund) -> str:
        return at_stripe("refunds", obj.stripe_id)


_LISTS = {"to_pay_out": "status__exact=pending&by=hand", "failed": "status__exact=failed"}
alarms.WHERE[refunds.SOURCE] = lambda alarm: html.list_url(
    Refund, _LISTS.get(alarm.kind.rpartition(".")[2], "status__exact=pending&by=stripe")
)
