"""What notices say, in words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.utils.html import format_html

from billing import mailing
from billing.admin import html
from billing.admin.base import Panel
from billing.models import Customer, Notice, SpendLimit
from billing.models.spending import Span
from billing.spend_notices import SPEND_LIMIT_USED

ROWS = 10
# Who is behind scopes of spend, with links; what counts spend adds to it when its own admin module is imported.
scope_names: list[Callable[[Iterable[str]], Mapping[str, str]]] = []


def texts(notices: Sequence[Notice]) -> list[str]:
    """What each of these says, in their order; those of a kind without words show their data."""
    scopes = {notice.data["scope"] for notice in notices if notice.kind == SPEND_LIMIT_USED}
    names = {scope: name for names_of in scope_names for scope, name in names_of(scopes).items()}
    lines = mailing.subjects(notices)
    return [
        _text(notice.kind, notice.data, names) or line or _data(notice.data)
        for notice, line in zip(notices, lines, strict=True)
    ]


def _text(kind: str, data: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if kind == SPEND_LIMIT_USED:
        is_day = data["span"] == Span.DAY
        return format_html(
            "{} % of {} USD a {} ({}, set by {}) are spent by {}: {} USD {} {}",
            data["percent"],
            data["amount"],
            data["span"],
            data["type"],
            SpendLimit.Owner(data["set_by"]).label.lower(),
            names.get(data["scope"], data["scope"]),
            data["spent"],
            "on" if is_day else "in",
            data["starts_on"] if is_day else data["starts_on"][:7],
        )
    return ""


def _data(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items())[:200]


def notices_panel(customer: Customer, of_customer: str) -> Panel:
    """The newest that a customer was told."""
    notices = list(Notice.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS])
    return Panel(
        title="Notices",
        headers=("At", "Notice"),
        rows=[
            (html.link(html.object_url(Notice, notice.pk), html.moment(notice.created_at)), text)
            for notice, text in zip(notices, texts(notices), strict=True)
        ],
        empty="Nothing had to be told.",
        url=html.list_url(Notice, of_customer),
    )
