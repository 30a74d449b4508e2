"""PaymentIntents and charges: from an attempt to money on the balance, or a decline."""

from __future__ import annotations

from sandbox import cards, currencies
from sandbox.errors import Json, Refused
from sandbox.store import new_id
from sandbox.world import World, must_be

CANCELABLE = {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture", "processing"}


def make_intent(
    world: World,
    *,
    amount: int,
    currency: str,
    customer: str | None,
    methods: list[str],
    metadata: dict[str, str] | None = None,
    description: str | None = None,
    setup_future_usage: str | None = None,
) -> Json:
    id = new_id("pi_3")
    intent = world.store.put(
        {
            "id": id,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic_async",
            "client_secret": f"{id}_secret_{new_id('', 20)}",
            "confirmation_method": "automatic",
            "created": world.now(),
            "currency": currency,
            "customer": customer,
            "description": description,
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": metadata or {},
            "next_action": None,
            "payment_method": None,
            "payment_method_types": methods,
            "setup_future_usage": setup_future_usage,
            "status": "requires_payment_method",
        }
    )
    world.tell("payment_intent.created", intent)
    return intent


def confirm(world: World, intent: Json, method: Json, *, off_session: bool = False) -> Json:
    """Try to pay. Off session, a card that wants its owner is a decline."""
    behaves = method["_sandbox"]["behaves"]
    world.change(intent, payment_method=method["id"], last_payment_error=None, next_action=None)
    if behaves == cards.PAYS or (behaves == cards.DECLINES_LATER and not off_session):
        return succeed(world, intent)
    if behaves == cards.DECLINES_LATER:
        return fail(world, intent, "generic_decline")
    if behaves == cards.AUTHENTICATES and not off_session:
        return ask_for_authentication(world, intent)
    return fail(world, intent, "authentication_required" if behaves == cards.AUTHENTICATES else behaves)


def ask_for_authentication(world: World, intent: Json) -> Json:
    url = f"{world.address}/authenticate/{intent['id']}"
    action = {"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": None}}
    world.change(intent, status="requires_action", next_action=action)
    world.tell("payment_intent.requires_action", intent)
    return intent


def process(world: World, intent: Json) -> Json:
    """The money is on its way: a bank that answers later."""
    world.change(intent, status="processing", next_action=None)
    world.tell("payment_intent.processing", intent)
    return intent


def succeed(world: World, intent: Json) -> Json:
    method = world.get("payment_method", intent["payment_method"])
    charge = _charge(world, intent, method, status="succeeded")
    if not world.store.setting("late_balance", False):
        _book(world, charge)
    world.tell("charge.succeeded", charge)
    world.change(
        intent, status="succeeded", amount_received=intent["amount"], latest_charge=charge["id"], next_action=None
    )
    world.tell("payment_intent.succeeded", intent)
    return intent


def book_late(world: World, charge: Json) -> Json:
    """The balance transaction that was missing at first."""
    must_be(charge["paid"] and charge["balance_transaction"] is None, "This charge is booked or unpaid.")
    _book(world, charge)
    world.tell("charge.updated", charge)
    return charge


def _book(world: World, charge: Json) -> None:
    booked = world.book(
        "charge" if charge["payment_method_details"]["type"] == "card" else "payment",
        "charge",
        charge["id"],
        charge["amount"],
        charge["currency"],
        fee=currencies.fee(currencies.cents(charge["amount"], charge["currency"])),
        text=charge["description"] or "Payment",
    )
    world.change(charge, balance_transaction=booked["id"])


def fail(world: World, intent: Json, code: str) -> Json:
    method = world.get("payment_method", intent["payment_method"])
    error = cards.decline(code, world.shown(method))
    charge = _charge(world, intent, method, status="failed", failure=error)
    world.tell("charge.failed", charge)
    world.change(
        intent,
        status="requires_payment_method",
        payment_method=None,
        last_payment_error={**error, "charge": charge["id"]},
        latest_charge=charge["id"],
        next_action=None,
    )
    world.tell("payment_intent.payment_failed", intent)
    return intent


def cancel(world: World, intent: Json, reason: str | None = None) -> Json:
    if intent["status"] not in CANCELABLE:
        raise Refused(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    world.change(intent, status="canceled", canceled_at=world.now(), cancellation_reason=reason, next_action=None)
    world.tell("payment_intent.canceled", intent)
    return intent


def _charge(world: World, intent: Json, method: Json, *, status: str, failure: Json | None = None) -> Json:
    paid = status == "succeeded"
    id = new_id("ch_3" if method["type"] == "card" else "py_3")
    return world.store.put(
        {
            "id": id,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if paid else 0,
            "amount_refunded": 0,
            "balance_transaction": None,
            "billing_details": method["billing_details"],
            "captured": paid,
            "created": world.now(),
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "failure_code": failure["code"] if failure else None,
            "failure_message": failure["message"] if failure else None,
            "livemode": False,
            "metadata": intent["metadata"],
            "outcome": {
                "network_status": "approved_by_network" if paid else "declined_by_network",
                "reason": (failure.get("decline_code") or failure["code"]) if failure else None,
                "risk_level": "normal",
                "type": "authorized" if paid else "issuer_declined",
            },
            "paid": paid,
            "payment_intent": intent["id"],
            "payment_method": method["id"],
            "payment_method_details": cards.charge_details(method),
            "receipt_email": None,
            "receipt_number": None,
            "receipt_url": f"{world.address}/receipts/{id}" if paid else None,
            "refunded": False,
            "status": status,
        }
    )
