"""May this request run? Key, customer, model and the most it can cost → a hold on the customer's wallet."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import msgspec

from billing import holds
from billing.models import Customer
from metering import pricing
from metering.catalog import Catalog, CatalogModel
from metering.rating import Unrateable, most_that_can_cost
from relayadmin.db import server_cursor

CACHE_TTLS = ("5m", "30m", "1h", "12h")
DEFAULT_TTL_S = 900
LARGEST_TTL_S = 86_400
# For a model whose own maximum and context window nobody knows.
FALLBACK_MAX_OUTPUT_TOKENS = 128_000


class Refusal(Exception):
    """The request may not run; `code` is the contract's, `param` the field it is about."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Request(msgspec.Struct, gc=False):
    """What a relay asks before a request. Counts are tokens; absent means standard, and no searches."""

    api_key: str
    model: str
    request_id: str
    input_tokens: int
    max_output_tokens: int | None = None
    cache_ttl: str | None = None
    client_ip: str | None = None
    channel: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    web_search_max: int | None = None
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The rows behind a relay token and an API key; None where there is no such row."""

    relay_token_id: int | None
    relay_scopes: tuple[str, ...]
    key: "KeyRow | None"
    price_book_version: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    public_id: str
    allowed_models: list[str]
    allowed_networks: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    customer_id: int
    customer_public_id: str
    customer_status: str
    plan_id: int | None


@dataclass(frozen=True, slots=True)
class Authorization:
    """The relay's view of a hold. Amount in USD."""

    id: str
    request_id: str
    customer: str
    api_key_id: str
    model: str
    amount: Decimal
    expires_at: datetime
    is_new: bool


_LOOK_UP = """
SELECT t.id, t.scopes, k.public_id, k.allowed_models, k.allowed_networks, k.expires_at, k.revoked_at,
       c.id, c.public_id, c.status, p.plan_id, v.version
FROM metering_pricebookversion v
LEFT JOIN metering_relaytoken t ON t.digest = %s AND t.revoked_at IS NULL
LEFT JOIN metering_apikey k ON k.digest = %s
LEFT JOIN billing_customer c ON c.id = k.customer_id
LEFT JOIN metering_customerplan p ON p.customer_id = k.customer_id
WHERE v.id = 1
"""


def look_up(*, relay_token_digest: bytes, api_key_digest: bytes) -> Caller:
    """All that an authorization must know fresh, in one round trip; unknown keys take as long as good ones."""
    with server_cursor() as cursor:
        cursor.execute(_LOOK_UP, [relay_token_digest, api_key_digest], binary=True)
        row = cursor.fetchone()
    assert row is not None, "migrations made the price book's version"
    key = None
    if row[2] is not None:
        key = KeyRow(row[2], _list(row[3]), _list(row[4]), *row[5:11])
    return Caller(row[0], tuple(_list(row[1])) if row[0] is not None else (), key, row[11])


def _list(value: Any) -> list[str]:
    return msgspec.json.decode(value, type=list[str]) if isinstance(value, str | bytes) else value


def authorize(request: Request, *, caller: Caller, at: datetime) -> Authorization:
    """Judge a request and reserve the most it can cost. A refusal leaves no trace.

    Raises Refusal in the contract's order, then holds.RequestConflict, holds.HoldResolved, holds.InsufficientBalance.
    """
    table = pricing.at_version(caller.price_book_version)
    _check_choices(request, table.catalog)
    key = caller.key
    if key is None or key.revoked_at is not None:
        raise Refusal("invalid_api_key", "The API key is not valid. Check it, or make a new one in the dashboard.")
    model_id = table.catalog.resolve(request.model)
    _check_key(request, key, table.catalog, model_id, at)
    if model_id is None:
        raise Refusal("model_not_found", f"The model {request.model!r} is not known here.", "model")
    model = table.catalog.models[model_id]
    try:
        amount = _most(request, table, model, key.plan_id, at)
    except Unrateable as reason:
        raise Refusal(
            "model_not_found", f"The model {request.model!r} has no price: {reason.detail}.", "model"
        ) from reason
    ttl_s = DEFAULT_TTL_S if request.ttl_seconds is None else request.ttl_seconds
    hold = holds.place(
        customer_id=key.customer_id,
        request_id=request.request_id,
        digest=_digest(request),
        amount=amount,
        expires_at=at + timedelta(seconds=ttl_s),
        details={"api_key_id": key.public_id, "model": model.public_id, "customer": key.customer_public_id},
        at=at,
    )
    return Authorization(
        id=hold.public_id,
        request_id=request.request_id,
        customer=key.customer_public_id,
        api_key_id=hold.details["api_key_id"],
        model=hold.details["model"],
        amount=hold.amount,
        expires_at=hold.expires_at,
        is_new=hold.is_new,
    )


