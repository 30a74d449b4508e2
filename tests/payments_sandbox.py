"""The payment sandbox for tests: `stripe_sandbox` is Stripe, and the payer, the bank and the network as well.

    def test_…(stripe_sandbox):
        session = stripe_gateway.create_checkout(…)
        stripe_sandbox.pay(session.id, method="alipay")
        for delivery in stripe_sandbox.deliveries():
            client.post("/webhooks/stripe", delivery.body, content_type=…, headers={"Stripe-Signature": …})

One server per test process, emptied before each test; nothing is sent anywhere unless `send_to` says so. Loaded with
`-p tests.payments_sandbox`.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sandbox

Json = dict[str, Any]
SECRET_KEY = "sk_test_sandbox0000000000"
WEBHOOK_SECRET = "whsec_sandbox0000000000"
# The package tries these once again by itself, under the same idempotency key.
TRIED_AGAIN = {"cut", "cut_after", "timeout", "timeout_after"}


@dataclass(frozen=True)
class Delivery:
    """One event as it would be posted: signed now."""

    type: str
    id: str
    body: bytes
    signature: str

    @property
    def object(self) -> Json:
        return dict(json.loads(self.body)["data"]["object"])


class StripeSandbox:
    """What only a stand-in can do; ids are Stripe's, amounts minor units."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.secret_key = SECRET_KEY
        self.webhook_secret = WEBHOOK_SECRET
        self._handed_out = 0

    def environment(self) -> dict[str, str]:
        """For a process of its own."""
        return {
            "STRIPE_API_BASE": self.address,
            "STRIPE_SECRET_KEY": self.secret_key,
            "STRIPE_WEBHOOK_SECRET": self.webhook_secret,
        }

    # The payer

    def pay(self, session: str, *, method: str = "card", card: str = "4242424242424242", outcome: str = "pay") -> Json:
        """Outcomes: pay, authenticate, slow, decline:<code>. Returns the session."""
        return self._post(f"sessions/{session}/pay", {"method": method, "card": card, "outcome": outcome})

    def decline(self, session: str, *, method: str = "card", code: str = "insufficient_funds") -> Json:
        return self.pay(session, method=method, outcome=f"decline:{code}")

    def authenticate(self, payment_intent: str, *, passes: bool = True) -> Json:
        return self._post(f"payment_intents/{payment_intent}/authenticate", {"passes": passes})

    def settle(self, payment_intent: str, *, arrives: bool = True) -> Json:
        """What became of a payment with the outcome `slow`."""
        return self._post(f"payment_intents/{payment_intent}/settle", {"arrives": arrives})

    def expire(self, session: str) -> Json:
        return self._post(f"sessions/{session}/expire")

    def save_card(self, stripe_customer: str, *, card: str = "4242424242424242") -> str:
        """A saved card without a page; returns its `pm_…`."""
        return str(self._post(f"customers/{stripe_customer}/save_card", {"card": card})["id"])

    def behave(self, payment_method: str, as_: str) -> None:
        """A saved card from now on: pays, authenticates, declines_later, or a decline code."""
        self._post(f"payment_methods/{payment_method}/behave", {"as": as_})

    def detach(self, payment_method: str) -> None:
        self._post(f"payment_methods/{payment_method}/detach")

    # The payer's bank, and the dashboard

    def dispute(self, charge: str, *, amount: int | None = None, withdraws: bool = True) -> Json:
        return self._post(f"charges/{charge}/dispute", {"amount": amount, "withdraws": withdraws})

    def withdraw(self, dispute: str) -> Json:
        return self._post(f"disputes/{dispute}/withdraw")

    def win(self, dispute: str) -> Json:
        return self._post(f"disputes/{dispute}/win")

    def lose(self, dispute: str) -> Json:
        return self._post(f"disputes/{dispute}/lose")

    def refund(self, charge: str, *, amount: int | None = None) -> Json:
        """From the dashboard, without us."""
        return self._post(f"charges/{charge}/refund", {"amount": amount})

    def late_balance(self, *, is_on: bool = True) -> None:
        """From now on a charge has no balance transaction (and so no fee) until it is booked."""
        self._post("late_balance", {"is_on": is_on})

    def book(self, charge: str) -> Json:
        return self._post(f"charges/{charge}/book")

    def settle_refund(self, refund: str, *, arrives: bool = True) -> Json:
        return self._post(f"refunds/{refund}/settle", {"arrives": arrives})

    # The network

    def deliveries(self) -> list[Delivery]:
        """The events since the last call (or the beginning), oldest first."""
        events = self.all_deliveries()
        new, self._handed_out = events[self._handed_out :], len(events)
        return new

    def all_deliveries(self) -> list[Delivery]:
        return [
            Delivery(each["type"], each["id"], each["body"].encode(), each["signature"])
            for each in self._get("events")["data"]
        ]

    def send_to(self, url: str | None) -> None:
        """From now on events are posted there, until they are answered with a 2xx."""
        self._post("webhook", {"url": url})

    def delivery_rules(self, **rules: Any) -> None:
        """paused, order (sent, reversed, shuffled), repeat, delay_s, drop (how many), drop_types."""
        self._post("delivery", rules)

    def deliver_again(self, event: str) -> None:
        self._post(f"events/{event}/deliver")

    def sent(self) -> list[Json]:
        """Each delivery to `send_to`'s address: event, state, attempts, answer."""
        return list(self._get("deliveries")["data"])

    def fail_next(
        self, kind: str, *, times: int | None = None, method: str | None = None, path: str = "", seconds: int = 3
    ) -> None:
        """The next API call fails: kinds in sandbox/faults.py. By default for good, however often the package tries."""
        times = times or (2 if kind in TRIED_AGAIN else 1)
        self._post("faults", {"kind": kind, "times": times, "method": method, "path": path, "seconds": seconds})

    def requests(self) -> list[Json]:
        """The API calls that came in: method, path, params, key."""
        return list(self._get("requests")["data"])

    def misfit_requests(self) -> list[str]:
        """What in the requests so far is not as the stripe package's typed parameters define it."""
        from tests.stripe_params import faults  # not at the start of every test run: it loads much of the package

        return [fault for each in self.requests() for fault in faults(each["method"], each["path"], each["params"])]

    def set_clock_ahead(self, seconds: int) -> None:
        self._post("clock", {"ahead_s": seconds})

    def reset(self) -> None:
        self._post("reset")
        self._handed_out = 0

    def _get(self, path: str) -> Json:
        return self._ask(urllib.request.Request(f"{self.address}/sandbox/control/{path}"))

    def _post(self, path: str, body: Json | None = None) -> Json:
        return self._ask(
            urllib.request.Request(
                f"{self.address}/sandbox/control/{path}",
                json.dumps(body or {}).encode(),
                {"Content-Type": "application/json"},
            )
        )

    def _ask(self, request: urllib.request.Request) -> Json:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return dict(json.load(answer))


@pytest.fixture(scope="session")
def stripe_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSandbox]:
    state: Path = tmp_path_factory.mktemp("sandbox") / "state.sqlite"
    server = sandbox.start(state, port=0, secret_key=SECRET_KEY, webhook_secret=WEBHOOK_SECRET)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield StripeSandbox(server.service.world.address)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def stripe_sandbox(stripe_server: StripeSandbox, settings: Any) -> Iterator[StripeSandbox]:
    """An empty Stripe account that the settings point at; at the end every request's parameters are held to account."""
    stripe_server.reset()
    for name, value in stripe_server.environment().items():
        setattr(settings, name, value)
    yield stripe_server
    assert stripe_server.misfit_requests() == []
