"""Customers with their wallets, and the access tokens of their scripts."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from billing.models import AccessToken, Customer, Wallet
from relayadmin import ids


class InvalidCustomer(ValueError):
    """A customer that can't be made; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def create_customer(*, name: str, email: str = "") -> Customer:
    """Create a customer and its empty wallet. Raises InvalidCustomer."""
    name = name.strip()
    if not 1 <= len(name) <= 200 or "\x00" in name:
        raise InvalidCustomer("name", "name must have 1 to 200 characters")
    with transaction.atomic():
        customer = Customer.objects.create(name=name, email=email)
        Wallet.objects.create(customer=customer)
    return customer


def create_access_token(
    *, customer: Customer, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[AccessToken, str]:
    """Create an access token; returns it with its secret, which is kept nowhere."""
    assert set(scopes) <= set(AccessToken.Scope.values)
    secret = ids.new_secret("ct_")
    token = AccessToken.objects.create(
        customer=customer,
        name=name,
        digest=secret.digest,
        prefix=secret.prefix,
        last4=secret.last4,
        scopes=list(scopes),
        expires_at=expires_at,
    )
    return token, secret.text


def revoke_access_token(*, access_token_id: int, at: datetime) -> None:
    """Revoke an access token, effective at the next request; a second time changes nothing."""
    AccessToken.objects.filter(pk=access_token_id, revoked_at=None).update(revoked_at=at)


def revoke_all_access_tokens(*, customer_id: int, at: datetime) -> int:
    """Revoke all of a customer's access tokens; returns how many were not revoked before."""
    return AccessToken.objects.filter(customer_id=customer_id, revoked_at=None).update(revoked_at=at)
