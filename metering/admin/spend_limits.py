"""Spend limits and counters: to look at. Limits are set on the page of their customer or key."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display

from billing.admin import html, notice_texts
from billing.admin.base import Figure, OperatorChangeList, ReadOnlyAdmin
from billing.admin.customers import CustomerAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.hot import HotChangeList, HotModelAdmin
from billing.admin.ledger import CustomerColumn, HoldAdmin
from billing.admin.operation import OperatorSettingsAdmin
from billing.models import SpendCounter, SpendLimit
from metering import spend
from metering.admin import spend_limit_panels as panels
from metering.admin.closing import ClosableCustomerAdmin
from metering.admin.spend_limit_form import has_limits_permission, set_spend_limits
from metering.tasks import count_spend_anew
from relayadmin.money import EXACT, amount_text


def look_up(limits: Sequence[SpendLimit]) -> None:
    """Keep beside limits whose they are and what is used of them; three queries for all."""
    keys = spend.keys_of(limit.scope for limit in limits)
    for limit, standing in zip(limits, spend.standings(limits, at=timezone.now()), strict=True):
        limit.__dict__.update(standing=standing, scope_name=panels.scope_name(limit.scope, keys))


class SpendLimitChangeList(OperatorChangeList):
    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        look_up(self.result_list)


@admin.register(SpendLimit)
class SpendLimitAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No limits yet. “Set spend limits” on a customer's or key's page sets some."
    list_display = (
        "number",
        "customer_link",
        "of",
        "span",
        "kind",
        "limit_amount",
        "spent_amount",
        "held_amount",
        "left_amount",
        "set_by",
        "created_at",
    )
    list_filter = (CustomerFilter, "span", "is_hard", "owner", ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    ordering = ("-id",)
    search_fields = ("customer__name", "customer__public_id__exact", "actor__exact")
    search_help_text = "Customer's name or cus_… id, or who set it"
    fields = (
        ("customer_link", "of"),
        ("span", "kind"),
        ("set_by", "created_at"),
        ("counts_from", "timezone"),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return SpendLimitChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> SpendLimit | None:
        limit: SpendLimit | None = super().get_object(request, object_id, from_field)
        if limit is not None:
            look_up([limit])
        return limit

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        standing: spend.Standing = obj.standing
        return [
            Figure("Limit", amount_text(obj.amount), f"USD a {obj.span}"),
            Figure("Spent", amount_text(standing.spent), "since it began last"),
            Figure("Held", amount_text(standing.held), "for requests that run now"),
            Figure(
                "Left",
                amount_text(standing.left),
                f"until {html.moment(standing.resets_at)} UTC",
                tone="danger" if standing.left <= 0 else "",
            ),
        ]

    @display(description="No.")
    def number(self, obj: SpendLimit) -> str:
        return str(obj.pk)

    @display(description="Of")
    def of(self, obj: Any) -> str:
        return str(obj.scope_name)

    @display(description="Kind")
    def kind(self, obj: SpendLimit) -> str:
        return panels.how_it_holds(obj)

    @display(description="Set by")
    def set_by(self, obj: SpendLimit) -> str:
        return panels.set_by(obj)

    @display(description="Limit")
    def limit_amount(self, obj: SpendLimit) -> str:
        return html.amount(obj.amount)

    @display(description="Spent")
    def spent_amount(self, obj: Any) -> str:
        return html.amount(obj.standing.spent)

    @display(description="Held")
    def held_amount(self, obj: Any) -> str:
        return html.amount(obj.standing.held)

    @display(description="Left")
    def left_amount(self, obj: Any) -> str:
        return html.amount(obj.standing.left)


class SpendCounterChangeList(HotChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        keys = spend.keys_of(counter.scope for counter in self.result_list)
        for counter in self.result_list:
            counter.scope_name = panels.scope_name(counter.scope, keys)


@admin.register(SpendCounter)
class SpendCounterAdmin(CustomerColumn, HotModelAdmin):
    list_display = (
        "public_id",
        "customer_link",
        "of",
        "span",
        "starts_on",
        "spent_amount",
        "held_amount",
        "sum_amount",
    )
    list_filter = (CustomerFilter, "span")
    fields = (
        ("public_id", "customer_link"),
        "of",
        ("span", "starts_on"),
        ("spent_amount", "held_amount", "sum_amount"),
    )
    search_words = "a customer's name or a cus_… id"
    has_newest = False
    customer_ordering = newest_ordering = ("-starts_on", "customer_id", "scope", "span")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return SpendCounterChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        counter = super().get_object(request, object_id, from_field)
        if counter is not None:
            counter.scope_name = panels.scope_name(counter.scope, spend.keys_of([counter.scope]))
        return counter

    @display(description="Of")
    def of(self, obj: Any) -> str:
        return str(obj.scope_name)

    @display(description="Spent")
    def spent_amount(self, obj: SpendCounter) -> str:
        return html.amount(obj.spent)

    @display(description="Held")
    def held_amount(self, obj: SpendCounter) -> str:
        return html.amount(obj.held)

    @display(description="Together")
    def sum_amount(self, obj: SpendCounter) -> str:
        return html.amount(EXACT.add(obj.spent, obj.held))


CustomerAdmin.more_panels.insert(0, panels.customers_panel)
ClosableCustomerAdmin.set_spend_limits = set_spend_limits
ClosableCustomerAdmin.has_limits_permission = has_limits_permission
ClosableCustomerAdmin.actions_detail = (
    *ClosableCustomerAdmin.actions_detail[:-1],
    "set_spend_limits",
    ClosableCustomerAdmin.actions_detail[-1],
)
HoldAdmin.scope_names += [panels.name_of_key]
notice_texts.scope_names += [panels.names_of]
# Which application the task belongs to is settled only when it is called.
OperatorSettingsAdmin.after_timezone += [lambda: count_spend_anew.delay()]
