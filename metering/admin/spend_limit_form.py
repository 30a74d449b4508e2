"""The page on which an operator sets and removes the limits of a customer or one of its keys."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.decorators import action

from billing.admin import html
from billing.admin.base import OperatorAdmin, see_other
from billing.admin.forms import AmountFormField
from billing.models import Customer, SpendLimit
from billing.models.spending import Span
from billing.spending import InvalidLimit
from metering import spend
from metering.admin.spend_limit_panels import limits_panel
from metering.models import ApiKey
from relayadmin.money import amount_text

MOST_KEYS = 100
_FIELDS = {
    "day_hard": (Span.DAY, True, "A day: refuse beyond (USD)"),
    "day_soft": (Span.DAY, False, "A day: refuse nothing, only tell (USD)"),
    "month_hard": (Span.MONTH, True, "A month: refuse beyond (USD)"),
    "month_soft": (Span.MONTH, False, "A month: refuse nothing, only tell (USD)"),
}


@dataclass(frozen=True, slots=True)
class Spender:
    """Whose limits they are: a customer's, or with a key that key's."""

    customer: Customer
    key: ApiKey | None = None

    @property
    def scope(self) -> str:
        return spend.scope_of(None if self.key is None else self.key.pk)

    @property
    def name(self) -> str:
        return self.customer.name if self.key is None else f"the key {self.key}"

    @property
    def page(self) -> str:
        return html.object_url(Customer, self.customer.pk) if self.key is None else html.object_url(ApiKey, self.key.pk)


class SpendLimitForm(forms.Form):
    """The operator's limits of one spender; an empty amount is none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (_, _, label) in _FIELDS.items():
            self.fields[name] = AmountFormField(label=label, max_length=40, required=False)
            self.fields[name].widget.attrs["placeholder"] = "none"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name in _FIELDS:
            amount: Decimal | None = cleaned.get(name)
            if amount is not None and amount < 0:
                self.add_error(name, "Write 0 or more. Empty: no such limit.")
        return cleaned

    @classmethod
    def of(cls, spender: Spender) -> "SpendLimitForm":
        """The form as it stands now."""
        own = SpendLimit.objects.filter(customer=spender.customer, scope=spender.scope, owner=SpendLimit.Owner.OPERATOR)
        amounts = {(limit.span, limit.is_hard): amount_text(limit.amount) for limit in own}
        return cls(initial={name: amounts.get((span, is_hard)) for name, (span, is_hard, _) in _FIELDS.items()})

    def save(self, spender: Spender, *, actor: str) -> str:
        """Make the valid form's amounts the operator's only limits of a spender; returns what a log says of it."""
        limits = [
            spend.Limit(span, amount, is_hard=is_hard, api_key_id=None if spender.key is None else spender.key.pk)
            for name, (span, is_hard, _) in _FIELDS.items()
            if (amount := self.cleaned_data[name]) is not None
        ]
        spend.replace_limits(
            spender.customer.pk,
            limits,
            owner=SpendLimit.Owner.OPERATOR,
            api_key_id=None if spender.key is None else spender.key.pk,
            actor=actor,
            at=timezone.now(),
        )
        said = ", ".join(
            f"{amount_text(limit.amount)} USD a {limit.span} ({'hard' if limit.is_hard else 'soft'})"
            for limit in limits
        )
        return f"Operator's limits of {spender.name}: {said or 'none'}."


def has_limits_permission(page: OperatorAdmin, request: HttpRequest, obj: Any = None) -> bool:
    """Who may set limits, whichever page the action stands on."""
    return request.user.has_perm("billing.change_spendlimit")


@action(
    description="Set spend limits",
    url_path="spend-limits",
    icon="speed",
    permissions=["limits"],
)
def set_spend_limits(page: OperatorAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    """An action of a customer's and of a key's page: show the form, or do what it says."""
    found = page.get_object(request, object_id)
    spender = Spender(found) if isinstance(found, Customer) else Spender(found.customer, found) if found else None
    if spender is None or spender.customer.is_house:
        messages.error(request, "There is nobody here whose spend can be limited.")
        return see_other(html.list_url(page.model))
    form = SpendLimitForm(request.POST) if request.method == "POST" else SpendLimitForm.of(spender)
    if form.is_valid():
        try:
            trace = form.save(spender, actor=request.user.get_username())
        except InvalidLimit as error:
            form.add_error(None, f"{error}.")
        else:
            page.log_change(request, spender.customer if spender.key is None else spender.key, trace)
            messages.success(request, trace)
            return see_other(spender.page)
    context = {
        **page.admin_site.each_context(request),
        "opts": page.opts,
        "title": f"Spend limits of {spender.name}",
        "form": form,
        "back": spender.page,
        "spenders": _spenders(spender),
        "panels": [limits_panel(spender.customer.pk, scope=spender.scope)],
    }
    return TemplateResponse(request, "admin/set_spend_limits.html", context)


def _spenders(shown: Spender) -> list[tuple[str, str, bool]]:
    """(text, address, whether it is this one): the customer and its newest keys that can still spend."""
    keys = ApiKey.objects.filter(customer=shown.customer, revoked_at=None).order_by("-pk")[:MOST_KEYS]
    return [
        (shown.customer.name, html.action_url(Customer, "set_spend_limits", shown.customer.pk), shown.key is None),
        *((str(key), html.action_url(ApiKey, "set_spend_limits", key.pk), key == shown.key) for key in keys),
    ]
