"""API keys and relay tokens: a secret is shown once, on the page that answers its creation."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from billing.admin import html
from billing.admin.filters import CustomerFilter
from billing.admin.forms import LinesField, MomentField
from billing.admin.ledger import CustomerColumn
from billing.admin.revoking import KeyStatusFilter, RevocableAdmin
from metering import keys
from metering.admin import spend_limit_panels
from metering.admin.spend_limit_form import has_limits_permission, set_spend_limits
from metering.models import ApiKey, RelayToken
from metering.models.keys import check_networks

# What an operator says of a key.
TOLD = ("name", "allowed_models", "allowed_networks", "requests_per_minute", "tokens_per_minute", "expires_at")


class ApiKeyForm(forms.ModelForm):
    allowed_models = LinesField(help_text="Public ids, one a line. Empty: every model.")
    allowed_networks = LinesField(
        help_text="Such as 203.0.113.0/24, one a line. Empty: from anywhere.", validators=[check_networks]
    )
    expires_at = MomentField(label="Expires (UTC)", help_text="Empty: never.")

    class Meta:
        model = ApiKey
        fields = ("customer", *TOLD)

    def clean(self) -> dict[str, Any]:
        """What the use case refuses, said beside the field. An expiry that has passed may stay."""
        cleaned: dict[str, Any] = super().clean() or {}
        told: dict[str, Any] = {
            name: cleaned[name] for name in ("name", "allowed_models", "allowed_networks") if name in cleaned
        }
        if "expires_at" in self.changed_data:
            told["expires_at"] = cleaned.get("expires_at")
        if "name" in told:
            try:
                keys.check_key(at=timezone.now(), **told)
            except keys.InvalidKey as error:
                self.add_error(error.field, f"{error}.")
        return cleaned


class SecretAdmin(RevocableAdmin):
    """What a key and a relay token have in common: made with a secret, changed until they are revoked."""

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if kwargs.get("obj") is None:
            # What follows is the page with the secret, whichever button was pressed.
            context.update(show_save_and_add_another=False, show_save_and_continue=False)
        return super().render_change_form(request, context, *args, **kwargs)

    def make(self, obj: Any) -> tuple[Any, str]:
        """Create the row that a form described; returns it with its secret."""
        raise NotImplementedError

    def change(self, obj: Any, form: Any) -> None:
        """Write what a form changed."""
        obj.save(update_fields=form.changed_data)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What is revoked stays as it is."""
        is_revoked = getattr(obj, "revoked_at", None) is not None
        return not is_revoked and bool(super().has_change_permission(request, obj))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            self.change(obj, form)
            return
        made, secret = self.make(obj)
        obj.__dict__.update(made.__dict__)
        form.secret = secret

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        request.new_secret = getattr(form, "secret", None)  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return self.show_secret(
            request,
            title=f"New {self.noun} “{obj.name}”",
            secret=request.new_secret,  # type: ignore[attr-defined]
            url=html.object_url(self.model, obj.pk),
            hint=f"Copy it now: this is the only time it is shown. It was kept as a hash only, with {obj.public_id}.",
        )


@admin.register(ApiKey)
class ApiKeyAdmin(CustomerColumn, SecretAdmin):
    form = ApiKeyForm
    noun = "API key"
    what_it_stops = "Requests with it are refused; what it has used is charged all the same."
    actions_detail = ("set_spend_limits", "revoke")
    set_spend_limits = set_spend_limits
    has_limits_permission = has_limits_permission
    more_panels = [spend_limit_panels.keys_panel]
    list_display = (
        "public_id",
        "name",
        "customer_link",
        "recognised_by",
        "status_badge",
        "limits",
        "expires_at",
        "created_at",
    )
    list_filter = (KeyStatusFilter, CustomerFilter, "expires_at", "created_at")
    list_select_related = ("customer",)
    search_fields = (
        "public_id__exact",
        "name",
        "last4__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "key_… id, name, last four characters, customer's name or cus_… id"
    autocomplete_fields = ("customer",)
    readonly_fields = ("public_id", "recognised_by", "status_badge", "revoked_at", "created_at")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        told = ("customer", *TOLD[:3], TOLD[3:5], TOLD[5])
        return (
            told if obj is None else ("public_id", "recognised_by", "status_badge", *told, "revoked_at", "created_at")
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """A key never moves to another customer."""
        return self.readonly_fields if obj is None else ("customer", *self.readonly_fields)

    def make(self, obj: ApiKey) -> tuple[ApiKey, str]:
        return keys.create_api_key(
            customer=obj.customer,
            name=obj.name,
            at=timezone.now(),
            allowed_models=obj.allowed_models,
            allowed_networks=obj.allowed_networks,
            requests_per_minute=obj.requests_per_minute,
            tokens_per_minute=obj.tokens_per_minute,
            expires_at=obj.expires_at,
        )

    def change(self, obj: ApiKey, form: Any) -> None:
        changes = keys.KeyChanges(**{name: form.cleaned_data[name] for name in form.changed_data})  # type: ignore[typeddict-item]
        try:
            keys.change_api_key(api_key_id=obj.pk, changes=changes, at=timezone.now())
        except keys.KeyRevoked as error:
            # Revoked by somebody else since the form was read.
            raise PermissionDenied(str(error)) from error

    def stop(self, number: int) -> None:
        keys.revoke_api_key(api_key_id=number, at=timezone.now())

    @display(description="Limited to")
    def limits(self, obj: ApiKey) -> str:
        parts = []
        if obj.allowed_models:
            parts.append(f"{len(obj.allowed_models)} models")
        if obj.allowed_networks:
            parts.append(f"{len(obj.allowed_networks)} networks")
        if obj.requests_per_minute is not None:
            parts.append(f"{obj.requests_per_minute:,} requests a minute")
        if obj.tokens_per_minute is not None:
            parts.append(f"{obj.tokens_per_minute:,} tokens a minute")
        return ", ".join(parts) or html.NOTHING


class RelayTokenForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=[("authorize", "Ask before requests"), ("usage", "Report usage")],
        initial=list(keys.RELAY_SCOPES),
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    class Meta:
        model = RelayToken
        fields = ("name", "scopes")


@admin.register(RelayToken)
class RelayTokenAdmin(SecretAdmin):
    form = RelayTokenForm
    noun = "relay token"
    what_it_stops = "The relay that uses it can neither authorize requests nor report usage any more."
    list_display = ("public_id", "name", "recognised_by", "status_badge", "scope_list", "created_at")
    list_filter = (KeyStatusFilter, "created_at")
    search_fields = ("public_id__exact", "name", "last4__exact")
    search_help_text = "Token's id, name or last four characters"
    readonly_fields = ("public_id", "recognised_by", "status_badge", "revoked_at", "created_at")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        told = ("name", "scopes")
        return (
            told if obj is None else ("public_id", "recognised_by", "status_badge", *told, "revoked_at", "created_at")
        )

    def make(self, obj: RelayToken) -> tuple[RelayToken, str]:
        return keys.create_relay_token(name=obj.name, scopes=obj.scopes)

    def stop(self, number: int) -> None:
        keys.revoke_relay_token(relay_token_id=number, at=timezone.now())

    @display(description="Scopes")
    def scope_list(self, obj: RelayToken) -> str:
        return ", ".join(obj.scopes)
