"""Stripe's endpoints: method and path → parameters → what happens → the object that is answered."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sandbox import cards, checkout, currencies, payments, returns
from sandbox import parameters as takes
from sandbox.errors import Json, Refused
from sandbox.forms import Spec
from sandbox.world import World, must_be

Handler = Callable[..., Json]
EXPANDABLE = {
    "balance_transaction", "charge", "customer", "default_payment_method", "failure_balance_transaction",
    "latest_charge", "payment_intent", "payment_method", "setup_intent", "source",
}  # fmt: skip
LIMIT_MAX, DEPTH_MAX = 100, 4


def find(method: str, path: str) -> tuple[Spec, Handler, tuple[str, ...]]:
    """The endpoint's parameters, its handler and the ids in the path."""
    for known, pattern, spec, handler in ROUTES:
        match = re.fullmatch(pattern, path)
        if match and known == method:
            return spec, handler, match.groups()
    raise Refused(f"Unrecognized request URL ({method}: {path}).", status=404)


def expanded(world: World, thing: Any, paths: list[str]) -> Any:
    """The object with what `expand` names put in place of its id."""
    for path in paths:
        steps = path.split(".")
        must_be(len(steps) <= DEPTH_MAX, f"You cannot expand more than {DEPTH_MAX} levels", param="expand")
        _expand(world, thing, steps)
    return thing


def _expand(world: World, thing: Any, steps: list[str]) -> None:
    if isinstance(thing, list):
        for each in thing:
            _expand(world, each, steps)
        return
    if not steps or thing is None:
        return
    name, *rest = steps
    is_known = (
        isinstance(thing, dict) and name in thing and (name in EXPANDABLE or name in {"data", "invoice_settings"})
    )
    must_be(is_known, f"This property cannot be expanded ({name}).", param="expand")
    if name in EXPANDABLE and isinstance(thing[name], str):
        found = world.store.find(thing[name])
        thing[name] = world.shown(found) if found else thing[name]
    _expand(world, thing[name], rest)


def page(world: World, kind: str, params: Json, url: str, **fields: Any) -> Json:
    """A list object: newest first, `created` and the cursors applied."""
    limit = params.get("limit", 10)
    must_be(1 <= limit <= LIMIT_MAX, f"This value must be between 1 and {LIMIT_MAX}.", param="limit")
    found = [each for each in world.store.every(kind, **fields) if _in_range(each["created"], params.get("created"))]
    ids = [each["id"] for each in found]
    for cursor in ("starting_after", "ending_before"):
        if cursor in params:
            must_be(params[cursor] in ids, f"No such {kind}: '{params[cursor]}'", code="resource_missing", param=cursor)
    if "ending_before" in params:
        earlier = found[: ids.index(params["ending_before"])]
        chosen, has_more = earlier[-limit:], len(earlier) > limit
    else:
        start = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        chosen, has_more = found[start : start + limit], len(found) > start + limit
    return {"object": "list", "url": url, "has_more": has_more, "data": [world.shown(each) for each in chosen]}


def _in_range(created: int, wanted: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, int):
        return created == wanted
    first = max(wanted.get("gte", created), wanted.get("gt", created - 1) + 1)
    last = min(wanted.get("lte", created), wanted.get("lt", created + 1) - 1)
    return bool(first <= created <= last)


def _one(kind: str) -> Handler:
    def handler(world: World, params: Json, id: str) -> Json:
        return world.get(kind, id)

    return handler


def _listed(kind: str, url: str, *fields: str) -> Handler:
    def handler(world: World, params: Json) -> Json:
        return page(world, kind, params, url, **{name: params.get(name) for name in fields})

    return handler


def create_customer(world: World, params: Json) -> Json:
    customer = world.make(
        "customer",
        "cus_",
        balance=0,
        currency=None,
        default_source=None,
        delinquent=False,
        description=params.get("description"),
        email=params.get("email"),
        invoice_settings={"custom_fields": None, "default_payment_method": None, "footer": None},
        metadata=params.get("metadata", {}),
        name=params.get("name"),
        phone=params.get("phone"),
        preferred_locales=params.get("preferred_locales", []),
    )
    world.tell("customer.created", customer)
    return customer


def update_customer(world: World, params: Json, id: str) -> Json:
    customer = world.get("customer", id)
    default = params.pop("invoice_settings", {}).get("default_payment_method")
    if default is not None:
        method = world.get("payment_method", default, "invoice_settings[default_payment_method]")
        must_be(
            method["customer"] == id,
            f"The customer does not have a payment method with the ID {default}.",
            code="resource_missing",
            param="invoice_settings[default_payment_method]",
        )
        customer["invoice_settings"]["default_payment_method"] = default
    metadata = {**customer["metadata"], **params.pop("metadata", {})}
    params.pop("expand", None)
    world.change(customer, **params, metadata=metadata)
    world.tell("customer.updated", customer)
    return customer


