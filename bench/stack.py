"""The stack that is measured: what `make run` starts, in a home of its own that is thrown away."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from relayadmin.embedded.home import PROJECT
from relayadmin.embedded.processes import launched

SERVERS = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SECRET_KEY", "RELAYADMIN_EMBEDDED", "RELAYADMIN_SANDBOX")
READY_WITHIN_S = 180


@dataclass(frozen=True)
class Stack:
    port: int
    home: Path
    supervisor: int

    def pss_mb(self) -> float:
        """Proportional memory of every process of the stack, in MB."""
        total = 0
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                environment = (folder / "environ").read_bytes()
                if f"RELAYADMIN_BENCH={self.home}".encode() in environment.split(b"\0"):
                    rollup = (folder / "smaps_rollup").read_text()
                    total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
        return total / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running() -> Iterator[Stack]:
    """Start the stack, wait until it is ready, stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="relayadmin-bench-") as folder, (Path(folder) / "log").open("w+") as log:
        home, port = Path(folder) / "var", free_port()
        process = launch(home, port, log=log, settings="bench.settings")
        try:
            await_ready(process, port, log=log)
            yield Stack(port, home, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def launch(home: Path, port: int, *, log: TextIO, settings: str = "relayadmin.settings") -> subprocess.Popen[bytes]:
    """Start what `make run` starts; every process of it carries RELAYADMIN_BENCH, the servers excepted.

    It ends when the thread ends that called this.
    """
    environment = {name: value for name, value in os.environ.items() if name not in SERVERS}
    environment |= {
        "RELAYADMIN_HOME": str(home),
        "PORT": str(port),
        "DJANGO_SETTINGS_MODULE": settings,
        "RELAYADMIN_BENCH": str(home),
    }
    command = [sys.executable, "-m", "relayadmin.supervisor"]
    return subprocess.Popen(
        launched(command, parent=os.getpid()), env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=PROJECT
    )


def await_ready(process: subprocess.Popen[bytes], port: int, *, log: TextIO) -> None:
    """Return when the stack serves. Raises RuntimeError with the end of its log if it ends, or takes too long."""
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"the stack did not become ready:\n{log.read()[-3000:]}")
