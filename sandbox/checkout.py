"""Checkout sessions: what may be asked for, and what the person in front of the page does."""

from __future__ import annotations

from typing import Any

from sandbox import cards, currencies, payments
from sandbox.errors import Json, Refused
from sandbox.store import new_id
from sandbox.world import World, must_be

SHORTEST_S, LONGEST_S = 30 * 60, 24 * 3600


def create(world: World, params: Json) -> Json:
    mode = params.get("mode", "")
    must_be(mode in {"payment", "setup"}, "You must provide a mode: payment or setup", param="mode")
    must_be(
        "success_url" in params, "Missing required param: success_url.", code="parameter_missing", param="success_url"
    )
    must_be(len(params.get("client_reference_id", "")) <= 200, "Too long (at most 200)", param="client_reference_id")
    if "customer" in params:
        world.get("customer", params["customer"], "customer")
    expires_at = params.get("expires_at", world.now() + LONGEST_S)
    ahead = expires_at - world.now()
    must_be(ahead >= SHORTEST_S, "The `expires_at` timestamp must be at least 30 minutes from now.", param="expires_at")
    must_be(ahead <= LONGEST_S, "The `expires_at` timestamp must be less than 24 hours from now.", param="expires_at")
    amount, currency = _total(params) if mode == "payment" else (None, _setup_currency(params))
    methods = _methods(params, mode, currency)
    fields: dict[str, Any] = {
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "status": None},
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "currency": currency,
        "customer": params.get("customer"),
        "customer_details": None,
        "expires_at": expires_at,
        "metadata": params.get("metadata", {}),
        "mode": mode,
        "payment_intent": None,
        "payment_method_options": params.get("payment_method_options", {}),
        "payment_method_types": methods,
        "payment_status": "unpaid" if mode == "payment" else "no_payment_required",
        "setup_intent": None,
        "status": "open",
        "success_url": params["success_url"],
        "ui_mode": "hosted_page",
        "url": None,
        "_sandbox": {"params": params},
    }
    if mode == "setup":
        fields["setup_intent"] = _setup_intent(world, params, methods)["id"]
    session = {"id": new_id("cs_test_a1", 58), "object": "checkout.session", "created": world.now(), "livemode": False}
    return world.store.put({**session, **fields})


def _total(params: Json) -> tuple[int, str]:
    must_be("setup_intent_data" not in params, "Only in setup mode", param="setup_intent_data")
    items = params.get("line_items")
    if not items:
        raise Refused("Missing required param: line_items.", code="parameter_missing", param="line_items")
    total, currency = 0, ""
    for place, item in enumerate(items):
        price = item.get("price_data", {})
        at = f"line_items[{place}][price_data]"
        for name in ("currency", "unit_amount", "product_data"):
            must_be(
                name in price, f"Missing required param: {at}[{name}].", code="parameter_missing", param=f"{at}[{name}]"
            )
        must_be(
            "name" in price["product_data"],
            f"Missing required param: {at}[product_data][name].",
            code="parameter_missing",
            param=f"{at}[product_data][name]",
        )
        must_be(currency in ("", price["currency"]), "All prices must be in one currency", param=f"{at}[currency]")
        currency = currencies.known(price["currency"], f"{at}[currency]")
        total += currencies.payable(price["unit_amount"], currency, f"{at}[unit_amount]") * item.get("quantity", 1)
    return currencies.payable(total, currency, "line_items"), currency


def _setup_currency(params: Json) -> str | None:
    must_be("payment_intent_data" not in params, "Only in payment mode", param="payment_intent_data")
    must_be("line_items" not in params, "Only in payment mode", param="line_items")
    must_be(
        "currency" in params or "allowed_payment_method_types" in params,
        "Missing required param: currency.",
        code="parameter_missing",
        param="currency",
    )
    return currencies.known(params["currency"]) if "currency" in params else None


def _methods(params: Json, mode: str, currency: str | None) -> list[str]:
    """What the page offers: what is asked for and goes with the currency; the rest vanishes silently."""
    options = params.get("payment_method_options", {})
    wanted = params.get("allowed_payment_method_types") or [
        "card",
        "alipay",
        *(["wechat_pay"] if "wechat_pay" in options else []),
    ]
    is_saved = mode == "setup" or "setup_future_usage" in params.get("payment_intent_data", {})
    offered = [
        name
        for name in dict.fromkeys(wanted)
        if name in currencies.METHODS
        and (currency is None or currency in currencies.METHODS[name])
        and (name in currencies.SAVABLE or not is_saved)
    ]
    must_be(
        bool(offered), "No valid payment method types for this Checkout Session.", param="allowed_payment_method_types"
    )
    if "wechat_pay" in offered and options.get("wechat_pay", {}).get("client") != "web":
        raise Refused(
            "`payment_method_options[wechat_pay][client]` is required and must be `web` when `wechat_pay` is accepted.",
            code="parameter_missing",
            param="payment_method_options[wechat_pay][client]",
        )
    return offered


