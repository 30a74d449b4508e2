"""Looking at and ending the servers' processes, told apart by their command lines (readable without any right)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LAUNCHER = Path(__file__).with_name("launcher.py")
# The servers that this process started: to be reaped when they end, or they would stay as zombies.
_children: list[subprocess.Popen[bytes]] = []


class EmbeddedError(RuntimeError):
    """The embedded servers can't do what was asked; the message says what to do."""


def launched(
    command: Sequence[str | Path], *, user: str | None = None, reach: Sequence[Path] = (), parent: int | None = None
) -> list[str]:
    """The command line that runs `command` through launcher.py."""
    line = [sys.executable, "-I", "-S", str(LAUNCHER)]
    if user:
        line += ["--user", user]
        for path in reach:
            line += ["--reach", str(path)]
    if parent:
        line += ["--parent", str(parent)]
    return [*line, "--", *map(str, command)]


def spawn(command: Sequence[str], *, log: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
    """Starts a server in a session of its own, so that a terminal's Ctrl-C does not reach it."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=cwd,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
    )
    _children.append(child)
    return child


def arguments(pid: int) -> list[str]:
    """The process's command line; empty for one that is gone or a zombie."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return line.rstrip(b"\0").decode(errors="replace").split("\0") if line else []


def find(matches: Callable[[list[str]], bool]) -> list[int]:
    """Every process but ours whose command line matches."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and matches(arguments(pid))]


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise EmbeddedError(f"Process {pid} belongs to another user; stop it as that user, then try again.") from error


def wait_until(condition: Callable[[], bool], *, timeout_s: float, pause_s: float = 0.02) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause_s)
    return True


def end(pid: int, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Sends one signal after the other, each with its time limit in seconds, until the process is gone."""
    for number, timeout_s in steps:
        send(pid, number)
        if wait_until(lambda: gone(pid), timeout_s=timeout_s):
            return
    raise EmbeddedError(f"Process {pid} does not end; stop it by hand, then try again.")


@contextmanager
def ended_on_error(pid: int, steps: Sequence[tuple[signal.Signals, float]]) -> Iterator[None]:
    """For the wait after a start: an interrupt in it must not leave a server that nobody knows of."""
    try:
        yield
    except BaseException:
        end(pid, steps)
        raise


def gone(pid: int) -> bool:
    for child in _children:
        if child.pid == pid:
            return child.poll() is not None
    return not arguments(pid)
