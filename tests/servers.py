"""Servers for the tests: the first pytest process starts them, xdist's workers inherit their addresses.

Loaded with `-p tests.servers`, before pytest-django reads the settings. With DATABASE_URL and REDIS_URL set, those
servers are used and nothing is started.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest

from relayadmin import embedded

PREFIX = "relayadmin-test-"

_home: Path | None = None
_lock: int | None = None
_servers: embedded.Servers | None = None


def make_home(parent: Path) -> tuple[Path, int]:
    """A new folder that no other run discards while this process lives, or until the returned lock is closed."""
    while True:
        home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _take_lock(home)
        if lock is not None:
            return home, lock
        # Another run found it before it was locked, and discards it.


def discard_left(parent: Path) -> None:
    """Discard the folders, and stop the servers, of runs that were killed: of those whose lock nobody holds."""
    for home in parent.glob(f"{PREFIX}*"):
        lock = _take_lock(home) if os.access(home, os.W_OK) else None
        if lock is not None:
            embedded.discard(home)
            os.close(lock)


def _take_lock(home: Path) -> int | None:
    """The lock on a folder, open until it is closed or the process ends; None if another's, or the folder is gone."""
    try:
        lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(home)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _start() -> None:
    """In a folder that is thrown away, so without the waits that make a database survive a power cut."""
    global _home, _lock, _servers
    if not embedded.wanted():
        return
    parent = Path(tempfile.gettempdir())
    discard_left(parent)
    _home, _lock = make_home(parent)
    try:
        _servers = embedded.attach(_home, durable=False)
    except embedded.EmbeddedError as error:
        shutil.rmtree(_home, ignore_errors=True)
        pytest.exit(f"relayadmin: {error}", returncode=1)
    os.environ["RELAYADMIN_HOME"] = str(_home)
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Runs also after Ctrl-C; what skips even this is caught by the handle's own exit hook."""
    if _servers is not None and _home is not None and _lock is not None:
        _servers.detach()
        shutil.rmtree(_home, ignore_errors=True)
        os.close(_lock)


_start()
