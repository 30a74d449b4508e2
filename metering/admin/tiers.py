"""Usage tiers, switched on and off, and which customer has which."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import StackedInline
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import Figure, OperatorAdmin, Panel, Question, see_other
from billing.admin.customers import CustomerAdmin
from billing.admin.filters import CustomerFilter
from billing.admin.forms import AmountFormField
from billing.admin.ledger import CustomerColumn
from metering import tiers
from metering.models import CustomerTier, UsageTier
from relayadmin.money import amount_text

STATE_TONES = {"on": "success", "off": "warning"}


def per_minute(tier: UsageTier) -> str:
    """What a tier lets through in a minute, in words."""
    parts = [
        f"{limit:,} {what}"
        for limit, what in ((tier.requests_per_minute, "requests"), (tier.tokens_per_minute, "tokens"))
        if limit is not None
    ]
    return ", ".join(parts) or "no limit"


class UsageTierForm(forms.ModelForm):
    top_ups_from = AmountFormField(
        label="Top-ups from (USD)", help_text="Whose paid credit adds up to this is promoted to the tier."
    )
    spend_per_month = AmountFormField(
        label="Spend per month (USD)",
        required=False,
        help_text="Empty: no limit. It holds within a minute.",
    )

    class Meta:
        model = UsageTier
        fields = ("name", "top_ups_from", "requests_per_minute", "tokens_per_minute", "spend_per_month", "is_on")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        top_ups, spend = cleaned.get("top_ups_from"), cleaned.get("spend_per_month")
        if top_ups is not None and top_ups < 0:
            self.add_error("top_ups_from", "It can't be below zero; 0 is everybody.")
        if spend is not None and spend <= 0:
            self.add_error("spend_per_month", "It must be above zero, or empty.")
        return cleaned


@admin.register(UsageTier)
class UsageTierAdmin(OperatorAdmin):
    form = UsageTierForm
    empty_text = "No tiers, so nobody is limited. “Load the sample table” above adds four, switched off."
    actions_list = ("load_sample", "switch_all_on", "switch_all_off")
    actions: Any = ("switch_on", "switch_off")
    list_display = (
        "name",
        "state_badge",
        "top_ups_amount",
        "requests_amount",
        "tokens_amount",
        "spend_amount",
        "customers_amount",
    )
    sortable_by = ()
    search_fields = ("name",)
    search_help_text = "Name"
    fields = (
        "name",
        "top_ups_from",
        ("requests_per_minute", "tokens_per_minute"),
        "spend_per_month",
        "is_on",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageTier]:
        queryset: QuerySet[UsageTier] = super().get_queryset(request)
        return queryset.annotate(having=Count("customers"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One that customers have is switched off, so that it is known what they had."""
        is_free = obj is None or not obj.customers.exists()
        return is_free and bool(super().has_delete_permission(request, obj))

    def get_actions(self, request: HttpRequest) -> Any:
        """Not those that customers have, which only each tier's own page can tell."""
        return {name: told for name, told in super().get_actions(request).items() if name != "delete_selected"}

    def save_model(self, request: HttpRequest, obj: UsageTier, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        tiers.promote(at=timezone.now())

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        url = html.list_url(CustomerTier, f"tier__id__exact={obj.pk}")
        pinned = obj.customers.filter(is_pinned=True).count()
        return [Figure("Customers", f"{obj.customers.count():,}", url=url), Figure("Pinned to it", f"{pinned:,}")]

    @action(description="Load the sample table", url_path="sample", icon="table_rows", permissions=["add"])
    def load_sample(self, request: HttpRequest) -> HttpResponse:
        """Add what is published for Claude's platform."""
        back = html.list_url(UsageTier)
        if request.method == "POST":
            made = tiers.load_sample()
            messages.success(
                request, f"{made} tiers added, switched off." if made else "All of them are there already."
            )
            return see_other(back)
        names = "; ".join(
            f"{name} from {top_ups:f} USD: {requests:,} requests and {tokens:,} tokens a minute"
            for name, top_ups, requests, tokens, _ in tiers.SAMPLE
        )
        question = Question(
            title="Load the sample table",
            text=f"Four tiers as published for Claude's platform, switched off until you switch them on. {names}."
            " Tiers of the same name or amount stay as they are.",
            button="Load them",
            back=back,
            is_dangerous=False,
        )
        return self.ask(request, question)

    @action(description="Switch all on", url_path="all-on", icon="toggle_on", permissions=["change"])
    def switch_all_on(self, request: HttpRequest) -> HttpResponse:
        return self._switch_all(request, is_on=True)

    @action(description="Switch all off", url_path="all-off", icon="toggle_off", permissions=["change"])
    def switch_all_off(self, request: HttpRequest) -> HttpResponse:
        return self._switch_all(request, is_on=False)

    def _switch_all(self, request: HttpRequest, *, is_on: bool) -> HttpResponse:
        back = html.list_url(UsageTier)
        if request.method == "POST":
            self._switch(request, list(UsageTier.objects.all()), is_on=is_on)
            return see_other(back)
        text = (
            "Customers get the highest tier that their top-ups reach and are limited by it from their next request on."
            if is_on
            else "From their next request on, customers are limited by no tier. Limits of single keys stay."
        )
        word = "on" if is_on else "off"
        question = Question(f"Switch all tiers {word}", text, f"Switch all {word}", back, is_dangerous=False)
        return self.ask(request, question)

    @admin.action(description="Switch on", permissions=["change"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[UsageTier]) -> None:
        self._switch(request, list(queryset), is_on=True)

    @admin.action(description="Switch off", permissions=["change"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[UsageTier]) -> None:
        self._switch(request, list(queryset), is_on=False)

    def _switch(self, request: HttpRequest, chosen: list[UsageTier], *, is_on: bool) -> None:
        word = "on" if is_on else "off"
        different = [tier for tier in chosen if tier.is_on != is_on]
        tiers.switch(tier_ids=[tier.pk for tier in chosen], is_on=is_on, at=timezone.now())
        for tier in different:
            self.log_change(request, tier, f"Switched {word}.")
        limited = CustomerTier.objects.filter(tier__is_on=True).count()
        who = {0: "No customer is", 1: "1 customer is"}.get(limited, f"{limited:,} customers are")
        what = "1 tier" if len(different) == 1 else f"{len(different)} tiers"
        messages.success(request, f"Switched {what} {word}. {who} limited by a tier now.")

    @display(description="State", label=STATE_TONES)
    def state_badge(self, obj: UsageTier) -> str:
        return "on" if obj.is_on else "off"

    @display(description="Top-ups from (USD)")
    def top_ups_amount(self, obj: UsageTier) -> str:
        return html.amount(obj.top_ups_from)

    @display(description="Requests a minute")
    def requests_amount(self, obj: UsageTier) -> str:
        return html.quantity(obj.requests_per_minute)

    @display(description="Tokens a minute")
    def tokens_amount(self, obj: UsageTier) -> str:
        return html.quantity(obj.tokens_per_minute)

    @display(description="Spend a month (USD)")
    def spend_amount(self, obj: UsageTier) -> str:
        return html.amount(obj.spend_per_month)

    @display(description="Customers")
    def customers_amount(self, obj: Any) -> str:
        return html.quantity(obj.having)


class CustomerTierForm(forms.ModelForm):
    """A tier that somebody chooses is pinned, also without a tick: promotion would put it away within a minute."""

    class Meta:
        model = CustomerTier
        fields = ("customer", "tier", "is_pinned")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "tier" in self.fields:
            self.fields["tier"].help_text = "Empty: no tier. What you choose is pinned."
        if self.instance.pk is None and "is_pinned" in self.fields:
            self.fields["is_pinned"].initial = True

    def save(self, commit: bool = True) -> Any:
        if self.instance.since is None or "tier" in self.changed_data:
            self.instance.since = timezone.now()
            self.instance.is_pinned = True
        return super().save(commit)


class CustomerTierInline(StackedInline):
    model = CustomerTier
    form = CustomerTierForm
    extra = 0
    max_num = 1
    fields = (("tier", "is_pinned"),)
    verbose_name = "usage tier"


@admin.register(CustomerTier)
class CustomerTierAdmin(CustomerColumn, OperatorAdmin):
    form = CustomerTierForm
    empty_text = "No customer has a tier yet. Switch tiers on, or pin one on a customer's page."
    list_display = ("row_name", "customer_link", "tier_name", "pinned_badge", "limits", "since")
    list_filter = ("tier", "is_pinned", CustomerFilter)
    list_select_related = ("customer", "tier")
    search_fields = ("customer__name", "customer__public_id__exact", "tier__name")
    search_help_text = "Customer's name, cus_… id or tier"
    autocomplete_fields = ("customer",)
    readonly_fields = ("since",)
    sortable_by = ("since",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        told = ("customer", "tier", "is_pinned")
        return told if obj is None else (*told, "since")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.readonly_fields if obj is None else ("customer", *self.readonly_fields)

    @display(description="Tier of")
    def row_name(self, obj: CustomerTier) -> str:
        return str(obj.customer.public_id)

    @display(description="Tier")
    def tier_name(self, obj: CustomerTier) -> str:
        return str(obj.tier) if obj.tier else html.NOTHING

    @display(description="By", label={"pinned": "info", "top-ups": ""})
    def pinned_badge(self, obj: CustomerTier) -> str:
        return "pinned" if obj.is_pinned else "top-ups"

    @display(description="A minute")
    def limits(self, obj: CustomerTier) -> str:
        return limits_text(obj)


def limits_text(has: CustomerTier) -> str:
    """What a customer's tier lets through now."""
    if has.tier is None:
        return "no limit"
    return per_minute(has.tier) if has.tier.is_on else "no limit: the tier is off"


def tier_panel(request: HttpRequest, customer: Any) -> Panel:
    has = CustomerTier.objects.filter(customer_id=customer.pk).select_related("tier").first()
    following = tiers.next_tier(customer.pk)
    next_text = f"{following} from {amount_text(following.top_ups_from)} USD" if following is not None else html.NOTHING
    top_ups = html.amount(tiers.top_ups_of(customer.pk))
    rows = []
    if has is not None:
        tier = html.NOTHING if has.tier is None else html.link(html.object_url(UsageTier, has.tier_id), has.tier)
        spend = has.tier.spend_per_month if has.tier is not None and has.tier.is_on else None
        rows.append(
            (
                html.lines(tier, "pinned" if has.is_pinned else ""),
                html.moment(has.since),
                limits_text(has),
                html.amount(spend),
                top_ups,
                html.NOTHING if has.is_pinned else next_text,
            )
        )
    return Panel(
        title="Usage tier",
        headers=("Tier", "Since (UTC)", "A minute", "Spend a month", "Top-ups so far", "Next"),
        rows=rows,
        numbers=frozenset({3, 4}),
        empty=f"No tier, so no limits. Top-ups so far: {amount_text(tiers.top_ups_of(customer.pk))} USD."
        + (f" Next: {next_text}." if following is not None else " No tier above that is switched on."),
        url=html.list_url(UsageTier),
    )


CustomerAdmin.more_panels += [tier_panel]
CustomerAdmin.inlines = [*CustomerAdmin.inlines, CustomerTierInline]
