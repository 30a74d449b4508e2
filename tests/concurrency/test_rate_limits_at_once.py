"""Limits hold for all processes and threads together."""

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings

from metering import keys
from tests.concurrency.racing import at_once
from tests.world import Answer, Payer, Relay, make_payer

ROOT = Path(__file__).resolve().parents[2]
# A process of its own, with connections and counters of its own: it waits for the start, then asks from 16 threads.
ASKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import django

django.setup()
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from metering import rates

rates.TIMEOUT_MS = 10_000
scope, store = sys.argv[1:]
limits = (rates.Limit("requests", 10, scope), rates.Limit("tokens", 17_000, scope))
wanted = tuple(zip(limits, (1, 1_700)))
here = SlidingWindowCounterRateLimiter(MemoryStorage())
start = Barrier(16)

def ask(_):
    start.wait()
    if store == "memory":
        return all(here.hit(limit.item, limit.scope, cost=amount) for limit, amount in wanted)
    try:
        return len(rates.take(wanted).counted) == 2
    except rates.Exceeded:
        return False

with ThreadPoolExecutor(16) as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(pool.map(ask, range(16))))
"""


def admitted_by_two_processes(store: str) -> list[int]:
    """How many of 16 threads' requests each of two processes lets through, where ten fit a minute."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "relayadmin.settings", "REDIS_URL": settings.REDIS_URL}
    command = [sys.executable, "-c", ASKER, f"key_{uuid4().hex}", store]
    askers = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for asker in askers:
        assert asker.stdout is not None
        assert asker.stdout.readline() == "ready\n"
    for asker in askers:
        assert asker.stdin is not None
        asker.stdin.write("go\n")
        asker.stdin.flush()
    return [json.loads(asker.communicate(timeout=60)[0]) for asker in askers]


def test_of_32_threads_in_two_processes_ten_pass_where_ten_fit() -> None:
    """Row 31: limits are per process, so N replicas allow N times as much."""
    assert sum(admitted_by_two_processes("redis")) == 10


def test_what_lets_only_ten_pass_is_that_they_count_together() -> None:
    """The negative control of row 31: the same windows, kept by each process."""
    assert admitted_by_two_processes("memory") == [10, 10]


@pytest.mark.usefixtures("committed")
class TestThroughTheRelayApi:
    @staticmethod
    def limited(**limits: int) -> Payer:
        payer = make_payer()
        keys.change_api_key(api_key_id=payer.key.pk, changes=limits, at=datetime.now(UTC))  # type: ignore[arg-type]
        return payer

    @pytest.mark.parametrize(
        "limits",
        [
            {"requests_per_minute": 10},
            {"tokens_per_minute": 17_999},
            {"requests_per_minute": 10, "tokens_per_minute": 17_000},
        ],
        ids=["requests", "tokens", "both"],
    )
    def test_of_32_threads_ten_pass_and_hold(self, limits: dict[str, int]) -> None:
        payer, token = self.limited(**limits), Relay().token

        answers = at_once([lambda: Relay(token).authorize(payer)] * 32)

        statuses = Counter(answer.status if isinstance(answer, Answer) else repr(answer) for answer in answers)
        assert statuses == {201: 10, 429: 22}
        assert payer.wallet.held * 10_000 == 10 * 111

    def test_one_request_sent_32_times_at_once_counts_once(self) -> None:
        payer, token = self.limited(requests_per_minute=2), Relay().token

        answers = at_once([lambda: Relay(token).authorize(payer, request_id="same")] * 32)

        statuses = Counter(answer.status if isinstance(answer, Answer) else repr(answer) for answer in answers)
        assert statuses[201] == 1
        # Those that come before the first is placed are refused for now, and may try again.
        assert statuses[200] + statuses[429] == 31
        relay = Relay(token)
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        assert relay.authorize(payer, request_id="same").status == 200
