"""What metering shows on a customer's page: the plan, keys and usage."""

from typing import Any

from django.http import HttpRequest
from unfold.admin import StackedInline

from billing.admin import html
from billing.admin.base import Panel
from billing.admin.customers import CustomerAdmin
from metering.admin import counted
from metering.admin.plan_forms import CustomerPlanForm
from metering.models import ApiKey, Channel, CustomerPlan, Model, UsageEvent, UsageHour

ROWS = 10


class CustomerPlanInline(StackedInline):
    model = CustomerPlan
    form = CustomerPlanForm
    extra = 0
    can_delete = False
    fields = ("plan", "effective_from")
    verbose_name_plural = "Plan, from a moment on (none: list prices)"


def keys_panel(request: HttpRequest, customer: Any) -> Panel:
    keys = ApiKey.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS]
    return Panel(
        title="API keys",
        headers=("Key", "Name", "Recognised by", "Status", "Created"),
        rows=[
            (
                html.link(html.object_url(ApiKey, key.pk), key.public_id),
                key.name,
                f"{key.prefix}…{key.last4}",
                html.badge(html.key_status(key), html.KEY_TONES[html.key_status(key)]),
                html.moment(key.created_at),
            )
            for key in keys
        ],
        empty="No key yet. Add one below API keys in the sidebar; its secret is shown once.",
        url=html.list_url(ApiKey, f"customer__id__exact={customer.pk}"),
    )


def usage_panel(request: HttpRequest, customer: Any) -> Panel:
    events = list(UsageEvent.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS])
    counted.attach_last_steps(events)
    models = Model.objects.in_bulk({event.model_id for event in events})
    channels = Channel.objects.in_bulk({event.channel_id for event in events})
    return Panel(
        title="Newest usage",
        headers=("Event", "Model", "Channel", "Status", "Charge", "Cost", "At"),
        rows=[
            (
                html.hot_link(UsageEvent, event.customer_id, event.pk),
                counted.model_cell(event, html.row_link(models.get(event.model_id), event.model_id)),
                html.row_link(channels.get(event.channel_id), event.channel_id),
                event.status,
                counted.charge_cell(event),
                counted.cost_cell(event),
                html.moment(event.occurred_at),
            )
            for event in events
        ],
        numbers=frozenset({4, 5}),
        empty="No usage yet.",
        url=html.list_url(UsageEvent, f"customer__id__exact={customer.pk}"),
        more=((html.list_url(UsageHour, f"customer__id__exact={customer.pk}"), "By hour"),),
    )


CustomerAdmin.more_panels += [keys_panel, usage_panel]
CustomerAdmin.inlines = [*CustomerAdmin.inlines, CustomerPlanInline]