def create_checkout(world: World, params: Json) -> Json:
    return checkout.create(world, params)


def expire_checkout(world: World, params: Json, id: str) -> Json:
    return checkout.expire(world, world.get("checkout.session", id))


def create_payment_intent(world: World, params: Json) -> Json:
    for name in ("amount", "currency"):
        must_be(name in params, f"Missing required param: {name}.", code="parameter_missing", param=name)
    currency = currencies.known(params["currency"])
    currencies.payable(params["amount"], currency)
    if "customer" in params:
        world.get("customer", params["customer"], "customer")
    off_session = params.get("off_session") not in (None, False)
    must_be(not off_session or params.get("confirm", False), "off_session needs confirm: true.", param="off_session")
    method = _method_for(world, params) if "payment_method" in params else None
    intent = payments.make_intent(
        world,
        amount=params["amount"],
        currency=currency,
        customer=params.get("customer"),
        methods=params.get("allowed_payment_method_types", ["card"]),
        metadata=params.get("metadata"),
        description=params.get("description"),
        setup_future_usage=params.get("setup_future_usage"),
    )
    if method is not None and not params.get("confirm"):
        return world.change(intent, payment_method=method["id"], status="requires_confirmation")
    if method is None:
        must_be(not params.get("confirm"), "You cannot confirm without a payment method.", param="payment_method")
        return intent
    return _confirmed(world, intent, method, off_session)


def _method_for(world: World, params: Json) -> Json:
    method = world.get("payment_method", params["payment_method"], "payment_method")
    owner = params.get("customer")
    must_be(
        method["customer"] == owner,
        f"The PaymentMethod {method['id']} does not belong to the Customer {owner}."
        if method["customer"] or not owner
        else f"The PaymentMethod {method['id']} is not attached; it cannot be used again.",
        param="payment_method",
    )
    allowed = params.get("allowed_payment_method_types", [method["type"]])
    must_be(
        method["type"] in allowed, f"The PaymentMethod's type {method['type']} is not allowed.", param="payment_method"
    )
    return method


def _confirmed(world: World, intent: Json, method: Json, off_session: bool) -> Json:
    payments.confirm(world, intent, method, off_session=off_session)
    error = intent["last_payment_error"]
    if error:
        raise Refused(
            error["message"],
            status=402,
            kind="card_error",
            code=error["code"],
            keeps=True,
            **{name: error.get(name) for name in ("decline_code", "charge", "payment_method", "doc_url")},
            payment_intent=world.shown(intent),
        )
    return intent


def confirm_payment_intent(world: World, params: Json, id: str) -> Json:
    intent = world.get("payment_intent", id)
    must_be(
        intent["status"] in {"requires_payment_method", "requires_confirmation", "requires_action"},
        f"This PaymentIntent's status is {intent['status']}.",
        code="payment_intent_unexpected_state",
    )
    method = params.get("payment_method", intent["payment_method"])
    must_be(method is not None, "You must provide a payment method.", param="payment_method")
    owned = _method_for(world, {"payment_method": method, "customer": intent["customer"]})
    return _confirmed(world, intent, owned, params.get("off_session") not in (None, False))


def cancel_payment_intent(world: World, params: Json, id: str) -> Json:
    intent = world.get("payment_intent", id)
    if world.store.every("checkout.session", payment_intent=id, status="open"):
        raise Refused("You cannot cancel a PaymentIntent of an open Checkout Session; expire the session instead.")
    return payments.cancel(world, intent, params.get("cancellation_reason"))


def list_payment_methods(world: World, params: Json, customer: str | None = None) -> Json:
    owner = customer or params.get("customer")
    must_be(owner is not None, "Missing required param: customer.", code="parameter_missing", param="customer")
    world.get("customer", str(owner), "customer")
    return page(world, "payment_method", params, "/v1/payment_methods", customer=owner, type=params.get("type"))


def attach(world: World, params: Json, id: str) -> Json:
    customer = world.get("customer", params.get("customer", ""), "customer")
    return cards.attach(world, world.get("payment_method", id), customer["id"])


def detach(world: World, params: Json, id: str) -> Json:
    method = world.get("payment_method", id)
    must_be(method["customer"] is not None, "The payment method you provided is not attached to a customer.")
    return cards.detach(world, method)


