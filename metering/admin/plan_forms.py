"""The forms of plans, who is on which, and contracts upstream.

What is in force is never changed, only ended or followed by another: prices of the past stay as they were.
"""

from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import BaseInlineFormSet
from django.utils import timezone

from metering.models import CustomerPlan, PlanPolicy, PlanRule, UpstreamTerms, UsageEvent

_BEGUN = "What has begun can't be deleted. End it, or let another one follow."


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


class RuleForm(OfAPlanForm):
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
        return cleaned


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
