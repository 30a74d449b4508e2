"""Webhooks as they came: what was done about each, what failed, and a button to try again."""

import json
import re
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import webhook_events
from billing.admin import alarms, html
from billing.admin.account_actions import sentence
from billing.admin.base import Question, WorkAdmin, see_other
from billing.admin.filters import DaysFilter
from billing.models import WebhookEvent
from billing.tasks import work_off_webhook

EVENT_TONES = {"new": "info", "done": "success", "nothing for us": "", "failed": "danger"}
SHORT = 30
PAYLOAD = "billing.see_webhook_payload"
# With it a payment could be completed by whoever reads it.
_CLIENT_SECRET = re.compile(r'("client_secret"\s*:\s*")[^"]*"')


@admin.register(WebhookEvent)
class WebhookEventAdmin(WorkAdmin):
    empty_text = "No webhook has come yet. Docs/payments.md says how to have Stripe send them."
    list_display = (
        "type",
        "status_badge",
        "received_at",
        "what_was_done",
        "short_object_id",
        "attempts",
    )
    list_filter = ("status", "object_type", "livemode", ("received_at", DaysFilter))
    search_fields = ("event_id__exact", "object_id__exact", "type__exact")
    search_help_text = "evt_… id, the id of what it is about, or its type"
    sortable_by = ("received_at", "attempts")
    actions_detail = ("try_again",)
    fields = (
        ("event_id", "type"),
        ("status_badge", "attempts", "look_at"),
        ("object_type", "object_id"),
        ("livemode", "account"),
        ("occurred_at", "received_at", "ended_at"),
        "outcome",
        "error",
        "carried",
    )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What it carries names payers and their addresses: only for who may see that."""
        return self.fields if request.user.has_perm(PAYLOAD) else self.fields[:-1]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("payload")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or row.status not in {WebhookEvent.Status.FAILED, WebhookEvent.Status.IGNORED}:
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return shown

    @action(description="Try again", url_path="try-again", icon="replay", permissions=["work"])
    def try_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such webhook.")
            return see_other(html.list_url(WebhookEvent))
        back = html.object_url(WebhookEvent, row.pk)
        if request.method != "POST":
            text = "Its object is read from Stripe as it is now, and applied. What was done before is not done twice."
            return self.ask(request, Question(f"Try {row.type} again", text, "Try again", back, is_dangerous=False))
        try:
            webhook_events.try_again(number=row.pk, at=timezone.now())
        except webhook_events.NothingToTry as error:
            messages.info(request, sentence(error))
        else:
            transaction.on_commit(lambda: work_off_webhook.delay(number=row.pk))
            self.log_change(request, row, "Tried again.")
            messages.success(request, "A worker tries it again now; reload the page to see what came of it.")
        return see_other(back)

    @display(description="Status", label=EVENT_TONES)
    def status_badge(self, obj: WebhookEvent) -> str:
        return str(obj.get_status_display()).lower()

    @display(description="About")
    def short_object_id(self, obj: WebhookEvent) -> str:
        return obj.object_id if len(obj.object_id) <= SHORT else f"{obj.object_id[:SHORT]}…"

    @display(description="What was done")
    def what_was_done(self, obj: WebhookEvent) -> str:
        return obj.error or obj.outcome or html.NOTHING

    @display(description="What it carries")
    def carried(self, obj: WebhookEvent) -> str:
        return html.masked(_CLIENT_SECRET.sub(r'\1…"', pretty(obj.payload)))


def pretty(payload: str) -> str:
    """The body indented, if it is JSON after all."""
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except ValueError:
        return payload


alarms.WHERE[webhook_events.SOURCE] = lambda alarm: html.list_url(WebhookEvent, "status__exact=failed")
