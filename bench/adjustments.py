"""How fast what was charged is put right: estimates replaced through the relay API, a month rated again."""

import random
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from bench import relay
from metering import keys, rerating
from metering.models import ApiKey, Price
from metering.price_corrections import correct_price
from metering.rerating_pages import Scope
from relayadmin.db import server_cursor

CORRECTED_BATCHES = 8
WARM_UP_BATCHES = 1
MONTH_BATCHES = 11


def measure(port: int) -> dict[str, float]:
    """`replaces_events_per_s` and `rerating_events_per_s`, over the customers of bench.relay."""
    _, token = keys.create_relay_token(name="bench adjustments")
    key_ids = [row.public_id for row in ApiKey.objects.filter(name="bench").only("public_id")]
    draw = random.Random(11)
    return {
        "replaces_events_per_s": _replaces_per_s(port, token, key_ids, draw),
        "rerating_events_per_s": _rerating_per_s(port, token, key_ids, draw),
    }


def _replaces_per_s(port: int, token: str, key_ids: list[str], draw: random.Random) -> int:
    """Corrections a second, each of an estimate that was charged."""
    at = datetime.now(UTC)
    estimates, corrections = [], []
    for number in range(WARM_UP_BATCHES + CORRECTED_BATCHES):
        estimated = [
            relay.event(20_000 + number, place, draw.choice(key_ids), at) for place in range(relay.EVENTS_PER_BATCH)
        ]
        estimates.append(relay.usage_request([event | {"estimated": True} for event in estimated], token))
        corrected = [
            relay.event(30_000 + number, place, event["api_key_id"], at) | {"replaces": event["id"]}
            for place, event in enumerate(estimated)
        ]
        corrections.append(relay.usage_request(corrected, token))
    relay.ingest(port, estimates, "accepted")
    _analyze()
    relay.ingest(port, corrections[:WARM_UP_BATCHES], "accepted")
    return relay.ingest(port, corrections[WARM_UP_BATCHES:], "accepted")


def _rerating_per_s(port: int, token: str, key_ids: list[str], draw: random.Random) -> int:
    """Events a second that are put right, after the price of output was corrected; one process, beside no traffic."""
    end = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = (end - timedelta(days=1)).replace(day=1)
    month = [
        relay.usage_request(
            [
                relay.event(40_000 + number, place, draw.choice(key_ids), start + draw.random() * (end - start))
                for place in range(relay.EVENTS_PER_BATCH)
            ],
            token,
        )
        for number in range(MONTH_BATCHES)
    ]
    relay.ingest(port, month, "accepted")
    price = Price.objects.get(model__public_id=relay.MODEL, kind="charge", meter="output", variant="")
    correct_price(
        price.pk,
        price.unit_price + Decimal(1),
        who="bench",
        reason="to be rated again",
        at=datetime.now(UTC),
        is_confirmed=True,
    )
    _analyze()
    begun = time.perf_counter()
    outcome = rerating.apply(Scope(start, end), reason="bench", actor="bench", at=datetime.now(UTC))
    seconds = time.perf_counter() - begun
    put_right = sum(sums.events for sums in outcome.customers.values())
    assert put_right == outcome.events == MONTH_BATCHES * relay.EVENTS_PER_BATCH, outcome
    return round(put_right / seconds)


def _analyze() -> None:
    """As autovacuum would have by the time that somebody puts a month right."""
    with server_cursor() as cursor:
        cursor.execute("ANALYZE")
