"""What waits, on the home page: by reason and subject, how much, since when, and what to do about it."""

from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from billing.admin import alarms, html
from billing.admin.base import Panel
from billing.models import Alarm
from metering import waiting
from metering.models import (
    Channel,
    EventConflict,
    ModelAlias,
    ParkedEvent,
    QuarantinedEvent,
    UnclaimedEvent,
    UpstreamAccount,
)
from metering.waiting import Group, Kind
from metering.watching import SOURCE

MODELS = {
    "parked": ParkedEvent,
    "unclaimed": UnclaimedEvent,
    "conflict": EventConflict,
    "quarantined": QuarantinedEvent,
}
TONES = {"parked": "warning", "unclaimed": "warning", "conflict": "danger", "quarantined": "danger"}
# What can be added with one click, its name filled in: by reason.
REMEDIES: dict[str, tuple[type[Model], str]] = {
    "unknown_model": (ModelAlias, "Add an alias"),
    "unknown_channel": (Channel, "Add the channel"),
    "unknown_upstream_account": (UpstreamAccount, "Add the account"),
}
HEADERS = ("Why", "About", "Events", "Waits for (UTC)", "What to do", "")
NOTE = (
    "What waits for a price, a name or a key is settled by itself once that is there, at the price of its own moment."
)
CUT = f" More names wait than these: the first {waiting.GROUPS_SHOWN} of each kind are here, the lists have all."
# Of these the subject says it all, of others the newest event says more.
PLAIN = frozenset(
    (
        "unknown_model",
        "unknown_channel",
        "unknown_key",
        "unknown_counter",
        "unknown_service_tier",
        "unknown_speed",
        "unknown_inference_geo",
    )
)


def list_url(kind: str, reason: str, subject: str = "") -> str:
    """The list of the open rows of a kind, a reason and (if named) a subject."""
    source = waiting.KINDS[kind]
    query = {source.reason: reason} | ({source.subject: subject} if source.subject and subject else {})
    return html.list_url(MODELS[kind], urlencode(query))


def _where(alarm: Alarm) -> str:
    _, kind, reason = alarm.kind.split(".", 2)
    return list_url(kind, reason, alarm.subject)


alarms.WHERE[SOURCE] = _where


def home_panel(request: HttpRequest, *, now: datetime) -> Panel | None:
    """What waits, as far as this user may see it, the most first; None if nothing does."""
    found: list[Group] = []
    is_cut = False
    for kind in waiting.KINDS.values():
        if _may(request, kind, "view") or _may(request, kind, "change"):
            rows = waiting.groups(kind, groups_most=waiting.GROUPS_SHOWN + 1)
            is_cut = is_cut or len(rows) > waiting.GROUPS_SHOWN
            found += rows[: waiting.GROUPS_SHOWN]
    if not found:
        return None
    found.sort(key=lambda group: -group.count)
    return Panel(
        title="What waits, and for what",
        headers=HEADERS,
        rows=[_row(request, group, now) for group in found],
        numbers=frozenset({2}),
        note=f"{NOTE}{CUT if is_cut else ''}",
    )


def _may(request: HttpRequest, kind: Kind, what: str) -> bool:
    name = MODELS[kind.name]._meta.model_name
    return bool(request.user.has_perm(f"metering.{what}_{name}"))


def _row(request: HttpRequest, group: Group, now: datetime) -> tuple[object, ...]:
    more = "+" if group.is_capped else ""
    return (
        html.badge(waiting.title_of(group.reason), TONES[group.kind]),
        _about(group),
        html.lines(f"{group.count:,}{more}", _customers(group)),
        _age(group, now),
        html.lines(waiting.advice_of(group.reason, group.label), _remedy(request, group)),
        _button(request, group),
    )


def _about(group: Group) -> str:
    url = list_url(group.kind, group.reason, group.subject)
    detail = "" if group.reason in PLAIN else group.newest_detail
    return html.lines(html.link(url, group.label or "Show them"), detail)


def _customers(group: Group) -> str:
    if group.customers is None:
        return ""
    if group.is_capped:
        return f"{group.customers:,} customers or more"
    return "1 customer" if group.customers == 1 else f"{group.customers:,} customers"


def _age(group: Group, now: datetime) -> str:
    first, last = html.moment(group.oldest_received_at), html.moment(group.newest_received_at)
    occurred = ""
    if abs(group.oldest_received_at - group.oldest_occurred_at) >= timedelta(minutes=1):
        occurred = f"occurred {html.moment(group.oldest_occurred_at)}"
    newest = f"newest {last}" if last != first else ""
    return html.lines(html.age(now - group.oldest_received_at), f"since {first}", newest, occurred, is_wrapped=False)


def _remedy(request: HttpRequest, group: Group) -> str:
    if group.reason not in REMEDIES:
        return ""
    model, text = REMEDIES[group.reason]
    if not request.user.has_perm(f"metering.add_{model._meta.model_name}"):
        return ""
    address = reverse(f"admin:metering_{model._meta.model_name}_add")
    return html.link(f"{address}?{urlencode({'name': group.subject})}", text)


def _button(request: HttpRequest, group: Group) -> str:
    kind = waiting.KINDS[group.kind]
    if not kind.is_swept or not _may(request, kind, "change"):
        return ""
    query = urlencode({"reason": group.reason, "subject": group.subject})
    url = f"{html.action_url(MODELS[group.kind], 'sweep_all')}?{query}"
    return html.post_button(request, url, "Try again now", from_home=True)
