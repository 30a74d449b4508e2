"""Ends parts of a running stack the way crashes do: by SIGKILL, with no warning to anybody."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from relayadmin.embedded import processes
from relayadmin.embedded.home import Home
from relayadmin.embedded.postgres import Postgres
from relayadmin.embedded.redis import Redis

# What dies how often: a worker of the web and of Celery most, everything at once now and then.
BAG = (
    *("web-worker", "web-worker", "worker", "worker", "beat", "web"),
    *("postgres-backend", "postgres", "redis", "redis-flush", "everything"),
)


class Crashes:
    """The crashes of one stack, in an order and after pauses that a seed fixes; `kills` counts them by kind."""

    def __init__(self, home: Path, seed: int, kinds: tuple[str, ...] = BAG) -> None:
        self._home, self._kinds = Home.open(home), kinds
        # Which of many processes it hits depends on how many there are, and must not change what comes after.
        self._order, self._pauses, self._victims = (random.Random(f"{seed} {what}") for what in ("a", "b", "c"))
        self._postgres, self._redis = Postgres(self._home), Redis(self._home)
        self._bag: list[str] = []
        self.kills: Counter[str] = Counter()

    def pause_s(self, every_s: float) -> float:
        """How long to wait for the next one: from half as long as on average to half as long again."""
        return every_s * (0.5 + self._pauses.random())

    def next(self) -> str | None:
        """Do the next one; None, and it stays the next one, where there is nothing to kill just now."""
        if not self._bag:
            self._bag = self._order.sample(self._kinds, len(self._kinds))
        kind = self._bag[-1]
        if not self._crash(kind):
            return None
        self._bag.pop()
        self.kills[kind] += 1
        return kind

    def _crash(self, kind: str) -> bool:
        if kind == "redis-flush":
            return self._flush()
        found = self._found(kind)
        for pid in found:
            processes.send(pid, signal.SIGKILL)
        return bool(found)

    def _found(self, kind: str) -> list[int]:
        if kind == "everything":
            return [*self._ours(lambda line: True), *self._postmaster(), *self._redis_server()]
        choose: dict[str, Callable[[], list[int]]] = {
            "web": self._web,
            "web-worker": self._web_workers,
            "worker": lambda: self._ours(lambda line: "celery" in line and " worker " in line),
            "beat": lambda: self._ours(lambda line: "celery" in line and " beat " in line),
            "postgres": self._postmaster,
            "postgres-backend": self._backends,
            "redis": self._redis_server,
        }
        found = choose[kind]()
        return [self._victims.choice(sorted(found))] if found else []

    def _flush(self) -> bool:
        try:
            redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=2).flushall()
        except redis.RedisError:
            return False
        return True

    def _ours(self, matches: Callable[[str], bool]) -> list[int]:
        """The stack's own processes, by command line; told from others by their environment."""
        mark = f"RELAYADMIN_BENCH={self._home.root}".encode()
        return [pid for pid, line in _command_lines() if matches(line) and mark in _environment(pid)]

    def _web(self) -> list[int]:
        masters = set(self._ours(lambda line: "granian" in line))
        return [pid for pid in masters if _parent(pid) not in masters]

    def _web_workers(self) -> list[int]:
        masters = self._web()
        return self._ours_of(masters)

    def _ours_of(self, parents: list[int]) -> list[int]:
        return [pid for pid in self._ours(lambda line: "resource_tracker" not in line) if _parent(pid) in parents]

    def _postmaster(self) -> list[int]:
        running = self._postgres.running()
        return [running.pid] if running is not None else []

    def _backends(self) -> list[int]:
        title = f"postgres: {self._postgres.cluster}: relayadmin "
        return processes.find(lambda found: " ".join(found).startswith(title))

    def _redis_server(self) -> list[int]:
        pid = self._redis.running()
        return [pid] if pid is not None else []

    def end_everything(self) -> None:
        """For the end of a run that was interrupted: leave nothing behind."""
        for _ in range(20):
            left = self._found("everything")
            if not left:
                return
            for pid in left:
                processes.send(pid, signal.SIGKILL)
            time.sleep(0.2)


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            pid = int(entry.name)
            yield pid, " ".join(processes.arguments(pid))


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0
