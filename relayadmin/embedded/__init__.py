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
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from relayadmin.embedded.home import Home
from relayadmin.embedded.postgres import Postgres
from relayadmin.embedded.processes import EmbeddedError
from relayadmin.embedded.redis import Redis

__all__ = ["EmbeddedError", "Servers", "attach", "discard", "wanted"]


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


def discard(home: Path) -> bool:
    """Stops what a killed process left running in a throw-away home and removes it; False if somebody is in there."""
    membership = Membership(Home.open(home))
    with membership.alone():
        membership.enter()
        if not membership.leave():
            return False
        shutil.rmtree(home, ignore_errors=True)
    return True


class Servers:
    """One process's part in the servers of one home."""

    def __init__(self, home: Path | str | None, *, durable: bool) -> None:
        self.durable = durable
        self._place = home
        self._pid = os.getpid()
        self._membership: Membership | None = None
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    def join(self) -> None:
        if not wanted():
            return
        home = Home.open(self._place)
        membership = Membership(home)
        with membership.alone():
            membership.enter()
            try:
                self._postgres = None if os.environ.get("DATABASE_URL") else Postgres(home)
                self._redis = None if os.environ.get("REDIS_URL") else Redis(home)
                self._ensure(home)
            except BaseException:
                membership.leave()
                raise
        self._membership = membership
        atexit.register(self.detach)

    def revive(self) -> bool:
        """Starts again what died meanwhile, at its old address; says whether anything had."""
        if self._membership is None:
            return False
        servers = [server for server in (self._postgres, self._redis) if server is not None]
        if all(server.running() for server in servers):
            return False
        with self._membership.alone():
            self._ensure(self._membership.home)
        return True

    def detach(self) -> None:
        """Leaves; stops the servers if nobody else is left. Does nothing the second time, and in a forked child."""
        if self._membership is None or self._pid != os.getpid():
            return
        membership, self._membership = self._membership, None
        with membership.alone():
            membership.leave()
        atexit.unregister(self.detach)

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _ensure(self, home: Home) -> None:
        if self._postgres is not None:
            os.environ["DATABASE_URL"] = self._postgres.ensure(durable=self.durable)
            os.environ["RELAYADMIN_EMBEDDED"] = "1"
        if self._redis is not None:
            os.environ["REDIS_URL"] = self._redis.ensure(durable=self.durable)
        os.environ.setdefault("CELERY_BROKER_URL", os.environ["REDIS_URL"])
        if self._postgres is not None and not os.environ.get("SECRET_KEY"):
            os.environ["SECRET_KEY"] = home.secret("secret-key")


class Membership:
    """A shared lock on a file of the home, held by each attached process; the system drops it for a killed one."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._file: int | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else of this home starts, joins or leaves meanwhile."""
        lock = os.open(self.home.locks / "starting", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def enter(self) -> None:
        self._file = os.open(self.home.locks / "members", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Stops the servers and says True if nobody else is in. Both, also one that a process long gone had started."""
        assert self._file is not None
        file, self._file = self._file, None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            Redis(self.home).stop()
            Postgres(self.home).stop()
            return True
        finally:
            os.close(file)
