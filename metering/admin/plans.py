"""Plans with their rules and policies, who is on which, and the operator's contracts upstream.

What is in force is never changed, only ended or followed by another: prices of the past stay as they were.
"""

from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import StackedInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import OperatorAdmin, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter
from billing.admin.ledger import CustomerColumn
from metering.admin.catalog import PriceBookAdmin
from metering.admin.prices import InForceFilter
from metering.models import CustomerPlan, Plan, PlanPolicy, PlanRule, UpstreamAccount, UpstreamTerms, UsageEvent
from metering.pricing import LIST_PLAN

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


class RuleInline(StackedInline):
    model = PlanRule
    form = RuleForm
    formset = AheadOnlyFormSet
    extra = 0
    autocomplete_fields = ("model", "channel")
    verbose_name_plural = "Rules: the most specific one wins (model, family, meter, channel, then the latest)"


class PolicyForm(OfAPlanForm):
    class Meta:
        model = PlanPolicy
        fields = ("aborted", "failed", "effective_from")


class PolicyInline(StackedInline):
    model = PlanPolicy
    form = PolicyForm
    formset = AheadOnlyFormSet
    extra = 0
    verbose_name_plural = "What is charged for requests that did not complete (none: all that is known)"


@admin.register(Plan)
class PlanAdmin(PriceBookAdmin):
    list_display = ("name", "multiplier", "rules_amount", "customers_amount", "created_at")
    search_fields = ("name",)
    search_help_text = "Name"
    fields = ("name", "multiplier")
    inlines: ClassVar[list[type[StackedInline]]] = [RuleInline, PolicyInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        queryset: QuerySet[Plan] = super().get_queryset(request)
        return queryset.annotate(
            customers=Count("customerplan__customer", distinct=True), ruled=Count("rules", distinct=True)
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Usage was priced by the multiplier, and keeps the name. A rule without model and meter takes its place from a
        moment on.
        """
        return () if obj is None or not obj.customers else ("name", "multiplier")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """List prices are list prices; make another plan for others."""
        is_list = isinstance(obj, Plan) and obj.name == LIST_PLAN
        return not is_list and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_free = obj is not None and obj.name != LIST_PLAN and not obj.customers and not obj.ruled
        return is_free and bool(super().has_delete_permission(request, obj))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        rows = formset.save(commit=False)
        for row in formset.deleted_objects:
            row.delete()
        for row in rows:
            if isinstance(row, PlanRule) and not row.created_by:
                row.created_by = request.user.get_username()
            row.save()
        formset.save_m2m()

    @display(description="Rules", ordering="ruled")
    def rules_amount(self, obj: Any) -> str:
        return html.quantity(obj.ruled)

    @display(description="Customers chosen for it", ordering="customers")
    def customers_amount(self, obj: Any) -> str:
        return html.quantity(obj.customers)


class CustomerPlanForm(FromAMomentForm):
    class Meta:
        model = CustomerPlan
        fields = ("customer", "plan", "effective_from")

    def may_begin_anywhere(self) -> bool:
        customer = self.cleaned_data.get("customer") or getattr(self.instance, "customer_id", None)
        return customer is not None and not UsageEvent.objects.filter(customer=customer).exists()


@admin.register(CustomerPlan)
class CustomerPlanAdmin(CustomerColumn, OperatorAdmin):
    form = CustomerPlanForm
    list_display = ("customer_name", "customer_link", "plan", "begins")
    list_filter = ("plan", CustomerFilter)
    list_select_related = ("customer", "plan")
    search_fields = ("customer__name", "customer__public_id__exact", "plan__name")
    search_help_text = "Customer's name, cus_… id or plan"
    autocomplete_fields = ("customer",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if obj is None else ("customer", "plan", "effective_from")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What is announced can be called off; what has begun is followed by another plan."""
        is_ahead = obj is not None and obj.effective_from is not None and obj.effective_from > timezone.now()
        return is_ahead and bool(super().has_delete_permission(request, obj))

    @display(description="Plan of")
    def customer_name(self, obj: CustomerPlan) -> str:
        return str(obj.customer.public_id)

    @display(description="From", ordering="effective_from")
    def begins(self, obj: CustomerPlan) -> str:
        return html.moment(obj.effective_from) if obj.effective_from else "always"


class TermsForm(FromAMomentForm):
    class Meta:
        model = UpstreamTerms
        fields = ("multiplier", "effective_from")

    def may_begin_anywhere(self) -> bool:
        return self.instance.account_id is None


class TermsInline(StackedInline):
    model = UpstreamTerms
    form = TermsForm
    formset = AheadOnlyFormSet
    extra = 0
    verbose_name_plural = "What it pays of the channel's prices (none: all of it)"


@admin.register(UpstreamAccount)
class UpstreamAccountAdmin(PriceBookAdmin):
    empty_text = "No upstream accounts. Without one, usage costs what its channel's prices say."
    list_display = ("name", "channel", "terms_now", "created_at")
    list_filter = ("channel",)
    list_select_related = ("channel",)
    search_fields = ("name",)
    search_help_text = "Name"
    autocomplete_fields = ("channel",)
    fields = ("name", "channel")
    inlines: ClassVar[list[type[StackedInline]]] = [TermsInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[UpstreamAccount]:
        queryset: QuerySet[UpstreamAccount] = super().get_queryset(request)
        return queryset.prefetch_related("terms")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Relays report it by this name, and its usage was priced at this channel."""
        return () if obj is None else ("name", "channel")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Usage points at it for ever."""
        return False

    @display(description="Pays now")
    def terms_now(self, obj: UpstreamAccount) -> str:
        now = timezone.now()
        held = [row for row in obj.terms.all() if row.effective_from is None or row.effective_from <= now]
        latest = max(held, key=lambda row: row.effective_from or datetime.min.replace(tzinfo=now.tzinfo), default=None)
        return "× 1" if latest is None else f"× {latest.multiplier.normalize():f}"


class HoldsFromColumn:
    """When a row begins to hold."""

    @display(description="From", ordering="effective_from")
    def begins(self, obj: Any) -> str:
        return html.moment(obj.effective_from) if obj.effective_from else "always"


@admin.register(PlanRule)
class PlanRuleAdmin(HoldsFromColumn, ReadOnlyAdmin):
    """All rules beside each other, to find the one that an event names; they are entered on their plan's page."""

    empty_text = "No rules. They are entered on a plan's page."
    list_display = ("number", "plan", "about", "effect", "begins", "effective_until", "reason", "created_by")
    list_filter = ("plan", InForceFilter, ("model", AutocompleteSelectFilter), "meter")
    list_select_related = ("plan", "model", "channel")
    sortable_by = ()
    search_fields = ("id__exact", "model__public_id", "family", "reason")
    search_help_text = "Number, a part of a model's id, family or reason"
    fields = (
        "plan",
        ("model", "family"),
        ("meter", "channel"),
        "effect",
        ("begins", "effective_until"),
        "reason",
        ("created_by", "created_at"),
    )

    @display(description="Rule", ordering="id")
    def number(self, obj: PlanRule) -> str:
        return f"rule {obj.pk}"

    @display(description="About")
    def about(self, obj: PlanRule) -> str:
        what = str(obj.model) if obj.model else f"{obj.family}…" if obj.family else "every model"
        meter = f", {obj.get_meter_display()}" if obj.meter else ""
        return f"{what}{meter}{f', on {obj.channel}' if obj.channel else ''}"

    @display(description="Does")
    def effect(self, obj: PlanRule) -> str:
        return obj.says()


@admin.register(PlanPolicy)
class PlanPolicyAdmin(HoldsFromColumn, ReadOnlyAdmin):
    empty_text = "No policies: what did not complete is charged as far as it is known. They stand on a plan's page."
    list_display = ("plan", "aborted", "failed", "begins")
    list_filter = ("plan",)
    list_select_related = ("plan",)
    sortable_by = ()
    search_fields = ("plan__name",)
    search_help_text = "Plan"
    fields = ("plan", ("aborted", "failed"), "begins")


@admin.register(UpstreamTerms)
class UpstreamTermsAdmin(HoldsFromColumn, ReadOnlyAdmin):
    empty_text = "No terms. They are entered on an upstream account's page."
    list_display = ("account", "multiplier", "begins")
    list_filter = ("account",)
    list_select_related = ("account",)
    sortable_by = ()
    search_fields = ("account__name",)
    search_help_text = "Account"
    fields = ("account", "multiplier", "begins")
