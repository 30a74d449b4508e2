"""Workers that close 2,000 customers' month are killed in the middle of it, twice; whoever comes after finishes."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime

import msgspec
import pytest
from django.db import connection

from billing.checks import Scope
from billing.models import CustomerClosing, Invoice, InvoiceSeries, PeriodClosing
from billing.verification import check_ledger
from metering import statements
from metering.usage_checks import check_usage
from relayadmin.embedded.home import PROJECT
from tests.invoicing import make_many_used
from tests.processes import environment

PERIOD = date(2012, 6, 1)
CUSTOMERS = 2_000
KILLED_AFTER = (300, 1_000)
PATIENCE_S = 240


@pytest.fixture
def customers(committed: None) -> Iterator[list[int]]:
    """2,000 customers, each with an event of the month, which is a debt; what other tests left is closed before."""
    statements.close_invoices(period=date(2012, 5, 1), at=datetime.now(UTC))
    made = make_many_used(CUSTOMERS, period=PERIOD)
    yield [customer.pk for customer in made]
    connection.close()


def start_closing() -> "subprocess.Popen[bytes]":
    """The command, in a process of its own and on this test's database."""
    return subprocess.Popen(
        [sys.executable, "manage.py", "close_invoices", "--period", f"{PERIOD:%Y-%m}"],
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def let_them_issue(workers: "list[subprocess.Popen[bytes]]", enough: int) -> None:
    """Return when so many invoices stand; two processes have to start first, on a machine that may be busy."""
    until = time.monotonic() + PATIENCE_S
    while issued() < enough:
        ended = [worker for worker in workers if worker.poll() is not None]
        assert not ended, [worker.communicate() for worker in ended]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def issued() -> int:
    return Invoice.objects.filter(period=PERIOD).count()


def test_killed_twice_the_rerun_finishes_and_nothing_is_issued_twice(customers: list[int]) -> None:
    series = InvoiceSeries.objects.filter(series="INV", year=datetime.now(UTC).year).first()
    before = series.last_number if series else 0
    for enough in KILLED_AFTER:
        workers = [start_closing(), start_closing()]
        let_them_issue(workers, enough)
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
        for worker in workers:
            worker.communicate()
        assert issued() < CUSTOMERS, "they were killed in the middle of it"

    left = CUSTOMERS - issued()
    last = start_closing()
    told, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    answer = msgspec.json.decode(told)
    assert answer["failed"] == 0
    assert 0 < answer["issued"] <= left, "an orphaned transaction may have ended after the look"

    found = Invoice.objects.filter(period=PERIOD)
    assert Counter(found.values_list("customer_id", flat=True)) == Counter(customers)
    assert sorted(found.values_list("sequence", flat=True)) == list(range(before + 1, before + CUSTOMERS + 1))
    assert set(CustomerClosing.objects.filter(closing__period=PERIOD).values_list("status", flat=True)) == {"issued"}
    assert PeriodClosing.objects.get(period=PERIOD).ended_at is not None
    closed = statements.close_invoices(period=PERIOD, at=datetime.now(UTC))
    assert (closed.issued, closed.failed) == (0, 0)
    scope = Scope(min(customers), max(customers), full=True)
    assert (check_ledger(scope), check_usage(scope, at=datetime.now(UTC))[0]) == ([], [])
