"""The sandbox as a stranger sees it: plain HTTP, without the stripe package."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.payments_sandbox import StripeSandbox

Json = dict[str, Any]


@dataclass
class Answer:
    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Json:
        return dict(json.loads(self.text))

    @property
    def error(self) -> Json:
        return dict(self.json["error"])


@dataclass
class Stranger:
    sandbox: StripeSandbox

    def post(self, path: str, params: Json | None = None, *, key: str | None = None) -> Answer:
        """An API request with flat names such as `metadata[a]`."""
        return self.ask("POST", path, urlencode(params or {}), **({"Idempotency-Key": key} if key else {}))

    def get(self, path: str, **params: Any) -> Answer:
        return self.ask("GET", f"{path}?{urlencode(params)}")

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> Answer:
        given = {
            "Authorization": f"Bearer {self.sandbox.secret_key}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        target = urlsplit(self.sandbox.address)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
        try:
            connection.request(method, path, body, given | headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()})
        finally:
            connection.close()

    def customer(self) -> str:
        return str(self.post("/v1/customers", {"name": "Acme"}).json["id"])

    def session(self, **changes: Any) -> Answer:
        """A Checkout session of 10.00 USD; a change to None leaves the parameter out."""
        asked: Json = {
            "mode": "payment",
            "success_url": "http://127.0.0.1/paid",
            "cancel_url": "http://127.0.0.1/cancelled",
            "line_items[0][quantity]": 1,
            "line_items[0][price_data][currency]": "usd",
            "line_items[0][price_data][unit_amount]": 1000,
            "line_items[0][price_data][product_data][name]": "Top-up",
            "allowed_payment_method_types[0]": "card",
        } | changes
        return self.post("/v1/checkout/sessions", {name: value for name, value in asked.items() if value is not None})
