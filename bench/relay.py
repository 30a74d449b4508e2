"""Benchmarks of the relay API: ingest, duplicates, raw COPY, an empty view, authorizations, leases."""

import json
import random
import time
from datetime import UTC, datetime
from decimal import Decimal
from statistics import harmonic_mean
from typing import Any

from django.db import connection

from bench import load
from billing import credits
from billing.models import Customer, Wallet
from metering import keys
from metering.models import ApiKey
from relayadmin import ids
from relayadmin.db import server_cursor
from relayadmin.money import amount_text

CUSTOMERS = 2_000
EVENTS_PER_BATCH = 2_000
BATCHES = 60
ROUNDS = 6
WARM_UP_BATCHES = 6
AUTHORIZATIONS = 12_000
NOOPS = 24_000
# Enough that nearly every customer is known to both processes, as in a relay's steady state.
WARM_UP_AUTHORIZATIONS = 6_000
LEASES = 6_000
REQUESTS_OF_A_LEASE = 100
MODEL = "claude-sonnet-4-20250514"


def measure(port: int) -> dict[str, float]:
    """Every figure of the relay API, in the units of their names."""
    customers = _customers()
    _, token = keys.create_relay_token(name="bench")
    results: dict[str, float] = {}

    # As traffic comes: every event is one of the 2,000 customers', drawn at random (a busy few would be easier).
    draw = random.Random(7)
    drawn = [
        batch(number, [customers[draw.randrange(CUSTOMERS)] for _ in range(EVENTS_PER_BATCH)], token)
        for number in range(WARM_UP_BATCHES + BATCHES)
    ]
    ingest(port, drawn[:WARM_UP_BATCHES], "accepted")
    # By turns, because the machine's own speed changes within seconds, and what matters most is their ratio.
    ingested, copied = [], []
    for start in range(WARM_UP_BATCHES, len(drawn), BATCHES // ROUNDS):
        ingested.append(ingest(port, drawn[start : start + BATCHES // ROUNDS], "accepted"))
        copied.append(_copy_rows_per_s())
    results["ingest_events_per_s"] = round(harmonic_mean(ingested))
    results["copy_rows_per_s"] = round(harmonic_mean(copied))
    results["ingest_duplicates_per_s"] = ingest(port, drawn[WARM_UP_BATCHES:], "duplicates")
    # The worst case: no two events of a batch have a customer in common.
    apart = [batch(1_000 + number, customers, token) for number in range(BATCHES // 3)]
    results["ingest_all_customers_apart_per_s"] = ingest(port, apart, "accepted")

    spread = [
        _authorization(f"a{number}", customers[number % CUSTOMERS][1], token)
        for number in range(WARM_UP_AUTHORIZATIONS + AUTHORIZATIONS)
    ]
    _expect(load.play(port, spread[:WARM_UP_AUTHORIZATIONS], connections=8, reconnect=True), 201)
    noop = [load.request("/relay/noop", b"{}", token)]
    _expect(load.play(port, noop * 2_000, connections=8), 200)
    # By turns, for the same reason; each turn's eight connections are shared out among the processes anew.
    empty, granted = [], []
    for start in range(WARM_UP_AUTHORIZATIONS, len(spread), AUTHORIZATIONS // ROUNDS):
        empty.append(_expect(load.play(port, noop * (NOOPS // ROUNDS), connections=8), 200))
        turn = spread[start : start + AUTHORIZATIONS // ROUNDS]
        granted.append(_expect(load.play(port, turn, connections=8), 201))
    results["noop_requests_per_s"] = round(load.joined(empty).per_second)
    run = load.joined(granted)
    results["authorize_requests_per_s"] = round(run.per_second)
    results["authorize_p50_ms"] = round(run.percentile_ms(0.5), 2)
    results["authorize_p99_ms"] = round(run.percentile_ms(0.99), 2)
    one = [_authorization(f"o{number}", customers[0][1], token) for number in range(AUTHORIZATIONS // 3)]
    results["authorize_one_customer_per_s"] = round(_expect(load.play(port, one, connections=8), 201).per_second)
    # What a lease is asked for: so many times what one of the requests above holds.
    amount = REQUESTS_OF_A_LEASE * Decimal(json.loads(run.last_body)["amount"])
    leases = [_lease(f"l{number}", customers[number % CUSTOMERS][1], token, amount) for number in range(LEASES)]
    leased = _expect(load.play(port, leases, connections=8), 201)
    results["lease_requests_per_s"] = round(leased.per_second * REQUESTS_OF_A_LEASE)
    return results


def ingest(port: int, batches: list[bytes], became: str) -> int:
    """Events a second, all of which must have become that ("accepted", "duplicates")."""
    run = _expect(load.play(port, batches, connections=2, reconnect=True), 200)
    assert json.loads(run.last_body)[became] == EVENTS_PER_BATCH, run.last_body[:300]
    return round(run.per_second * EVENTS_PER_BATCH)


def _expect(run: load.Run, status: int) -> load.Run:
    assert set(run.statuses) == {status}, f"{run.statuses}: {run.last_body[:300]!r}"
    return run


def _customers() -> list[tuple[str, str]]:
    """[(key id, key secret)] of customers with credit enough."""
    at = datetime.now(UTC)
    customers = Customer.objects.bulk_create([Customer(name=f"Bench {number}") for number in range(CUSTOMERS)])
    Wallet.objects.bulk_create([Wallet(customer=customer) for customer in customers])
    secrets = [ids.new_secret("sk-") for _ in customers]
    rows = ApiKey.objects.bulk_create(
        [
            ApiKey(customer=customer, name="bench", digest=secret.digest, prefix=secret.prefix, last4=secret.last4)
            for customer, secret in zip(customers, secrets, strict=True)
        ]
    )
    for customer in customers:
        credits.grant(
            customer_id=customer.pk, amount=Decimal(1000), kind="goodwill", reason="", reference="", key="bench", at=at
        )
    with server_cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return [(row.public_id, secret.text) for row, secret in zip(rows, secrets, strict=True)]


def batch(number: int, customers: list[tuple[str, str]], token: str) -> bytes:
    """One event for each of these customers, as a request."""
    at = datetime.now(UTC)
    return usage_request([event(number, place, key_id, at) for place, (key_id, _) in enumerate(customers)], token)


def usage_request(events: list[dict[str, Any]], token: str) -> bytes:
    return load.request("/relay/v1/usage", json.dumps({"events": events}).encode(), token)


def event(number: int, place: int, key_id: str, at: datetime) -> dict[str, Any]:
    """The event at this place of this batch; no two pairs of numbers give the same id."""
    return {
        "id": f"req_{number:06d}_{place:06d}_0123456789abcdef",
        "api_key_id": key_id,
        "model": MODEL,
        "occurred_at": at.isoformat(),
        "channel": "anthropic",
        "format": "anthropic.messages",
        "status": "completed",
        "usage": {
            "input_tokens": 1000 + place,
            "cache_creation_input_tokens": 3000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
            "cache_read_input_tokens": 10000 + number,
            "output_tokens": 500,
        },
        "metadata": {"team": "search"},
    }


def _authorization(request_id: str, api_key: str, token: str) -> bytes:
    body = {
        "api_key": api_key,
        "model": MODEL,
        "request_id": request_id,
        "input_tokens": 1200,
        "max_output_tokens": 500,
        "cache_ttl": None,
        "client_ip": "203.0.113.9",
    }
    return load.request("/relay/v1/authorizations", json.dumps(body).encode(), token)


def _lease(request_id: str, api_key: str, token: str, amount: Decimal) -> bytes:
    lease = {"amount": amount_text(amount), "minimum": "0.10", "seconds": 60}
    body = {"api_key": api_key, "request_id": request_id, "lease": lease}
    return load.request("/relay/v1/authorizations", json.dumps(body).encode(), token)


def _copy_rows_per_s() -> float:
    """COPY the very rows that ingest wrote into a bare table with the same primary key, a commit per 2,000."""
    rows = EVENTS_PER_BATCH * 30
    with server_cursor() as cursor:
        with cursor.copy(f"COPY (SELECT * FROM metering_usageevent ORDER BY id DESC LIMIT {rows}) TO STDOUT") as copy:
            lines = b"".join(bytes(block) for block in copy).splitlines(keepends=True)
        cursor.execute("CREATE TABLE bench_copy (LIKE metering_usageevent)")
        cursor.execute("ALTER TABLE bench_copy ADD PRIMARY KEY (customer_id, id)")
        chunks = [b"".join(lines[start : start + 2_000]) for start in range(0, len(lines), 2_000)]
        begun = time.perf_counter()
        for chunk in chunks:
            with cursor.copy("COPY bench_copy FROM STDIN") as copy:
                copy.write(chunk)
        seconds = time.perf_counter() - begun
        cursor.execute("DROP TABLE bench_copy")
    assert connection.get_autocommit()
    return len(lines) / seconds
