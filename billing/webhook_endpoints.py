"""Customers' webhook endpoints: made, changed, their secrets rotated, switched off when they fail for days."""

import base64
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypedDict

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from billing import notices, outbound
from billing.accounts import lock_account
from billing.models import Delivery, WebhookEndpoint
from billing.notice_kinds import KINDS, WEBHOOK_DISABLED
from relayadmin.db import in_transaction

ENDPOINTS_MAX = 10
# Both secrets sign for so long after a rotation.
BOTH_FOR = timedelta(days=1)
DISABLED_AFTER = timedelta(days=5)
_SECRET_BYTES = 32


class InvalidEndpoint(ValueError):
    """An endpoint that can't be made or changed; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooManyEndpoints(Exception):
    """The customer has as many endpoints as it may have."""


class Changes(TypedDict, total=False):
    """What may be changed of an endpoint; what is absent stays."""

    url: str
    description: str
    kinds: Sequence[str]
    enabled: bool


def allowed() -> outbound.Allowed:
    """What this installation allows beside https to the public internet."""
    return outbound.Allowed(http=settings.WEBHOOKS_OVER_HTTP, loopback=settings.WEBHOOKS_TO_LOOPBACK)


def new_secret() -> str:
    """A secret as the scheme of standard webhooks writes it: whsec_ and base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def create(*, customer_id: int, url: str, description: str, kinds: Sequence[str], at: datetime) -> WebhookEndpoint:
    """Make an endpoint with a secret of its own. Raises InvalidEndpoint, TooManyEndpoints.

    Its name is resolved when something is sent, not now: it may not be there yet, and is checked each time anyway.
    """
    _check(url=url, kinds=kinds)

    def work() -> WebhookEndpoint:
        lock_account(customer_id)
        if of_customer(customer_id).count() >= ENDPOINTS_MAX:
            raise TooManyEndpoints(f"there are {ENDPOINTS_MAX} endpoints; remove one first")
        return WebhookEndpoint.objects.create(
            customer_id=customer_id,
            url=url,
            description=description,
            kinds=sorted(set(kinds)),
            secret=new_secret(),
            created_at=at,
        )

    return in_transaction(work)


def of_customer(customer_id: int) -> QuerySet[WebhookEndpoint]:
    """A customer's endpoints that were not removed, newest first."""
    return WebhookEndpoint.objects.filter(customer_id=customer_id, removed_at=None).order_by("-pk")


def _check(*, url: str, kinds: Iterable[str]) -> None:
    try:
        outbound.parse(url, allowed())
    except outbound.Refused as error:
        raise InvalidEndpoint("url", str(error)) from error
    unknown = sorted({kind for kind in kinds if kind not in KINDS or not KINDS[kind].webhook})
    if unknown:
        raise InvalidEndpoint("kinds", f"there is no kind {unknown[0][:60]!r} for webhooks")


def change(*, endpoint_id: int, changes: Changes, at: datetime) -> WebhookEndpoint:
    """Change an endpoint; what waits for it goes to its new address. Raises InvalidEndpoint."""
    with transaction.atomic():
        row = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
        _check(url=changes.get("url", row.url), kinds=changes.get("kinds", row.kinds))
        row.url, row.description = changes.get("url", row.url), changes.get("description", row.description)
        row.kinds = sorted(set(changes.get("kinds", row.kinds)))
        if changes.get("enabled") is True and row.disabled_at is not None:
            row.disabled_at, row.disabled_because, row.failing_since = None, "", None
        elif changes.get("enabled") is False and row.disabled_at is None:
            row.disabled_at, row.disabled_because = at, "Switched off by the customer."
            _drop_waiting(row.pk, "The endpoint was switched off.", at)
        row.save()
        Delivery.objects.filter(endpoint=row, status=Delivery.Status.WAITING).update(address=row.url)
        return row


def rotate(*, endpoint_id: int, at: datetime) -> WebhookEndpoint:
    """Give an endpoint a new secret; for a day, what it is sent is signed with the one before, too."""
    with transaction.atomic():
        row = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
        row.previous_secret, row.previous_until, row.secret = row.secret, at + BOTH_FOR, new_secret()
        row.save(update_fields=["previous_secret", "previous_until", "secret"])
        return row


def remove(*, endpoint_id: int, at: datetime) -> None:
    """Remove an endpoint: nothing is sent there any more, its secrets are forgotten. A second time changes nothing."""
    with transaction.atomic():
        row = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
        if row.removed_at is None:
            row.removed_at, row.secret, row.previous_secret, row.previous_until = at, "", "", None
            row.save(update_fields=["removed_at", "secret", "previous_secret", "previous_until"])
            _drop_waiting(row.pk, "The endpoint was removed.", at)


def switch_off(*, endpoint_id: int, because: str, at: datetime) -> bool:
    """Switch an endpoint off and tell its customer why, by mail; False if it is off."""

    def work() -> bool:
        row = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
        if row.disabled_at is not None or row.removed_at is not None:
            return False
        row.disabled_at, row.disabled_because = at, because[:200]
        row.save(update_fields=["disabled_at", "disabled_because"])
        _drop_waiting(row.pk, "The endpoint was switched off.", at)
        notices.announce(
            customer_id=row.customer_id,
            kind=WEBHOOK_DISABLED,
            key=f"{row.public_id}:{at.isoformat()}",
            data={"endpoint": row.public_id, "url": row.url, "because": row.disabled_because},
            at=at,
        )
        return True

    return in_transaction(work)


def note(endpoint_id: int, *, is_ok: bool, is_gone: bool, error: str, at: datetime) -> None:
    """Note that an endpoint took something, or did not; days of failures, or its own “gone” (410), switch it off."""
    rows = WebhookEndpoint.objects.filter(pk=endpoint_id)
    if is_ok:
        rows.exclude(failing_since=None).update(failing_since=None)
        return
    rows.filter(failing_since=None).update(failing_since=at)
    if is_gone:
        switch_off(endpoint_id=endpoint_id, because="It answered 410: it is gone for good.", at=at)
    elif rows.filter(failing_since__lte=at - DISABLED_AFTER).exists():
        because = f"It took nothing for {DISABLED_AFTER.days} days; at last: {error}."
        switch_off(endpoint_id=endpoint_id, because=because, at=at)


def _drop_waiting(endpoint_id: int, why: str, at: datetime) -> None:
    waiting = Delivery.objects.filter(endpoint_id=endpoint_id, status=Delivery.Status.WAITING)
    waiting.update(status=Delivery.Status.FAILED, look_at=None, ended_at=at, error=why)
