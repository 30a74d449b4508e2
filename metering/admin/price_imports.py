"""Imports that wait for approval, their lines, and who made which version of the price book."""

from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Max, Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import Figure, OperatorAdmin, Panel, Question, ReadOnlyAdmin, WorkAdmin, see_other
from metering import price_imports
from metering.models import Price, PriceBookChange, PriceBookSettings, PriceImport, PriceImportLine
from metering.models.prices import VARIANTS

STATUS_TONES = {"pending": "warning", "approved": "success", "rejected": "danger", "replaced": ""}
WHAT_TONES = {"new": "info", "changed": "warning", "gone": "danger"}
MOST_LINES = 200
NEW, GONE = Q(old_unit_price=None), Q(unit_price=None)
TO_LOOK_AT = Q(decision="") & ~Q(second_look="")


def what_of(line: PriceImportLine) -> str:
    if line.unit_price is None:
        return "gone"
    return "new" if line.old_unit_price is None else "changed"


def sold_as(line: PriceImportLine) -> str:
    """For whom the price is, and for which kind of request."""
    where = "list price" if line.channel is None else f"cost at {line.channel.name}"
    return f"{where}, {VARIANTS[line.variant].lower()}" if line.variant else where


def meter_text(line: PriceImportLine) -> str:
    """The meter, with the size of the prompts and the hours of the day that the price is for."""
    tier = f", prompts above {line.above_prompt_tokens:,}" if line.above_prompt_tokens else ""
    window = f", {line.daily_from:%H:%M} to {line.daily_until:%H:%M} UTC" if line.daily_from else ""
    return f"{line.get_meter_display()}{tier}{window}"


def percent_text(percent: Decimal | None) -> str:
    return html.NOTHING if percent is None else f"{percent:+,f} %"


def moment_text(line: PriceImportLine) -> str:
    """From when on it holds; a first price may have begun."""
    if line.effective_from:
        return html.moment(line.effective_from)
    return "always" if line.is_first else "approval"


