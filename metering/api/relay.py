"""The relay API: plain views, because each answer counts in microseconds."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from ipaddress import ip_address
from typing import Any

import msgspec
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from billing import holds
from billing.models import Hold
from metering import authorization, ingestion, intake, rates
from metering.formats.base import LARGEST_COUNT
from relayadmin import ids, neighbours
from relayadmin.errors import ApiError, invalid_request
from relayadmin.ids import secret_digest
from relayadmin.middleware import json_response
from relayadmin.money import InvalidAmount, amount_text, parse_amount

View = Callable[..., HttpResponse]
Asked = authorization.Request | authorization.LeaseRequest
_MAX_AUTHORIZATION_BYTES = 64 * 1024
# Of the body as it comes: some 40 events, or 400 packed by gzip. For less nobody else is asked.
_SHARED_FROM_BYTES = 16 * 1024
_TRIED_AGAIN_WITHIN_S = 5
_STATUS = {
    "invalid_request_error": 400,
    "invalid_api_key": 401,
    "key_expired": 403,
    "ip_not_allowed": 403,
    "customer_suspended": 403,
    "model_not_allowed": 403,
    "model_not_found": 404,
}
_request = msgspec.json.Decoder(authorization.Request)
_lease_request = msgspec.json.Decoder(authorization.LeaseRequest)
_whether_lease = msgspec.json.Decoder(dict[str, Any])
_MISSING = re.compile(r"field `(\w+)`")
_PLACE = re.compile(r"\$\.([\w.]+)")


def _post_only(view: View) -> View:
    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        return view(request, *args, **kwargs)

    return checked


def _token_digest(request: HttpRequest) -> bytes:
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    # An absent token is looked up like a wrong one, and found as little.
    return secret_digest(token.strip() if scheme.lower() == "bearer" else "")


def _check_caller(caller: authorization.Caller, scope: str) -> None:
    if caller.relay_token_id is None:
        raise ApiError(
            401,
            "invalid_relay_token",
            "The relay token is missing, wrong or revoked. Send Authorization: Bearer rl_….",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if scope not in caller.relay_scopes:
        raise ApiError(403, "insufficient_scope", f"This relay token may not {scope}.")


@_post_only
def authorizations(request: HttpRequest) -> HttpResponse:
    """Reserve the most that a request can cost."""
    asked: Asked | None = None
    fault: ApiError | None = None
    try:
        asked = _read_authorization(request)
    except ApiError as error:
        fault = error
    digests = _token_digest(request), secret_digest(asked.api_key if asked else "")
    try:
        granted = _authorize(asked, fault, digests, datetime.now(UTC))
    except authorization.Refusal as refusal:
        raise ApiError(_STATUS[refusal.code], refusal.code, str(refusal), param=refusal.param) from refusal
    except holds.RequestConflict as error:
        raise ApiError(
            409,
            "request_id_conflict",
            "This request_id was authorized with another body. Use a new request_id for another request.",
            param="request_id",
        ) from error
    except holds.HoldResolved as error:
        raise _resolved(error.status) from error
    except rates.Exceeded as error:
        raise _too_fast(error) from error
    except holds.LimitReached as error:
        raise _limited(error) from error
    except holds.InsufficientBalance as error:
        what = "lease's minimum is" if isinstance(asked, authorization.LeaseRequest) else "request can cost"
        raise ApiError(
            402,
            "insufficient_balance",
            f"The {what} more than the {_at_least_0(error.available)} USD available. Top up, or ask for less.",
        ) from error
    body: dict[str, Any] = {
        "id": granted.id,
        "request_id": granted.request_id,
        "customer": granted.customer,
        "api_key_id": granted.api_key_id,
        "model": granted.model,
        "amount": amount_text(granted.amount),
        "currency": "USD",
        "expires_at": _moment(granted.expires_at),
    }
    if granted.model is None:
        body |= {"allowed_models": granted.allowed_models, "allowed_networks": granted.allowed_networks}
    return json_response(body, 201 if granted.is_new else 200, _rate_headers(granted.standings))


def _limited(error: holds.LimitReached) -> ApiError:
    whose = "customer" if error.scope == "customer" else "API key"
    per = {"day": "daily", "month": "monthly"}[error.span]
    return ApiError(
        402,
        "spend_limit_reached",
        f"Only {_at_least_0(error.available)} USD of the {whose}'s {per} limit of {amount_text(error.amount)} USD is"
        " left, less than this may cost. Raise the limit, or wait for the next"
        f" {error.span}.",
    )


def _at_least_0(amount: Decimal) -> str:
    return amount_text(max(amount, amount * 0))


def _authorize(
    asked: Asked | None,
    fault: ApiError | None,
    digests: tuple[bytes, bytes],
    at: datetime,
) -> authorization.Authorization:
    if asked is not None:
        granted = authorization.authorize_remembered(asked, digests=digests, at=at)
        if granted is not None:
            return granted
    caller = authorization.look_up(digests=digests, at=at)
    _check_caller(caller, "authorize")  # Before the body: who may not ask learns nothing of what is wrong with it.
    if asked is None:
        raise fault or invalid_request("The body could not be read.")
    return authorization.authorize(asked, caller=caller, digests=digests, at=at)


def _resolved(status: str) -> ApiError:
    return ApiError(
        409,
        f"authorization_{status}",
        f"This authorization is {status}. Ask for a new one with a new request_id.",
        param="request_id",
    )


def _too_fast(error: rates.Exceeded) -> ApiError:
    limit = error.limit
    what = limit.what.removesuffix("s") if limit.per_minute == 1 else limit.what
    per_minute = f"{limit.per_minute:,} {what} per minute"
    if error.is_too_large:
        message = f"The request asks for {error.asked:,} tokens, more than the {per_minute} allowed. Ask for fewer."
    elif limit.what == rates.TOKENS:
        left = next(standing.remaining for standing in error.standings if standing.what == limit.what)
        message = f"The request asks for {error.asked:,} tokens, and {left:,} of {per_minute} are left."
    else:
        message = f"The limit of {per_minute} is reached."
    if not error.is_too_large:
        message += f" Try again in {error.retry_after_s} s."
    headers = {"Retry-After": str(error.retry_after_s), **_rate_headers(error.standings)}
    return ApiError(429, "rate_limit_exceeded", message, headers=headers)


def _rate_headers(standings: tuple[rates.Standing, ...]) -> dict[str, str]:
    """How the limits stand, under the names that OpenAI's clients read."""
    headers = {}
    for standing in standings:
        headers[f"x-ratelimit-limit-{standing.what}"] = str(standing.limit)
        headers[f"x-ratelimit-remaining-{standing.what}"] = str(standing.remaining)
        headers[f"x-ratelimit-reset-{standing.what}"] = _duration(standing.reset_s)
    return headers


