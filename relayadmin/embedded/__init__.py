"""PostgreSQL and Redis for a machine that has neither: below RELAYADMIN_HOME, on loopback, gone when we are.

    with embedded.attach():
        …  # DATABASE_URL, REDIS_URL, CELERY_BROKER_URL, SECRET_KEY are in os.environ

Whoever attaches first starts the servers, whoever leaves last stops them. Each attached process holds a shared lock
on a file for as long as it lives, so that a killed one counts as gone. A server that is given by DATABASE_URL or
REDIS_URL is left alone, and so is everything in a child of an attached process, which inherits both.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from relayadmin.embedded.home import Home
from relayadmin.embedded.postgres import Postgres
from relayadmin.embedded.processes import EmbeddedError
from relayadmin.embedded.redis import Redis

__all__ = ["EmbeddedError", "Servers", "attach", "wanted"]


def wanted() -> bool:
    """Whether the environment leaves a server to us."""
    return not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"))


def attach(home: Path | str | None = None, *, durable: bool = True) -> Servers:
    """Starts or joins the servers that the environment does not name, and names them in os.environ.

    `durable=False` trades safety at a power cut for speed: for data that is thrown away, like a test run's.
    Raises EmbeddedError with a sentence for the user.
    """
    servers = Servers(home, durable=durable)
    servers.join()
    return servers


class Servers:
    """One process's part in the servers of one home."""

    def __init__(self, home: Path | str | None, *, durable: bool) -> None:
        self.durable = durable
        self._place = home
        self._pid = os.getpid()
        self._membership: int | None = None
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    def join(self) -> None:
        if not wanted():
            return
        self.home = Home.open(self._place)
        if not os.environ.get("DATABASE_URL"):
            self._postgres = Postgres(self.home)
        if not os.environ.get("REDIS_URL"):
            self._redis = Redis(self.home)
        with self._starting():
            self._membership = os.open(self.home.locks / "members", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._membership, fcntl.LOCK_SH)
            try:
                self._ensure()
            except BaseException:
                self._leave()
                raise
        atexit.register(self.detach)

    def revive(self) -> bool:
        """Starts again what died meanwhile, at its old address; says whether anything had."""
        if self._membership is None:
            return False
        servers = [server for server in (self._postgres, self._redis) if server is not None]
        if all(server.running() for server in servers):
            return False
        with self._starting():
            self._ensure()
        return True

    def detach(self) -> None:
        """Leaves; stops the servers if nobody else is left. Does nothing the second time, and in a forked child."""
        if self._membership is None or self._pid != os.getpid():
            return
        with self._starting():
            self._leave()
        atexit.unregister(self.detach)

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _ensure(self) -> None:
        if self._postgres is not None:
            os.environ["DATABASE_URL"] = self._postgres.ensure(durable=self.durable)
            os.environ["RELAYADMIN_EMBEDDED"] = "1"
        if self._redis is not None:
            os.environ["REDIS_URL"] = self._redis.ensure(durable=self.durable)
        os.environ.setdefault("CELERY_BROKER_URL", os.environ["REDIS_URL"])
        if self._postgres is not None and not os.environ.get("SECRET_KEY"):
            os.environ["SECRET_KEY"] = self.home.secret("secret-key")

    def _leave(self) -> None:
        """Under the starting lock: nobody can join between the look and the stop."""
        membership, self._membership = self._membership, None
        assert membership is not None
        try:
            fcntl.flock(membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            # Both, also those that another process had started: it is gone, and nobody else will.
            Redis(self.home).stop()
            Postgres(self.home).stop()
        finally:
            os.close(membership)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        lock = os.open(self.home.locks / "starting", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
