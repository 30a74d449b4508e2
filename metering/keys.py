"""API keys and relay tokens: made, found, revoked. Secrets are shown once and kept as hashes."""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_network
from typing import TypedDict

from django.db import transaction
from django.db.models import QuerySet

from billing import notices
from billing.models import Customer
from billing.notice_kinds import KEY_CREATED, KEY_REVOKED
from metering.models import ApiKey, RelayToken
from relayadmin import ids

RELAY_SCOPES = ("authorize", "usage")


class InvalidKey(ValueError):
    """A key that can't be made or changed; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def check_key(
    *,
    name: str,
    allowed_models: Sequence[str] = (),
    allowed_networks: Sequence[str] = (),
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    expires_at: datetime | None = None,
    at: datetime,
) -> None:
    """Raise InvalidKey for what a key can't have."""
    if not 1 <= len(name.strip()) <= 100 or "\x00" in name:
        raise InvalidKey("name", "name must have 1 to 100 characters")
    if len(allowed_models) > 200 or any(not 1 <= len(model) <= 255 or "\x00" in model for model in allowed_models):
        raise InvalidKey("allowed_models", "allowed_models must be at most 200 model ids of 1 to 255 characters")
    if len(allowed_networks) > 200:
        raise InvalidKey("allowed_networks", "allowed_networks must be at most 200 networks")
    for network in allowed_networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise InvalidKey("allowed_networks", f"allowed_networks: {error}") from error
    for field, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
        if limit is not None and limit < 1:
            raise InvalidKey(field, f"{field} must be at least 1")
    if expires_at is not None and expires_at <= at:
        raise InvalidKey("expires_at", "expires_at must be in the future")


def create_api_key(
    *,
    customer: Customer,
    name: str,
    at: datetime,
    allowed_models: Sequence[str] = (),
    allowed_networks: Sequence[str] = (),
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; returns it with its secret `sk-…`, which is kept nowhere. Raises InvalidKey.

    Requests and tokens per minute hold in place of the customer's tier, and for this key alone; None: what it says.
    """
    check_key(
        name=name,
        allowed_models=allowed_models,
        allowed_networks=allowed_networks,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        expires_at=expires_at,
        at=at,
    )
    secret = ids.new_secret("sk-")
    with transaction.atomic():
        key = ApiKey.objects.create(
            customer=customer,
            name=name.strip(),
            digest=secret.digest,
            prefix=secret.prefix,
            last4=secret.last4,
            allowed_models=list(allowed_models),
            allowed_networks=list(allowed_networks),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires_at=expires_at,
        )
        notices.announce_all([_news(key, KEY_CREATED)], at=at)
    return key, secret.text


class KeyRevoked(Exception):
    """A revoked key can't be changed."""


class KeyChanges(TypedDict, total=False):
    """What may be changed of an API key; what is absent stays. `expires_at` None is never, a limit None the tier's."""

    name: str
    allowed_models: Sequence[str]
    allowed_networks: Sequence[str]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    expires_at: datetime | None


def change_api_key(*, api_key_id: int, changes: KeyChanges, at: datetime) -> ApiKey:
    """Change a key, effective at the next authorization. Raises InvalidKey, KeyRevoked."""
    with transaction.atomic():
        key = ApiKey.objects.select_for_update().get(pk=api_key_id)
        if key.revoked_at is not None:
            raise KeyRevoked(f"{key.public_id} is revoked")
        check_key(
            name=changes.get("name", key.name),
            allowed_models=changes.get("allowed_models", ()),
            allowed_networks=changes.get("allowed_networks", ()),
            requests_per_minute=changes.get("requests_per_minute"),
            tokens_per_minute=changes.get("tokens_per_minute"),
            expires_at=changes.get("expires_at"),
            at=at,
        )
        if "name" in changes:
            key.name = changes["name"].strip()
        if "allowed_models" in changes:
            key.allowed_models = list(changes["allowed_models"])
        if "allowed_networks" in changes:
            key.allowed_networks = list(changes["allowed_networks"])
        if "requests_per_minute" in changes:
            key.requests_per_minute = changes["requests_per_minute"]
        if "tokens_per_minute" in changes:
            key.tokens_per_minute = changes["tokens_per_minute"]
        if "expires_at" in changes:
            key.expires_at = changes["expires_at"]
        key.save(update_fields=list(changes))
    return key


def revoke_api_key(*, api_key_id: int, at: datetime) -> None:
    """Revoke a key, effective at the next authorization; a second time changes nothing."""
    _revoke(ApiKey.objects.filter(pk=api_key_id), at)


def revoke_all_api_keys(*, customer_id: int, at: datetime) -> int:
    """Revoke all of a customer's keys; returns how many were not revoked before."""
    return _revoke(ApiKey.objects.filter(customer_id=customer_id), at)


def _revoke(wanted: QuerySet[ApiKey], at: datetime) -> int:
    with transaction.atomic():
        revoked = list(wanted.filter(revoked_at=None).order_by("pk").select_for_update())
        ApiKey.objects.filter(pk__in=[key.pk for key in revoked]).update(revoked_at=at)
        notices.announce_all([_news(key, KEY_REVOKED) for key in revoked], at=at)
        return len(revoked)


def _news(key: ApiKey, kind: str) -> notices.News:
    data = {"api_key": key.public_id, "name": key.name, "last4": key.last4}
    return notices.News(key.customer_id, kind, key.public_id, data)


def create_relay_token(*, name: str, scopes: Sequence[str] = RELAY_SCOPES) -> tuple[RelayToken, str]:
    """Create a relay token; returns it with its secret `rl_…`. Raises InvalidKey."""
    name = name.strip()
    if not 1 <= len(name) <= 100 or "\x00" in name:
        raise InvalidKey("name", "name must have 1 to 100 characters")
    if not scopes or not set(scopes) <= set(RELAY_SCOPES):
        raise InvalidKey("scopes", f"scopes must be some of {', '.join(RELAY_SCOPES)}")
    secret = ids.new_secret("rl_")
    token = RelayToken.objects.create(
        name=name, digest=secret.digest, prefix=secret.prefix, last4=secret.last4, scopes=list(scopes)
    )
    return token, secret.text


def revoke_relay_token(*, relay_token_id: int, at: datetime) -> None:
    """Revoke a relay token, effective at the next call; a second time changes nothing."""
    RelayToken.objects.filter(pk=relay_token_id, revoked_at=None).update(revoked_at=at)
