"""The forms of what is done with a customer's account; each has its reason."""

import secrets
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from billing import manual
from billing.admin.forms import AmountFormField, MomentField
from billing.models import Account, WalletAdjustment

_CREDIT_LABELS = {
    WalletAdjustment.Kind.GOODWILL: "Credit, goodwill: a gift, such as for an outage",
    WalletAdjustment.Kind.PROMOTIONAL: "Credit, promotional: a bonus or trial credit",
    WalletAdjustment.Kind.PAID: "Credit, paid: money that has arrived, by hand",
    WalletAdjustment.Kind.MONEY_BACK: "Credit, money back: what was charged wrongly, as paid credit",
    WalletAdjustment.Kind.DEBIT: "Debit: a charge by hand",
}
_ACCOUNTS = list(dict.fromkeys((*manual.DEBIT_ACCOUNTS, *manual.MONEY_BACK_ACCOUNTS)))


class ReasonForm(forms.Form):
    """A reason for the operator's own record."""

    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="For your record; the customer doesn't see it."
    )


class NoteForm(forms.Form):
    note = forms.CharField(
        max_length=500, required=False, widget=UnfoldAdminTextInputWidget, help_text="Why; for your record."
    )


class CreditLimitForm(ReasonForm):
    limit = AmountFormField(
        label="Credit limit (USD)", max_length=40, help_text="How far below zero the balance may go; 0 for none."
    )
    field_order = ("limit", "reason")


class KeyedForm(forms.Form):
    """`key` is made when the form is shown, so a double click or a reload does its work once."""

    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="Stands on the customer's statement."
    )
    document = forms.CharField(
        max_length=255,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="What is behind it, such as a bank transfer's or ticket's number.",
    )
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])

    @classmethod
    def fresh_key(cls) -> str:
        return secrets.token_urlsafe(24)


class AdjustForm(KeyedForm):
    kind = forms.ChoiceField(
        label="What",
        choices=[(kind.value, label) for kind, label in _CREDIT_LABELS.items()],
        widget=UnfoldAdminSelectWidget,
    )
    amount = AmountFormField(label="Amount (USD)", max_length=40)
    account = forms.ChoiceField(
        required=False,
        choices=[("", "By its kind"), *[(account.value, Account(account).label) for account in _ACCOUNTS]],
        widget=UnfoldAdminSelectWidget,
        help_text="For a debit, what it counts as; for money back, what it is taken off. Usage stays usage.",
    )
    may_make_debt = forms.BooleanField(
        label="The debit may make debt",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Otherwise it takes at most what is there and not held for running requests.",
    )
    expires_at = MomentField(label="Credit expires (UTC)", help_text="Empty: as for credit of its kind.")
    field_order = ("kind", "amount", "account", "may_make_debt", "reason", "document", "expires_at", "key")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        names_account = cleaned.get("kind") in {WalletAdjustment.Kind.DEBIT, WalletAdjustment.Kind.MONEY_BACK}
        if names_account and cleaned.get("account") == "":
            self.add_error("account", "Choose what a debit counts as, or what money back is taken off.")
        return cleaned

    def wanted(self) -> manual.Wanted:
        """What the valid form asks for."""
        told: dict[str, Any] = {name: value for name, value in self.cleaned_data.items() if name != "key"}
        return manual.Wanted(**told)


class WriteOffForm(KeyedForm):
    amount = AmountFormField(
        label="Amount (USD)", max_length=40, help_text="At most so much; never more than is owed when it is posted."
    )
    field_order = ("amount", "reason", "document", "key")

    def wanted(self) -> manual.Wanted:
        """What the valid form asks for."""
        told = self.cleaned_data
        return manual.Wanted(
            kind=WalletAdjustment.Kind.WRITE_OFF,
            amount=told["amount"],
            reason=told["reason"],
            document=told["document"],
        )
