"""Events that wait, conflicts and quarantine: lists to work through."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import Question, WorkAdmin, attach, home_or, looked_up, see_other
from billing.admin.filters import CustomerFilter, DaysFilter, NamedFilter
from billing.admin.ledger import CustomerColumn
from metering import parking, waiting
from metering.admin.decisions import DecisionAdmin
from metering.models import (
    ApiKey,
    EventConflict,
    EventKey,
    ParkedEvent,
    QuarantinedEvent,
    RelayToken,
    UnclaimedEvent,
    UsageEvent,
)
from metering.waiting import KINDS, Kind

STATE_TONES = {"open": "warning", "dealt with": "success"}
MOST_AT_ONCE = 1_000
KIND_OF = {
    ParkedEvent: KINDS["parked"],
    UnclaimedEvent: KINDS["unclaimed"],
    EventConflict: KINDS["conflict"],
    QuarantinedEvent: KINDS["quarantined"],
}


class OpenFilter(DropdownFilter):
    """Only what is open, unless asked for more."""

    title = "state"
    parameter_name = "state"
    all_option = None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("done", "Dealt with"), ("all", "All")]

    def value(self) -> str:
        value = super().value()
        return value if value in {"done", "all"} else "open"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "open":
                return queryset.filter(resolved_at=None)
            case "done":
                return queryset.exclude(resolved_at=None)
        return queryset


class CountedFilter(NamedFilter):
    """The values of a column among open rows, with how many there are: bounded, however many rows wait."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.counted(KIND_OF[model_admin.model]))

    def counted(self, kind: Kind) -> Iterable[tuple[str, str]]:
        for reason, count in waiting.reasons(kind):
            more = "+" if count == waiting.READ_MOST else ""
            yield reason, f"{reason} ({count:,}{more} open)"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(**{self.column: value}) if value and "\x00" not in value else queryset


class SubjectFilter(CountedFilter):
    """What rows wait for: the first of many names, and any other by its address."""

    title = "waits for"
    parameter_name = column = "subject"

    def counted(self, kind: Kind) -> Iterable[tuple[str, str]]:
        labels = {row.subject: row.label for row in waiting.groups(kind, read_most=1) if row.subject}
        return sorted(labels.items(), key=lambda item: item[1])


class KeyFilter(SubjectFilter):
    title = parameter_name = column = "key"


class ReasonFilter(CountedFilter):
    title = parameter_name = column = "reason"


class KindFilter(CountedFilter):
    title = parameter_name = column = "kind"


class CodeFilter(CountedFilter):
    title = parameter_name = column = "code"


class WaitingAdmin(WorkAdmin):
    """What waits: as it came, and whether it is open."""

    @display(description="State", label=STATE_TONES)
    def state_badge(self, obj: Any) -> str:
        return "open" if obj.resolved_at is None else "dealt with"

    @display(description="As reported")
    def payload_json(self, obj: Any) -> str:
        return html.pretty_json(obj.payload)


