"""What the sandbox sends: signed, again until it is taken, and out of order, late or never where a test wants it."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from billing import stripe_gateway
from tests.payments_sandbox import StripeSandbox
from tests.sandbox.http import Stranger


class Receiver(ThreadingHTTPServer):
    """Takes what is posted; answers 500 for as long as `refuses` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[bytes, str]] = []
        self.refuses = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/webhooks/stripe"

    def types(self) -> list[str]:
        return [stripe_gateway.read_event(body, signature).type for body, signature in list(self.got)]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        refused = self.server.refuses > 0
        self.server.refuses -= refused
        if not refused:
            self.server.got.append((body, self.headers["Stripe-Signature"]))
        self.send_response(500 if refused else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver(stranger: Stranger, stripe_sandbox: StripeSandbox) -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stripe_sandbox.send_to(server.url)
    yield server
    stripe_sandbox.send_to(None)
    server.shutdown()
    server.server_close()
    thread.join()


def wait_for(condition: Callable[[], bool], timeout_s: int = 15) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_change_is_told_once_signed_and_in_order(stranger: Stranger, receiver: Receiver) -> None:
    stranger.sandbox.pay(stranger.session().json["id"])
    wait_for(lambda: len(receiver.got) == 4)
    assert receiver.types() == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    wait_for(lambda: {each["state"] for each in stranger.sandbox.sent()} == {"delivered"})


def test_what_is_not_taken_comes_again(stranger: Stranger, receiver: Receiver) -> None:
    receiver.refuses = 2
    stranger.customer()
    wait_for(lambda: receiver.types() == ["customer.created"])
    wait_for(lambda: [each["attempts"] for each in stranger.sandbox.sent()] == [3])


def test_nobody_there_is_no_loss(stranger: Stranger, receiver: Receiver) -> None:
    stranger.sandbox.send_to("http://127.0.0.1:1/")
    stranger.customer()
    wait_for(lambda: [each["answer"] for each in stranger.sandbox.sent()] == ["ConnectionRefusedError"])
    stranger.sandbox.send_to(receiver.url)
    wait_for(lambda: receiver.types() == ["customer.created"])


def test_events_are_repeated_reordered_delayed_and_dropped(stranger: Stranger, receiver: Receiver) -> None:
    sandbox = stranger.sandbox
    sandbox.delivery_rules(paused=True, repeat=2)
    sandbox.save_card(stranger.customer())
    assert receiver.got == []
    sandbox.delivery_rules(order="reversed")
    wait_for(lambda: len(receiver.got) == 4)
    assert receiver.types() == ["payment_method.attached"] * 2 + ["customer.created"] * 2
    sandbox.delivery_rules(drop=1, drop_types=["payment_method.attached"])
    owner = stranger.customer()
    sandbox.save_card(owner)
    stranger.post(f"/v1/customers/{owner}", {"name": "New"})
    wait_for(lambda: len(receiver.got) == 5)
    assert receiver.types()[-1] == "customer.updated"
    dropped = [each["event"] for each in sandbox.sent() if each["state"] == "dropped"]
    sandbox.delivery_rules()
    sandbox.deliver_again(dropped[0])
    wait_for(lambda: receiver.types()[-1] == "customer.created")
    sandbox.delivery_rules(delay_s=3 * 86400)
    stranger.customer()
    time.sleep(0.3)
    assert len(receiver.got) == 6
    sandbox.set_clock_ahead(3 * 86400 + 1)
    wait_for(lambda: len(receiver.got) == 7)


def test_events_say_under_which_key_they_came_to_be(stranger: Stranger) -> None:
    stranger.post("/v1/customers", {"name": "Acme"}, key="customer:1")
    [event] = stranger.get("/v1/events").json["data"]
    assert event["request"]["idempotency_key"] == "customer:1"
    assert stranger.get(f"/v1/events/{event['id']}").json == event
