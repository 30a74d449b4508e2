"""Playing a trace through the HTTP relay API as a relay would: authorization, then usage."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from uuid import uuid4

from django.db.models import Sum

from billing.models import Wallet
from metering import keys, pricing
from metering.meters import PER_MILLION
from metering.onboarding import onboard_customer
from metering.pricing import LIST_PLAN
from metering.relay_client import RelayClient
from metering.trace import Call
from relayadmin.money import EXACT, ZERO, line_amount, to_unit_price

CONNECTIONS = 8
EVENTS_PER_REPORT = 500
_FLUSH_AFTER_S = 1.0


class CannotReplay(Exception):
    """The trace can't be played as asked, or was not charged as it should be; the message is a sentence's beginning."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Token counts of what was played, and what the customers' wallets lost (USD)."""

    requests: int
    input: int
    cache_write_5m: int
    cache_read: int
    output: int
    charged: Decimal

    @property
    def cache_read_share(self) -> Decimal:
        """Cache reads per prompt token, at 4 decimals."""
        prompt = self.input + self.cache_write_5m + self.cache_read
        share = Decimal(self.cache_read) / prompt if prompt else ZERO
        return share.quantize(Decimal("0.0001"))


@dataclass(frozen=True, slots=True)
class _Cast:
    """One run's customers in their order, with their API keys as (public id, secret)."""

    customer_ids: Sequence[int]
    api_keys: Sequence[tuple[str, str]]


@contextmanager
def relay_token(*, at: datetime) -> Iterator[str]:
    """A relay token for one run, revoked at its end."""
    token, secret = keys.create_relay_token(name=f"replay {at:%Y-%m-%d %H:%M:%S}")
    try:
        yield secret
    finally:
        keys.revoke_relay_token(relay_token_id=token.pk, at=datetime.now(UTC))


def _make_cast(calls: Sequence[Call], *, model: str, customers: int, at: datetime) -> _Cast:
    """Customers with goodwill credit enough for all that they will ask. Raises CannotReplay."""
    credit = _credit_enough(calls, model=model, customers=customers)
    run = f"{at:%Y-%m-%d %H:%M:%S}"
    made = [
        onboard_customer(
            name=f"Replay {run}, customer {number + 1}",
            email="",
            credit=amount,
            plan=LIST_PLAN,
            key_name="replay",
            at=at,
        )
        for number, amount in enumerate(credit)
    ]
    numbers = dict(
        Wallet.objects.filter(customer__public_id__in=[one.customer for one in made]).values_list(
            "customer__public_id", "customer_id"
        )
    )
    return _Cast(
        customer_ids=[numbers[one.customer] for one in made],
        api_keys=[(one.api_key_id, one.api_key) for one in made],
    )


def _credit_enough(calls: Sequence[Call], *, model: str, customers: int) -> list[Decimal]:
    """For each customer: every token it will use, at the model's dearest price of any meter; whole dollars."""
    table = pricing.current()
    model_id = table.catalog.resolve(model)
    prices = [row.unit_price for row in table.charges.get(model_id or 0, ()) if row.per == PER_MILLION]
    if not prices:
        raise CannotReplay(f"the price book has no model {model!r}, or no price for it")
    tokens = [0] * customers
    for place, call in enumerate(calls):
        tokens[place % customers] += call.prompt + call.output
    dearest = to_unit_price(max(prices))
    return [line_amount(count, dearest, PER_MILLION).quantize(Decimal(1), rounding=ROUND_UP) + 1 for count in tokens]


@dataclass
class _Run:
    """What the connections of one run share."""

    url: str
    token: str
    model: str
    cast: _Cast
    speed: Decimal | None
    name: str = field(default_factory=lambda: uuid4().hex[:12])
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)


def play(
    *, calls: Sequence[Call], model: str, customers: int, url: str, token: str, speed: Decimal | None, at: datetime
) -> Replayed:
    """Play calls in their order, call i by customer i mod N; `speed` times the trace's pace, None: without waiting.

    Several connections play at once, but each customer's calls stay in order. Raises CannotReplay for a model that is
    not sold and for usage that was not charged, relay_client.RelayCallFailed.
    """
    cast = _make_cast(calls, model=model, customers=customers, at=at)
    before = _balance(cast)
    connections = min(CONNECTIONS, customers, len(calls))
    shares: list[list[tuple[int, Call]]] = [[] for _ in range(connections)]
    for place, call in enumerate(calls):
        shares[place % customers % connections].append((place, call))
    run = _Run(url=url, token=token, model=model, cast=cast, speed=speed)
    with ThreadPoolExecutor(connections) as pool:
        playing = [pool.submit(_play_share, run, share, calls[0].timestamp_ms) for share in shares]
        try:
            for one in as_completed(playing):
                one.result()
        finally:
            run.stop.set()
    return Replayed(
        requests=len(calls),
        input=sum(call.input for call in calls),
        cache_write_5m=sum(call.cache_write_5m for call in calls),
        cache_read=sum(call.cache_read for call in calls),
        output=sum(call.output for call in calls),
        charged=EXACT.subtract(before, _balance(cast)),
    )


def _balance(cast: _Cast) -> Decimal:
    found = Wallet.objects.filter(customer_id__in=cast.customer_ids).aggregate(balance=Sum("balance"))
    return Decimal(found["balance"] or ZERO)


def _play_share(run: _Run, share: list[tuple[int, Call]], first_ms: int) -> None:
    events: list[dict[str, object]] = []
    with RelayClient(run.url, run.token) as client:
        for place, call in share:
            wait_s = _wait_s(run, call.timestamp_ms - first_ms)
            if len(events) >= EVENTS_PER_REPORT or (events and wait_s > _FLUSH_AFTER_S):
                _report(client, events)
                events = []
            if run.stop.wait(max(0.0, _wait_s(run, call.timestamp_ms - first_ms))):
                return
            events.append(_one_call(run, client, place, call))
        if events:
            _report(client, events)


def _wait_s(run: _Run, trace_ms: int) -> float:
    if run.speed is None:
        return 0.0
    return run.started + trace_ms / 1000 / float(run.speed) - time.monotonic()


def _one_call(run: _Run, client: RelayClient, place: int, call: Call) -> dict[str, object]:
    """Authorize a call; returns the event that reports it."""
    key_id, secret = run.cast.api_keys[place % len(run.cast.api_keys)]
    request_id = f"replay_{run.name}_{place}"
    authorization = client.authorize(
        {
            "api_key": secret,
            "model": run.model,
            "request_id": request_id,
            "input_tokens": call.prompt,
            "max_output_tokens": call.output,
            "cache_ttl": "5m",
        }
    )
    return {
        "id": request_id,
        "api_key_id": key_id,
        "authorization": authorization,
        "model": run.model,
        "occurred_at": datetime.now(UTC).isoformat(),
        "format": "anthropic.messages",
        "status": "completed",
        "usage": {
            "input_tokens": call.input,
            "cache_creation_input_tokens": call.cache_write_5m,
            "cache_creation": {"ephemeral_5m_input_tokens": call.cache_write_5m, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": call.cache_read,
            "output_tokens": call.output,
        },
    }


def _report(client: RelayClient, events: list[dict[str, object]]) -> None:
    answer = client.report(events)
    if answer["rejected"]:
        first = answer["rejected"][0]
        raise CannotReplay(
            f"{len(answer['rejected'])} events were rejected, the first as {first['code']}: {first['message']}"
        )
    if answer["parked"]:
        raise CannotReplay(f"{answer['parked']} events wait for a price; the operator's list of parked events says why")
