"""A model's prices as they hold now, on its page."""

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from billing.admin import html
from billing.admin.base import Panel
from metering.meters import NAMES
from metering.models import Model, ModelAlias, Price

MOST_PRICES = 200


def price_panel(model: Model) -> Panel:
    """List prices first, then what each channel costs."""
    now = timezone.now()
    prices = (
        Price.objects.filter(model_id=model.pk)
        .filter(Q(effective_until=None) | Q(effective_until__gt=now))
        .select_related("channel")
    )
    order = {name: position for position, name in enumerate(NAMES)}
    rows = sorted(
        prices[:MOST_PRICES],
        key=lambda price: (
            price.channel.name if price.channel else "",
            order.get(price.meter, len(order)),
            price.above_prompt_tokens,
            price.effective_from.timestamp() if price.effective_from else 0,
        ),
    )
    return Panel(
        title="Prices, now and announced",
        headers=("For", "Meter", "Prompts above", "Unit price", "From", "Until", "How"),
        rows=[
            (
                "list price" if price.channel is None else f"cost at {price.channel.name}",
                html.link(html.object_url(Price, price.pk), price.get_meter_display()),
                html.quantity(price.above_prompt_tokens) if price.above_prompt_tokens else html.NOTHING,
                html.unit_price(price.unit_price, price.per),
                html.moment(price.effective_from) if price.effective_from else "always",
                html.moment(price.effective_until),
                price.derived or price.source,
            )
            for price in rows
        ],
        numbers=frozenset({2, 3}),
        empty="No price: usage of this model is parked until there is one.",
        url=html.list_url(Price, f"model__id__exact={model.pk}"),
    )


def alias_panel(model: Model) -> Panel:
    """The other names that relays may report a model by."""
    names = ModelAlias.objects.filter(model_id=model.pk)[:MOST_PRICES]
    return Panel(
        title="Aliases",
        headers=("Relays may also report it as",),
        rows=[(html.link(html.object_url(ModelAlias, alias.pk), alias.name),) for alias in names],
        empty="Reported under its own id only.",
        url=html.list_url(ModelAlias, f"model__id__exact={model.pk}"),
        more=((reverse("admin:metering_modelalias_add") + f"?model={model.pk}", "Add an alias"),),
    )
