"""Notices on their way: planned for each address that the customer chose, then sent, and tried again later and later.

A notice is written where the news is made, on the way of requests too; that costs one row. Where it goes is decided by
a sweep afterwards, and sending is a third step, outside of any transaction: a delivery is claimed by moving its next
look on, so no other worker has it, and marked under the number of its attempt. A worker killed between sending and
marking lets it be sent again five minutes later, under the same message id.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count

from billing import notice_kinds, webhook_endpoints
from billing.models import (
    Customer,
    Delivery,
    Notice,
    NoticePreference,
    NotificationSettings,
    WebhookEndpoint,
)
from billing.notice_kinds import KINDS
from relayadmin.db import in_transaction, server_cursor

Status = Delivery.Status
Channel = Delivery.Channel
# After each attempt that failed, as standard webhooks suggest; after the last one it has failed for good.
BACK_OFF = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
)
ATTEMPTS_MAX = len(BACK_OFF) + 1
CLAIMED_FOR = timedelta(minutes=5)
PLANNED_AT_ONCE = 500
# A customer who makes keys all day does not fill somebody's mailbox.
MAILS_A_DAY_MAX = 200
KEPT = timedelta(days=90)
SPEND_SCOPE = "scope"
# Which API key a scope of spend stands for, by its public id; what counts spend adds to it.
keys_of_scopes: list[Callable[[Iterable[str]], Mapping[str, str]]] = []


class NothingToSend(Exception):
    """The delivery can't be sent again."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one attempt; no error if it was taken.

    `is_final`: trying again would change nothing. `is_away`: the server was not reached, nor would it be for others.
    """

    error: str = ""
    status_code: int | None = None
    duration_ms: int | None = None
    is_final: bool = False
    is_away: bool = False


# --- where to


def plan(*, at: datetime, limit: int = PLANNED_AT_ONCE) -> int:
    """Decide where notices that nobody has looked at go; returns how many were looked at. Many workers may."""

    def work() -> int:
        waiting = Notice.objects.select_for_update(skip_locked=True, of=("self",)).filter(is_planned=False)
        chosen = list(waiting.order_by("pk")[:limit])
        if chosen:
            Delivery.objects.bulk_create(_deliveries(chosen, at), ignore_conflicts=True)
            Notice.objects.filter(pk__in=[notice.pk for notice in chosen]).update(is_planned=True)
        return len(chosen)

    return in_transaction(work)


def _deliveries(chosen: Sequence[Notice], at: datetime) -> list[Delivery]:
    customer_ids = {notice.customer_id for notice in chosen}
    own_addresses = dict(Customer.objects.filter(pk__in=customer_ids).values_list("pk", "email"))
    set_addresses = dict(
        NotificationSettings.objects.filter(customer__in=customer_ids).values_list("customer", "addresses")
    )
    preferences = {(row.customer_id, row.kind): row for row in _preferences(customer_ids)}
    endpoints: dict[int, list[WebhookEndpoint]] = defaultdict(list)
    for endpoint in WebhookEndpoint.objects.filter(customer__in=customer_ids, removed_at=None, disabled_at=None):
        endpoints[endpoint.customer_id].append(endpoint)
    mailed = _mailed_today(customer_ids, at)
    rows = []
    for notice in chosen:
        kind, number = KINDS.get(notice.kind), notice.customer_id
        if kind is None:
            continue
        wanted = preferences.get((number, notice.kind), kind)
        if wanted.mail and settings.SENDS_MAIL:
            addresses = set_addresses.get(number) or [own_addresses[number]]
            for address in dict.fromkeys(filter(None, addresses)):
                mailed[number] += 1
                rows.append(_mail(notice, address, at, is_too_many=mailed[number] > MAILS_A_DAY_MAX))
        if wanted.webhook and kind.webhook:
            rows += [
                delivery_to(endpoint, notice, at=at)
                for endpoint in endpoints[number]
                if not endpoint.kinds or notice.kind in endpoint.kinds
            ]
    return rows


def _preferences(customer_ids: Iterable[int]) -> Iterable[NoticePreference]:
    return NoticePreference.objects.filter(customer__in=customer_ids)


def _mailed_today(customer_ids: Iterable[int], at: datetime) -> dict[int, int]:
    rows = Delivery.objects.filter(
        customer__in=customer_ids, channel=Channel.MAIL, created_at__gt=at - timedelta(days=1)
    )
    counted = rows.order_by().values("customer").annotate(count=Count("pk"))
    return defaultdict(int, {row["customer"]: row["count"] for row in counted})


def _mail(notice: Notice, address: str, at: datetime, *, is_too_many: bool) -> Delivery:
    row = Delivery(
        customer_id=notice.customer_id,
        notice=notice,
        channel=Channel.MAIL,
        address=address,
        look_at=at,
        created_at=at,
    )
    if is_too_many:
        row.status, row.look_at, row.ended_at = Status.FAILED, None, at
        row.error = f"More than {MAILS_A_DAY_MAX} mails to one customer in a day."
    return row


def delivery_to(endpoint: WebhookEndpoint, notice: Notice, *, at: datetime) -> Delivery:
    """A delivery of a notice to an endpoint, not saved yet."""
    return Delivery(
        customer_id=notice.customer_id,
        notice=notice,
        channel=Channel.WEBHOOK,
        endpoint=endpoint,
        address=endpoint.url,
        look_at=at,
        created_at=at,
    )


# --- sending


def claim(channel: Channel, *, at: datetime, limit: int) -> list[Delivery]:
    """Take deliveries that are due, for five minutes; no two workers get the same one."""
    numbers = _claim(channel, at, limit)
    rows = Delivery.objects.filter(pk__in=numbers).select_related("notice", "customer", "endpoint")
    return list(rows.order_by("pk"))


def _claim(channel: Channel, at: datetime, limit: int) -> list[int]:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_delivery SET look_at = %s, attempts = attempts + 1 WHERE id IN ("
            "  SELECT id FROM billing_delivery WHERE channel = %s AND look_at <= %s"
            "  ORDER BY look_at LIMIT %s FOR UPDATE SKIP LOCKED"
            ") RETURNING id",
            [at + CLAIMED_FOR, str(channel), at, limit],
        )
        return [number for (number,) in cursor.fetchall()]


def record(row: Delivery, result: Result, *, at: datetime) -> None:
    """Mark what came of a claimed delivery; nothing, if it was claimed anew meanwhile."""

    changes: dict[str, Any] = {
        "status_code": result.status_code,
        "duration_ms": result.duration_ms,
        "error": result.error[:300],
    }
    if not result.error:
        changes |= {"status": Status.SENT, "look_at": None, "ended_at": at}
    elif result.is_final or row.attempts >= ATTEMPTS_MAX:
        changes |= {"status": Status.FAILED, "look_at": None, "ended_at": at}
    else:
        changes["look_at"] = at + BACK_OFF[row.attempts - 1]
    Delivery.objects.filter(pk=row.pk, status=Status.WAITING, attempts=row.attempts).update(**changes)
    if row.endpoint_id is not None:
        is_gone = result.status_code == 410
        webhook_endpoints.note(row.endpoint_id, is_ok=not result.error, is_gone=is_gone, error=result.error, at=at)


def send_again(*, delivery_id: int, at: datetime) -> None:
    """Have a delivery sent at once: one that has ended as often as if it were new, one that backs off without waiting.

    Raises NothingToSend.
    """
    row = Delivery.objects.filter(pk=delivery_id).select_related("endpoint").first()
    if row is None or (row.status == Status.WAITING and not row.attempts):
        raise NothingToSend("it waits to be sent already")
    if row.endpoint is not None and row.endpoint.removed_at is not None:
        raise NothingToSend("its endpoint was removed")
    if row.endpoint is not None and row.endpoint.disabled_at is not None:
        raise NothingToSend("its endpoint is switched off")
    found = Delivery.objects.filter(pk=delivery_id, status=row.status)
    if row.status == Status.WAITING:
        found.filter(look_at__gt=at).update(look_at=at)
    else:
        found.update(status=Status.WAITING, attempts=0, look_at=at, ended_at=None, error="", status_code=None)


def remove_old(*, at: datetime, limit: int = 5_000) -> int:
    """Delete deliveries that ended 90 days ago; the notices stay. Returns how many, up to `limit`."""
    numbers = Delivery.objects.filter(ended_at__lt=at - KEPT).order_by("pk").values_list("pk", flat=True)[:limit]
    return Delivery.objects.filter(pk__in=list(numbers)).delete()[0]


# --- what they say


def shown_data(found: Sequence[Notice]) -> list[dict[str, Any]]:
    """What notices carry, as customers see it: scopes of spend by the key they stand for."""
    scopes = {notice.data[SPEND_SCOPE] for notice in found if SPEND_SCOPE in notice.data}
    keys = {scope: key for keys_of in keys_of_scopes for scope, key in keys_of(scopes).items()} if scopes else {}
    shown = []
    for notice in found:
        data = dict(notice.data)
        if SPEND_SCOPE in data:
            data["api_key"] = keys.get(data.pop(SPEND_SCOPE))
        shown.append(data)
    return shown


def notices_of(customer_id: int) -> Any:
    """What a customer was told, newest first."""
    return Notice.objects.filter(customer_id=customer_id).exclude(kind=notice_kinds.TEST).order_by("-pk")
