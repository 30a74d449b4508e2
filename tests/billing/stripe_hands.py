"""Short ways into the gateway for its tests."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing import stripe_gateway as gateway

TEN = Decimal("10.00")
DAY = timedelta(days=1)


def customer(key: str = "customer:1") -> str:
    return gateway.create_customer(key=key, name="Acme Robotics", email="ap@acme.example", customer="cus_1")


def checkout(stripe_customer: str, *, key: str = "topup:1", **other: Any) -> gateway.CheckoutSession:
    asked: dict[str, Any] = {
        "top_up": "top_1",
        "customer": "cus_1",
        "amount": TEN,
        "currency": "usd",
        "methods": ["card", "alipay", "wechat_pay"],
        "success_url": "http://127.0.0.1/paid",
        "cancel_url": "http://127.0.0.1/cancelled",
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
        "save_card": False,
        "description": "Top-up of 10.00 USD",
    }
    return gateway.create_checkout(key=key, stripe_customer=stripe_customer, **(asked | other))


def charge(
    stripe_customer: str, method: str, *, key: str = "recharge:1", amount: Decimal = TEN
) -> gateway.PaymentIntent:
    return gateway.charge_saved(
        key=key,
        stripe_customer=stripe_customer,
        method=method,
        amount=amount,
        currency="usd",
        top_up="top_2",
        customer="cus_1",
        description="Automatic recharge",
    )


def intent_of(session: gateway.CheckoutSession) -> gateway.PaymentIntent:
    """The payment of a session, as both now stand."""
    id = gateway.checkout(session.id).payment_intent
    assert id is not None
    return gateway.payment_intent(id)
