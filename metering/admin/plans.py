"""Plans with their rules and policies, who is on which, and the operator's contracts upstream."""

from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count, QuerySet
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
from metering.admin.plan_forms import (
    AheadOnlyFormSet,
    CustomerPlanForm,
    PlanForm,
    PolicyForm,
    RuleForm,
    RuleFormSet,
    TermsForm,
)
from metering.admin.prices import InForceFilter
from metering.models import CustomerPlan, Plan, PlanPolicy, PlanRule, UpstreamAccount, UpstreamTerms
from metering.pricing import LIST_PLAN


class RuleInline(StackedInline):
    model = PlanRule
    form = RuleForm
    formset = RuleFormSet
    extra = 0
    autocomplete_fields = ("model", "channel")
    fields = (*RuleForm.Meta.fields, "is_confirmed")
    verbose_name_plural = "Rules: the most specific one wins (model, family, meter, channel, then the latest)"


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
    form = PlanForm
    inlines: ClassVar[list[type[StackedInline]]] = [RuleInline, PolicyInline]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        is_fixed = obj is not None and (obj.customers or not self.has_change_permission(request, obj))
        return ("name", "multiplier") if is_fixed else ("name", "multiplier", "is_confirmed")

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
