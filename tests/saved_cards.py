"""Customers with saved cards, and rules that recharge their wallets from them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing import payment_accounts, recharge_rules, saved_methods
from billing.models import PaymentMethod, Recharge, TopUp
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

PAYS, WANTS_ITS_OWNER, DECLINES_LATER = "4242424242424242", "4000002760003184", "4000000000000341"


def save_card(payer: Payer, stripe: StripeSandbox, *, card: str = PAYS) -> PaymentMethod:
    """A card that the customer has saved, and that we know of."""
    at = datetime.now(UTC)
    stripe_id = stripe.save_card(payment_accounts.ensure(customer_id=payer.customer.pk, at=at), card=card)
    saved_methods.sync(stripe_id, at=at)
    return PaymentMethod.objects.get(stripe_id=stripe_id)


def set_recharge(payer: Payer, **changes: Any) -> Recharge:
    """Below 20 USD charge 50 USD to the default card, unless changed."""
    wanted: dict[str, Any] = {
        "is_on": True,
        "threshold": Decimal(20),
        "amount": Decimal(50),
        "return_url": "http://testserver/payments/return",
    }
    return recharge_rules.set_rule(
        customer_id=payer.customer.pk,
        wanted=recharge_rules.Wanted(**{**wanted, **changes}),
        at=changes.pop("at", datetime.now(UTC)),
    )


def rule_of(payer: Payer) -> Recharge:
    return Recharge.objects.get(customer=payer.customer)


def charges_of(payer: Payer) -> list[TopUp]:
    """The customer's automatic charges, oldest first."""
    return list(TopUp.objects.filter(customer=payer.customer, origin=TopUp.Origin.RECHARGE).order_by("pk"))
