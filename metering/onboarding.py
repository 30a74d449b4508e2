"""A new customer with everything it needs to begin: wallet, plan, key, access token, first credit."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from billing import credits, customers
from billing.customers import InvalidCustomer
from billing.models import AccessToken, Grant
from metering import keys
from metering.models import CustomerPlan, Plan
from metering.pricing import LIST_PLAN


@dataclass(frozen=True, slots=True)
class Onboarded:
    """Public ids, and the two secrets that are shown once."""

    customer: str
    api_key_id: str
    api_key: str
    access_token: str


def onboard_customer(
    *, name: str, email: str, credit: Decimal, plan: str, key_name: str, at: datetime, actor: str = ""
) -> Onboarded:
    """Create a customer with one key and one access token of all scopes; credit (USD) is a goodwill grant, 0 none.

    Raises customers.InvalidCustomer, keys.InvalidKey, credits.InvalidGrant.
    """
    if len(email) > 254:
        raise InvalidCustomer("email", "an e-mail address has at most 254 characters")
    if email:
        try:
            validate_email(email)
        except ValidationError as error:
            raise InvalidCustomer("email", f"{email!r} is not an e-mail address") from error
    if credit < 0:
        raise credits.InvalidGrant("credit", "credit must not be below zero")
    chosen = Plan.objects.filter(name=plan).first()
    if chosen is None:
        known = ", ".join(Plan.objects.values_list("name", flat=True))
        raise InvalidCustomer("plan", f"there is no plan {plan!r}; the plans are {known}")
    with transaction.atomic():
        customer = customers.create_customer(name=name, email=email)
        if chosen.name != LIST_PLAN:
            CustomerPlan.objects.create(customer=customer, plan=chosen)
        key, api_key = keys.create_api_key(customer=customer, name=key_name, at=at)
        _, access_token = customers.create_access_token(
            customer=customer, name="first token", scopes=AccessToken.Scope.values
        )
        if credit:
            credits.grant(
                customer_id=customer.pk,
                amount=credit,
                kind=Grant.Kind.GOODWILL,
                reason="First credit",
                reference="",
                key=f"first-credit:{customer.public_id}",
                at=at,
                actor=actor,
            )
    return Onboarded(customer=customer.public_id, api_key_id=key.public_id, api_key=api_key, access_token=access_token)
