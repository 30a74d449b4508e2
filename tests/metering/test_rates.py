"""What limits do when Redis is away, slow, flushed or restarted, and that nobody without limits asks it."""

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core import mail

from billing.models import Alarm, OperatorSettings
from metering import keys, rate_alarm, rates, tasks
from metering.rates import Limit, Window
from tests.concurrency.racing import wait_until
from tests.redis_server import OwnRedis, own_redis
from tests.world import Payer, Relay, make_payer

REQUESTS = Limit(rates.REQUESTS, 10, "cus_a")
ONE = ((REQUESTS, 1),)


def make_limited(requests: int = 1) -> Payer:
    payer = make_payer()
    keys.change_api_key(api_key_id=payer.key.pk, changes={"requests_per_minute": requests}, at=datetime.now(UTC))
    return payer


@pytest.fixture
def server(settings: Any) -> Iterator[OwnRedis]:
    with own_redis(settings, Path(tempfile.gettempdir())) as own:
        yield own


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Failures that would be told of: an alarm is written by a connection of its own, and stays after a test."""
    told: list[str] = []
    monkeypatch.setattr(rate_alarm, "tell", told.append)
    return told


@pytest.mark.django_db
class TestWhoHasNoLimits:
    def test_never_asks_redis(self, server: OwnRedis) -> None:
        payer, relay = make_payer(), Relay()
        before = server.calls()
        assert {relay.authorize(payer).status for _ in range(5)} == {201}
        assert server.calls() == before

    def test_while_who_has_some_does_so_once_for_each_request(self, server: OwnRedis) -> None:
        """The negative control."""
        payer, relay = make_limited(50), Relay()
        relay.authorize(payer)
        before = server.calls()
        assert {relay.authorize(payer).status for _ in range(5)} == {201}
        assert server.calls() == before + 10  # One round trip each: count, and look.


@pytest.mark.django_db
class TestRedisAway:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in production, but for a machine that is busy with tests."""
        monkeypatch.setattr(rates, "TIMEOUT_MS", 50)

    def test_requests_pass_unheld_to_limits_and_without_headers(self, server: OwnRedis, untold: list[str]) -> None:
        payer, relay = make_limited(), Relay()
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        server.stop()
        answers = [relay.authorize(payer) for _ in range(5)]
        assert {answer.status for answer in answers} == {201}
        assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)
        assert untold == ["ConnectionError"]

    def test_money_is_guarded_all_the_same(self, server: OwnRedis, untold: list[str]) -> None:
        payer, relay = make_payer(credit="0.0111"), Relay()
        keys.change_api_key(api_key_id=payer.key.pk, changes={"requests_per_minute": 9}, at=datetime.now(UTC))
        server.stop()
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 402]

    def test_limits_hold_again_after_the_pause(self, server: OwnRedis, untold: list[str]) -> None:
        payer, relay = make_limited(), Relay()
        assert relay.authorize(payer).status == 201
        server.stop()
        assert [relay.authorize(payer).status for _ in range(rates.FAILURES_MOST)] == [201] * rates.FAILURES_MOST
        server.start()
        assert [relay.authorize(payer).status for _ in range(3)] == [201] * 3  # It isn't asked yet.
        rates._breaker._try_at = 0
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]  # A new Redis begins anew.

    def test_one_that_does_not_answer_is_waited_for_three_times_and_briefly(
        self, server: OwnRedis, untold: list[str]
    ) -> None:
        rates.take(ONE)
        with server.frozen():
            began = time.monotonic()
            for _ in range(1000):
                assert rates.take(ONE) == rates.NOTHING
            passed_s = time.monotonic() - began
        assert 3 * rates.TIMEOUT_MS / 1000 <= passed_s < 5  # A thousand waits would take fifty seconds.
        assert untold == ["TimeoutError"]

    def test_one_late_answer_is_nothing_to_tell(self, server: OwnRedis, untold: list[str]) -> None:
        rates.take(ONE)
        with server.frozen():
            assert rates.take(ONE) == rates.NOTHING
        assert rates.take(ONE).standings[0].remaining in {7, 8}  # It may have counted, late.
        assert untold == []

    def test_of_many_requests_one_tries_after_each_pause(self, server: OwnRedis, untold: list[str]) -> None:
        server.stop()
        for _ in range(4):
            for _ in range(50):
                rates.take(ONE)
            rates._breaker._try_at = 0
        assert len(untold) == 4

    def test_a_refusal_by_redis_itself_lets_requests_pass(self, server: OwnRedis, untold: list[str]) -> None:
        server.client.config_set("maxmemory", 1)
        assert {rates.take(ONE) for _ in range(10)} == {rates.NOTHING}
        assert len(untold) == 1


class TestRedisFlushed:
    def test_counting_begins_anew(self, server: OwnRedis, untold: list[str]) -> None:
        for _ in range(10):
            rates.take(ONE)
        server.client.flushall()
        assert rates.take(ONE).standings[0].remaining == 9
        assert untold == []

    def test_scripts_that_are_gone_are_sent_again_and_count_once(self, server: OwnRedis, untold: list[str]) -> None:
        rates.take(ONE)
        server.client.script_flush()
        assert rates.take(ONE).standings[0].remaining == 8
        assert untold == []

    def test_what_is_kept_goes_away_by_itself(self, server: OwnRedis) -> None:
        rates.take(((REQUESTS, 1), (Limit(rates.TOKENS, 10, "cus_a"), 3)))
        left = [server.client.pttl(key) for key in server.client.scan_iter()]
        assert len(left) == 2
        assert all(0 < ms <= 120_000 for ms in left)