@admin.register(PriceImport)
class PriceImportAdmin(WorkAdmin):
    empty_text = "No import has found a changed price yet. “python manage.py import_prices” looks for some."
    actions_detail = ("approve_import", "reject_import")
    list_display = (
        "number",
        "status_badge",
        "source",
        "created_at",
        "created_by",
        "line_amount",
        "open_amount",
        "decided_by",
        "decided_at",
    )
    list_filter = ("status", "source")
    search_fields = ("created_by", "decided_by")
    search_help_text = "Who imported or decided"
    fields = (
        ("number", "status_badge"),
        ("source", "book_version"),
        ("created_at", "created_by"),
        ("decided_at", "decided_by"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PriceImport]:
        queryset: QuerySet[PriceImport] = super().get_queryset(request)
        open_lines = Q(lines__decision="") & ~Q(lines__second_look="")
        return queryset.annotate(line_count=Count("lines"), open_count=Count("lines", filter=open_lines))

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        found = obj.lines.aggregate(
            new=Count("id", filter=NEW),
            gone=Count("id", filter=GONE),
            changed=Count("id", filter=~NEW & ~GONE),
            rise=Max("percent"),
            drop=Min("percent", filter=~GONE),
            open=Count("id", filter=TO_LOOK_AT),
            left_out=Count("id", filter=Q(decision=PriceImportLine.Decision.LEFT_OUT)),
        )
        lines = html.list_url(PriceImportLine, f"price_import__id__exact={obj.pk}")
        return [
            Figure("Changed", f"{found['changed']:,}", url=f"{lines}&what=changed"),
            Figure("New", f"{found['new']:,}", url=f"{lines}&what=new"),
            Figure("Gone", f"{found['gone']:,}", url=f"{lines}&what=gone"),
            Figure("Highest rise", percent_text(found["rise"])),
            Figure("Deepest drop", percent_text(found["drop"])),
            Figure(
                "Need a second look",
                f"{found['open']:,}",
                "confirm or leave out each of them",
                f"{lines}&look=open",
                "warning" if found["open"] and obj.status == "pending" else "",
            ),
            Figure("Left out", f"{found['left_out']:,}"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        url = html.list_url(PriceImportLine, f"price_import__id__exact={obj.pk}")
        lines = obj.lines.select_related("model", "channel")
        return [
            line_panel("Prices that need a second look", lines.exclude(second_look=""), f"{url}&look=any"),
            line_panel("All other prices", lines.filter(second_look=""), f"{url}&look=none"),
        ]

    @action(description="Approve", url_path="approve", icon="check", permissions=["work"])
    def approve_import(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method == "POST":
            return self._decide(request, int(object_id), is_approval=True)
        question = Question(
            title="Approve this import",
            text="The prices that it shows hold from now on, announced ones from their own day. Usage until now keeps"
            " its prices; usage that waits for a first price gets it. Lines left out change nothing.",
            button="Approve",
            back=html.object_url(PriceImport, object_id),
            is_dangerous=False,
        )
        return self.ask(request, question)

    @action(description="Reject", url_path="reject", icon="close", permissions=["work"])
    def reject_import(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method == "POST":
            return self._decide(request, int(object_id), is_approval=False)
        question = Question(
            title="Reject this import",
            text="All prices stay as they are. The next import shows the difference again.",
            button="Reject",
            back=html.object_url(PriceImport, object_id),
        )
        return self.ask(request, question)

    def _decide(self, request: HttpRequest, number: int, *, is_approval: bool) -> HttpResponse:
        told: dict[str, Any] = {"who": request.user.get_username(), "at": timezone.now()}
        try:
            if is_approval:
                written = price_imports.approve(number, **told)
                messages.success(
                    request,
                    f"Approved. Prices that hold from now on or are announced: {written.created:,}; that ended:"
                    f" {written.ended:,}; announced and withdrawn: {written.withdrawn:,}.",
                )
            else:
                price_imports.reject(number, **told)
                messages.success(request, "Rejected. All prices stay as they are.")
        except price_imports.CannotDecide as error:
            messages.error(request, str(error))
        return see_other(html.object_url(PriceImport, number))

    @display(description="No.", ordering="id")
    def number(self, obj: PriceImport) -> str:
        return str(obj.pk)

    @display(description="Status", label=STATUS_TONES)
    def status_badge(self, obj: PriceImport) -> str:
        return obj.status

    @display(description="Lines", ordering="line_count")
    def line_amount(self, obj: Any) -> str:
        return html.quantity(obj.line_count)

    @display(description="To look at twice", ordering="open_count")
    def open_amount(self, obj: Any) -> str:
        return html.quantity(obj.open_count)


def line_panel(title: str, lines: QuerySet[PriceImportLine], url: str) -> Panel:
    """The lines with the widest change first."""
    return Panel(
        title=title,
        headers=("Model", "For", "Meter", "Now", "Then", "By", "From", "Why look again", "Decision"),
        rows=[
            (
                html.link(html.object_url(PriceImportLine, line.pk), line.model.public_id),
                sold_as(line),
                meter_text(line),
                html.amount(line.old_unit_price),
                html.amount(line.unit_price),
                percent_text(line.percent),
                moment_text(line),
                line.second_look or html.NOTHING,
                line.get_decision_display() or html.NOTHING,
            )
            for line in lines.order_by("model__public_id", "channel__name", "id")[:MOST_LINES]
        ],
        numbers=frozenset({3, 4, 5}),
        note=f"USD per million tokens or 1,000 calls. At most {MOST_LINES} are shown here; the list has all, and is"
        " where they are confirmed or left out.",
        empty="None.",
        url=url,
    )


class WhatFilter(DropdownFilter):
    title = parameter_name = "what"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("changed", "Changed"), ("new", "New"), ("gone", "Gone")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "changed":
                return queryset.exclude(NEW).exclude(GONE)
            case "new":
                return queryset.filter(NEW)
            case "gone":
                return queryset.filter(GONE)
        return queryset


class LookFilter(DropdownFilter):
    title = "second look"
    parameter_name = "look"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Needed and not taken"), ("any", "Needed"), ("none", "Not needed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "open":
                return queryset.filter(TO_LOOK_AT)
            case "any":
                return queryset.exclude(second_look="")
            case "none":
                return queryset.filter(second_look="")
        return queryset


@admin.register(PriceImportLine)
class PriceImportLineAdmin(WorkAdmin):
    empty_text = "No import has found a changed price yet."
    actions = ("confirm_lines", "leave_out_lines", "put_back_lines")
    list_display = (
        "model",
        "what_badge",
        "sold",
        "measured",
        "old_amount",
        "new_amount",
        "change",
        "second_look",
        "decision",
        "begins",
    )
    list_filter = (
        "price_import",
        WhatFilter,
        LookFilter,
        "decision",
        "kind",
        "channel",
        "variant",
        ("model", AutocompleteSelectFilter),
    )
    list_select_related = ("model", "channel", "price_import")
    search_fields = ("model__public_id", "meter__exact")
    search_help_text = "A part of a model's id, or a meter"
    fields = (
        ("price_import", "what_badge"),
        ("model", "sold"),
        ("measured", "per"),
        ("old_amount", "new_amount", "change"),
        ("begins", "effective_until", "is_first"),
        ("daily_from", "daily_until"),
        ("old_row", "derived"),
        "second_look",
        ("decision", "decided_by", "decided_at"),
    )

    @admin.action(description="I have looked at these again: confirm", permissions=["work"])
    def confirm_lines(self, request: HttpRequest, queryset: QuerySet[PriceImportLine]) -> None:
        self._decide(request, queryset, PriceImportLine.Decision.CONFIRMED, "confirmed")

    @admin.action(description="Leave out", permissions=["work"])
    def leave_out_lines(self, request: HttpRequest, queryset: QuerySet[PriceImportLine]) -> None:
        self._decide(request, queryset, PriceImportLine.Decision.LEFT_OUT, "left out")

    @admin.action(description="Put back, undecided", permissions=["work"])
    def put_back_lines(self, request: HttpRequest, queryset: QuerySet[PriceImportLine]) -> None:
        self._decide(request, queryset, "", "undecided again")

    def _decide(self, request: HttpRequest, queryset: QuerySet[PriceImportLine], decision: str, said: str) -> None:
        chosen = list(queryset.values_list("pk", flat=True))
        try:
            count = price_imports.decide(chosen, decision, who=request.user.get_username(), at=timezone.now())
        except price_imports.CannotDecide as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, f"Lines that are {said}: {count:,}.", messages.SUCCESS)

    @display(description="What", label=WHAT_TONES)
    def what_badge(self, obj: PriceImportLine) -> str:
        return what_of(obj)

    @display(description="For")
    def sold(self, obj: PriceImportLine) -> str:
        return sold_as(obj)

    @display(description="Meter", ordering="meter")
    def measured(self, obj: PriceImportLine) -> str:
        return meter_text(obj)

    @display(description="Now", ordering="old_unit_price")
    def old_amount(self, obj: PriceImportLine) -> str:
        return html.amount(obj.old_unit_price)

    @display(description="Then", ordering="unit_price")
    def new_amount(self, obj: PriceImportLine) -> str:
        return html.amount(obj.unit_price)

    @display(description="By", ordering="percent")
    def change(self, obj: PriceImportLine) -> str:
        return percent_text(obj.percent)

    @display(description="From", ordering="effective_from")
    def begins(self, obj: PriceImportLine) -> str:
        return moment_text(obj)

    @display(description="Price row that holds now")
    def old_row(self, obj: PriceImportLine) -> str:
        if obj.old_price_id is None:
            return html.NOTHING
        row = Price.objects.filter(pk=obj.old_price_id).first()
        return html.row_link(row, obj.old_price_id, f"price {obj.old_price_id}")


@admin.register(PriceBookChange)
class PriceBookChangeAdmin(ReadOnlyAdmin):
    empty_text = "Nothing has changed the price book yet; “python manage.py import_prices” loads it."
    list_display = ("version", "changed_at", "who", "source", "summary", "created", "ended", "withdrawn")
    list_filter = ("source", "who")
    search_fields = ("who", "summary")
    search_help_text = "Who, or a part of what happened"
    fields = (
        ("version", "changed_at"),
        ("who", "source"),
        "summary",
        ("created", "ended", "withdrawn"),
        "price_import",
    )


@admin.register(PriceBookSettings)
class PriceBookSettingsAdmin(OperatorAdmin):
    list_display = ("name", "second_look_percent")
    fields = ("second_look_percent",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="Settings")
    def name(self, obj: PriceBookSettings) -> str:
        return str(obj)
