"""The forms of plans, who is on which, and contracts upstream.

What is in force is never changed, only ended or followed by another: prices of the past stay as they were.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import BaseInlineFormSet
from django.utils import timezone

from metering import pricing
from metering.admin.price_forms import SecondLookField
from metering.models import CustomerPlan, Plan, PlanPolicy, PlanRule, UpstreamTerms, UsageEvent
from metering.plan_checks import look_at_multiplier, look_at_rule
from metering.plan_terms import PlanTerms, Rule
from metering.price_imports import limit_percent

_BEGUN = "What has begun can't be deleted. End it, or let another one follow."
_NEWEST = 2**63 - 1  # The number of a rule that has none yet: of equals, the newest wins.


def ask_again(form: forms.BaseForm, doubt: str) -> None:
    """Want the tick of who has looked twice, where there is a reason."""
    if doubt:
        form.add_error("is_confirmed", f"Look again: {doubt}. Tick this if it is right.")


def has_begun(row: Any, now: datetime) -> bool:
    """Whether something may have been priced by it."""
    return row.effective_from is None or row.effective_from <= now


class FromAMomentForm(forms.ModelForm):
    """A row that holds from a moment on: a new one from now or later, an old one as it is, but for its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "effective_from" in self.fields:
            self.fields["effective_from"].help_text = "Empty: always, or from now on if it is in use already."

    def may_begin_anywhere(self) -> bool:
        """Whether nothing can have been priced yet by what it belongs to."""
        return False

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        now = timezone.now()
        if self.instance.pk is None:
            begins: datetime | None = cleaned.get("effective_from")
            if begins is None and not self.may_begin_anywhere():
                cleaned["effective_from"] = now
            elif begins is not None and begins < now and not self.may_begin_anywhere():
                self.add_error("effective_from", "It can't begin in the past: usage was priced without it.")
        else:
            self._keep(cleaned, now)
            if cleaned.get("DELETE") and has_begun(self.instance, now):
                self.add_error("effective_from", _BEGUN)  # The formset refuses it; this is where it is seen.
        ends: datetime | None = cleaned.get("effective_until")
        if "effective_until" in self.changed_data and ends is not None and ends < now:
            self.add_error("effective_until", "It can't have ended in the past: usage was priced by it.")
        return cleaned

    def _keep(self, cleaned: dict[str, Any], now: datetime) -> None:
        """Leave what is stored as it is, to the microsecond that no widget shows."""
        changed = set(self.changed_data) - {"DELETE"}
        ended = self.initial.get("effective_until")
        if "effective_until" in changed and ended is not None and ended <= now:
            self.add_error("effective_until", "It has ended, and usage was priced without it. Add another one.")
        for name in changed - {"effective_until", "reason"}:
            self.add_error(name, "What has begun can't be changed. End it, and add another one.")
        for name in set(self.fields) - changed:
            cleaned[name] = self.initial.get(name) if name == "effective_from" else cleaned.get(name)


class AheadOnlyFormSet(BaseInlineFormSet):
    """Rows that are only announced can be called off; what has begun stays."""

    def clean(self) -> None:
        super().clean()
        now = timezone.now()
        if any(has_begun(form.instance, now) for form in self.deleted_forms):
            raise ValidationError(_BEGUN)


class OfAPlanForm(FromAMomentForm):
    def may_begin_anywhere(self) -> bool:
        plan_id = self.instance.plan_id
        return plan_id is None or not CustomerPlan.objects.filter(plan_id=plan_id).exists()


class PlanForm(forms.ModelForm):
    is_confirmed = SecondLookField()

    class Meta:
        model = Plan
        fields = ("name", "multiplier")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        multiplier: Decimal | None = cleaned.get("multiplier")
        if multiplier is not None and "multiplier" in self.changed_data and not cleaned.get("is_confirmed"):
            ask_again(self, look_at_multiplier(multiplier, limit_percent=limit_percent()))
        return cleaned


class RuleForm(OfAPlanForm):
    is_confirmed = SecondLookField()

    class Meta:
        model = PlanRule
        fields = (
            "model",
            "family",
            "meter",
            "channel",
            "multiplier",
            "unit_price",
            "effective_from",
            "effective_until",
            "reason",
        )
        help_texts: ClassVar[dict[str, str]] = {
            "meter": "Empty for all meters. Cache prices, and those that the book took over from another meter, follow"
            " its rule unless one names them."
        }

    def __init__(self, *args: Any, plan: Plan, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plan = plan
        if self.instance.pk is not None:  # It is never changed, so there is nothing to confirm.
            self.fields["is_confirmed"].disabled = True
            self.fields["is_confirmed"].widget = forms.HiddenInput()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        given = [name for name in ("multiplier", "unit_price") if cleaned.get(name) is not None]
        negative = [name for name in given if cleaned[name] < 0]
        if len(given) != 1:
            self.add_error("multiplier", "Enter either a multiplier or a unit price.")
        for name in negative:
            self.add_error(name, "It can't be below zero: using something would earn money.")
        if cleaned.get("unit_price") is not None and not cleaned.get("meter"):
            self.add_error("meter", "A unit price is that of one meter: choose it.")
        if cleaned.get("model") is not None and cleaned.get("family"):
            self.add_error("family", "Name a model or a family, not both.")
        if self.instance.pk is None and not self.errors and not cleaned.get("is_confirmed"):
            ask_again(self, self._doubt(cleaned))
        return cleaned

    def _doubt(self, cleaned: dict[str, Any]) -> str:
        """Why the new rule needs a second look; "" if it needs none."""
        table = pricing.current()
        stored = table.plans.get(self.plan.pk)
        terms = PlanTerms(0, self.plan.name, Decimal(self.plan.multiplier), stored.rules if stored else ())
        model, channel = cleaned.get("model"), cleaned.get("channel")
        rule = Rule(
            id=_NEWEST,
            model_id=None if model is None else model.pk,
            family=cleaned.get("family") or "",
            meter=cleaned.get("meter") or "",
            channel_id=None if channel is None else channel.pk,
            multiplier=cleaned.get("multiplier"),
            unit_price=cleaned.get("unit_price"),
            effective_from=cleaned.get("effective_from") or timezone.now(),
            effective_until=None,
        )
        return look_at_rule(terms, rule, table, limit_percent=limit_percent())


class RuleFormSet(AheadOnlyFormSet):
    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        """The plan that is being entered with its first rules is in no row yet."""
        return {**super().get_form_kwargs(index), "plan": self.instance}


class PolicyForm(OfAPlanForm):
    class Meta:
        model = PlanPolicy
        fields = ("aborted", "failed", "effective_from")


class CustomerPlanForm(FromAMomentForm):
    class Meta:
        model = CustomerPlan
        fields = ("customer", "plan", "effective_from")

    def may_begin_anywhere(self) -> bool:
        customer = self.cleaned_data.get("customer") or getattr(self.instance, "customer_id", None)
        return customer is not None and not UsageEvent.objects.filter(customer=customer).exists()


class TermsForm(FromAMomentForm):
    class Meta:
        model = UpstreamTerms
        fields = ("multiplier", "effective_from")

    def may_begin_anywhere(self) -> bool:
        return self.instance.account_id is None