@pytest.fixture
def heard(committed: None, server: OwnRedis) -> Iterator[OwnRedis]:
    """A Redis whose failures are told of; alarms are gone afterwards."""
    yield server
    wait_until(lambda: not any(thread.name == "rate-alarm" for thread in threading.enumerate()))
    Alarm.objects.filter(kind__startswith=rate_alarm.SOURCE).delete()


def alarms() -> list[Alarm]:
    return list(Alarm.objects.filter(kind__startswith=rate_alarm.SOURCE))


class TestTheAlarm:
    def test_opens_once_however_many_requests_pass_and_says_no_address(
        self, heard: OwnRedis, caplog: pytest.LogCaptureFixture
    ) -> None:
        heard.stop()
        with caplog.at_level(logging.WARNING, "billing.alarms"):
            for _ in range(5):
                rates._breaker._try_at = 0
                rates.take(ONE)
            wait_until(alarms)
        (alarm,) = alarms()
        assert (alarm.kind, alarm.count) == ("rates.redis_away", 1)
        assert alarm.message.startswith("Redis does not answer (ConnectionError)")
        assert "127.0.0.1" not in alarm.message + alarm.advice + caplog.text
        assert caplog.text.count("alarm opened") == 1

    def test_is_mailed_without_the_scheduled_jobs_which_need_redis_too(self, heard: OwnRedis, settings: Any) -> None:
        settings.EMAIL_URL = "smtp://mail.example"
        OperatorSettings.objects.update(alarm_email="ops@example.com")
        try:
            heard.stop()
            for _ in range(rates.FAILURES_MOST):
                rates.take(ONE)
            wait_until(lambda: mail.outbox)
        finally:
            OperatorSettings.objects.update(alarm_email="")
        assert "Redis does not answer" in mail.outbox[0].body

    def test_is_kept_open_by_the_watch_and_over_two_minutes_after_redis_is_back(self, heard: OwnRedis) -> None:
        heard.stop()
        assert tasks.watch_rate_limits() == {"opened": 1, "resolved": 0}
        assert tasks.watch_rate_limits() is None
        heard.start()
        assert tasks.watch_rate_limits() is None
        assert alarms()[0].resolved_at is None
        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=rate_alarm.QUIET_S + 1)):
            assert tasks.watch_rate_limits() == {"opened": 0, "resolved": 1}
            assert tasks.watch_rate_limits() is None
        assert alarms()[0].resolved_at is not None

    def test_stays_open_while_another_process_misses_redis(self, heard: OwnRedis) -> None:
        rate_alarm.report("TimeoutError", at=datetime.now(UTC) - timedelta(minutes=10))
        rate_alarm.report("TimeoutError", at=datetime.now(UTC) - timedelta(seconds=40))
        assert tasks.watch_rate_limits() is None
        assert alarms()[0].resolved_at is None


class TestAWindow:
    """(used before, its ms left, used now, its ms left and a minute more)"""

    @pytest.mark.parametrize(
        ("window", "remaining", "reset_s"),
        [
            (Window(0, 0, 0, 0), 10, 0),
            (Window(0, 0, 3, 100_000), 7, 100),
            (Window(10, 30_000, 0, 90_000), 5, 30),
            (Window(10, 30_001, 2, 90_001), 3, 91),
            (Window(10, 1, 0, 60_001), 10, 1),
            (Window(0, 0, 99, 100_000), 0, 100),
            (Window(0, 0, -1, 100_000), 10, 0),
        ],
    )
    def test_stands_at(self, window: Window, remaining: int, reset_s: int) -> None:
        standing = window.standing(REQUESTS)
        assert (standing.limit, standing.remaining, standing.reset_s) == (10, remaining, reset_s)

    @pytest.mark.parametrize(
        ("window", "amount", "room_in_s"),
        [
            (Window(0, 0, 10, 120_000), 1, 61),  # 60.001
            (Window(0, 0, 10, 120_000), 10, 115),  # 114.001, when less than one of the ten counts
            (Window(0, 0, 10, 90_000), 1, 31),
            (Window(10, 60_000, 0, 120_000), 1, 1),
            (Window(10, 60_000, 5, 120_000), 1, 31),  # When less than half of the ten count
            (Window(10, 60_000, 0, 120_000), 10, 55),
            (Window(0, 0, 0, 0), 11, 60),
        ],
    )
    def test_has_room_in(self, window: Window, amount: int, room_in_s: int) -> None:
        assert window.room_in_s(REQUESTS, amount) == room_in_s

    def test_has_room_then_and_not_a_second_before(self) -> None:
        """Against the script's own rule, second by second."""
        begun_ms = 47_321

        def fits(before: int, now: int, amount: int, after_s: int) -> bool:
            left = begun_ms - after_s * 1000
            if left > 0:
                return before * left // 60_000 + now + amount <= 10
            return now * max(0, left + 60_000) // 60_000 + amount <= 10

        for before, now, amount in product((0, 1, 4, 10), range(11), range(1, 11)):
            if not fits(before, now, amount, 0):
                window = Window(before, begun_ms, now, begun_ms + 60_000)
                expected = next(after_s for after_s in range(1, 121) if fits(before, now, amount, after_s))
                assert window.room_in_s(REQUESTS, amount) == expected, (before, now, amount)
