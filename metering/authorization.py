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
from metering.spend import key_scope
from metering.variants import is_in_us, variant_of
from relayadmin.db import server_cursor
from relayadmin.money import parse_amount

CACHE_TTLS = ("5m", "30m", "1h", "12h")
DEFAULT_TTL_S = 900
LARGEST_TTL_S = 86_400
DEFAULT_LEASE_S = 60
LARGEST_LEASE_S = 300
# How long events may still draw on a lease after it has ended: the requests that it admitted last are running.
LEASE_GRACE = timedelta(seconds=900)
# For a model whose own maximum and context window nobody knows.
FALLBACK_MAX_OUTPUT_TOKENS = 128_000
_PARAMS = {
    "unknown_service_tier": "service_tier",
    "unknown_speed": "speed",
    "unknown_inference_geo": "inference_geo",
}


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


class Lease(msgspec.Struct, gc=False):
    """What a relay node asks to spend on many requests: amounts in USD as texts, `seconds` it may admit them."""

    amount: str
    minimum: str | None = None
    seconds: int = DEFAULT_LEASE_S


class LeaseRequest(msgspec.Struct, gc=False):
    """A request for a lease, for one key and whatever that may use."""

    api_key: str
    request_id: str
    lease: Lease
    client_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The rows behind a relay token and an API key; None where there is no such row."""

    relay_token_id: int | None
    relay_scopes: tuple[str, ...]
    key: "KeyRow | None"
    price_book_version: int
    state: str  # all of the above as the database writes it


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: int
    public_id: str
    allowed_models: list[str]
    allowed_networks: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    customer_id: int
    customer_public_id: str
    customer_status: str
    plan_id: int | None

    @property
    def scope(self) -> str:
        """What counters of spend call this key."""
        return key_scope(self.id)


@dataclass(frozen=True, slots=True)
class Authorization:
    """The relay's view of a hold. Amount in USD; `model` is None of a lease, which is for all that the key may use.

    `expires_at`: until when the hold stands; of a lease, until when the node may start requests on it.
    """

    id: str
    request_id: str
    customer: str
    api_key_id: str
    model: str | None
    amount: Decimal
    expires_at: datetime
    is_new: bool
    allowed_models: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a request may have: the most it can cost (USD), until when, for whose key and which model.

    A lease names no model, takes what there is from `minimum` on, and is used until `admits_until`.
    """

    key: KeyRow
    model: str | None
    amount: Decimal
    expires_at: datetime
    minimum: Decimal | None = None
    admits_until: datetime | None = None

    @property
    def details(self) -> dict[str, str]:
        named = {} if self.model is None else {"model": self.model}
        return {"api_key_id": self.key.public_id, **named, "customer": self.key.customer_public_id}


# metering/sql/authorize.sql says what it does and returns.
_AUTHORIZE = (
    "SELECT * FROM metering_authorize(%s::bytea, %s::bytea, %s::text, %s::bigint, %s::text, %s::bytea, %s::numeric,"
    " %s::timestamptz, %s::timestamptz, %s::jsonb, %s::numeric, %s::timestamptz)"
)
_ASKS = 14  # how many of its columns are about who asks; the others are the hold's

_MAX_REMEMBERED = 50_000
_Digests = tuple[bytes, bytes]
# Who was granted something last, by the digests of relay token and API key.
_remembered: dict[_Digests, Caller] = {}


def look_up(*, digests: _Digests, at: datetime) -> Caller:
    """All that an authorization must know fresh, in one round trip; unknown keys take as long as good ones."""
    with server_cursor() as cursor:
        cursor.execute(_AUTHORIZE, [*digests, None, None, None, None, None, at, None, None, None, None], binary=True)
        row = cursor.fetchone()
    assert row is not None, "the function always returns one row"
    state, token_id, scopes, key_id, public_id, models, networks, *rest, version = row[:_ASKS]
    assert version is not None, "migrations made the price book's version"
    key = None if public_id is None else KeyRow(key_id, public_id, _list(models), _list(networks), *rest)
    return Caller(token_id, tuple(_list(scopes)) if token_id is not None else (), key, version, state)


def _list(value: Any) -> list[str]:
    return msgspec.json.decode(value, type=list[str]) if isinstance(value, str | bytes) else value


def authorize(request: Request | LeaseRequest, *, caller: Caller, digests: _Digests, at: datetime) -> Authorization:
    """Judge a request and reserve the most it can cost. A refusal leaves no trace.

    `digests`: of the relay token and the API key that `caller` was looked up by. Raises Refusal in the contract's
    order, then holds.RequestConflict, holds.HoldResolved, holds.LimitReached, holds.InsufficientBalance.
    """
    terms = _judge(request, caller, at)
    hold = holds.place(
        customer_id=terms.key.customer_id,
        request_id=request.request_id,
        digest=_digest(request),
        amount=terms.amount,
        expires_at=terms.expires_at,
        details=terms.details,
        at=at,
        scope=terms.key.scope,
        minimum=terms.minimum,
        admits_until=terms.admits_until,
    )
    if len(_remembered) >= _MAX_REMEMBERED:
        forget()
    _remembered[digests] = caller
    return _granted(request, terms, hold)