def _duration(seconds: int) -> str:
    """As OpenAI writes it: 1m12s."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _read_authorization(request: HttpRequest) -> Asked:
    """The body, checked field by field. Raises ApiError 400 with `param`."""
    body = _read(request, _MAX_AUTHORIZATION_BYTES + 1)
    if len(body) > _MAX_AUTHORIZATION_BYTES:
        raise invalid_request("The body is larger than 64 KiB.")
    asked: Asked
    try:
        if b'"lease"' in body and _whether_lease.decode(body).get("lease") is not None:
            asked = _lease_request.decode(body)
        else:
            asked = _request.decode(body)
    except msgspec.ValidationError as error:
        found = (pattern.search(str(error)) for pattern in (_PLACE, _MISSING))
        param = ".".join(match[1] for match in found if match) or None
        raise invalid_request(f"The body does not fit: {error}.", param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_request(f"The body is not valid JSON: {error}.") from error
    _check_names(asked)
    if isinstance(asked, authorization.LeaseRequest):
        _check_lease(asked.lease)
    else:
        _check_figures(asked)
    if asked.client_ip is not None:
        try:
            ip_address(asked.client_ip)
        except ValueError as error:
            raise invalid_request("client_ip must be an IPv4 or IPv6 address.", "client_ip") from error
    return asked


def _check_names(asked: Asked) -> None:
    is_lease = isinstance(asked, authorization.LeaseRequest)
    for name in ("request_id",) if is_lease else ("model", "request_id"):
        if not 1 <= len(getattr(asked, name)) <= 255:
            raise invalid_request(f"{name} must have 1 to 255 characters.", name)
    optional = () if is_lease else ("model", "channel", "service_tier", "speed", "inference_geo")
    for name in ("request_id", *optional):
        if "\x00" in (getattr(asked, name) or ""):
            raise invalid_request(f"{name} holds a NUL character.", name)


def _check_figures(asked: authorization.Request) -> None:
    for name in ("input_tokens", "max_output_tokens", "web_search_max"):
        value = getattr(asked, name)
        if value is not None and not 0 <= value <= LARGEST_COUNT:
            raise invalid_request(f"{name} must be from 0 to 10^12.", name)
    if asked.ttl_seconds is not None and not 1 <= asked.ttl_seconds <= authorization.LARGEST_TTL_S:
        raise invalid_request(f"ttl_seconds must be from 1 to {authorization.LARGEST_TTL_S}.", "ttl_seconds")
    if asked.cache_ttl is not None and asked.cache_ttl not in authorization.CACHE_TTLS:
        raise invalid_request(f"cache_ttl must be null or one of {', '.join(authorization.CACHE_TTLS)}.", "cache_ttl")


def _check_lease(lease: authorization.Lease) -> None:
    amounts = {}
    for name in ("amount", "minimum"):
        value = getattr(lease, name)
        if value is None:
            continue
        try:
            amounts[name] = parse_amount(value)
        except InvalidAmount as error:
            raise invalid_request(f"lease.{name}: {error}.", f"lease.{name}") from error
        if amounts[name] <= 0:
            raise invalid_request(f"lease.{name} must be above zero.", f"lease.{name}")
    if amounts.get("minimum", 0) > amounts["amount"]:
        raise invalid_request("lease.minimum must not be above lease.amount.", "lease.minimum")
    if not 1 <= lease.seconds <= authorization.LARGEST_LEASE_S:
        raise invalid_request(f"lease.seconds must be from 1 to {authorization.LARGEST_LEASE_S}.", "lease.seconds")


@_post_only
def release(request: HttpRequest, authorization_id: str) -> HttpResponse:
    """Give a hold back."""
    caller = authorization.look_up(digests=(_token_digest(request), b""), at=datetime.now(UTC))
    _check_caller(caller, "authorize")
    unknown = ApiError(
        404, "authorization_not_found", f"There is no authorization {authorization_id[:80]!r}.", param="id"
    )
    parsed = ids.parse_hot_id("auth", authorization_id)
    if parsed is None:
        raise unknown
    try:
        hold = holds.release(customer_id=parsed[0], number=parsed[1], at=datetime.now(UTC))
    except holds.AlreadySettled as error:
        raise ApiError(409, "authorization_settled", "This authorization is settled: its usage was charged.") from error
    except holds.UnknownHold as error:
        raise unknown from error
    return json_response(_hold(hold))


def _hold(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.public_id,
        "request_id": hold.request_id,
        "customer": hold.details.get("customer"),
        "api_key_id": hold.details.get("api_key_id"),
        "model": hold.details.get("model"),
        "amount": amount_text(hold.amount),
        "currency": "USD",
        "expires_at": _moment(hold.admits_until or hold.expires_at),
        "status": str(hold.status),
    }


@_post_only
def usage(request: HttpRequest) -> HttpResponse:
    """Take a batch of usage events; 200 goes out after the last commit."""
    # Read first, whoever calls: an answer while the body is on its way would reach nobody.
    packed = _read(request, ingestion.MAX_BODY_BYTES + 1)
    caller = authorization.look_up(digests=(_token_digest(request), b""), at=datetime.now(UTC))
    _check_caller(caller, "usage")
    encoding = request.META.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    batch = _Batch(request.content_type or "", encoding, caller.relay_token_id, packed)
    if len(packed) < _SHARED_FROM_BYTES:
        answer = _take(batch)
    else:
        answer = neighbours.do(lambda: msgspec.msgpack.encode(batch), lambda: _take(batch))
        if not answer:
            raise OperationalError("the database did not answer a neighbour")
    return HttpResponse(answer, content_type="application/json")


class _Batch(msgspec.Struct):
    """A batch as it came, from a caller who may report usage."""

    content_type: str
    encoding: str
    relay_token_id: int | None
    packed: bytes


_batch = msgspec.msgpack.Decoder(_Batch)


def take_from_neighbour(work: bytes) -> bytes | None:
    """Take a batch that came to another process of ours; None if that process is to try it, and to say why it fails.

    b"" if the database has failed after so long a time that whoever reports would not wait for a second try.
    """
    begun = time.monotonic()
    try:
        return _take(_batch.decode(work))
    except ApiError:
        return None
    except (OperationalError, InterfaceError):
        return None if time.monotonic() - begun < _TRIED_AGAIN_WITHIN_S else b""


def _take(batch: _Batch) -> bytes:
    taken = intake.take(_read_batch(batch), relay_token_id=batch.relay_token_id, at=datetime.now(UTC))
    return msgspec.json.encode(
        {
            "accepted": taken.accepted,
            "duplicates": taken.duplicates,
            "parked": taken.parked,
            "rejected": [
                {"index": item.index, "id": item.id, "code": item.code, "message": item.message}
                for item in taken.rejected
            ],
        }
    )


def _read(request: HttpRequest, limit: int) -> bytes:
    """At most so many bytes of the body, also of one that comes in chunks without a length."""
    if "CONTENT_LENGTH" not in request.META and "HTTP_TRANSFER_ENCODING" in request.META:
        body: bytes = request.META["wsgi.input"].read(limit)
        return body
    return request.read(limit)


def _read_batch(batch: _Batch) -> ingestion.Batch:
    decoders = {"application/json": ingestion.decode_json, "application/x-ndjson": ingestion.decode_ndjson}
    decode = decoders.get(batch.content_type)
    if decode is None:
        raise ApiError(415, "unsupported_media_type", "Send application/json or application/x-ndjson.")
    try:
        return decode(ingestion.unpack(batch.packed, encoding=batch.encoding))
    except ingestion.BatchTooLarge as error:
        raise ApiError(413, "batch_too_large", f"Too much at once: {error}.") from error
    except ingestion.InvalidBatch as error:
        raise invalid_request(f"The batch was not read: {error}.", "events") from error


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
