"""Saved cards and automatic recharges: to look at, and to switch off."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import recharge, recharge_rules, saved_methods
from billing.admin import html
from billing.admin.account_forms import ReasonForm
from billing.admin.base import Figure, Panel, Question, ReadOnlyAdmin, WorkAdmin, see_other
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import PaymentMethod, Recharge, TopUp, Wallet
from billing.periods import operator_timezone
from relayadmin.money import amount_text

METHOD_TONES = {"saved": "success", "default": "success", "expired": "warning", "removed": "danger"}
RECHARGE_TONES = {"on": "success", "waits": "warning", "off": ""}
PANEL_ROWS = 20


def method_state(method: PaymentMethod) -> str:
    if method.removed_at is not None:
        return "removed"
    if saved_methods.has_expired(method, at=timezone.now()):
        return "expired"
    return "default" if method.is_default else "saved"


class MethodStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("saved", "Not removed"), ("removed", "Removed"), ("untold", "Removed, Stripe not told yet")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "saved":
                return queryset.filter(removed_at=None)
            case "removed":
                return queryset.exclude(removed_at=None)
            case "untold":
                return queryset.exclude(look_at=None)
        return queryset


@admin.register(PaymentMethod)
class PaymentMethodAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No card was saved yet. Customers save them as they pay, or with POST /api/v1/payment-methods/setup."
    list_display = ("card", "customer_link", "state_badge", "expires", "is_sandbox", "created_at", "removed_at")
    list_filter = (MethodStateFilter, CustomerFilter, "is_sandbox", ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    search_fields = (
        "customer__name",
        "customer__public_id__exact",
        "public_id__exact",
        "stripe_id__exact",
        "last4__exact",
    )
    search_help_text = "Customer's name or cus_… id, pmt_… or pm_… id, last four digits"
    fields = (
        ("public_id", "stripe_id"),
        ("customer_link", "state_badge"),
        ("card", "expires"),
        ("created_at", "is_sandbox"),
        ("removed_at", "removed_because"),
        "look_at",
    )

    @display(description="Card")
    def card(self, obj: PaymentMethod) -> str:
        return str(obj)

    @display(description="State", label=METHOD_TONES)
    def state_badge(self, obj: PaymentMethod) -> str:
        return method_state(obj)

    @display(description="Valid until")
    def expires(self, obj: PaymentMethod) -> str:
        return html.NOTHING if obj.exp_year is None else f"{obj.exp_year}-{obj.exp_month:02d}"


class RechargeStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("on", "On"), ("waits", "On, waits for the customer"), ("failing", "On, declined"), ("off", "Off")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "on":
                return queryset.filter(is_on=True)
            case "waits":
                return queryset.filter(is_on=True, waits_for__isnull=False)
            case "failing":
                return queryset.filter(is_on=True, failures__gt=0)
            case "off":
                return queryset.filter(is_on=False)
        return queryset


@admin.register(Recharge)
class RechargeAdmin(CustomerColumn, WorkAdmin):
    empty_text = "No customer has an automatic recharge. They set it with PUT /api/v1/recharge."
    actions_detail = ("switch_off", "allow")
    list_display = (
        "customer_link",
        "state_badge",
        "threshold_amount",
        "charged_amount",
        "cap_amount",
        "method",
        "failures",
        "next_try_at",
        "why_off",
    )
    list_filter = (RechargeStateFilter, "off_because", CustomerFilter)
    list_select_related = ("customer", "method")
    sortable_by = ()
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    fields = (
        ("customer_link", "state_badge"),
        ("threshold_amount", "charged_amount", "cap_amount"),
        ("method_link", "failures", "next_try_at"),
        ("waits_for_link", "why_off"),
        "off_message",
        ("created_at", "updated_at"),
    )

    def has_switch_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.switch_recharge")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        rule = self.get_object(request, str(object_id))
        is_forbidden = rule is not None and rule.off_because == Recharge.Off.OPERATOR
        hidden = "billing_recharge_switch_off" if is_forbidden else "billing_recharge_allow"
        return [one for one in shown if one.action_name != hidden]

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        balance = Wallet.objects.values_list("balance", flat=True).get(customer_id=obj.customer_id)
        is_below = obj.is_on and balance < obj.threshold
        charged = recharge.charged_in_month(obj.customer_id, at=timezone.now(), zone=operator_timezone())
        cap = "no cap" if obj.monthly_cap is None else f"of {amount_text(obj.monthly_cap)}"
        return [
            Figure("Balance", amount_text(balance), "below the threshold" if is_below else "USD"),
            Figure("Charged this month", amount_text(charged), cap),
            Figure("Declines in a row", str(obj.failures), tone="warning" if obj.failures else ""),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        rows = TopUp.objects.filter(customer_id=obj.customer_id, origin=TopUp.Origin.RECHARGE)
        return [
            Panel(
                title="Charges",
                headers=("When", "Top-up", "Amount", "Status", "Card", "Why not"),
                rows=[
                    (
                        html.moment(row.created_at),
                        html.link(html.object_url(TopUp, row.pk), row.public_id),
                        html.amount(row.amount),
                        row.get_status_display(),
                        str(row.saved_method or html.NOTHING),
                        row.error_message or html.NOTHING,
                    )
                    for row in rows.select_related("saved_method").order_by("-pk")[:PANEL_ROWS]
                ],
                numbers=frozenset({2}),
                empty="Nothing was charged yet.",
            )
        ]

    @action(description="Switch off", url_path="switch-off", icon="toggle_off", permissions=["switch"])
    def switch_off(self, request: HttpRequest, object_id: str) -> HttpResponse:
        rule = self.get_object(request, object_id)
        if rule is None:
            messages.error(request, "There is no such automatic recharge.")
            return see_other(html.list_url(Recharge))
        back = html.object_url(Recharge, rule.pk)
        form = ReasonForm(request.POST if request.method == "POST" else None)
        form.fields["reason"].help_text = "The customer reads it."
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            if recharge_rules.forbid(customer_id=rule.customer_id, reason=reason, at=timezone.now()):
                self.log_change(request, rule, f"Switched off: {reason}")
            messages.success(request, "It is off, and the customer was told. A charge under way is not called back.")
            return see_other(back)
        return self.ask_form(
            request,
            form,
            title=f"Switch off the automatic recharge of {rule.customer.name}",
            button="Switch off",
            text="The customer can't switch it on again until you allow it.",
            back=back,
            is_dangerous=True,
        )

    @action(description="Allow again", url_path="allow", icon="toggle_on", permissions=["switch"])
    def allow(self, request: HttpRequest, object_id: str) -> HttpResponse:
        rule = self.get_object(request, object_id)
        if rule is None:
            messages.error(request, "There is no such automatic recharge.")
            return see_other(html.list_url(Recharge))
        back = html.object_url(Recharge, rule.pk)
        if request.method == "POST":
            if recharge_rules.allow(customer_id=rule.customer_id, at=timezone.now()):
                self.log_change(request, rule, "Allowed again.")
            messages.success(request, "The customer can switch it on again.")
            return see_other(back)
        question = Question(
            title=f"Allow {rule.customer.name} to recharge automatically",
            text="It stays off until the customer switches it on.",
            button="Allow again",
            back=back,
            is_dangerous=False,
        )
        return self.ask(request, question)

    @display(description="State", label=RECHARGE_TONES)
    def state_badge(self, obj: Recharge) -> str:
        if not obj.is_on:
            return "off"
        return "waits" if obj.waits_for_id is not None or obj.next_try_at is not None else "on"

    @display(description="Below")
    def threshold_amount(self, obj: Recharge) -> str:
        return html.amount(obj.threshold)

    @display(description="Charges")
    def charged_amount(self, obj: Recharge) -> str:
        return html.amount(obj.amount)

    @display(description="At most a month")
    def cap_amount(self, obj: Recharge) -> str:
        return html.amount(obj.monthly_cap)

    @display(description="Card")
    def method_link(self, obj: Recharge) -> str:
        if obj.method is None:
            return html.NOTHING
        return html.link(html.object_url(PaymentMethod, obj.method_id), obj.method)

    @display(description="Waits for the customer since")
    def waits_for_link(self, obj: Recharge) -> str:
        if obj.waits_for is None:
            return html.NOTHING
        return html.link(html.object_url(TopUp, obj.waits_for_id), obj.waits_for.public_id)

    @display(description="Why it is off")
    def why_off(self, obj: Recharge) -> str:
        return obj.get_off_because_display() or html.NOTHING
