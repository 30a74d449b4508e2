"""May this request run? Key, customer, model and the most it can cost → a hold on the customer's wallet."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import msgspec

from billing import holds
from billing.models import Customer
from metering import pricing, rates
from metering.catalog import Catalog, CatalogModel
from metering.rating import Unrateable, most_that_can_cost
from metering.spend import key_scope
from metering.variants import is_in_us, variant_of
from relayadmin.db import OneCall
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
    limits: tuple[rates.Limit, ...]
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

    `expires_at`: until when the hold stands; of a lease, until when the node may start requests on it. `standings`: how
    the key's limits stand, if it has any and they were counted.
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
    standings: tuple[rates.Standing, ...] = ()


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a request may have: the most it can cost (USD), until when, for whose key and which model.

    `output_tokens`: the most it can give, as the amount was made of. A lease names no model, takes what there is from
    `minimum` on, and is used until `admits_until`.
    """

    key: KeyRow
    model: str | None
    amount: Decimal
    output_tokens: int
    expires_at: datetime
    minimum: Decimal | None = None
    admits_until: datetime | None = None

    @property
    def details(self) -> dict[str, str]:
        named = {} if self.model is None else {"model": self.model}
        return {"api_key_id": self.key.public_id, **named, "customer": self.key.customer_public_id}


# metering/sql/authorize.sql says what it does and returns.
_FUNCTION = (
    "metering_authorize($1::bytea, $2::bytea, $3::text, $4::bigint, $5::text, $6::bytea, $7::numeric, $8::timestamptz,"
    " $9::timestamptz, $10::jsonb, $11::numeric, $12::timestamptz)"
)
_asks = OneCall(
    "metering_who_asks",
    "SELECT state, relay_token_id, relay_scopes, key_id, key_public_id, allowed_models, allowed_networks,"
    " key_expires_at, key_revoked_at, customer_id, customer_public_id, customer_status, plan_id,"
    " key_requests_per_minute, key_tokens_per_minute, tier_requests_per_minute, tier_tokens_per_minute,"
    f" price_book_version FROM {_FUNCTION}",
)
_place = OneCall(
    "metering_place_hold",
    "SELECT state, outcome, hold_id, hold_amount, hold_status, hold_expires_at, hold_admits_until, hold_details,"
    f" available, limit_scope, limit_span, limit_amount FROM {_FUNCTION}",
)

_MAX_REMEMBERED = 50_000
_Digests = tuple[bytes, bytes]
# Who was granted something last, by the digests of relay token and API key.
_remembered: dict[_Digests, Caller] = {}


def look_up(*, digests: _Digests, at: datetime) -> Caller:
    """All that an authorization must know fresh, in one round trip; unknown keys take as long as good ones."""
    row = _asks.row([*digests, None, None, None, None, None, at, None, None, None, None])
    state, token_id, scopes, key_id, public_id, models, networks, *rest, version = row
    assert version is not None, "migrations made the price book's version"
    key = None
    if public_id is not None:
        *about, own_requests, own_tokens, tier_requests, tier_tokens = rest
        found = (
            _limit(rates.REQUESTS, own_requests, tier_requests, key=public_id, customer=about[3]),
            _limit(rates.TOKENS, own_tokens, tier_tokens, key=public_id, customer=about[3]),
        )
        limits = tuple(limit for limit in found if limit is not None)
        key = KeyRow(key_id, public_id, limits, _list(models), _list(networks), *about)
    return Caller(token_id, tuple(_list(scopes)) if token_id is not None else (), key, version, state)


def _list(value: Any) -> list[str]:
    return msgspec.json.decode(value, type=list[str]) if isinstance(value, str | bytes) else value


def _limit(what: str, own: int | None, tier: int | None, *, key: str, customer: str) -> rates.Limit | None:
    """The key's own limit, counted for it alone, or the tier's, counted for all other keys of the customer."""
    if own is not None:
        return rates.Limit(what, own, key)
    return None if tier is None else rates.Limit(what, tier, customer)


