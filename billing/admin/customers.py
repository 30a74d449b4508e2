"""Customers, their members and their access tokens."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.decorators import action, display

from billing import customers
from billing.admin import html
from billing.admin.base import Figure, OperatorAdmin, Panel, ReadOnlyAdmin
from billing.admin.customer_panels import customer_figures, customer_panels
from billing.admin.filters import CustomerFilter, DebtFilter
from billing.admin.granting import GrantForm
from billing.admin.refunding import RefundActions
from billing.admin.revoking import KeyStatusFilter, RevocableAdmin
from billing.models import AccessToken, Customer, IdempotentAnswer, Membership
from relayadmin.money import amount_text

STATUS_TONES = {"active": "success", "suspended": "warning", "closed": "danger", "house": "info"}


class MembershipInline(TabularInline):
    model = Membership
    autocomplete_fields = ("user",)
    extra = 0
    tab = False


@admin.register(Customer)
class CustomerAdmin(RefundActions):
    list_display = (
        "name",
        "public_id",
        "status_badge",
        "email",
        "balance_amount",
        "held_amount",
        "available_amount",
        "created_at",
    )
    list_filter: Any = ("status", DebtFilter, "created_at")
    list_select_related = ("wallet",)
    search_fields = ("name", "public_id__exact", "email", "id__exact")
    search_help_text = "Name, cus_… id or mail address"
    fields = ("name", "email", "status_badge", "public_id", "created_at")
    readonly_fields = ("status_badge", "public_id", "created_at")
    inlines = [MembershipInline]
    actions_detail: Any = (
        "grant_credit",
        "statement",
        {"title": "Account", "icon": "manage_accounts", "items": list(RefundActions.account_actions)},
    )
    actions_row = ("grant_credit",)
    more_panels = []

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return super().get_inlines(request, obj) if obj is not None and not obj.is_house else []

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The house customer is the operator itself and stays as it is."""
        is_house = isinstance(obj, Customer) and obj.is_house
        return not is_house and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A customer with a wallet is closed, never deleted."""
        return False

    def save_model(self, request: HttpRequest, obj: Customer, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made = customers.create_customer(name=obj.name, email=obj.email)
        obj.__dict__.update(made.__dict__)

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return customer_figures(obj)

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return customer_panels(obj)

    @action(description="Grant credit", url_path="grant-credit", icon="add_card", permissions=["change"])
    def grant_credit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        customer = self.get_object(request, object_id)
        if customer is None or not self.has_change_permission(request, customer):
            messages.error(request, "There is no such customer to grant credit to.")
            return HttpResponseRedirect(html.list_url(Customer))
        form = GrantForm(request.POST) if request.method == "POST" else GrantForm.fresh()
        if form.is_valid():
            granted = form.grant(request, customer)
            if granted is not None:
                amount = amount_text(form.cleaned_data["amount"])
                begins = form.cleaned_data["effective_at"]
                if begins is not None and begins > timezone.now():
                    then = f"It begins at {html.moment(begins)} UTC; the balance stays as it is until then."
                else:
                    then = f"The balance is {amount_text(granted.balance)} USD."
                messages.success(request, f"Granted {amount} USD to {customer.name} ({granted.grant}). {then}")
                return HttpResponseRedirect(html.object_url(Customer, customer.pk))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Grant credit to {customer.name}",
            "form": form,
            "customer": customer,
            "figures": customer_figures(customer),
            "back": html.object_url(Customer, customer.pk),
        }
        return TemplateResponse(request, "admin/grant_credit.html", context)

    @display(description="Status", label=STATUS_TONES, ordering="status")
    def status_badge(self, obj: Customer) -> str:
        return "house" if obj.is_house else obj.status

    @display(description="Balance", ordering="wallet__balance")
    def balance_amount(self, obj: Customer) -> str:
        return html.amount(obj.wallet.balance)

    @display(description="Held", ordering="wallet__held")
    def held_amount(self, obj: Customer) -> str:
        return html.amount(obj.wallet.held)

    @display(description="Available")
    def available_amount(self, obj: Customer) -> str:
        wallet = obj.wallet
        return html.amount(wallet.balance - wallet.held + wallet.credit_limit)


@admin.register(Membership)
class MembershipAdmin(OperatorAdmin):
    list_display = ("user", "customer_link", "role")
    list_filter = ("role", CustomerFilter)
    list_select_related = ("user", "customer")
    search_fields = ("user__username", "user__email", "customer__name", "customer__public_id__exact")
    search_help_text = "User, mail address, customer's name or cus_… id"
    autocomplete_fields = ("user", "customer")

    @display(description="Customer", ordering="customer__name")
    def customer_link(self, obj: Membership) -> str:
        return html.link(html.object_url(Customer, obj.customer_id), obj.customer.name)


@admin.register(AccessToken)
class AccessTokenAdmin(RevocableAdmin):
    noun = "access token"
    what_it_stops = "The customer's program that uses it gets no answers from the customer API any more."
    list_display = (
        "public_id",
        "name",
        "customer_link",
        "recognised_by",
        "status_badge",
        "scope_list",
        "expires_at",
        "created_at",
    )
    list_filter = (KeyStatusFilter, CustomerFilter, "expires_at")
    list_select_related = ("customer",)
    search_fields = (
        "public_id__exact",
        "name",
        "last4__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "Token's id, name, last four characters, customer's name or cus_… id"
    fields = (
        "public_id",
        "customer_link",
        "name",
        "recognised_by",
        "scope_list",
        "expires_at",
        "revoked_at",
        "created_at",
    )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """They are made for a customer's script, which is shown the secret."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def stop(self, number: int) -> None:
        customers.revoke_access_token(access_token_id=number, at=timezone.now())

    @display(description="Customer", ordering="customer__name")
    def customer_link(self, obj: AccessToken) -> str:
        return html.link(html.object_url(Customer, obj.customer_id), obj.customer.name)

    @display(description="Scopes")
    def scope_list(self, obj: AccessToken) -> str:
        return ", ".join(obj.scopes)


@admin.register(IdempotentAnswer)
class IdempotentAnswerAdmin(ReadOnlyAdmin):
    list_display = ("key", "customer_link", "status", "created_at")
    list_filter = (CustomerFilter,)
    list_select_related = ("customer",)
    search_fields = ("key__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "Idempotency key, customer's name or cus_… id"
    fields = ("key", "customer_link", "status", "answer", "created_at")

    @display(description="Customer", ordering="customer__name")
    def customer_link(self, obj: IdempotentAnswer) -> str:
        return html.link(html.object_url(Customer, obj.customer_id), obj.customer.name)

    @display(description="Answer")
    def answer(self, obj: IdempotentAnswer) -> str:
        return html.pretty_json(obj.body)