def authorize_remembered(request: Request | LeaseRequest, *, digests: _Digests, at: datetime) -> Authorization | None:
    """`authorize` in one round trip for who was granted something before; None: look up and authorize.

    It is judged by what this process remembers of key, customer, plan and prices, and the database places the hold
    only if all that is still so. What would be refused is left to a fresh look. Raises what holds.place raises.
    """
    caller = _remembered.get(digests)
    if caller is None or not pricing.is_cached(caller.price_book_version):
        return None
    try:
        terms = _judge(request, caller, at)
    except Refusal:
        return None
    with server_cursor() as cursor:
        cursor.execute(
            _AUTHORIZE,
            [
                *digests,
                caller.state,
                terms.key.customer_id,
                request.request_id,
                _digest(request),
                terms.amount,
                at,
                terms.expires_at,
                msgspec.json.encode(terms.details).decode(),
                terms.minimum,
                terms.admits_until,
            ],
        )
        row = cursor.fetchone()
    assert row is not None, "the function always returns one row"
    if row[0] != caller.state:
        _remembered.pop(digests, None)
        return None
    asked = holds.PlacedHold("", terms.amount, terms.expires_at, terms.details, True, terms.admits_until)
    hold = holds.placed(row[_ASKS:], asked=asked, customer_id=terms.key.customer_id, request_id=request.request_id)
    return _granted(request, terms, hold)


def forget() -> None:
    """Drop what is remembered; for tests that roll back."""
    _remembered.clear()


def _granted(request: Request | LeaseRequest, terms: _Terms, hold: holds.PlacedHold) -> Authorization:
    is_lease = hold.admits_until is not None
    return Authorization(
        id=hold.public_id,
        request_id=request.request_id,
        customer=terms.key.customer_public_id,
        api_key_id=hold.details["api_key_id"],
        model=hold.details.get("model"),
        amount=hold.amount,
        expires_at=hold.admits_until or hold.expires_at,
        is_new=hold.is_new,
        allowed_models=tuple(terms.key.allowed_models) if is_lease else (),
        allowed_networks=tuple(terms.key.allowed_networks) if is_lease else (),
    )


def _judge(request: Request | LeaseRequest, caller: Caller, at: datetime) -> _Terms:
    """What the request may have. Raises Refusal in the contract's order."""
    if isinstance(request, LeaseRequest):
        return _judge_lease(request, caller, at)
    table = pricing.at_version(caller.price_book_version)
    _check_choices(request, table.catalog)
    key = _valid_key(caller)
    model_id = table.catalog.resolve(request.model)
    _check_key(request, key, at)
    _check_model(request, key, table.catalog, model_id)
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
    return _Terms(key=key, model=model.public_id, amount=amount, expires_at=at + timedelta(seconds=ttl_s))


def _judge_lease(request: LeaseRequest, caller: Caller, at: datetime) -> _Terms:
    """What a relay node may spend without asking. The node judges models and networks, by the answer."""
    key = _valid_key(caller)
    _check_key(request, key, at)
    amount = parse_amount(request.lease.amount)
    minimum = amount if request.lease.minimum is None else parse_amount(request.lease.minimum)
    admits_until = at + timedelta(seconds=request.lease.seconds)
    return _Terms(key, None, amount, admits_until + LEASE_GRACE, minimum, admits_until)


def _valid_key(caller: Caller) -> KeyRow:
    key = caller.key
    if key is None or key.revoked_at is not None:
        raise Refusal("invalid_api_key", "The API key is not valid. Check it, or make a new one in the dashboard.")
    return key


def _check_choices(request: Request, catalog: Catalog) -> None:
    """Refuse what no request can ask for; whose key it is comes after."""
    if request.channel is not None and request.channel not in catalog.channels:
        raise Refusal("invalid_request_error", f"channel {request.channel!r} is not known here.", "channel")
    try:
        variant_of(request.service_tier or "", request.speed or "")
        is_in_us(request.inference_geo or "")
    except Unrateable as reason:
        name = _PARAMS[reason.reason]
        raise Refusal("invalid_request_error", f"{name} is not known here: {reason}.", name) from reason


def _check_key(request: Request | LeaseRequest, key: KeyRow, at: datetime) -> None:
    if key.expires_at is not None and key.expires_at <= at:
        raise Refusal("key_expired", f"The API key expired at {key.expires_at.isoformat()}. Use another one.")
    # A lease is for many clients: without an address the node judges each of them.
    is_judged = not isinstance(request, LeaseRequest) or request.client_ip is not None
    if is_judged and key.allowed_networks and not _is_inside(request.client_ip, key.allowed_networks):
        raise Refusal(
            "ip_not_allowed", f"The API key may not be used from {request.client_ip or 'an unknown address'}."
        )
    if key.customer_status != Customer.Status.ACTIVE:
        raise Refusal("customer_suspended", f"The customer's account is {key.customer_status}. Ask the operator.")


def _check_model(request: Request, key: KeyRow, catalog: Catalog, model_id: int | None) -> None:
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
    asked = pricing.Asked(
        model.id,
        channel_id,
        variant_of(request.service_tier or "", request.speed or ""),
        is_in_us(request.inference_geo or ""),
    )
    card = table.card(asked, plan=table.plan(plan_id), at=at, prompt_tokens=request.input_tokens)
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


def _digest(request: Request | LeaseRequest) -> bytes:
    """What tells a replay from another request under the same id: the whole body."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).digest()
