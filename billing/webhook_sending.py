"""Webhooks to customers, by the scheme of standard webhooks: https://www.standardwebhooks.com, version 1.

Signed is "{webhook-id}.{webhook-timestamp}.{body}" with HMAC-SHA256. Id and body are the same however often a message
is sent; timestamp and signature are of each attempt.
"""

import base64
import hashlib
import hmac
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from billing import messages, notice_kinds, notices, outbound, webhook_endpoints
from billing.models import Delivery, Notice, WebhookEndpoint
from relayadmin.db import in_transaction, outside_transaction
from relayadmin.ids import random_id

USER_AGENT = "relayadmin-webhooks/1"
AT_ONCE = 16
_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    body: bytes
    headers: dict[str, str]


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature: "v1,…". The key is what stands after whsec_, in base64."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def body_of(notice: Notice, *, customer: str, data: object) -> bytes:
    """What is posted, the same for each attempt: kind, moment, customer and what the kind carries."""
    at = notice.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return msgspec.json.encode(
        {"id": notice.public_id, "type": notice.kind, "timestamp": at, "customer": customer, "data": data}
    )


def headers_of(endpoint: WebhookEndpoint, *, message_id: str, body: bytes, at: datetime) -> dict[str, str]:
    """The headers of one attempt, signed with the secret, and with the one before while both hold."""
    timestamp = int(at.timestamp())
    signers = [endpoint.secret]
    if endpoint.previous_until is not None and at < endpoint.previous_until:
        signers.append(endpoint.previous_secret)
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            sign(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in signers
        ),
    }


def send_due(*, at: datetime, limit: int = AT_ONCE) -> int:
    """Post the deliveries that are due, up to `limit` side by side; returns how many. Not in a transaction."""
    outside_transaction()
    claimed = messages.claim(Delivery.Channel.WEBHOOK, at=at, limit=limit)
    if not claimed:
        return 0
    datas = messages.shown_data([row.notice for row in claimed])
    requests = [_request(row, data, at) for row, data in zip(claimed, datas, strict=True)]
    allowed = webhook_endpoints.allowed()
    with ThreadPoolExecutor(len(requests)) as pool:
        # The threads only talk to endpoints; all that is known of it is written down here.
        outcomes = [pool.submit(_post, request, allowed) for request in requests]
        for row, outcome in zip(claimed, outcomes, strict=True):
            messages.record(row, outcome.result(), at=at)
    return len(claimed)


def _request(row: Delivery, data: object, at: datetime) -> _Request:
    assert row.endpoint is not None
    body = body_of(row.notice, customer=row.customer.public_id, data=data)
    headers = headers_of(row.endpoint, message_id=row.notice.public_id, body=body, at=at)
    return _Request(row.address, body, headers)


def _post(request: _Request, allowed: outbound.Allowed) -> messages.Result:
    began = time.monotonic()
    try:
        status = outbound.post(request.url, body=request.body, headers=request.headers, allowed=allowed)
    except (outbound.Refused, outbound.Unreachable) as error:
        return messages.Result(str(error), duration_ms=_since(began))
    if 200 <= status < 300:
        return messages.Result(status_code=status, duration_ms=_since(began))
    hint = ", a redirect, which is not followed" if 300 <= status < 400 else ""
    return messages.Result(f"it answered {status}{hint}", status, _since(began))


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)


def send_test(*, endpoint_id: int, at: datetime) -> Delivery:
    """Have a message of the kind `test` sent to one endpoint, switched off or not; it is sent as all others are."""

    def work() -> Delivery:
        endpoint = WebhookEndpoint.objects.get(pk=endpoint_id)
        key = random_id("test")
        data = {"endpoint": endpoint.public_id}
        notices.announce(customer_id=endpoint.customer_id, kind=notice_kinds.TEST, key=key, data=data, at=at)
        notice = Notice.objects.get(customer_id=endpoint.customer_id, kind=notice_kinds.TEST, key=key)
        delivery = messages.delivery_to(endpoint, notice, at=at)
        delivery.save()
        return delivery

    return in_transaction(work)