def _setup_intent(world: World, params: Json, methods: list[str]) -> Json:
    data = params.get("setup_intent_data", {})
    intent = world.make(
        "setup_intent",
        "seti_1",
        customer=params.get("customer"),
        description=data.get("description"),
        last_setup_error=None,
        metadata=data.get("metadata", {}),
        next_action=None,
        payment_method=None,
        payment_method_types=methods,
        status="requires_payment_method",
        usage="off_session",
    )
    world.tell("setup_intent.created", intent)
    return intent


def act(world: World, id: str, *, method: str, card: str, outcome: str) -> Json:
    """The person on the page: outcome pay, authenticate, slow, or decline:<code>. Returns the session.

    Raises Refused when the session is not open (any more) or does not offer the method.
    """
    session = world.get("checkout.session", id)
    must_be(session["status"] == "open", f"This session is {session['status']}.")
    must_be(method in session["payment_method_types"], f"This session does not offer {method}.")
    must_be(card in cards.CARDS, "The sandbox knows no such card.")
    behaves = {"pay": None, "slow": None, "authenticate": cards.AUTHENTICATES}.get(
        outcome, outcome.removeprefix("decline:")
    )
    made = cards.make_method(world, method, card, behaves)
    if session["mode"] == "setup":
        return _save(world, session, made)
    intent = _intent_of(world, session)
    must_be(intent["status"] not in {"succeeded", "processing", "canceled"}, "This payment is under way or done.")
    if outcome == "slow":
        world.change(intent, payment_method=made["id"], last_payment_error=None)
        payments.process(world, intent)
        return _complete(world, session, payment_status="unpaid")
    payments.confirm(world, intent, made)
    return after(world, intent) or session


def after(world: World, intent: Json) -> Json | None:
    """What a payment's new state means for its session, if it has one."""
    for session in world.store.every("checkout.session", payment_intent=intent["id"]):
        if session["status"] == "open" and intent["status"] == "succeeded":
            return _complete(world, session, payment_status="paid")
        if session["status"] == "complete" and session["payment_status"] == "unpaid":
            if intent["status"] == "succeeded":
                world.change(session, payment_status="paid")
                world.tell("checkout.session.async_payment_succeeded", session)
            elif intent["status"] == "requires_payment_method":
                world.tell("checkout.session.async_payment_failed", session)
        return session
    return None


def authenticate(world: World, intent: Json, *, passes: bool) -> Json:
    must_be(intent["status"] == "requires_action", "Nothing is to be authenticated.")
    if passes:
        payments.succeed(world, intent)
    else:
        payments.fail(world, intent, "payment_intent_authentication_failure")
    after(world, intent)
    return intent


def settle(world: World, intent: Json, *, arrives: bool) -> Json:
    """The slow bank's answer."""
    must_be(intent["status"] == "processing", "This payment is not on its way.")
    if arrives:
        payments.succeed(world, intent)
    else:
        payments.fail(world, intent, "generic_decline")
    after(world, intent)
    return intent


def expire(world: World, session: Json) -> Json:
    must_be(
        session["status"] == "open",
        f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
        f"{session['status']}.",
    )
    world.change(session, status="expired")
    if session["payment_intent"]:
        intent = world.get("payment_intent", session["payment_intent"])
        if intent["status"] in payments.CANCELABLE:
            payments.cancel(world, intent, "automatic")
    world.tell("checkout.session.expired", session)
    return session


def expire_due(world: World) -> None:
    """Sessions end by themselves, too."""
    now = world.now()
    for session in world.store.every("checkout.session", status="open"):
        if session["expires_at"] <= now:
            expire(world, session)


def _intent_of(world: World, session: Json) -> Json:
    if session["payment_intent"]:
        return world.get("payment_intent", session["payment_intent"])
    data = session["_sandbox"]["params"].get("payment_intent_data", {})
    on_card = session["payment_method_options"].get("card", {}).get("setup_future_usage")
    intent = payments.make_intent(
        world,
        amount=session["amount_total"],
        currency=session["currency"],
        customer=session["customer"],
        methods=session["payment_method_types"],
        metadata=data.get("metadata"),
        description=data.get("description"),
        setup_future_usage=data.get("setup_future_usage") or on_card,
    )
    world.change(session, payment_intent=intent["id"])
    return intent


def _complete(world: World, session: Json, *, payment_status: str) -> Json:
    intent = world.get("payment_intent", session["payment_intent"])
    method = world.get("payment_method", intent["payment_method"])
    if intent["setup_future_usage"] and session["customer"] and method["type"] in currencies.SAVABLE:
        cards.attach(world, method, session["customer"])
    world.change(session, status="complete", payment_status=payment_status)
    world.tell("checkout.session.completed", session)
    return session


def _save(world: World, session: Json, method: Json) -> Json:
    intent = world.get("setup_intent", session["setup_intent"])
    behaves = method["_sandbox"]["behaves"]
    if behaves not in {cards.PAYS, cards.DECLINES_LATER, cards.AUTHENTICATES}:
        world.change(intent, last_setup_error=cards.decline(behaves, world.shown(method)))
        world.tell("setup_intent.setup_failed", intent)
        return session
    if session["customer"]:
        cards.attach(world, method, session["customer"])
    world.change(intent, status="succeeded", payment_method=method["id"], last_setup_error=None)
    world.tell("setup_intent.succeeded", intent)
    world.change(session, status="complete")
    world.tell("checkout.session.completed", session)
    return session
