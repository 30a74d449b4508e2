"""What OpenAI-compatible programs ask with the `sk-…` key itself: what is left, what was used, which models there are.

The shapes are those that relays such as one-api and new-api answer: JSON numbers, written here digit by digit from
decimals, never through floats.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import wraps
from typing import Any

import msgspec
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from billing.queries import balance_of
from metering import pricing, queries
from metering.models import ApiKey
from metering.price_list import priced_models
from relayadmin.errors import ApiError, invalid_request
from relayadmin.ids import secret_digest
from relayadmin.middleware import json_response
from relayadmin.money import EXACT

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
KeyView = Callable[[HttpRequest, ApiKey, datetime], HttpResponse]


def _with_key(view: KeyView) -> Callable[[HttpRequest], HttpResponse]:
    """GET with a valid key; revoked, expired, unknown and malformed keys get the same answer."""

    @wraps(view)
    def checked(request: HttpRequest) -> HttpResponse:
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        at = datetime.now(UTC)
        key = ApiKey.objects.filter(
            Q(expires_at=None) | Q(expires_at__gt=at),
            digest=secret_digest(text.strip() if scheme.lower() == "bearer" else ""),
            revoked_at=None,
        ).first()
        if key is None:
            raise ApiError(
                401,
                "invalid_api_key",
                "The API key is missing, wrong, expired or revoked. Send Authorization: Bearer sk-….",
                headers={"WWW-Authenticate": 'Bearer realm="api"'},
            )
        response = view(request, key, at)
        response.headers["Cache-Control"] = "no-store"
        return response

    return checked


@_with_key
def subscription(request: HttpRequest, key: ApiKey, at: datetime) -> HttpResponse:
    """The limit is what is available now and what was ever used, so that limit less usage is what is left."""
    available = balance_of(key.customer_id).available
    limit = _number(EXACT.add(available, queries.charged(customer_id=key.customer_id)))
    return json_response(
        {
            "object": "billing_subscription",
            "has_payment_method": True,
            "soft_limit_usd": limit,
            "hard_limit_usd": limit,
            "system_hard_limit_usd": limit,
            "access_until": 0 if key.expires_at is None else int(key.expires_at.timestamp()),
        }
    )


@_with_key
def usage(request: HttpRequest, key: ApiKey, at: datetime) -> HttpResponse:
    """`total_usage` in cents, from start_date to end_date in UTC, both included; without them from or to ever."""
    start, end = _day(request, "start_date"), _day(request, "end_date")
    if start is not None and end is not None and start > end:
        raise invalid_request("start_date must not be after end_date.", "start_date")
    charged = queries.charged(
        customer_id=key.customer_id, start=start, end=None if end is None else end + timedelta(days=1)
    )
    return json_response({"object": "list", "total_usage": _number(EXACT.multiply(charged, Decimal(100)))})


@_with_key
def models(request: HttpRequest, key: ApiKey, at: datetime) -> HttpResponse:
    """The models that this key may ask for."""
    table = pricing.current()
    catalog = table.catalog
    allowed = {catalog.resolve(name) for name in key.allowed_models} - {None}
    data: list[dict[str, Any]] = []
    for public_id in priced_models(table, at=at):
        number = catalog.names[public_id]
        if not key.allowed_models or number in allowed:
            owner = catalog.channel_names[catalog.models[number].maker_channel_id]
            data.append({"id": public_id, "object": "model", "created": 0, "owned_by": owner})
    return json_response({"object": "list", "data": data})


def _number(amount: Decimal) -> msgspec.Raw:
    """A JSON number with the amount's own digits."""
    text = format(amount, "f")
    return msgspec.Raw((text.rstrip("0").rstrip(".") if "." in text else text).encode())


def _day(request: HttpRequest, name: str) -> datetime | None:
    text = request.GET.get(name)
    if text is None:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        day = date.fromisoformat(text)
        if not 1900 <= day.year <= 9000:
            raise ValueError
    except ValueError as error:
        raise invalid_request(f"{name} must be a date such as 2026-11-22.", name) from error
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