def authorize(request: Request | LeaseRequest, *, caller: Caller, digests: _Digests, at: datetime) -> Authorization:
    """Judge a request and reserve the most it can cost. A refusal leaves no trace but one: what the limits let through
    counts against them, also if the balance refuses it.

    `digests`: of the relay token and the API key that `caller` was looked up by. Raises Refusal in the contract's
    order, then holds.RequestConflict, holds.HoldResolved, rates.Exceeded, holds.LimitReached,
    holds.InsufficientBalance.
    """
    terms = _judge(request, caller, at)
    digest = _digest(request)
    try:
        taken = _take(request, terms)
    except rates.Exceeded:
        # A replay is not a request more, and a conflict comes before the limits.
        earlier = holds.find(customer_id=terms.key.customer_id, request_id=request.request_id, digest=digest, at=at)
        if earlier is None:
            raise
        return _granted(request, terms, earlier)

    def place() -> holds.PlacedHold:
        return holds.place(
            customer_id=terms.key.customer_id,
            request_id=request.request_id,
            digest=digest,
            amount=terms.amount,
            expires_at=terms.expires_at,
            details=terms.details,
            at=at,
            scope=terms.key.scope,
            minimum=terms.minimum,
            admits_until=terms.admits_until,
        )

    hold = _counted(taken, place)
    if len(_remembered) >= _MAX_REMEMBERED:
        forget()
    _remembered[digests] = caller
    return _granted(request, terms, hold, taken)


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
        taken = _take(request, terms)
    except (Refusal, rates.Exceeded):
        return None
    row = _place.row(
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
        ]
    )
    if row[0] != caller.state:
        _remembered.pop(digests, None)
        rates.give_back(taken)
        return None

    def place() -> holds.PlacedHold:
        asked = holds.PlacedHold("", terms.amount, terms.expires_at, terms.details, True, terms.admits_until)
        return holds.placed(row[1:], asked=asked, customer_id=terms.key.customer_id, request_id=request.request_id)

    return _granted(request, terms, _counted(taken, place), taken)


def forget() -> None:
    """Drop what is remembered; for tests that roll back."""
    _remembered.clear()


def _take(request: Request | LeaseRequest, terms: _Terms) -> rates.Taken:
    """Count the request against the key's limits; without any, nothing is asked. Raises rates.Exceeded."""
    if not terms.key.limits:
        return rates.NOTHING
    return rates.take(tuple((limit, _amount(limit, request, terms)) for limit in terms.key.limits))


def _amount(limit: rates.Limit, request: Request | LeaseRequest, terms: _Terms) -> int:
    if limit.what == rates.REQUESTS:
        return 1
    if isinstance(request, LeaseRequest):
        return 0  # What is spent on a lease is spent without asking.
    tokens = request.input_tokens + terms.output_tokens
    if request.max_output_tokens is None:
        # Who names no maximum may use the whole minute, but is not refused for what the model could give.
        return min(tokens, max(limit.per_minute, request.input_tokens))
    return tokens


def _counted(taken: rates.Taken, place: Callable[[], holds.PlacedHold]) -> holds.PlacedHold:
    """Place a hold; where it turns out to be no new request, that counts against no limit."""
    try:
        hold = place()
    except (holds.RequestConflict, holds.HoldResolved):
        rates.give_back(taken)
        raise
    if not hold.is_new:
        rates.give_back(taken)
    return hold


def _granted(
    request: Request | LeaseRequest, terms: _Terms, hold: holds.PlacedHold, taken: rates.Taken = rates.NOTHING
) -> Authorization:
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
        standings=taken.standings if hold.is_new else (),
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
        amount, output_tokens = _most(request, table, model, key.plan_id, at)
    except Unrateable as reason:
        raise Refusal(
            "model_not_found", f"The model {request.model!r} has no price: {reason.detail}.", "model"
        ) from reason
    ttl_s = DEFAULT_TTL_S if request.ttl_seconds is None else request.ttl_seconds
    return _Terms(
        key=key,
        model=model.public_id,
        amount=amount,
        output_tokens=output_tokens,
        expires_at=at + timedelta(seconds=ttl_s),
    )


def _judge_lease(request: LeaseRequest, caller: Caller, at: datetime) -> _Terms:
    """What a relay node may spend without asking. The node judges models and networks, by the answer."""
    key = _valid_key(caller)
    _check_key(request, key, at)
    amount = parse_amount(request.lease.amount)
    minimum = amount if request.lease.minimum is None else parse_amount(request.lease.minimum)
    admits_until = at + timedelta(seconds=request.lease.seconds)
    return _Terms(key, None, amount, 0, admits_until + LEASE_GRACE, minimum, admits_until)


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
) -> tuple[Decimal, int]:
    """The most this request can cost at the customer's prices now, in USD, and its most output. Raises Unrateable."""
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
    most = most_that_can_cost(
        input_tokens=request.input_tokens,
        max_output_tokens=max_output,
        write_meter=None if request.cache_ttl is None else f"cache_write_{request.cache_ttl}",
        web_searches=request.web_search_max or 0,
        card=card,
    )
    return most, max_output


def _default_max_output(model: CatalogModel) -> int:
    if model.max_output_tokens is not None:
        return model.max_output_tokens
    return min(FALLBACK_MAX_OUTPUT_TOKENS, model.context_window or FALLBACK_MAX_OUTPUT_TOKENS)


def _digest(request: Request | LeaseRequest) -> bytes:
    """What tells a replay from another request under the same id: the whole body."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).digest()
