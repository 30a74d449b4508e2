"""Requests and tokens per minute, counted in Redis for all processes together.

A sliding window: what was used in the minute before counts as far as it reaches into the last sixty seconds. Money is
guarded elsewhere, so while Redis is away requests pass: after a few failures in a row nobody asks it for some seconds,
then a single request tries.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import redis
from django.conf import settings
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from billing import alarms
from metering import rate_alarm

T = TypeVar("T")
WINDOW_MS = 60_000
EXPIRY_S = WINDOW_MS // 1000
TIMEOUT_MS = 50
# One late answer is no reason to stop counting, nor to wake anybody.
FAILURES_MOST = 3
PAUSE_S = 5
REQUESTS, TOKENS = "requests", "tokens"


@dataclass(frozen=True, slots=True)
class Limit:
    """So many `what` a minute, counted together for all that have the same `scope`: a key's or a customer's id."""

    what: str
    per_minute: int
    scope: str

    @property
    def item(self) -> RateLimitItemPerMinute:
        return RateLimitItemPerMinute(self.per_minute, namespace=self.what)


# What a request is to be counted as.
Wanted = tuple[tuple[Limit, int], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands: what is left of it now, and in how many seconds nothing counts any more."""

    what: str
    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request was counted as, and how the limits stand after it."""

    counted: Wanted = ()
    standings: tuple[Standing, ...] = ()


NOTHING = Taken()


class Exceeded(Exception):
    """A limit has no room for the request, which counts for nothing."""

    def __init__(self, limit: Limit, *, asked: int, retry_after_s: int, standings: tuple[Standing, ...]) -> None:
        super().__init__(f"{limit.per_minute} {limit.what} a minute")
        self.limit = limit
        self.asked = asked
        self.retry_after_s = retry_after_s
        self.standings = standings

    @property
    def is_too_large(self) -> bool:
        """Whether no wait would help: the request alone is more than the limit."""
        return self.asked > self.limit.per_minute


@dataclass(frozen=True, slots=True)
class Window:
    """What was used in the minute before with its milliseconds left, and in this one; kept for a minute after it."""

    before: int
    before_ms: int
    now: int
    now_ms: int

    def without(self, amount: int) -> "Window":
        return replace(self, now=self.now - amount)

    def standing(self, limit: Limit) -> Standing:
        used = self.before * self.before_ms // WINDOW_MS + self.now
        reset_ms = self.now_ms if self.now > 0 else self.before_ms if self.before > 0 else 0
        remaining = min(limit.per_minute, max(0, limit.per_minute - used))
        return Standing(limit.what, limit.per_minute, remaining, _seconds(reset_ms))

    def room_in_s(self, limit: Limit, amount: int) -> int:
        """In how many seconds there is room for so much, if nothing else comes; a minute if there never is."""
        room = limit.per_minute - amount
        if room < 0:
            return EXPIRY_S
        if self.now <= room:
            return max(1, _seconds(self.before_ms - _share_ms(room - self.now, self.before)))
        # It has to wait until this window is the one before, and for as much of it to pass.
        return max(1, _seconds(max(0, self.now_ms - WINDOW_MS) + WINDOW_MS - _share_ms(room, self.now)))


class Windows(RedisStorage):
    """The library's sliding windows, several of them in one round trip.

    It runs the library's own scripts. What one limit took before another refused is given back: a script of ours could
    spare that, but would have to keep the windows in the library's stead.
    """

    def take(self, wanted: Wanted) -> Taken:
        """Count all of it, or raise Exceeded and count nothing."""
        answers = self._run(wanted)
        is_counted = [bool(answer) for answer in answers[: len(wanted)]]
        windows = [_window(answer) for answer in answers[len(wanted) :]]
        if all(is_counted):
            standings = zip(wanted, windows, strict=True)
            return Taken(wanted, tuple(window.standing(limit) for (limit, _), window in standings))
        self.give_back(tuple(item for item, counted in zip(wanted, is_counted, strict=True) if counted))
        judged = [
            (limit, amount, window.without(amount) if counted else window, counted)
            for (limit, amount), window, counted in zip(wanted, windows, is_counted, strict=True)
        ]
        refusing = [(limit, amount, window.room_in_s(limit, amount)) for limit, amount, window, ok in judged if not ok]
        limit, amount, retry_after_s = max(refusing, key=lambda item: (item[1] > item[0].per_minute, item[2]))
        standings_now = tuple(window.standing(limit) for limit, _, window, _ in judged)
        raise Exceeded(limit, asked=amount, retry_after_s=retry_after_s, standings=standings_now)

    def _run(self, wanted: Wanted) -> list[Any]:
        """First whether each was counted, then each window as it is now; nothing comes in between."""
        try:
            return self._pipeline(wanted)
        except NoScriptError:
            # Redis was restarted or flushed. Who finds the second script finds the first: nothing counts twice.
            for script in (self.lua_sliding_window, self.lua_acquire_sliding_window):
                self.storage.script_load(script.script)
            return self._pipeline(wanted)

    def _pipeline(self, wanted: Wanted) -> list[Any]:
        with self.storage.pipeline(transaction=True) as pipe:
            for limit, amount in wanted:
                pipe.evalsha(
                    self.lua_acquire_sliding_window.sha, 2, *self._keys(limit), limit.per_minute, EXPIRY_S, amount
                )
            for limit, _ in wanted:
                pipe.evalsha(self.lua_sliding_window.sha, 2, *self._keys(limit), EXPIRY_S)
            answers: list[Any] = pipe.execute()
        return answers

    def _keys(self, limit: Limit) -> tuple[str, str]:
        key = limit.item.key_for(limit.scope)
        return self.prefixed_key(self._previous_window_key(key)), self.prefixed_key(self._current_window_key(key))

    def give_back(self, counted: Wanted) -> None:
        """Count it no longer. Where a new window has begun meanwhile, that one has so much more room."""
        limiter = SlidingWindowCounterRateLimiter(self)
        for limit, amount in counted:
            limiter.hit(limit.item, limit.scope, cost=-amount)


def _window(answer: list[Any]) -> Window:
    """What the library's script says of a window; of a key that is not there it has no count, and a negative time."""
    before, before_ms, now, now_ms = (int(value or 0) for value in answer)
    return Window(before, max(0, before_ms), now, max(0, now_ms))