def _check_choices(request: Request, catalog: Catalog) -> None:
    """Refuse what no request can ask for; whose key it is comes after."""
    if request.channel is not None and request.channel not in catalog.channels:
        raise Refusal("invalid_request_error", f"channel {request.channel!r} is not known here.", "channel")
    for name in ("service_tier", "speed"):
        if getattr(request, name) not in {None, "standard"}:
            raise Refusal("invalid_request_error", f"{name} must be standard: nothing else has prices here.", name)
    if request.inference_geo not in {None, "", "global", "us"}:
        raise Refusal("invalid_request_error", "inference_geo must be us, global or absent.", "inference_geo")


def _check_key(request: Request, key: KeyRow, catalog: Catalog, model_id: int | None, at: datetime) -> None:
    if key.expires_at is not None and key.expires_at <= at:
        raise Refusal("key_expired", f"The API key expired at {key.expires_at.isoformat()}. Use another one.")
    if key.allowed_networks and not _is_inside(request.client_ip, key.allowed_networks):
        raise Refusal(
            "ip_not_allowed", f"The API key may not be used from {request.client_ip or 'an unknown address'}."
        )
    if key.customer_status != Customer.Status.ACTIVE:
        raise Refusal("customer_suspended", f"The customer's account is {key.customer_status}. Ask the operator.")
    if key.allowed_models:
        allowed = {catalog.resolve(name) for name in key.allowed_models} - {None}
        if model_id not in allowed and request.model not in key.allowed_models:
            raise Refusal("model_not_allowed", f"The API key may not use the model {request.model!r}.", "model")


def _is_inside(client_ip: str | None, networks: list[str]) -> bool:
    if client_ip is None:
        return False
    return any(address in ip_network(network) for address in _forms(client_ip) for network in networks)


def _forms(client_ip: str) -> list[IPv4Address | IPv6Address]:
    """An address in both notations: a dual-stack listener sees 203.0.113.9 as ::ffff:203.0.113.9."""
    address = ip_address(client_ip)
    if isinstance(address, IPv4Address):
        return [address, IPv6Address(f"::ffff:{address}")]
    return [address] if address.ipv4_mapped is None else [address, address.ipv4_mapped]


def _most(
    request: Request, table: pricing.PriceTable, model: CatalogModel, plan_id: int | None, at: datetime
) -> Decimal:
    """The most this request can cost at the customer's prices now, in USD. Raises Unrateable."""
    channel_id = model.maker_channel_id if request.channel is None else table.catalog.channels[request.channel]
    card = table.card(
        model_id=model.id,
        channel_id=channel_id,
        plan=table.plan(plan_id),
        at=at,
        prompt_tokens=request.input_tokens,
        in_us=request.inference_geo == "us",
    )
    max_output = request.max_output_tokens
    if max_output is None:
        max_output = _default_max_output(model) if "output" in card.meters else 0
    return most_that_can_cost(
        input_tokens=request.input_tokens,
        max_output_tokens=max_output,
        write_meter=None if request.cache_ttl is None else f"cache_write_{request.cache_ttl}",
        web_searches=request.web_search_max or 0,
        card=card,
    )


def _default_max_output(model: CatalogModel) -> int:
    if model.max_output_tokens is not None:
        return model.max_output_tokens
    return min(FALLBACK_MAX_OUTPUT_TOKENS, model.context_window or FALLBACK_MAX_OUTPUT_TOKENS)


def _digest(request: Request) -> bytes:
    """What tells a replay from another request under the same id: the whole body."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).digest()