class SweepAdmin(WaitingAdmin):
    """Parked and unclaimed events: a sweep tries them again, all or those that wait for one thing."""

    actions_list = ("sweep_all",)
    kind = ""

    @action(description="Settle all that can be settled", url_path="sweep", icon="sync", permissions=["work"])
    def sweep_all(self, request: HttpRequest) -> HttpResponse:
        reason, subject = request.GET.get("reason"), request.GET.get("subject", "")
        if reason is not None and "\x00" not in reason + subject:
            return self._sweep_group(request, reason, subject)
        back = home_or(request, html.list_url(self.model))
        if request.method == "POST":
            swept = parking.sweep(at=timezone.now(), limit=MOST_AT_ONCE)
            messages.success(
                request,
                f"{swept.settled:,} parked events settled, {swept.claimed:,} unclaimed events attributed;"
                f" {swept.waiting:,} still wait.",
            )
            return see_other(back)
        question = Question(
            title="Settle all that can be settled",
            text=f"Tries the oldest {MOST_AT_ONCE:,} parked and {MOST_AT_ONCE:,} unclaimed events again, each at the"
            " prices of its own moment. What still lacks a price or a key stays. The scheduled job does the same every"
            " minute.",
            button="Settle now",
            back=back,
            is_dangerous=False,
        )
        return self.ask(request, question)

    def _sweep_group(self, request: HttpRequest, reason: str, subject: str) -> HttpResponse:
        """Try those again that wait for one thing."""
        back = home_or(request, html.list_url(self.model))
        name = f"{waiting.title_of(reason)} {waiting.label_of(reason, subject)}".strip()
        if request.method == "POST":
            swept = parking.sweep_group(
                kind=self.kind, reason=reason, subject=subject, at=timezone.now(), limit=MOST_AT_ONCE
            )
            done = swept.settled + swept.claimed
            level = messages.SUCCESS if done or not swept.waiting else messages.WARNING
            self.message_user(request, f"{name}: {done:,} settled, {swept.waiting:,} still wait.", level)
            return see_other(back)
        question = Question(
            title="Try again now",
            text=f"{name}: tries the oldest {MOST_AT_ONCE:,} of them again, each at the prices of its own moment. The"
            " scheduled job does the same every minute.",
            button="Try again now",
            back=back,
            is_dangerous=False,
        )
        return self.ask(request, question)


