"""What is asked on every request costs the same however much a customer has used before."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from tests.world import CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

# What grows with usage: one row or more for each event, hold or settlement.
GROWING = (
    *("metering_usageevent", "metering_eventkey", "billing_hold"),
    *("billing_entry", "billing_transfer", "billing_grantuse"),
)
ROWS_MAX = 20


def rows_read() -> int:
    """Rows of growing tables that this transaction has read up to now, by index or without."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) FROM pg_stat_xact_user_tables"
            " WHERE relname = ANY (%s)",
            [list(GROWING)],
        )
        (number,) = cursor.fetchone() or (0,)
    return int(number)


def read_by(work: Callable[[], int]) -> int:
    """How many rows of growing tables a call reads that is answered with a 2xx."""
    before = rows_read()
    assert work() in (200, 201)
    return rows_read() - before


def use(payer: Payer, relay: Relay, *, settlements: int) -> None:
    """A past of so many settlements, holds and hours, with twenty events each."""
    for number in range(settlements):
        at = datetime.now(UTC) - timedelta(hours=number)
        hold = relay.authorize(payer).body["id"]
        relay.report(*(make_event(payer, occurred_at=at.isoformat(), authorization=hold) for _ in range(20)))


def add_released_holds(payer: Payer, count: int) -> None:
    """So many that PostgreSQL looks for one by its index, and does not read the little there is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_hold (customer_id, request_id, digest, amount, remaining, status, details,"
            " created_at, expires_at, resolved_at)"
            " SELECT %s, 'old ' || n, '', 1, 0, 'released', '{}', now(), now(), now() FROM generate_series(1, %s) AS n",
            [payer.customer.pk, count],
        )
        cursor.execute("ANALYZE billing_hold")


def test_no_request_reads_what_was_used_before() -> None:
    """Row 29: a sum over raw rows on the request path."""
    payer, relay = make_payer(credit="500"), Relay()
    api = CustomerApi(payer)
    use(payer, relay, settlements=60)
    add_released_holds(payer, 3_000)
    held = relay.authorize(payer).body["id"]
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    days = {"start": (hour - timedelta(days=9)).isoformat(), "end": (hour + timedelta(hours=1)).isoformat()}

    reads = {
        "authorize": read_by(lambda: relay.authorize(payer).status),
        "report": read_by(lambda: relay.report(make_event(payer, authorization=held)).status),
        "release": read_by(lambda: relay.release(relay.authorize(payer).body["id"]).status),
        "balance": read_by(lambda: api.get("balance").status),
        "usage": read_by(lambda: api.get("usage", bucket="day", group_by="model", **days).status),
    }

    assert {name: number for name, number in reads.items() if number > ROWS_MAX} == {}


def test_a_sum_over_the_past_would_be_seen() -> None:
    """The negative control."""
    payer, relay = make_payer(credit="500"), Relay()
    use(payer, relay, settlements=5)

    def add_up() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT sum(charge) FROM metering_usageevent WHERE customer_id = %s", [payer.customer.pk])
        return 200

    assert read_by(add_up) >= 100
