"""What a relay is told was settled is on disk, although the commits of a batch don't wait for that one by one.

The test's server is one that other tests write to as well. So where a commit stands in the log is known by two bounds,
and without the wait somebody else may have taken our commits to disk: then the look is taken again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import pytest

from metering import settlement
from metering.attribution import attribute
from metering.ingestion import decode_json
from relayadmin.db import in_transaction, server_cursor, wait_for_disk
from tests.world import Payer, make_event, make_payer

T = TypeVar("T")
TIMES = 20
TRIES_MAX = 200


@pytest.fixture
def payers(committed: None) -> list[Payer]:
    """Of a transaction each, on a connection whose commits wait for the disk unless they ask not to."""
    with server_cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    return [make_payer() for _ in range(3)]


def place(function: str) -> int:
    with server_cursor() as cursor:
        cursor.execute(f"SELECT ({function}() - '0/0')::bigint")
        ((number,),) = cursor.fetchall()
    return int(number)


def written() -> int:
    """How far the log is written, in memory or on disk."""
    return place("pg_current_wal_insert_lsn")


def on_disk() -> int:
    """How far the log is on disk."""
    return place("pg_current_wal_flush_lsn")


@dataclass
class Looks:
    """Places in the log: before and after each commit, and how far it was on disk at the end."""

    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    on_disk: int = 0


def settle(payers: list[Payer], monkeypatch: pytest.MonkeyPatch, *, wait: Callable[[], None] = wait_for_disk) -> Looks:
    """Settle an event of each payer, with `wait` in place of `wait_for_disk`, and look."""
    looks = Looks()

    def look_at_commit(work: Callable[[], T], *, is_on_disk: bool = True) -> T:
        def work_and_look() -> T:
            result = work()
            looks.before.append(written())
            return result

        result = in_transaction(work_and_look, is_on_disk=is_on_disk)
        looks.after.append(written())
        return result

    events = [make_event(payer) for payer in payers]
    known, _ = attribute(decode_json(json.dumps({"events": events}).encode()).events)
    with monkeypatch.context() as patch:
        patch.setattr(settlement, "CUSTOMERS_PER_TRANSACTION", 1)
        patch.setattr(settlement, "in_transaction", look_at_commit)
        patch.setattr(settlement, "wait_for_disk", wait)
        result = settlement.settle(known, at=datetime.now(UTC))
    looks.on_disk = on_disk()
    assert (result.accepted, len(looks.after)) == (3, 3)
    return looks


def test_every_commit_is_on_disk_when_it_returns(payers: list[Payer], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(TIMES):
        looks = settle(payers, monkeypatch)
        assert looks.on_disk >= looks.after[-1]


def test_without_the_wait_none_is(payers: list[Payer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control, and how we know that no commit on the way has waited: not even the first is there."""
    for _ in range(TRIES_MAX):
        looks = settle(payers, monkeypatch, wait=lambda: None)
        if looks.on_disk < looks.before[0]:
            return
    pytest.fail("every time some commit was on disk at once: nobody needed to wait")
