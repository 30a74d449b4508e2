"""Messages for tests: news of each kind, endpoints, and the sweeps that plan and send."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from billing import mailing, messages, notices, webhook_endpoints, webhook_sending
from billing.models import Delivery, Notice, WebhookEndpoint
from billing.notice_kinds import KINDS
from tests.world import Payer


def now() -> datetime:
    return datetime.now(UTC)


def announce(payer: Payer, kind: str = "in_debt", key: str = "", **data: Any) -> Notice:
    """Tell a customer something of a kind, as in the kind's example unless `data` says otherwise."""
    key = key or uuid4().hex
    told = {**KINDS[kind].example, **data}
    assert notices.announce(customer_id=payer.customer.pk, kind=kind, key=key, data=told, at=now())
    return Notice.objects.get(customer=payer.customer, kind=kind, key=key)


def set_email(payer: Payer, email: str = "ada@example.com") -> None:
    payer.customer.email = email
    payer.customer.save(update_fields=["email"])


def make_endpoint(payer: Payer, url: str = "https://hooks.example.com/in", *kinds: str) -> WebhookEndpoint:
    return webhook_endpoints.create(customer_id=payer.customer.pk, url=url, description="", kinds=kinds, at=now())


def plan() -> int:
    """Plan all that waits; returns how many notices were looked at."""
    planned = 0
    while looked_at := messages.plan(at=now()):
        planned += looked_at
    return planned


def post(at: datetime | None = None) -> int:
    return webhook_sending.send_due(at=at or now(), limit=100)


def mail(at: datetime | None = None) -> int:
    return mailing.send_due(at=at or now(), limit=100)


def deliveries(payer: Payer, kind: str | None = None) -> list[Delivery]:
    """Those of a customer, the oldest first."""
    rows = Delivery.objects.filter(customer=payer.customer).select_related("notice", "endpoint").order_by("pk")
    return list(rows.filter(notice__kind=kind) if kind else rows)
