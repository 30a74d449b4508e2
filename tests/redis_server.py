"""A Redis of a test's own: to look at what it is asked, to flush, stop and start again without disturbing others."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from metering import rate_alarm, rates
from relayadmin.embedded.home import Home
from relayadmin.embedded.redis import Redis
from tests.servers import make_home


@dataclass
class OwnRedis:
    """What `rates` talks to while `own_redis` is open."""

    server: Redis
    url: str

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def calls(self) -> int:
        """How many scripts it was asked to run so far."""
        stats = self.client.info("commandstats")
        return sum(told["calls"] for name, told in stats.items() if name in {"cmdstat_evalsha", "cmdstat_eval"})

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        assert self.server.ensure(durable=False) == self.url

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        pid = self.server.running()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def own_redis(settings: Any, parent: Path) -> Iterator[OwnRedis]:
    home, lock = make_home(parent)
    server = Redis(Home.open(home))
    try:
        url = server.ensure(durable=False)
        settings.REDIS_URL = url
        _forget()
        yield OwnRedis(server, url)
    finally:
        server.stop()
        _forget()
        shutil.rmtree(home, ignore_errors=True)
        os.close(lock)


def _forget() -> None:
    rates.forget()
    rate_alarm.forget()


def let_pass(scope: str, seconds: int, *, url: str) -> None:
    """What so many seconds do to the windows of a key or customer: all that is kept of them comes nearer its end."""
    client = redis.Redis.from_url(url)
    for key in client.scan_iter(match=f"relayadmin:*{scope}*"):
        left_ms = client.pttl(key) - seconds * 1000
        if left_ms > 0:
            client.pexpire(key, left_ms)
        else:
            client.delete(key)  # In its last millisecond it would still count.
