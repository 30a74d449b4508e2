"""Customers as the payment provider knows them: one account each, made when it is first needed."""

import hashlib
from datetime import datetime, timedelta

from django.conf import settings

from billing import stripe_gateway as gateway
from billing.models import Customer, PaymentAccount
from relayadmin.db import one_at_a_time

FIRST_LOOK_FOR_CARDS = timedelta(minutes=2)


def is_sandbox() -> bool:
    """Whether the key is not for real money: test mode's, or the sandbox's. Each mode knows customers of its own."""
    return "_live_" not in settings.STRIPE_SECRET_KEY


def find(customer_id: int) -> str | None:
    """The customer's number at the provider; None if it has none in this mode."""
    known = PaymentAccount.objects.filter(customer_id=customer_id, is_sandbox=is_sandbox())
    return known.values_list("stripe_id", flat=True).first()


def ensure(*, customer_id: int, at: datetime) -> str:
    """The customer's number at the provider, which gives it one the first time. Not in a transaction.

    Raises what the gateway raises.
    """
    with one_at_a_time(f"payment account {customer_id}"):
        known = find(customer_id)
        if known is not None:
            return known
        customer = Customer.objects.get(pk=customer_id)
        # A call that died is made again under its key, and by other words, should these have changed, under another.
        words = hashlib.sha256(f"{customer.name}\n{customer.email}".encode()).hexdigest()[:16]
        made = gateway.create_customer(
            key=f"customer:{customer.public_id}:{words}",
            name=customer.name,
            email=customer.email or None,
            customer=customer.public_id,
        )
        account, _ = PaymentAccount.objects.get_or_create(
            customer_id=customer_id, is_sandbox=is_sandbox(), defaults={"stripe_id": made, "created_at": at}
        )
        return str(account.stripe_id)


def expect_card(stripe_customer: str, *, at: datetime) -> None:
    """Have this customer's saved cards asked for during a day: one may be saved, and its webhook get lost."""
    PaymentAccount.objects.filter(stripe_id=stripe_customer).update(
        cards_asked_at=at, cards_look_at=at + FIRST_LOOK_FOR_CARDS
    )
