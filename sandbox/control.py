"""`/sandbox/control/…`: what only a stand-in can do. JSON in, JSON out; for tests and for the curious.

| method and path | body | does |
|---|---|---|
| POST reset | | forgets everything |
| POST faults | {"kind", "times", "method", "path", "seconds"} | the next calls fail so (sandbox/faults.py) |
| POST delivery | {"paused", "order", "repeat", "delay_s", "drop", "drop_types"} | order: sent, reversed, shuffled |
| POST webhook | {"url"} | where events go; null: nowhere, they are kept |
| POST late_balance | {"is_on"} | charges get their balance transaction only when they are booked, as at Stripe |
| POST clock | {"ahead_s"} | sets the sandbox's clock forward |
| GET events | | every event, oldest first, with its signed body |
| POST events/{id}/deliver | | sends it again |
| GET deliveries | | state, attempts and last answer of each |
| GET requests | | the API requests that came in |
| POST sessions/{id}/pay | {"method", "card", "outcome"} | what the person on the page does (sandbox/checkout.py) |
| POST sessions/{id}/expire | | |
| POST payment_intents/{id}/authenticate, /settle | {"passes"}, {"arrives"} | |
| POST payment_methods/{id}/behave | {"as"} | pays, authenticates, declines_later, or a decline code |
| POST customers/{id}/save_card | {"card"} | a saved card without a page |
| POST charges/{id}/dispute | {"amount", "withdraws"} | amount in minor units |
| POST charges/{id}/book | | |
| POST charges/{id}/refund | {"amount"} | as from the dashboard |
| POST disputes/{id}/withdraw, /answer, /win, /lose | | |
| POST refunds/{id}/settle | {"arrives"} | |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from sandbox import cards, checkout, payments, returns, webhooks
from sandbox.errors import Json, Refused
from sandbox.service import Service
from sandbox.world import World

Deed = Callable[[World, Json, Json], Json]
DELIVERY_RULES = {"paused", "order", "repeat", "delay_s", "drop", "drop_types"}

# kind of object → (what is done, how)
DEEDS: dict[str, tuple[str, dict[str, Deed]]] = {
    "sessions": (
        "checkout.session",
        {
            "pay": lambda world, it, body: checkout.act(
                world,
                it["id"],
                method=body.get("method", "card"),
                card=body.get("card", "4242424242424242"),
                outcome=body.get("outcome", "pay"),
            ),
            "expire": lambda world, it, body: checkout.expire(world, it),
        },
    ),
    "payment_intents": (
        "payment_intent",
        {
            "authenticate": lambda world, it, body: checkout.authenticate(world, it, passes=body.get("passes", True)),
            "settle": lambda world, it, body: checkout.settle(world, it, arrives=body.get("arrives", True)),
        },
    ),
    "payment_methods": (
        "payment_method",
        {
            "behave": lambda world, it, body: world.change(it, _sandbox={"behaves": body["as"]}),
            "detach": lambda world, it, body: cards.detach(world, it),
        },
    ),
    "customers": (
        "customer",
        {
            "save_card": lambda world, it, body: cards.attach(
                world, cards.make_method(world, "card", body.get("card", "4242424242424242")), it["id"]
            ),
        },
    ),
    "charges": (
        "charge",
        {
            "dispute": lambda world, it, body: returns.open_dispute(
                world, it, body.get("amount"), withdraws=body.get("withdraws", True)
            ),
            "refund": lambda world, it, body: returns.refund(world, it, body.get("amount")),
            "book": lambda world, it, body: payments.book_late(world, it),
        },
    ),
    "disputes": (
        "dispute",
        {
            "withdraw": lambda world, it, body: returns.withdraw(world, it),
            "answer": lambda world, it, body: returns.answer(world, it),
            "win": lambda world, it, body: returns.close(world, it, won=True),
            "lose": lambda world, it, body: returns.close(world, it, won=False),
        },
    ),
    "refunds": (
        "refund",
        {"settle": lambda world, it, body: returns.settle_refund(world, it, arrives=body.get("arrives", True))},
    ),
}


def answer(service: Service, method: str, path: str, body: Json) -> Json:
    """What a control request answers. Raises Refused."""
    world, steps = service.world, path.strip("/").split("/")
    match (method, *steps):
        case ("GET", "events"):
            return {"data": [_signed(world, event) for event in reversed(world.store.every("event"))]}
        case ("GET", "deliveries"):
            return {"data": deliveries(world)}
        case ("GET", "requests"):
            return {"data": list(world.requests)}
        case ("POST", "reset"):
            with world.store.transaction():
                world.store.empty()
                for name, value in world.start_settings.items():
                    world.store.set(name, value)
            world.requests.clear()
            service.forget()
            return {}
        case ("POST", "faults"):
            service.faults.plan(body)
            return {}
        case ("POST", "webhook"):
            return _set(world, "webhook_url", _near(body["url"]))
        case ("POST", "late_balance"):
            return _set(world, "late_balance", body["is_on"])
        case ("POST", "clock"):
            return _set(world, "clock_ahead_s", body["ahead_s"])
        case ("POST", "delivery"):
            if not body.keys() <= DELIVERY_RULES:
                raise Refused(f"rules are {', '.join(sorted(DELIVERY_RULES))}")
            return _set(world, "delivery", body)
        case ("POST", "events", id, "deliver"):
            with world.store.transaction():
                world.deliver(world.get("event", id)["id"])
            return {}
        case ("POST", kind, id, deed):
            return do(world, kind, id, deed, body)
    raise Refused("No such control", status=404)


def do(world: World, kind: str, id: str, deed: str, body: Json) -> Json:
    """One deed on one object, in a transaction; returns the object as it then is."""
    name, deeds = DEEDS.get(kind, ("", {}))
    if deed not in deeds:
        raise Refused("No such control", status=404)
    with world.store.transaction():
        return world.shown(deeds[deed](world, world.get(name, id), body))


def deliveries(world: World) -> list[Json]:
    names = ("seq", "event", "state", "due_at", "attempts", "answer")
    with world.store.lock:
        rows = world.store.db.execute(f"SELECT {', '.join(names)} FROM delivery ORDER BY seq").fetchall()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _set(world: World, name: str, value: object) -> Json:
    with world.store.transaction():
        world.store.set(name, value)
    world.changed.set()
    return {}


def _near(url: str | None) -> str | None:
    """An address on this machine: the sandbox tells nobody else."""
    target = urlsplit(url or "http://localhost")
    if target.scheme != "http" or target.port == 0 or target.hostname not in {"127.0.0.1", "localhost"}:
        raise Refused("Webhooks go to http://127.0.0.1 only", param="url")
    return url


def _signed(world: World, event: Json) -> Json:
    body = webhooks.body_of(event)
    header = webhooks.signature(world.webhook_secret, body, int(time.time()))
    return {"id": event["id"], "type": event["type"], "body": body.decode(), "signature": header}
