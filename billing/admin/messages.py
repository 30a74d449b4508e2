"""Messages to customers: each sending with what came of it, their endpoints, and what they chose."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.text import Truncator
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import mailing, webhook_endpoints
from billing import messages as sending
from billing.admin import alarms, html
from billing.admin.account_actions import sentence
from billing.admin.base import Panel, Question, ReadOnlyAdmin, WorkAdmin, see_other
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.notices import NoticeAdmin
from billing.models import (
    Delivery,
    LowBalance,
    Notice,
    NoticePreference,
    NotificationSettings,
    WebhookEndpoint,
)
from relayadmin.money import amount_text

DELIVERY_TONES = {"sent": "success", "waiting": "info", "tries again": "warning", "failed": "danger"}
ENDPOINT_TONES = {"on": "success", "failing": "warning", "off": "danger", "removed": ""}
ROWS = 20


def delivery_state(row: Delivery) -> str:
    if row.status == Delivery.Status.WAITING and row.attempts and row.error:
        return "tries again"
    return str(row.status)


def endpoint_state(row: WebhookEndpoint) -> str:
    if row.removed_at is not None:
        return "removed"
    if row.disabled_at is not None:
        return "off"
    return "failing" if row.failing_since else "on"


def _result(row: Delivery) -> str:
    """What is wrong, which names what was answered; else what was answered."""
    return row.error or str(row.status_code or html.NOTHING)


def deliveries_panel(rows: Any, *, title: str = "Sent", url: str = "") -> Panel:
    """The newest of some deliveries."""
    return Panel(
        title=title,
        headers=("At", "To", "Kind", "Status", "Attempts", "Result"),
        rows=[
            (
                html.link(html.object_url(Delivery, row.pk), html.moment(row.created_at)),
                row.address,
                row.notice.kind,
                html.badge(delivery_state(row), DELIVERY_TONES[delivery_state(row)]),
                row.attempts,
                _result(row),
            )
            for row in rows.select_related("notice").order_by("-pk")[:ROWS]
        ],
        numbers=frozenset({4}),
        empty="Nothing was sent: the customer wants no mail and no webhook of it, or has no address.",
        url=url,
    )


@admin.register(Delivery)
class DeliveryAdmin(CustomerColumn, WorkAdmin):
    empty_text = "Nothing was sent yet. Docs/notifications.md says what is told, and where to."
    list_display = (
        "created_at",
        "customer_link",
        "kind",
        "channel",
        "address",
        "status_badge",
        "attempts",
        "result",
    )
    list_filter = ("status", "channel", CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer", "notice")
    search_fields = ("public_id__exact", "address__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "dlv_… id, an address in full, customer's name or cus_… id"
    sortable_by = ()
    actions_detail = ("send_again",)
    fields = (
        ("public_id", "message_id"),
        ("customer_link", "notice_link"),
        ("channel", "address"),
        ("status_badge", "attempts"),
        ("status_code", "duration_ms"),
        "error",
        ("created_at", "ended_at", "next_attempt"),
    )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or (row.status == Delivery.Status.WAITING and not row.attempts):
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return shown

    @action(description="Send again", url_path="send-again", icon="replay", permissions=["work"])
    def send_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such delivery.")
            return see_other(html.list_url(Delivery))
        back = html.object_url(Delivery, row.pk)
        if request.method != "POST":
            text = f"The same message goes to {row.address} once more, under the same id."
            return self.ask(request, Question("Send it again", text, "Send again", back, is_dangerous=False))
        try:
            sending.send_again(delivery_id=row.pk, at=timezone.now())
        except sending.NothingToSend as error:
            messages.info(request, sentence(error))
        else:
            self.log_change(request, row, "Sent again.")
            messages.success(request, "A worker sends it within seconds; reload the page to see what came of it.")
        return see_other(back)

    @display(description="Kind")
    def kind(self, obj: Delivery) -> str:
        return obj.notice.kind

    @display(description="Status", label=DELIVERY_TONES)
    def status_badge(self, obj: Delivery) -> str:
        return delivery_state(obj)

    @display(description="Next attempt")
    def next_attempt(self, obj: Delivery) -> str:
        return html.moment(obj.look_at) if obj.look_at else html.NOTHING

    @display(description="Result")
    def result(self, obj: Delivery) -> str:
        return Truncator(_result(obj)).chars(48)

    @display(description="Message id")
    def message_id(self, obj: Delivery) -> str:
        return obj.notice.public_id

    @display(description="Notice")
    def notice_link(self, obj: Delivery) -> str:
        return html.link(html.object_url(Notice, obj.notice_id), f"{obj.notice.kind}")


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(CustomerColumn, WorkAdmin):
    empty_text = "No customer has a webhook endpoint. They make them with POST /api/v1/webhook-endpoints."
    list_display = ("url", "customer_link", "state_badge", "wants", "failing_since", "created_at")
    list_filter = (CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("public_id__exact", "url__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "whe_… id, an address in full, customer's name or cus_… id"
    sortable_by = ()
    actions_detail = ("switch_off",)
    fields = (
        ("public_id", "customer_link"),
        ("url", "description"),
        ("state_badge", "wants"),
        ("failing_since", "disabled_at", "disabled_because"),
        ("previous_until", "created_at", "removed_at"),
    )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or row.disabled_at is not None or row.removed_at is not None:
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return shown

    @action(description="Switch off", url_path="switch-off", icon="block", permissions=["work"])
    def switch_off(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such endpoint.")
            return see_other(html.list_url(WebhookEndpoint))
        back = html.object_url(WebhookEndpoint, row.pk)
        if request.method != "POST":
            text = (
                f"Nothing is sent to {row.url} any more, and what waits is dropped."
                " The customer is told by mail, and can switch it on again."
            )
            return self.ask(request, Question("Switch the endpoint off", text, "Switch off", back))
        if webhook_endpoints.switch_off(endpoint_id=row.pk, because="Switched off by the operator.", at=timezone.now()):
            self.log_change(request, row, "Switched off.")
            messages.success(request, "It is switched off.")
        else:
            messages.info(request, "It is off already.")
        return see_other(back)

    def panels(self, request: HttpRequest, obj: WebhookEndpoint) -> list[Panel]:
        return [deliveries_panel(Delivery.objects.filter(endpoint=obj), title="Newest deliveries")]

    @display(description="State", label=ENDPOINT_TONES)
    def state_badge(self, obj: WebhookEndpoint) -> str:
        return endpoint_state(obj)

    @display(description="Wants")
    def wants(self, obj: WebhookEndpoint) -> str:
        return ", ".join(obj.kinds) or "all that the customer wants"


@admin.register(NotificationSettings)
class NotificationSettingsAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Every customer is told by default so far. They choose with PUT /api/v1/notifications."
    list_display = ("customer_link", "mail_goes_to", "threshold", "updated_at")
    list_filter = (CustomerFilter,)
    list_select_related = ("customer",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    sortable_by = ()
    fields = (("customer_link", "updated_at"), "mail_goes_to", "threshold")

    @display(description="Mail goes to")
    def mail_goes_to(self, obj: NotificationSettings) -> str:
        return ", ".join(obj.addresses) or obj.customer.email or "nowhere: no address is known"

    @display(description="Low balance below (USD)")
    def threshold(self, obj: NotificationSettings) -> str:
        below = obj.low_balance_below
        return "as the operator's settings say" if below is None else amount_text(below) if below else "never"


@admin.register(NoticePreference)
class NoticePreferenceAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Every customer is told every kind as by default. They choose with PUT /api/v1/notifications."
    list_display = ("customer_link", "kind", "mail", "webhook")
    list_filter = (CustomerFilter, "mail", "webhook")
    list_select_related = ("customer",)
    search_fields = ("customer__name", "customer__public_id__exact", "kind__exact")
    search_help_text = "Customer's name or cus_… id, or a kind"
    sortable_by = ()
    fields = (("customer_link", "kind"), ("mail", "webhook"))


@admin.register(LowBalance)
class LowBalanceAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Nobody's balance is below what they are told of."
    list_display = ("customer_link", "since")
    list_filter = (CustomerFilter, ("since", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    sortable_by = ()
    fields = (("customer_link", "since"),)


def _of_notice(request: HttpRequest, obj: Notice) -> Panel:
    return deliveries_panel(Delivery.objects.filter(notice=obj))


NoticeAdmin.more_panels = [_of_notice]
alarms.WHERE[mailing.SOURCE] = lambda alarm: html.list_url(Delivery, "channel__exact=mail&status__exact=waiting")