def create_refund(world: World, params: Json) -> Json:
    must_be(
        ("payment_intent" in params) != ("charge" in params),
        "One of the following params should be provided for this request: payment_intent or charge.",
    )
    if "charge" in params:
        charge = world.get("charge", params["charge"], "charge")
    else:
        intent = world.get("payment_intent", params["payment_intent"], "payment_intent")
        must_be(
            intent["status"] == "succeeded",
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            param="payment_intent",
        )
        charge = world.get("charge", intent["latest_charge"])
    return returns.refund(
        world, charge, params.get("amount"), metadata=params.get("metadata"), reason=params.get("reason")
    )


def close_dispute(world: World, params: Json, id: str) -> Json:
    return returns.close(world, world.get("dispute", id), won=False)


ID = "([A-Za-z0-9_]+)"
ROUTES: list[tuple[str, str, Spec, Handler]] = [
    ("POST", "/v1/customers", takes.CUSTOMER, create_customer),
    ("GET", "/v1/customers", {**takes.DATED, "email": "text"}, _listed("customer", "/v1/customers", "email")),
    ("GET", f"/v1/customers/{ID}", takes.EXPAND, _one("customer")),
    ("POST", f"/v1/customers/{ID}", takes.CUSTOMER, update_customer),
    ("GET", f"/v1/customers/{ID}/payment_methods", takes.PAYMENT_METHODS, list_payment_methods),
    ("POST", "/v1/checkout/sessions", takes.CHECKOUT, create_checkout),
    (
        *("GET", "/v1/checkout/sessions", takes.SESSIONS),
        _listed("checkout.session", "/v1/checkout/sessions", "customer", "payment_intent", "status"),
    ),
    ("GET", f"/v1/checkout/sessions/{ID}", takes.EXPAND, _one("checkout.session")),
    ("POST", f"/v1/checkout/sessions/{ID}/expire", takes.EXPAND, expire_checkout),
    ("POST", "/v1/payment_intents", takes.PAYMENT_INTENT, create_payment_intent),
    ("GET", "/v1/payment_intents", takes.OF_CUSTOMER, _listed("payment_intent", "/v1/payment_intents", "customer")),
    ("GET", f"/v1/payment_intents/{ID}", takes.EXPAND, _one("payment_intent")),
    ("POST", f"/v1/payment_intents/{ID}/confirm", takes.CONFIRM, confirm_payment_intent),
    ("POST", f"/v1/payment_intents/{ID}/cancel", takes.CANCEL, cancel_payment_intent),
    ("GET", f"/v1/setup_intents/{ID}", takes.EXPAND, _one("setup_intent")),
    ("GET", "/v1/setup_intents", takes.OF_CUSTOMER, _listed("setup_intent", "/v1/setup_intents", "customer")),
    ("GET", "/v1/payment_methods", takes.PAYMENT_METHODS, list_payment_methods),
    ("GET", f"/v1/payment_methods/{ID}", takes.EXPAND, _one("payment_method")),
    ("POST", f"/v1/payment_methods/{ID}/attach", {**takes.EXPAND, "customer": "text"}, attach),
    ("POST", f"/v1/payment_methods/{ID}/detach", takes.EXPAND, detach),
    (
        *("GET", "/v1/charges", {**takes.OF_CUSTOMER, "payment_intent": "text"}),
        _listed("charge", "/v1/charges", "customer", "payment_intent"),
    ),
    ("GET", f"/v1/charges/{ID}", takes.EXPAND, _one("charge")),
    ("POST", "/v1/refunds", takes.REFUND, create_refund),
    ("GET", "/v1/refunds", takes.OF_PAYMENT, _listed("refund", "/v1/refunds", "payment_intent", "charge")),
    ("GET", f"/v1/refunds/{ID}", takes.EXPAND, _one("refund")),
    ("GET", "/v1/disputes", takes.OF_PAYMENT, _listed("dispute", "/v1/disputes", "payment_intent", "charge")),
    ("GET", f"/v1/disputes/{ID}", takes.EXPAND, _one("dispute")),
    ("POST", f"/v1/disputes/{ID}/close", takes.EXPAND, close_dispute),
    (
        *("GET", "/v1/balance_transactions", takes.BALANCE),
        _listed("balance_transaction", "/v1/balance_transactions", "currency", "source", "type"),
    ),
    ("GET", f"/v1/balance_transactions/{ID}", takes.EXPAND, _one("balance_transaction")),
    ("GET", "/v1/events", takes.EVENTS, _listed("event", "/v1/events", "type")),
    ("GET", f"/v1/events/{ID}", takes.EXPAND, _one("event")),
]  # fmt: skip
