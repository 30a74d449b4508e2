"""The page on which an operator refunds what a customer has paid in: from the customer's page, or for one top-up."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.validators import RegexValidator
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import refunds
from billing.accounts import InvalidChange
from billing.admin import html
from billing.admin.account_actions import AccountActions, Act, sentence, who
from billing.admin.account_forms import KeyedForm
from billing.admin.base import OperatorAdmin, see_other
from billing.admin.forms import AmountFormField
from billing.models import Refund, TopUp
from billing.tasks import send_refunds
from relayadmin.money import ZERO, amount_text

HINT = (
    "It is taken off the wallet at once, and goes back the way it came: to the card or account that paid. Bank"
    " transfers and cash wait below Refunds until somebody has paid them out."
)


class RefundForm(forms.Form):
    amount = AmountFormField(
        label="Amount (USD)", max_length=40, required=False, help_text="In whole cents; empty: all that can go back."
    )
    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="Stands on the customer's statement."
    )
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])


def ask(request: HttpRequest, customer_id: int, form: RefundForm, *, top_up_id: int | None = None) -> str:
    """Do what a valid form asks for; returns what to say. Raises InvalidChange."""
    try:
        rows = refunds.refund(
            customer_id=customer_id,
            amount=form.cleaned_data["amount"],
            reason=form.cleaned_data["reason"],
            actor=who(request),
            key=f"admin:{form.cleaned_data['key']}",
            at=timezone.now(),
            top_up_id=top_up_id,
        )
    except refunds.InvalidRefund as error:
        raise InvalidChange(error.field, str(error)) from error
    except (refunds.TooMuch, refunds.RefundKeyConflict) as error:
        raise InvalidChange("amount", str(error)) from error
    send_refunds.delay()
    return told(rows)


def what_can_go_back(customer_id: int, *, top_up_id: int | None = None) -> str:
    """A sentence for the operator, before anything is refunded."""
    parts = refunds.refundable(customer_id=customer_id, at=timezone.now(), top_up_id=top_up_id)
    if not parts:
        return "Nothing can go back: no paid credit of a top-up is left that isn't held for running requests."
    most = sum((part.amount for part in parts), ZERO)
    many = "one top-up" if len(parts) == 1 else f"{len(parts)} top-ups, the newest first"
    return f"At most {amount_text(most)} USD can go back, of {many}. Promotional and goodwill credit never does."


def told(rows: list[Refund]) -> str:
    """What was refunded, for the operator."""
    amount = sum((row.amount for row in rows), ZERO)
    back = ", ".join(f"{row.pay_amount.normalize():f} {row.currency}" for row in rows)
    waits = any(refunds.is_by_hand(row) for row in rows)
    then = " Pay out what waits below Refunds." if waits else ""
    return f"{amount_text(amount)} USD left the wallet; {back} {'goes' if len(rows) == 1 else 'go'} back.{then}"


class RefundActions(AccountActions):
    """The customer's page, with refunds."""

    account_actions = (*AccountActions.account_actions, "refund")

    def has_refund_top_up_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.refund_top_up")

    @action(description="Refund…", url_path="refund", icon="undo", permissions=["refund_top_up"])
    def refund(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Refund {customer.name}",
                button="Refund",
                form=RefundForm,
                do=lambda customer, form: ask(request, customer.pk, form),
                initial={"key": KeyedForm.fresh_key()},
                text=what_can_go_back(customer.pk),
                hint=HINT,
            ),
        )


class ReturnedForm(forms.Form):
    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="What the bank says; it stands on the transfer."
    )
    reference = forms.CharField(
        max_length=255,
        widget=UnfoldAdminTextInputWidget,
        help_text="The bank's number of the return, by which it is found again.",
    )


class TopUpRefunds(OperatorAdmin):
    """A top-up's page, with its refund."""

    def has_note_returned_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.record_payment")

    @action(description="Went back…", url_path="returned", icon="money_off", permissions=["note_returned"])
    def returned(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such top-up.")
            return see_other(html.list_url(TopUp))
        back = html.object_url(TopUp, row.pk)
        form = ReturnedForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                refunds.note_returned(
                    top_up_id=row.pk, person=request.user.get_username(), at=timezone.now(), **form.cleaned_data
                )
                messages.success(request, "Noted: it was taken back, and what no credit covers is due again.")
                return see_other(back)
            except (refunds.InvalidRefund, refunds.NotByHand, refunds.SamePerson) as error:
                form.add_error(None, sentence(error))
        number = row.invoice.number if row.invoice else "no invoice"
        return self.ask_form(
            request,
            form,
            title=f"The payment of {number} by {row.customer.name} went back",
            button="Take it back",
            text="For a transfer that the bank has taken back, or cash that proved bad. All that is left of the payment"
            " leaves the wallet; what no credit covers is due on the invoice again, and the customer is told.",
            back=back,
            is_dangerous=True,
        )

    def has_refund_top_up_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.refund_top_up")

    @action(description="Refund…", url_path="refund", icon="undo", permissions=["refund_top_up"])
    def refund(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such top-up.")
            return see_other(html.list_url(TopUp))
        back = html.object_url(TopUp, row.pk)
        fresh = RefundForm(initial={"key": KeyedForm.fresh_key()})
        form = RefundForm(request.POST) if request.method == "POST" else fresh
        if form.is_valid():
            try:
                messages.success(request, ask(request, row.customer_id, form, top_up_id=row.pk))
                return see_other(back)
            except InvalidChange as error:
                form.add_error(error.field if error.field in form.fields else None, sentence(error))
        return self.ask_form(
            request,
            form,
            title=f"Refund {row.public_id} of {row.customer.name}",
            button="Refund",
            text=f"{what_can_go_back(row.customer_id, top_up_id=row.pk)} {HINT}",
            back=back,
        )
