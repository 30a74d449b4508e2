"""Closing and reopening an account from the customer's page: with its keys, so the action is metering's."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import action
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldBooleanSwitchWidget

from billing import closing
from billing.accounts import InvalidChange
from billing.admin.account_actions import Act, sentence, who
from billing.admin.account_forms import ReasonForm
from billing.admin.customers import CustomerAdmin
from billing.models import Customer
from metering.admin.not_invoiced import NotInvoicedFilter
from metering.closing import close_account
from relayadmin.money import amount_text


class CloseForm(ReasonForm):
    paid_credit = forms.ChoiceField(
        label="Paid credit that is left",
        choices=[
            (closing.PaidCredit.REFUND.value, "Refund: it waits in refunds pending until you pay it out"),
            (closing.PaidCredit.EXPIRE.value, "Expires, as your terms say"),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text="Promotional and goodwill credit expires in any case.",
    )
    release_holds = forms.BooleanField(
        label="Release what is held for running requests",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Otherwise it can't be closed while requests run. Their usage is charged when it is reported.",
    )
    field_order = ("paid_credit", "release_holds", "reason")


admin.site.unregister(Customer)


@admin.register(Customer)
class ClosableCustomerAdmin(CustomerAdmin):
    list_filter = (*CustomerAdmin.list_filter, NotInvoicedFilter)
    account_actions = (*CustomerAdmin.account_actions, "close_account", "reopen_account")
    actions_detail = (
        *CustomerAdmin.actions_detail[:-1],
        {**CustomerAdmin.actions_detail[-1], "items": [*account_actions]},
    )

    def has_close_customer_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.close_customer")

    def hidden_actions(self, customer: Customer) -> set[str]:
        is_closed = customer.status == Customer.Status.CLOSED
        return super().hidden_actions(customer) | {"close_account" if is_closed else "reopen_account"}

    @action(description="Close account…", url_path="close", icon="door_front", permissions=["close_customer"])
    def close_account(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def do(customer: Customer, form: Any) -> str:
            try:
                closed = close_account(
                    customer_id=customer.pk,
                    paid_credit=closing.PaidCredit(form.cleaned_data["paid_credit"]),
                    release_holds=form.cleaned_data["release_holds"],
                    reason=form.cleaned_data["reason"],
                    actor=who(request),
                    at=timezone.now(),
                )
            except closing.HoldsOpen as error:
                raise InvalidChange("release_holds", str(error)) from error
            if not closed.money.is_new:
                return f"{customer.name} was closed before; nothing was changed."
            return (
                f"{customer.name} is closed. To be refunded: {amount_text(closed.money.refunded)} USD; expired:"
                f" {amount_text(closed.money.expired)} USD; still owed: {amount_text(closed.money.debt)} USD. Keys"
                f" revoked: {closed.keys}; adjustments withdrawn: {closed.money.withdrawn}."
            )

        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Close the account of {customer.name}",
                button="Close the account",
                form=CloseForm,
                do=do,
                is_dangerous=True,
                text="All API keys and access tokens are revoked for good, the credit limit ends, and no credit is"
                " left. The ledger, invoices and usage stay, and so does what is owed. Adjustments that wait for a"
                " second person are withdrawn.",
            ),
        )

    @action(description="Reopen account…", url_path="reopen", icon="door_open", permissions=["close_customer"])
    def reopen_account(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def do(customer: Customer, form: Any) -> str:
            try:
                closing.reopen(
                    customer_id=customer.pk,
                    reason=form.cleaned_data["reason"],
                    actor=who(request),
                    at=timezone.now(),
                )
            except closing.NotClosed as error:
                return sentence(error)
            return f"{customer.name} is open again; it needs new keys."

        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Reopen the account of {customer.name}",
                button="Reopen the account",
                form=ReasonForm,
                do=do,
                text="Keys, access tokens, credit and credit limit stay as closing left them: make and grant new ones.",
            ),
        )
