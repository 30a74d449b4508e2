"""A month is closed by the real worker through the real queue; it is killed in the middle, and another goes on."""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from billing.checks import Scope
from billing.models import CustomerClosing, Invoice, InvoiceSeries, PeriodClosing
from billing.verification import check_ledger
from metering import statements
from metering.usage_checks import check_usage
from relayadmin.celery import app
from relayadmin.embedded.home import PROJECT
from relayadmin.supervisor import children
from tests.concurrency.racing import second_connection, wait_until, waiting_for
from tests.invoicing import make_many_used
from tests.processes import environment
from tests.redis_server import OwnRedis, own_redis

PERIOD = date(2011, 6, 1)
# Enough for the scheduled job to share them out among three more tasks, as it does for thousands.
CUSTOMERS = 320
KILLED_AFTER = 60


@pytest.fixture
def customers(committed: None) -> Iterator[list[int]]:
    statements.close_invoices(period=date(2011, 5, 1), at=datetime.now(UTC))
    yield [customer.pk for customer in make_many_used(CUSTOMERS, period=PERIOD)]
    connection.close()


@pytest.fixture
def queue(settings: Any, tmp_path: Path) -> Iterator[OwnRedis]:
    """A broker of this test's own: other tests' tasks don't get in between."""
    with own_redis(settings, tmp_path) as redis:
        yield redis


@contextmanager
def worker(queue: OwnRedis) -> "Iterator[subprocess.Popen[bytes]]":
    """The worker that `make run` starts, on this test's database and queue; killed at the end."""
    command = next(child.command for child in children(0) if child.name == "worker")
    started_with = environment(REDIS_URL=queue.url, CELERY_BROKER_URL=queue.url)
    process = subprocess.Popen(command, cwd=PROJECT, env=started_with, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def send_as_beat_does(queue: OwnRedis) -> None:
    """Put the job into the queue that goes on with closings and shares them out."""
    with app.connection_for_write(queue.url) as broker:
        app.send_task("metering.watch_closings", connection=broker)


def issued() -> int:
    return Invoice.objects.filter(period=PERIOD).count()


def is_over() -> bool:
    return PeriodClosing.objects.filter(period=PERIOD, ended_at__isnull=False).exists()


def test_a_killed_worker_s_closing_is_finished_by_the_next_with_nothing_twice(
    customers: list[int], queue: OwnRedis
) -> None:
    series = InvoiceSeries.objects.filter(series="INV", year=datetime.now(UTC).year).first()
    before = series.last_number if series else 0
    statements.begin(period=PERIOD, at=datetime.now(UTC))

    with worker(queue) as first, second_connection() as other:
        # One customer's wallet is held elsewhere, so the worker is surely killed while it closes somebody.
        other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [customers[KILLED_AFTER // 2]])
        send_as_beat_does(queue)
        wait_until(lambda: queue.client.hlen("unacked") == 4)  # The job, and three that it was shared out among.
        wait_until(lambda: issued() >= KILLED_AFTER and waiting_for(other))
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    assert KILLED_AFTER <= issued() < CUSTOMERS
    assert not is_over()

    with worker(queue) as second:
        send_as_beat_does(queue)
        wait_until(is_over)
        assert second.poll() is None

    found = Invoice.objects.filter(period=PERIOD)
    assert Counter(found.values_list("customer_id", flat=True)) == Counter(customers)
    assert sorted(found.values_list("sequence", flat=True)) == list(range(before + 1, before + CUSTOMERS + 1))
    assert set(CustomerClosing.objects.filter(closing__period=PERIOD).values_list("status", flat=True)) == {"issued"}
    assert statements.close_invoices(period=PERIOD, at=datetime.now(UTC)).issued == 0
    scope = Scope(min(customers), max(customers), full=True)
    assert (check_ledger(scope), check_usage(scope, at=datetime.now(UTC))[0]) == ([], [])
