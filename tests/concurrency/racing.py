"""Threads that race on connections of their own, and the looks at PostgreSQL that make a race happen on purpose."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from threading import Barrier
from typing import Any, TypeVar

import psycopg
from django.db import connection

from billing import ledger
from billing.checks import Scope
from billing.models import Customer, Wallet
from billing.verification import check_ledger
from metering.usage_checks import check_usage

T = TypeVar("T")
PATIENCE_S = 60
MANY = 20


def run(work: Callable[[], T]) -> T:
    """Run in this thread, and give its connection back at the end."""
    try:
        return work()
    finally:
        connection.close()


def at_once(works: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Run all works at the same moment, each on a connection of its own; what each returned or raised, in order."""
    start = Barrier(len(works))

    def racer(work: Callable[[], T]) -> T:
        connection.ensure_connection()
        start.wait(PATIENCE_S)
        return work()

    with _room_for(len(works)), ThreadPoolExecutor(len(works)) as pool:
        racers = [pool.submit(run, lambda work=work: racer(work)) for work in works]
        return [_outcome(racer) for racer in racers]


@contextmanager
def _room_for(connections: int) -> Iterator[None]:
    """Many connections at once are one process's at a time: the server has a hundred for all of a parallel run."""
    if connections < MANY:
        yield
        return
    lock = os.open(Path(os.environ.get("RELAYADMIN_HOME") or gettempdir()) / "many-connections", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _outcome(racer: Future[T]) -> T | Exception:
    try:
        return racer.result(PATIENCE_S)
    except Exception as error:
        return error


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Run one work on a connection of its own while the body goes on."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run, work)


@contextmanager
def second_connection() -> Iterator[psycopg.Connection[Any]]:
    """A bare connection to the same database, in a transaction until it ends."""
    parameters = connection.get_connection_params()
    wanted = {name: parameters[name] for name in ("host", "port", "user", "password", "dbname") if parameters.get(name)}
    with psycopg.connect(**wanted) as other:
        yield other
        other.rollback()


def wait_until(is_so: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true; returns it."""
    until = time.monotonic() + PATIENCE_S
    while not (answer := is_so()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)
    return answer


def waiting_for(other: psycopg.Connection[Any]) -> list[int]:
    """The processes of the database that wait for a lock of this connection's."""
    with second_connection() as looker:
        rows = looker.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND %s = ANY (pg_blocking_pids(pid))",
            [other.info.backend_pid],
        )
        return [pid for (pid,) in rows]


def end_who_waits_for(other: psycopg.Connection[Any]) -> int:
    """End the one session that waits for a lock of this connection's, once it does; returns its process."""
    (pid,) = wait_until(lambda: waiting_for(other))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert isinstance(pid, int)
    return pid


def look_without_lock(customer_ids: Iterable[int]) -> dict[int, ledger.LockedWallet]:
    """For negative controls: `ledger.lock_wallets` with the lock taken out."""
    fields = ("customer_id", "balance", "held", "credit_limit", "version", "closed_through", "counts_spend")
    rows = Wallet.objects.filter(customer_id__in=list(customer_ids)).values_list(*fields)
    return {row[0]: ledger.LockedWallet(*row) for row in rows}


def assert_books_are_right(*customers: Customer) -> None:
    """Recompute every figure of these customers from entries, holds and events."""
    for customer in customers:
        scope = Scope(customer.pk, customer.pk, full=True)
        assert check_ledger(scope) == []
        assert check_usage(scope, at=datetime.now(UTC))[0] == []
