"""A model's prices as they hold now, on its page."""

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from billing.admin import html
from billing.admin.base import Panel
from metering.admin.price_multiples import multiple_of_input, with_input_price
from metering.meters import NAMES
from metering.models import Model, ModelAlias, Price

MOST_PRICES = 200


def price_panel(model: Model) -> Panel:
    """List prices first, then what each channel costs."""
    now = timezone.now()
    held = Price.objects.filter(Q(effective_until=None) | Q(effective_until__gt=now), model_id=model.pk)
    prices = with_input_price(held.select_related("channel"), now)
    order = {name: position for position, name in enumerate(NAMES)}
    rows = sorted(
        prices[:MOST_PRICES],
        key=lambda price: (
            price.channel.name if price.channel else "",
            price.variant,
            order.get(price.meter, len(order)),
            price.above_prompt_tokens,
            price.effective_from.timestamp() if price.effective_from else 0,
        ),
    )
    return Panel(
        title="Prices, now and announced",
        headers=("For", "Meter", "Prompts above", "Unit price", "Of input", "From", "Until", "How"),
        rows=[
            (
                _sold_as(price),
                html.link(html.object_url(Price, price.pk), price.get_meter_display()),
                html.quantity(price.above_prompt_tokens) if price.above_prompt_tokens else html.NOTHING,
                html.unit_price(price.unit_price, price.per),
                multiple_of_input(price),
                html.moment(price.effective_from) if price.effective_from else "always",
                html.moment(price.effective_until),
                price.derived or price.source,
            )
            for price in rows
        ],
        numbers=frozenset({2, 3, 4}),
        empty="No price: usage of this model is parked until there is one.",
        url=html.list_url(Price, f"model__id__exact={model.pk}"),
    )


def _sold_as(price: Price) -> str:
    where = "list price" if price.channel is None else f"cost at {price.channel.name}"
    return f"{where}, {price.get_variant_display().lower()}" if price.variant else where


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