def _share_ms(room: int, used: int) -> int:
    """For how long at its end a past window of so much use counts as no more than `room`."""
    return WINDOW_MS if used <= room else ((room + 1) * WINDOW_MS - 1) // used


def _seconds(ms: int) -> int:
    return -(-max(0, ms) // 1000)


class Breaker:
    """Keeps requests from waiting for Redis one after the other while it is away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0  # In a row.
        self._try_at = 0  # Monotonic, in nanoseconds.

    def may_try(self) -> bool:
        """Whether to ask Redis: always while it answers, else one request after each pause."""
        if self._failures < FAILURES_MOST:
            return True
        with self._lock:
            now = time.monotonic_ns()
            if self._failures >= FAILURES_MOST and self._try_at > now:
                return False
            self._try_at = now + PAUSE_S * 10**9
            return True

    def failed(self) -> bool:
        """Note a failure; whether Redis counts as away now."""
        with self._lock:
            self._failures += 1
            self._try_at = time.monotonic_ns() + PAUSE_S * 10**9
            return self._failures >= FAILURES_MOST

    def answered(self) -> None:
        if self._failures:
            with self._lock:
                self._failures = 0


_breaker = Breaker()


@cache
def _windows() -> Windows:
    """The connections of this process: no attempt is repeated, none waits for longer than a request may."""
    timeout_s = TIMEOUT_MS / 1000
    pool = redis.ConnectionPool.from_url(
        settings.REDIS_URL,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        # A new connection only signs in, in one round trip.
        protocol=2,
        driver_info=None,
    )
    return Windows(settings.REDIS_URL, connection_pool=pool, key_prefix="relayadmin")


def _ask(work: Callable[[Windows], T]) -> T | None:
    """What Redis says; None while it is away. Raises what `work` raises of its own."""
    if not _breaker.may_try():
        return None
    try:
        answer = work(_windows())
    except redis.RedisError as error:
        if _breaker.failed():
            rate_alarm.tell(type(error).__name__)
        return None
    except Exceeded:
        _breaker.answered()
        raise
    _breaker.answered()
    return answer


def take(wanted: Wanted) -> Taken:
    """Count a request against its limits, or raise Exceeded and count nothing. While Redis is away nothing counts."""
    return _ask(lambda windows: windows.take(wanted)) or NOTHING


def give_back(taken: Taken) -> None:
    """Count a request no longer that turned out to be none."""
    if taken.counted:
        _ask(lambda windows: windows.give_back(taken.counted))


def watch(*, at: datetime) -> alarms.Watched:
    """Keep the alarm open while Redis is away from here; resolve it when no process has missed Redis for a while."""
    try:
        _windows().storage.ping()
    except redis.RedisError as error:
        return rate_alarm.report(type(error).__name__, at=at)
    return alarms.report([], source=rate_alarm.SOURCE, at=at - timedelta(seconds=rate_alarm.QUIET_S))


def forget() -> None:
    """Drop connections and what is known of Redis; for tests that change its address."""
    global _breaker
    if _windows.cache_info().currsize:
        _windows().storage.connection_pool.disconnect()
    _windows.cache_clear()
    _breaker = Breaker()
