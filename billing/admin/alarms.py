"""Alarms: the list of all, and those open on top of the home page."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display

from billing import alarms, job_watch
from billing.admin import html
from billing.admin.base import Panel, Question, WorkAdmin, home_or, see_other
from billing.admin.filters import DaysFilter
from billing.models import Alarm

STATE_TONES = {"open": "danger", "acknowledged": "warning", "over": "success"}
SHOWN_ON_HOME = 20
# By source: where the list of what an alarm is about lies. Other apps add to it when their admin module is imported.
WHERE: dict[str, Callable[[Alarm], str]] = {}


def where(alarm: Alarm) -> str:
    """The address of what an alarm is about, or ""."""
    find = WHERE.get(alarm.kind.partition(".")[0])
    return find(alarm) if find else ""


def state_of(alarm: Alarm) -> str:
    if alarm.resolved_at is not None:
        return "over"
    return "open" if alarm.acknowledged_at is None else "acknowledged"


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("acknowledged", "Acknowledged"), ("over", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alarm]) -> QuerySet[Alarm]:
        match self.value():
            case "open":
                return queryset.filter(resolved_at=None, acknowledged_at=None)
            case "acknowledged":
                return queryset.filter(resolved_at=None).exclude(acknowledged_at=None)
            case "over":
                return queryset.exclude(resolved_at=None)
        return queryset


@admin.register(Alarm)
class AlarmAdmin(WorkAdmin):
    empty_text = "No alarm has ever opened."
    list_display = ("message", "state_badge", "count", "first_seen", "last_seen", "resolved_at", "acknowledged_by")
    list_filter = (StateFilter, ("first_seen", DaysFilter))
    list_select_related = ("acknowledged_by",)
    search_fields = ("message", "kind__exact", "subject__exact")
    search_help_text = "A part of the message, or what it is about"
    sortable_by = ("first_seen", "count")
    actions_detail = ("acknowledge",)
    fields = (
        "message",
        "advice",
        ("state_badge", "count"),
        ("first_seen", "last_seen", "resolved_at"),
        ("acknowledged_at", "acknowledged_by"),
        "notified_at",
        "what_it_is_about",
        "kind",
    )

    @display(description="State", label=STATE_TONES)
    def state_badge(self, obj: Alarm) -> str:
        return state_of(obj)

    @display(description="About")
    def what_it_is_about(self, obj: Alarm) -> str:
        url = where(obj)
        return html.link(url, "Show what it is about") if url else obj.subject or html.NOTHING

    @action(description="Acknowledge", url_path="acknowledge", icon="notifications_paused", permissions=["work"])
    def acknowledge(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Somebody knows: it stays open until what it is about is over, but no longer stands out."""
        alarm = self.get_object(request, object_id)
        back = home_or(request, html.list_url(Alarm))
        if alarm is None or state_of(alarm) != "open":
            messages.info(request, "There is nothing left to acknowledge here.")
            return see_other(back)
        if request.method == "POST":
            if alarms.acknowledge(alarm_id=alarm.pk, user_id=request.user.pk or 0, at=timezone.now()):
                self.log_change(request, alarm, "Acknowledged.")
            messages.success(request, "Acknowledged. The alarm resolves itself when nothing waits for it any more.")
            return see_other(back)
        question = Question(
            title="Acknowledge",
            text=f"{alarm.message} Others see that you know. The alarm stays open until it resolves itself.",
            button="Acknowledge",
            back=html.object_url(Alarm, alarm.pk),
            is_dangerous=False,
        )
        return self.ask(request, question)


def home_panel(request: HttpRequest) -> Panel | None:
    """The open alarms for the home page, those that nobody knows of first; None if there are none.

    Those over jobs are left out: the home page tells how the jobs stand at this moment.
    """
    still_open = Alarm.objects.filter(resolved_at=None).exclude(kind__startswith=f"{job_watch.SOURCE}.")
    still_open = still_open.select_related("acknowledged_by")
    shown = list(still_open.order_by(F("acknowledged_at").asc(nulls_first=True), "-id")[:SHOWN_ON_HOME])
    if not shown:
        return None
    may_work = request.user.has_perm("billing.change_alarm")
    is_fresh = any(alarm.acknowledged_at is None for alarm in shown)
    return Panel(
        title="Alarms",
        headers=("Since (UTC)", "What", ""),
        rows=[
            (html.moment(alarm.first_seen), _what(alarm), _button(request, alarm, may_work=may_work)) for alarm in shown
        ],
        url=html.list_url(Alarm),
        tone="danger" if is_fresh else "",
    )


def _what(alarm: Alarm) -> str:
    url = where(alarm)
    message = html.link(url, alarm.message) if url else alarm.message
    return html.lines(message, alarm.advice)


def _button(request: HttpRequest, alarm: Alarm, *, may_work: bool) -> str:
    if alarm.acknowledged_at is not None:
        who = alarm.acknowledged_by or "somebody"
        return html.lines("acknowledged", f"by {who}, {html.moment(alarm.acknowledged_at)}")
    if not may_work:
        return html.badge("open", "danger")
    return html.post_button(request, html.action_url(Alarm, "acknowledge", alarm.pk), "Acknowledge", from_home=True)
