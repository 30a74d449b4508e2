"""Forms that change a grant, each with its reason."""

import secrets

from django import forms
from django.core.validators import RegexValidator
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import grant_changes
from billing.admin.forms import MomentField
from billing.models import Grant


class ReasonForm(forms.Form):
    """Something is done for a reason, which is kept."""

    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextInputWidget)


class CancelForm(ReasonForm):
    pass


class VoidForm(ReasonForm):
    reason = forms.CharField(
        max_length=500, widget=UnfoldAdminTextInputWidget, help_text="Stands on the customer's statement."
    )

    def void(self, request: HttpRequest, grant: Grant) -> grant_changes.Voided | None:
        """Void the grant for the valid form's reason; None with errors on the form if it is refused."""
        try:
            return grant_changes.void(
                customer_id=grant.customer_id,
                number=grant.pk,
                reason=self.cleaned_data["reason"],
                actor=request.user.get_username(),
                at=timezone.now(),
            )
        except grant_changes.CannotChange as error:
            self.add_error(error.field if error.field in self.fields else None, f"{str(error).capitalize()}.")
        return None


class ExtendForm(ReasonForm):
    """`key` is made when the form is shown, so a double click or a reload extends once."""

    expires_at = MomentField(label="Expires (UTC)", required=True, help_text="Later than before.")
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])
    field_order = ("expires_at", "reason", "key")

    @classmethod
    def fresh(cls) -> "ExtendForm":
        return cls(initial={"key": secrets.token_urlsafe(24)})

    def extend(self, request: HttpRequest, grant: Grant) -> bool | None:
        """Whether the valid form extends the grant for the first time; None with errors on it if it is refused."""
        told = self.cleaned_data
        try:
            return grant_changes.extend(
                customer_id=grant.customer_id,
                number=grant.pk,
                expires_at=told["expires_at"],
                reason=told["reason"],
                actor=request.user.get_username(),
                key=f"admin:{told['key']}",
                at=timezone.now(),
            )
        except grant_changes.CannotChange as error:
            self.add_error(error.field if error.field in self.fields else None, f"{str(error).capitalize()}.")
        except grant_changes.ChangeKeyConflict:
            self.add_error(None, "This form has changed something else before. Open it anew from the grant's page.")
        return None
