"""Servers for the tests: the first pytest process starts them, xdist's workers inherit their addresses.

Loaded with `-p tests.servers`, before pytest-django reads the settings. With DATABASE_URL and REDIS_URL set, those
servers are used and nothing is started.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import pytest

from relayadmin import embedded

PREFIX = "relayadmin-test-"
BEING_MADE_S = 60.0  # a folder this young may be a run that has not attached yet

_home: Path | None = None
_servers: embedded.Servers | None = None


def _start() -> None:
    """In a folder that is thrown away, so without the waits that make a database survive a power cut."""
    global _home, _servers
    if not embedded.wanted():
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if os.access(folder, os.W_OK) and time.time() - folder.stat().st_mtime > BEING_MADE_S:
            embedded.discard(folder)  # if a killed run left it
    _home = Path(tempfile.mkdtemp(prefix=PREFIX))
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
    if _servers is not None and _home is not None:
        _servers.detach()
        shutil.rmtree(_home, ignore_errors=True)


_start()
