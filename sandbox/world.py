"""The account at the sandbox: its objects, its balance, and the events that tell of each change."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from sandbox import currencies
from sandbox.errors import Json, Refused, missing
from sandbox.store import Store, new_id

API_VERSION = "2026-10-28.endive"
HIDDEN = "_sandbox"  # a field of ours in an object, which the API does not show


class World:
    def __init__(self, store: Store, *, secret_key: str, webhook_secret: str) -> None:
        self.store = store
        self.start_settings: Json = {}
        self.address = ""  # known once the server is bound
        self.secret_key = secret_key
        self.webhook_secret = webhook_secret
        self.changed = threading.Event()  # wakes the sender
        self.idempotency_key: str | None = None  # of the request under way; guarded by the store's lock
        self.requests: deque[Json] = deque(maxlen=2000)

    def now(self) -> int:
        return self.store.now()

    def get(self, kind: str, id: str, param: str = "id") -> Json:
        """An object by its id. Raises Refused (resource_missing)."""
        found = self.store.find(id)
        if found is None or found["object"] != kind:
            raise missing(kind, id, param)
        return found

    def make(self, kind: str, prefix: str, **fields: Any) -> Json:
        return self.store.put(
            {"id": new_id(prefix), "object": kind, "created": self.now(), "livemode": False, **fields}
        )

    def change(self, thing: Json, **fields: Any) -> Json:
        thing.update(fields)
        return self.store.put(thing)

    def shown(self, thing: Json) -> Json:
        """An object as the API shows it."""
        shown = {name: value for name, value in thing.items() if name != HIDDEN}
        if thing["object"] == "checkout.session":
            is_open = thing["status"] == "open"
            shown["url"] = f"{self.address}/pay/{thing['id']}" if is_open else None
        return shown

    def tell(self, kind: str, thing: Json) -> None:
        """Record an event with the object as it is now, and its delivery by the rules in force."""
        event = self.make(
            "event",
            "evt_",
            type=kind,
            api_version=API_VERSION,
            data={"object": self.shown(thing)},
            pending_webhooks=1,
            request={"id": None, "idempotency_key": self.idempotency_key},
        )
        rules = self.store.setting("delivery", {})
        state = "pending"
        if rules.get("drop", 0) > 0 or kind in rules.get("drop_types", []):
            state = "dropped"
            if kind not in rules.get("drop_types", []):
                self.store.set("delivery", {**rules, "drop": rules["drop"] - 1})
        for _ in range(rules.get("repeat", 1)):
            self.deliver(event["id"], state=state, delay_s=rules.get("delay_s", 0))

    def deliver(self, event: str, *, state: str = "pending", delay_s: int = 0) -> None:
        self.store.db.execute(
            "INSERT INTO delivery (event, state, due_at) VALUES (?, ?, ?)", (event, state, self.now() + delay_s)
        )
        self.changed.set()

    def book(
        self, kind: str, category: str, source: str, amount: int, currency: str, *, fee: int = 0, text: str
    ) -> Json:
        """A movement of the account's balance, in cents; `amount` is in the payment's own currency."""
        settled = currencies.cents(amount, currency)
        details = [{"amount": fee, "application": None, "currency": "usd", "description": text, "type": "stripe_fee"}]
        return self.make(
            "balance_transaction",
            "txn_",
            amount=settled,
            available_on=self.now() + 2 * 86400,
            balance_type="payments",
            currency="usd",
            description=text,
            exchange_rate=None if currency == "usd" else float(currencies.USD[currency]),
            fee=fee,
            fee_details=details if fee else [],
            net=settled - fee,
            reporting_category=category,
            source=source,
            status="pending",
            type=kind,
        )


def must_be(condition: bool, message: str, *, code: str | None = None, param: str | None = None) -> None:
    if not condition:
        raise Refused(message, code=code, param=param)
