"""What tests build their world with: customers with keys and credit, a relay that calls us, events."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.test import Client

from billing.models import Customer, Wallet
from metering import keys
from metering.models import ApiKey
from metering.onboarding import onboard_customer

SONNET = "claude-sonnet-4-20250514"

# The worked example: 0.02925 USD on claude-sonnet-4-20250514.
EXAMPLE_USAGE = {
    "input_tokens": 1000,
    "cache_creation_input_tokens": 3000,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
    "cache_read_input_tokens": 10000,
    "output_tokens": 500,
}
EXAMPLE_CHARGE = Decimal("0.02925")


@dataclass(frozen=True)
class Payer:
    """A customer with one key and one access token."""

    customer: Customer
    key: ApiKey
    api_key: str
    access_token: str

    @property
    def wallet(self) -> Wallet:
        return Wallet.objects.get(customer=self.customer)

    @property
    def balance(self) -> Decimal:
        return self.wallet.balance


def make_payer(credit: str = "50.00", name: str = "Ada", plan: str = "list") -> Payer:
    """A new customer with so much goodwill credit (USD)."""
    made = onboard_customer(
        name=name, email="", credit=Decimal(credit), plan=plan, key_name="default", at=datetime.now(UTC)
    )
    return Payer(
        customer=Customer.objects.get(public_id=made.customer),
        key=ApiKey.objects.get(public_id=made.api_key_id),
        api_key=made.api_key,
        access_token=made.access_token,
    )


def make_event(payer: Payer | None = None, **changes: Any) -> dict[str, Any]:
    """A usage event of the worked example, with a new id; `changes` replace fields, None removes one."""
    event: dict[str, Any] = {
        "id": f"req_{uuid4().hex}",
        "api_key_id": payer.key.public_id if payer else None,
        "model": SONNET,
        "occurred_at": datetime.now(UTC).isoformat(),
        "channel": "anthropic",
        "format": "anthropic.messages",
        "status": "completed",
        "usage": EXAMPLE_USAGE,
    }
    event.update(changes)
    return {name: value for name, value in event.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """Status, decoded body and headers of an answer."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str | None:
        return self.body["error"]["code"] if isinstance(self.body, dict) and "error" in self.body else None


class Relay:
    """A relay node that talks to us over HTTP (Django's test client)."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token if token is not None else keys.create_relay_token(name="node")[1]
        self.client = Client()

    def post(self, path: str, body: Any, *, content_type: str = "application/json", **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.client.post(
            f"/relay/v1/{path}",
            data=raw,
            content_type=content_type,
            headers={"Authorization": f"Bearer {self.token}", **headers},
        )
        decoded = json.loads(response.content) if response.content else None
        return Answer(response.status_code, decoded, dict(response.headers))

    def authorize(self, payer: Payer, **changes: Any) -> Answer:
        """Ask for 1,200 input and 500 output tokens on SONNET unless changed; None removes a field."""
        body: dict[str, Any] = {
            "api_key": payer.api_key,
            "model": SONNET,
            "request_id": f"req_{uuid4().hex}",
            "input_tokens": 1200,
            "max_output_tokens": 500,
        }
        body.update(changes)
        return self.post("authorizations", {name: value for name, value in body.items() if value is not None})

    def release(self, authorization_id: str) -> Answer:
        return self.post(f"authorizations/{authorization_id}/release", {})

    def report(self, *events: dict[str, Any]) -> Answer:
        return self.post("usage", {"events": list(events)})


class CustomerApi:
    """A customer's script that reads the API with its access token."""

    def __init__(self, payer: Payer) -> None:
        self.client = Client(headers={"Authorization": f"Bearer {payer.access_token}"})

    def get(self, path: str, **query: str) -> Answer:
        response = self.client.get(f"/api/v1/{path}", query)
        return Answer(response.status_code, json.loads(response.content), dict(response.headers))

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        response = self.client.generic(
            method,
            f"/api/v1/{path}",
            data=b"" if body is None else json.dumps(body).encode(),
            content_type="application/json",
            headers=headers,
        )
        decoded = json.loads(response.content) if response.content else None
        return Answer(response.status_code, decoded, dict(response.headers))
