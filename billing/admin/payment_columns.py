"""What the pages of payments have in common: amounts in a currency, and links to Stripe's dashboard."""

from decimal import Decimal
from typing import Any

from django.utils.html import format_html
from unfold.decorators import display

from billing import webhook_events
from billing.admin import html
from billing.models import TopUp
from relayadmin.money import currency_text


def money(value: Decimal | None, currency: str) -> str:
    """An amount in a currency, right-aligned; what is below zero is marked."""
    if value is None:
        return html.NOTHING
    mark = " ra-negative" if value < 0 else ""
    return format_html('<span class="ra-number{}">{} {}</span>', mark, _text(value, currency), currency)


def _text(value: Decimal, currency: str) -> str:
    sign = "-" if value < 0 else ""
    return sign + currency_text(abs(value), currency)


def at_stripe(what: str, stripe_id: str | None) -> str:
    """A link to an object in Stripe's dashboard, such as ("disputes", "dp_1")."""
    if not stripe_id:
        return html.NOTHING
    mode = "" if webhook_events.is_live() else "test/"
    return html.link(f"https://dashboard.stripe.com/{mode}{what}/{stripe_id}", stripe_id)


class TopUpColumn:
    """The column of tables that belong to top-ups."""

    @display(description="Top-up")
    def top_up_link(self, obj: Any) -> str:
        top_up = obj.top_up
        return html.NOTHING if top_up is None else html.link(html.object_url(TopUp, top_up.pk), top_up.public_id)
