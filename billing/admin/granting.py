"""The form that grants credit: once, however often it is sent."""

import secrets
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from billing import credits, manual
from billing.accounts import AccountClosed
from billing.admin.forms import AmountFormField, MomentField
from billing.models import Customer, Grant

_KIND_LABELS = {
    Grant.Kind.GOODWILL: "Goodwill: a gift, such as for an outage",
    Grant.Kind.PROMOTIONAL: "Promotional: a bonus or trial credit",
    Grant.Kind.PAID: "Paid: money that has arrived, by hand",
}


class GrantForm(forms.Form):
    """`key` is made when the form is shown, so a double click or a reload grants once."""

    amount = AmountFormField(label="Amount (USD)", max_length=40)
    kind = forms.ChoiceField(choices=list(_KIND_LABELS.items()), widget=UnfoldAdminSelectWidget)
    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="Stands on the customer's statement."
    )
    reference = forms.CharField(
        max_length=255,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Needed for a paid grant, such as the bank transfer's number.",
    )
    effective_at = MomentField(label="Begins (UTC)", help_text="Empty: now. Until then it is not in the balance.")
    expires_at = MomentField(
        label="Expires (UTC)", help_text="Empty: as the settings say for paid credit, never for other."
    )
    never_expires = forms.BooleanField(
        label="Never expires", required=False, widget=UnfoldBooleanWidget, help_text="Of paid credit."
    )
    priority = forms.IntegerField(
        initial=0,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Lower is used first; among equals what expires first.",
    )
    is_not_refundable = forms.BooleanField(
        label="Not refundable", required=False, widget=UnfoldBooleanWidget, help_text="Of paid credit."
    )
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])

    @classmethod
    def fresh(cls) -> "GrantForm":
        return cls(initial={"key": secrets.token_urlsafe(24)})

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("kind") == Grant.Kind.PAID and not cleaned.get("reference"):
            self.add_error("reference", "A paid grant needs a reference, such as the bank transfer's number.")
        return cleaned

    def grant(self, request: HttpRequest, customer: Customer) -> credits.Granted | None:
        """Grant what the valid form says; None with errors on the form if it is refused."""
        told = self.cleaned_data
        if manual.needs_second_person(told["amount"]):
            self.add_error("amount", "So much needs a second person: ask for it with “Adjust” on the customer's page.")
            return None
        try:
            return credits.grant(
                customer_id=customer.pk,
                amount=told["amount"],
                kind=told["kind"],
                reason=told["reason"],
                reference=told["reference"],
                key=f"admin:{told['key']}",
                at=timezone.now(),
                actor=request.user.get_username(),
                effective_at=told["effective_at"],
                expires_at=told["expires_at"],
                never_expires=told["never_expires"],
                priority=told["priority"] or 0,
                is_refundable=False if told["is_not_refundable"] else None,
            )
        except credits.InvalidGrant as error:
            self.add_error(error.field if error.field in self.fields else None, f"{error}.")
        except AccountClosed as error:
            self.add_error(None, f"{str(error).capitalize()}.")
        except credits.GrantKeyConflict:
            self.add_error(None, "This form has granted something else before. Open it anew from the customer's page.")
        return None
