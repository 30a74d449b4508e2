"""Small pieces of HTML that the operator's pages are made of."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from relayadmin import ids
from relayadmin.money import amount_text

NOTHING = "–"


def amount(value: Decimal | None) -> str:
    """A USD amount in plain decimals, right-aligned; what is below zero is marked."""
    if value is None:
        return NOTHING
    mark = " ra-negative" if value < 0 else ""
    return format_html('<span class="ra-number{}">{}</span>', mark, amount_text(value))


def number(text: str) -> str:
    """A figure that is text already, right-aligned."""
    return format_html('<span class="ra-number">{}</span>', text)


def unit_price(value: Decimal | str | None, per: int | None) -> str:
    """A unit price with what it is for: "3.000000 per 1,000,000"."""
    if value is None or per is None:
        return NOTHING
    return format_html('<span class="ra-number">{} per {}</span>', amount_text(Decimal(value)), f"{per:,}")


def quantity(value: Decimal | int | None) -> str:
    """A whole number with thousands marked off."""
    return NOTHING if value is None else format_html('<span class="ra-number">{}</span>', f"{int(value):,}")


def moment(value: datetime | None) -> str:
    """A moment in UTC, to the second."""
    return NOTHING if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def age(passed: timedelta) -> str:
    """How long ago, in one or two units."""
    minutes = max(0, int(passed.total_seconds())) // 60
    if minutes < 1:
        return "less than 1 min"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if hours < 10 else f"{hours} h"
    return f"{hours // 24} days"


def link(url: str, text: object) -> SafeString:
    return format_html('<a class="ra-link" href="{}">{}</a>', url, text)


def list_url(model: type[Model], query: str = "") -> str:
    """The address of a model's list, with a query string such as "customer__id__exact=7"."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return f"{url}?{query}" if query else url


def object_url(model: type[Model], key: object) -> str:
    """The address of one object's page; `key` is its number, or its public id if its table is hot."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[str(key)])


def action_url(model: type[Model], name: str, *args: object) -> str:
    """The address of an action of a model's list or, with its number, of an object."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def post_button(request: HttpRequest, url: str, text: str, *, from_home: bool = False) -> SafeString:
    """A button that posts to an address, and leads back to the home page if it stands there."""
    return format_html(
        '<form method="post" action="{}" class="ra-inline"><input type="hidden" name="csrfmiddlewaretoken" value="{}">'
        '<input type="hidden" name="back" value="{}"><button type="submit" class="ra-button">{}</button></form>',
        url,
        get_token(request),
        "home" if from_home else "",
        text,
    )


def lines(first: object, *others: object, is_wrapped: bool = True) -> SafeString:
    """A text with smaller ones below it; empty ones are left out."""
    style = "ra-below" if is_wrapped else "ra-below ra-nowrap"
    below = format_html_join("", '<span class="{}">{}</span>', ((style, text) for text in others if text))
    return format_html("{}{}", first, below)


def hot_link(model: type[Model], customer_id: int, number: int | None) -> str:
    """A link to the hot row (customer, number) by its public id; no query."""
    if number is None:
        return NOTHING
    public_id = ids.hot_id(model.PREFIX, customer_id, number)  # type: ignore[attr-defined]
    return link(object_url(model, public_id), public_id)


def row_link(row: Model | None, number: int, text: str | None = None) -> str:
    """A link to a row that was looked up by number; the number alone if it is gone."""
    return f"no. {number}" if row is None else link(object_url(type(row), row.pk), text or str(row))


def badge(text: str, tone: str = "") -> str:
    """A coloured label; tone is success, warning, danger, info or empty."""
    return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "variant": tone}))


def pretty_json(value: Any) -> str:
    """JSON as it is, indented."""
    if value is None:
        return NOTHING
    return format_html('<pre class="ra-pre">{}</pre>', json.dumps(value, indent=2, ensure_ascii=False))


def masked(value: str) -> str:
    """Text that came from outside, as it is."""
    return format_html('<pre class="ra-pre">{}</pre>', value) if value else NOTHING


KEY_TONES = {"active": "success", "expired": "warning", "revoked": "danger"}


def key_status(key: Any) -> str:
    """Whether a key or token can be used now."""
    if key.revoked_at is not None:
        return "revoked"
    expires_at = getattr(key, "expires_at", None)
    return "expired" if expires_at is not None and expires_at <= timezone.now() else "active"
