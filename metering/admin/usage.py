"""Usage events as they count now, hourly usage and event keys: to look at."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import Figure, Panel, looked_up
from billing.admin.filters import CustomerFilter, DaysFilter, PeriodFilter
from billing.admin.hot import CUSTOMER_PARAMETER, HotChangeList, HotModelAdmin
from billing.admin.ledger import CustomerColumn
from billing.models import Hold, Transfer
from metering.admin import counted
from metering.admin.event_panels import (
    counted_panels,
    meters_panel,
    money_figures,
)
from metering.admin.usage_filters import ChannelFilter, EventModelFilter, KeyFilter, ModelFilter
from metering.models import (
    ApiKey,
    Channel,
    EventKey,
    Model,
    ParkedEvent,
    PriceSet,
    UsageAdjustment,
    UsageEvent,
    UsageHour,
)
from relayadmin import ids

EVENT_TONES = {"completed": "success", "aborted": "warning", "failed": "danger"}


class UsageColumns(CustomerColumn):
    """Names of what plain number columns point at; the list has looked them up in one query each."""

    lookups = {"api_key_id": ApiKey, "model_id": Model, "channel_id": Channel}

    @display(description="API key")
    def key_link(self, obj: Any) -> str:
        key = looked_up(obj, "api_key_id")
        return html.row_link(key, obj.api_key_id, key.name if key else None)

    @display(description="Model")
    def model_link(self, obj: Any) -> str:
        return html.row_link(looked_up(obj, "model_id"), obj.model_id)

    @display(description="Channel")
    def channel_link(self, obj: Any) -> str:
        return html.row_link(looked_up(obj, "channel_id"), obj.channel_id)

    @display(description="Price set")
    def price_set_link(self, obj: Any) -> str:
        return html.link(html.object_url(PriceSet, obj.price_set_id), f"price set {obj.price_set_id}")

    @display(description="Charge")
    def charge_amount(self, obj: Any) -> str:
        return html.amount(obj.charge)

    @display(description="Cost")
    def cost_amount(self, obj: Any) -> str:
        return html.amount(obj.cost)

    @display(description="Margin")
    def margin_amount(self, obj: Any) -> str:
        return html.amount(obj.charge - obj.cost)


class UsageEventChangeList(HotChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        counted.attach_last_steps(self.result_list)


@admin.register(UsageEvent)
class UsageEventAdmin(UsageColumns, HotModelAdmin):
    empty_text = "No usage yet. It appears here as soon as a relay reports some."
    sequence_table = "metering_eventkey"
    list_display = (
        "public_id",
        "customer_link",
        "key_link",
        "model_link",
        "channel_link",
        "status_badge",
        "charge_amount",
        "cost_amount",
        "margin_amount",
        "occurred_at",
    )
    list_filter = (
        CustomerFilter,
        KeyFilter,
        EventModelFilter,
        ChannelFilter,
        "status",
        PeriodFilter,
        ("occurred_at", DaysFilter),
    )
    search_words = "a customer's name, a cus_… or evt_… id, or, with a customer chosen, the relay's event id"
    fields = (
        ("public_id", "event_id"),
        ("customer_link", "key_link"),
        ("model_link", "channel_link"),
        ("status_badge", "how_counted"),
        ("occurred_at", "received_at"),
        ("period", "format"),
        ("transfer_link", "hold_link"),
        "price_set_link",
    )

    def search_text(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        chosen = request.GET.get(CUSTOMER_PARAMETER, "")
        if chosen.isdecimal() and len(chosen) <= 18:
            numbers = EventKey.objects.filter(customer_id=int(chosen), event_id=term).values_list("id", flat=True)
            return queryset.filter(id__in=list(numbers))
        return super().search_text(request, queryset, term)

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageEvent]:
        queryset: QuerySet[UsageEvent] = super().get_queryset(request)
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return queryset.defer("usage", "quantities", "metadata", "parts") if is_list else queryset

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[HotChangeList]:
        return UsageEventChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            counted.attach_last_steps([row])
        return row

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        step = counted.last_step(obj)
        if step is None:
            return money_figures(obj.charge, obj.cost)
        url = html.object_url(UsageAdjustment, ids.hot_id(UsageAdjustment.PREFIX, obj.customer_id, step.adjustment))
        hint = "nothing: it was taken back" if step.price_set_id is None else "what the customer pays, USD"
        return [
            *money_figures(step.charge, step.cost, when="now", hint=hint, url=url),
            *money_figures(obj.charge, obj.cost, when="at first", hint="before it was put right"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        panels = [
            *counted_panels(obj),
            Panel("The provider's usage, as reported", (), (), body=html.pretty_json(obj.usage)),
        ]
        if obj.metadata is not None:
            panels.append(Panel("Metadata", (), (), body=html.pretty_json(obj.metadata)))
        parked = ParkedEvent.objects.filter(customer_id=obj.customer_id, number=obj.pk).first()
        if parked is not None:
            panels.append(
                Panel(
                    title="Parked before it was settled",
                    headers=("Reason", "Detail", "Received", "Resolved", "How", "Decided by"),
                    rows=[
                        (
                            html.link(html.object_url(ParkedEvent, parked.pk), parked.reason),
                            parked.detail or html.NOTHING,
                            html.moment(parked.received_at),
                            html.moment(parked.resolved_at),
                            parked.resolution or html.NOTHING,
                            parked.decided_by or html.NOTHING,
                        )
                    ],
                )
            )
        return panels

    @display(description="Model")
    def model_link(self, obj: UsageEvent) -> str:
        return counted.model_cell(obj, super().model_link(obj))

    @display(description="Price set")
    def price_set_link(self, obj: UsageEvent) -> str:
        return counted.price_set_cell(obj)

    @display(description="Charge")
    def charge_amount(self, obj: UsageEvent) -> str:
        return counted.charge_cell(obj)

    @display(description="Cost")
    def cost_amount(self, obj: UsageEvent) -> str:
        return counted.cost_cell(obj)

    @display(description="Margin")
    def margin_amount(self, obj: UsageEvent) -> str:
        charge, cost = counted.charge_and_cost(obj)
        return html.amount(charge - cost)

    @display(description="Status", label=EVENT_TONES)
    def status_badge(self, obj: UsageEvent) -> str:
        return obj.status

    @display(description="Usage is")
    def how_counted(self, obj: UsageEvent) -> str:
        return "estimated by the relay" if obj.estimated else "as the provider counted it"

    @display(description="Transfer")
    def transfer_link(self, obj: UsageEvent) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Hold")
    def hold_link(self, obj: UsageEvent) -> str:
        return html.hot_link(Hold, obj.customer_id, obj.hold_id)


@admin.register(UsageHour)
class UsageHourAdmin(UsageColumns, HotModelAdmin):
    empty_text = "No usage yet. It appears here as soon as a relay reports some."
    list_display = (
        "hour_link",
        "customer_link",
        "key_link",
        "model_link",
        "channel_link",
        "requests_amount",
        "charge_amount",
        "cost_amount",
        "margin_amount",
        "period",
    )
    list_filter = (
        CustomerFilter,
        KeyFilter,
        ModelFilter,
        ChannelFilter,
        PeriodFilter,
        ("hour", DaysFilter),
    )
    has_newest = False
    newest_ordering = customer_ordering = ("-hour", "-id")
    search_words = "a customer's name or a cus_… id"
    fields = (
        ("hour", "period"),
        ("customer_link", "key_link"),
        ("model_link", "channel_link"),
        ("requests_amount", "price_set_link"),
    )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return money_figures(obj.charge, obj.cost)

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [meters_panel(obj.quantities, PriceSet.objects.filter(pk=obj.price_set_id).first())]

    @display(description="Hour (UTC)")
    def hour_link(self, obj: UsageHour) -> str:
        return f"{obj.hour:%Y-%m-%d %H:%M}"

    @display(description="Requests")
    def requests_amount(self, obj: UsageHour) -> str:
        return html.quantity(obj.requests)


@admin.register(EventKey)
class EventKeyAdmin(CustomerColumn, HotModelAdmin):
    list_display = ("public_id", "customer_link", "event_id")
    list_filter = (CustomerFilter,)
    search_words = "a customer's name, a cus_… or evt_… id, or, with a customer chosen, the relay's event id"
    search_column = "event_id"
    has_newest = False
    customer_ordering = ("event_id",)
    fields = ("public_id", "customer_link", "event_id", "became")

    def get_queryset(self, request: HttpRequest) -> QuerySet[EventKey]:
        queryset: QuerySet[EventKey] = super().get_queryset(request)
        return queryset.defer("digest")

    def key_of(self, customer_id: int, number: int) -> dict[str, Any]:
        """The table is found by the relay's id, which the event or the parked event knows."""
        event_id = (
            UsageEvent.objects.filter(customer_id=customer_id, id=number).values_list("event_id", flat=True).first()
            or ParkedEvent.objects.filter(customer_id=customer_id, number=number)
            .values_list("event_id", flat=True)
            .first()
        )
        return {"customer_id": customer_id, "event_id": event_id, "id": number}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        parsed = ids.parse_hot_id("evt", search_term.strip())
        if parsed is not None:
            return queryset.filter(**self.key_of(*parsed)), False
        found: tuple[QuerySet[Any], bool] = super().get_search_results(request, queryset, search_term)
        return found

    @display(description="Became")
    def became(self, obj: EventKey) -> str:
        if UsageEvent.objects.filter(customer_id=obj.customer_id, id=obj.pk).exists():
            return html.hot_link(UsageEvent, obj.customer_id, obj.pk)
        parked = ParkedEvent.objects.filter(customer_id=obj.customer_id, number=obj.pk).first()
        return html.NOTHING if parked is None else html.link(html.object_url(ParkedEvent, parked.pk), "a parked event")
