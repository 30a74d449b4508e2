"""A small demo: an operator's log-in, a customer with two weeks of usage, and a relay's token."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
from django.contrib.auth.models import User
from django.db import transaction

from billing.models import Customer, Membership
from metering import ingestion, intake, keys
from metering.onboarding import onboard_customer
from metering.pricing import LIST_PLAN
from relayadmin.db import server_cursor

# Its id is fixed and unique: whatever the operator renames, the demo is set up once.
CUSTOMER = "cus_demo"
CREDIT = Decimal("50.00")
DAYS = 14
BATCHES_A_DAY = 3
_SONNET, _HAIKU, _GPT = "claude-sonnet-4-20250514", "claude-3-5-haiku-20241022", "gpt-4o"


class DemoIncomplete(Exception):
    """The demo's usage was not charged as it should be; the price book is probably empty."""


@dataclass(frozen=True, slots=True)
class LogIn:
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Demo:
    """All that one needs to try it; the secrets are kept nowhere."""

    operator: LogIn
    member: LogIn
    customer: str
    api_key_id: str
    api_key: str
    access_token: str
    relay_token: str


def set_up(*, at: datetime) -> Demo | None:
    """Make the demo, in one transaction; None if it was made before. Raises DemoIncomplete."""
    with transaction.atomic():
        with server_cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('demo', 0))")
        if Customer.objects.filter(public_id=CUSTOMER).exists():
            return None
        began = at - timedelta(days=DAYS)
        made = onboard_customer(
            name="Demo Ltd",
            email="billing@demo.example",
            credit=CREDIT,
            plan=LIST_PLAN,
            key_name="production",
            at=began,
        )
        customer = Customer.objects.get(public_id=made.customer)
        Customer.objects.filter(pk=customer.pk).update(public_id=CUSTOMER, created_at=began)
        operator = _make_user("admin", superuser=True)
        member = _make_user("demo", superuser=False)
        Membership.objects.create(customer=customer, user=User.objects.get(username=member.username))
        relay_token_id, relay_token = _make_relay_token()
        for batch_at, events in _usage(made.api_key_id, at):
            _report(events, relay_token_id=relay_token_id, at=batch_at)
        return Demo(
            operator=operator,
            member=member,
            customer=CUSTOMER,
            api_key_id=made.api_key_id,
            api_key=made.api_key,
            access_token=made.access_token,
            relay_token=relay_token,
        )


def _make_user(name: str, *, superuser: bool) -> LogIn:
    username = name
    while User.objects.filter(username=username).exists():
        username = f"{name}-{secrets.token_hex(2)}"
    password = secrets.token_urlsafe(12)
    User.objects.create_user(username, password=password, is_superuser=superuser, is_staff=superuser)
    return LogIn(username, password)


def _make_relay_token() -> tuple[int, str]:
    token, secret = keys.create_relay_token(name="demo relay")
    return token.pk, secret


def _report(events: list[dict[str, Any]], *, relay_token_id: int, at: datetime) -> None:
    batch = ingestion.decode_json(msgspec.json.encode({"events": events}))
    taken = intake.take(batch, relay_token_id=relay_token_id, at=at)
    if taken.accepted != len(events):
        raise DemoIncomplete(
            f"only {taken.accepted} of {len(events)} demo events were charged; run import_prices first"
        )


def _usage(api_key_id: str, until: datetime) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
    """Batches as a relay would have reported them: busier by day than by night, the same in every demo."""
    random = Random(20)
    length = timedelta(days=1) / BATCHES_A_DAY
    first = until - timedelta(days=DAYS)
    for number in range(DAYS * BATCHES_A_DAY):
        start = first + number * length
        hour = (start + length / 2).hour
        busy = 10 if 8 <= hour < 20 else 3
        events = []
        for place in range(random.randint(busy - 2, busy + 2)):
            occurred_at = start + length * random.random()
            events.append(_event(f"demo_{number}_{place}", api_key_id, occurred_at, random))
        yield start + length, sorted(events, key=lambda event: str(event["occurred_at"]))


def _event(event_id: str, api_key_id: str, occurred_at: datetime, random: Random) -> dict[str, Any]:
    model = random.choices([_SONNET, _HAIKU, _GPT], weights=[6, 3, 2])[0]
    fresh, cached = random.randint(200, 4_000), random.choice([0, 0, 6_000, 18_000, 24_000])
    output = random.randint(150, 2_500)
    event: dict[str, Any] = {
        "id": event_id,
        "api_key_id": api_key_id,
        "model": model,
        "occurred_at": occurred_at.isoformat(),
        "status": "completed",
        "metadata": {"team": random.choice(["search", "support"])},
    }
    if model == _GPT:
        usage: dict[str, Any] = {
            "prompt_tokens": fresh + cached,
            "completion_tokens": output,
            "total_tokens": fresh + cached + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        return event | {"channel": "openai", "format": "openai.chat", "usage": usage}
    written = random.choice([0, 3_000]) if cached else 0
    usage = {
        "input_tokens": fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }
    return event | {"channel": "anthropic", "format": "anthropic.messages", "usage": usage}