@admin.register(ParkedEvent)
class ParkedEventAdmin(CustomerColumn, DecisionAdmin, SweepAdmin):
    kind = "parked"
    empty_text = "Nothing waits: every event has been settled."
    actions = ("settle_now", *DecisionAdmin.actions)
    list_display = (
        "event_id",
        "customer_link",
        "reason",
        "detail",
        "model",
        "state_badge",
        "received_at",
    )
    list_filter = (OpenFilter, ReasonFilter, SubjectFilter, CustomerFilter, ("received_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("event_id__exact", "model__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "Event id, model as reported, customer's name or cus_… id"
    fields = (
        ("event_id", "customer_link"),
        ("model", "channel"),
        ("reason", "subject", "state_badge"),
        "detail",
        ("occurred_at", "received_at"),
        ("resolved_at", "resolution", "decided_by"),
        ("key_link", "event_link"),
        "payload_json",
    )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            attach([row], {"api_key_id": ApiKey})
        return row

    @admin.action(description="Settle now", permissions=["work"])
    def settle_now(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> None:
        chosen = list(queryset.filter(resolved_at=None).order_by("pk").values_list("pk", flat=True)[:MOST_AT_ONCE])
        settled = parking.settle_parked(parked_ids=chosen, at=timezone.now())
        left = len(chosen) - settled
        if settled or not left:
            self.message_user(request, f"{settled:,} settled.", messages.SUCCESS)
        if left:
            self.message_user(request, f"{left:,} still can't be settled; their reason holds.", messages.WARNING)

    @display(description="API key")
    def key_link(self, obj: ParkedEvent) -> str:
        key = looked_up(obj, "api_key_id")
        return html.row_link(key, obj.api_key_id, key.name if key else None)

    @display(description="Usage event")
    def event_link(self, obj: ParkedEvent) -> str:
        if obj.resolution != "settled":
            return html.NOTHING
        return html.hot_link(UsageEvent, obj.customer_id, obj.number)


@admin.register(UnclaimedEvent)
class UnclaimedEventAdmin(SweepAdmin):
    kind = "unclaimed"
    empty_text = "Nothing waits: every event's key is known."
    list_display = ("event_id", "key", "model", "reason", "state_badge", "occurred_at", "received_at")
    list_filter = (OpenFilter, ReasonFilter, KeyFilter, ("received_at", DaysFilter))
    search_fields = ("event_id__exact", "key__exact", "model__exact")
    search_help_text = "Event id, key as reported, or model"
    fields = (
        "event_id",
        "key",
        "model",
        "state_badge",
        "reason",
        "detail",
        "occurred_at",
        "received_at",
        "resolved_at",
        "resolution",
        "payload_json",
    )


class DealtWithAdmin(WaitingAdmin):
    """What a person looks at and is then done with."""

    actions = ("mark_dealt_with",)
    actions_detail = ("deal_with",)

    @admin.action(description="Mark as dealt with", permissions=["work"])
    def mark_dealt_with(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        chosen = list(queryset.filter(resolved_at=None).order_by("pk")[:MOST_AT_ONCE])
        self.resolve(request, chosen)
        self.message_user(request, f"{len(chosen):,} marked as dealt with.", messages.SUCCESS)

    def resolve(self, request: HttpRequest, rows: list[Any]) -> None:
        """Mark rows, and leave in the admin's log who did it."""
        self.model._default_manager.filter(pk__in=[row.pk for row in rows]).update(resolved_at=timezone.now())
        for row in rows:
            self.log_change(request, row, "Marked as dealt with.")

    @action(description="Mark as dealt with", url_path="dealt-with", icon="done", permissions=["work"])
    def deal_with(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        back = html.list_url(self.model)
        if row is None or row.resolved_at is not None:
            messages.info(request, "There is nothing left to do here.")
            return see_other(back)
        if request.method == "POST":
            self.resolve(request, [row])
            messages.success(request, f"{row} is marked as dealt with.")
            return see_other(back)
        question = Question(
            title="Mark as dealt with",
            text=f"{row} leaves the list of what is open. Nothing is deleted, and no money moves.",
            button="Mark as dealt with",
            back=html.object_url(self.model, row.pk),
            is_dangerous=False,
        )
        return self.ask(request, question)


@admin.register(EventConflict)
class EventConflictAdmin(DealtWithAdmin):
    empty_text = "Nothing to look into."
    list_display = ("event_id", "customer_link", "kind", "detail", "state_badge", "received_at")
    list_filter = (OpenFilter, KindFilter, CustomerFilter, ("received_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("event_id__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "Event id, customer's name or cus_… id"
    fields = (
        "event_id",
        "customer_link",
        "first_event",
        "kind",
        "detail",
        "state_badge",
        "received_at",
        "resolved_at",
        "payload_json",
    )

    @display(description="Customer")
    def customer_link(self, obj: EventConflict) -> str:
        if obj.customer is None:
            return html.NOTHING
        return html.link(html.object_url(type(obj.customer), obj.customer_id), obj.customer.name)

    @display(description="The event that counts")
    def first_event(self, obj: EventConflict) -> str:
        if obj.customer_id is None:
            return html.NOTHING
        key = EventKey.objects.filter(customer_id=obj.customer_id, event_id=obj.event_id).first()
        return html.NOTHING if key is None else html.hot_link(EventKey, key.customer_id, key.pk)


@admin.register(QuarantinedEvent)
class QuarantinedEventAdmin(DealtWithAdmin):
    empty_text = "Nothing to look into: every event was well-formed."
    list_display = ("name", "code", "message", "state_badge", "received_at")
    list_filter = (OpenFilter, CodeFilter, ("received_at", DaysFilter))
    search_fields = ("event_id__exact", "message")
    search_help_text = "Event id, or a part of the message"
    fields = (
        "name",
        "code",
        "message",
        "relay_token_link",
        "state_badge",
        "received_at",
        "resolved_at",
        "body_text",
    )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            attach([row], {"relay_token_id": RelayToken})
        return row

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuarantinedEvent]:
        queryset: QuerySet[QuarantinedEvent] = super().get_queryset(request)
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return queryset.defer("body") if is_list else queryset

    @display(description="Event id", ordering="event_id")
    def name(self, obj: QuarantinedEvent) -> str:
        return str(obj)

    @display(description="Relay")
    def relay_token_link(self, obj: QuarantinedEvent) -> str:
        if obj.relay_token_id is None:
            return html.NOTHING
        return html.row_link(looked_up(obj, "relay_token_id"), obj.relay_token_id)

    @display(description="As it came, secrets masked")
    def body_text(self, obj: QuarantinedEvent) -> str:
        return html.masked(obj.body)
