"""Ways to pay, and how each behaves: Stripe's own test card numbers, and the two wallets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.errors import Json
from sandbox.store import new_id
from sandbox.world import HIDDEN, World

PAYS, AUTHENTICATES, DECLINES_LATER = "pays", "authenticates", "declines_later"


@dataclass(frozen=True)
class Card:
    number: str
    brand: str
    behaves: str  # PAYS, AUTHENTICATES, DECLINES_LATER (off session), or a decline code
    says: str


CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242", "visa", PAYS, "pays"),
        Card("5555555555554444", "mastercard", PAYS, "pays"),
        Card("4000002760003184", "visa", AUTHENTICATES, "needs authentication each time"),
        Card("4000000000000341", "visa", DECLINES_LATER, "pays now, declines when it is charged later"),
        Card("4000000000009995", "visa", "insufficient_funds", "declines: insufficient funds"),
        Card("4000000000000002", "visa", "generic_decline", "declines: no reason given"),
        Card("4000000000000069", "visa", "expired_card", "declines: expired"),
    )
}

# decline code → (code, message)
DECLINES = {
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "generic_decline": ("card_declined", "Your card was declined."),
    "expired_card": ("expired_card", "Your card has expired."),
    "authentication_required": (
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
    ),
    "payment_intent_authentication_failure": (
        "payment_intent_authentication_failure",
        "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
    ),
}


def decline(code: str, method: Json) -> Json:
    """Stripe's error object for a payment that did not go through."""
    kind, message = DECLINES.get(code, ("card_declined", f"Your card was declined ({code})."))
    if method["type"] != "card":
        kind, message = "payment_method_provider_decline", f"{NAMES[method['type']]} declined the payment."
    error: Json = {"code": kind, "message": message, "type": "card_error", "doc_url": "", "payment_method": method}
    return {**error, "decline_code": code} if kind != code or kind == "authentication_required" else error


NAMES = {"card": "Card", "alipay": "Alipay", "wechat_pay": "WeChat Pay"}


def make_method(world: World, kind: str, number: str, behaves: str | None = None) -> Json:
    card = CARDS[number]
    details: Json = {kind: {}}
    if kind == "card":
        details["card"] = {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": 8,
            "exp_year": 2034,
            "fingerprint": f"Sandbox{card.number[-9:]}",
            "funding": "credit",
            "last4": card.number[-4:],
            "networks": {"available": [card.brand], "preferred": None},
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        }
    return world.make(
        "payment_method",
        "pm_",
        allow_redisplay="unspecified",
        billing_details={"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        customer=None,
        metadata={},
        type=kind,
        **details,
        **{HIDDEN: {"behaves": behaves or (card.behaves if kind == "card" else PAYS)}},
    )


def attach(world: World, method: Json, customer: str) -> Json:
    world.change(method, customer=customer, allow_redisplay="limited")
    world.tell("payment_method.attached", method)
    return method


def detach(world: World, method: Json) -> Json:
    for customer in world.store.every("customer", id=method["customer"]):
        if customer["invoice_settings"]["default_payment_method"] == method["id"]:
            customer["invoice_settings"]["default_payment_method"] = None
            world.change(customer)
            world.tell("customer.updated", customer)
    world.change(method, customer=None)
    world.tell("payment_method.detached", method)
    return method


def charge_details(method: Json) -> dict[str, Any]:
    """How a charge describes its method."""
    kind = method["type"]
    if kind != "card":
        return {"type": kind, kind: {"transaction_id": new_id("", 12)}}
    kept = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    return {"type": "card", "card": {name: method["card"][name] for name in kept}}
