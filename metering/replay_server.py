"""A web server for a command to talk to: the one that runs, or one of its own for as long as the command runs."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import urlopen

from metering.relay_client import RelayCallFailed, RelayClient
from relayadmin.embedded.home import PROJECT
from relayadmin.embedded.processes import launched

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0


class NoServer(Exception):
    """No server to talk to; the message is a sentence's beginning."""


@contextmanager
def server(url: str | None, *, relay_token: str) -> Iterator[str]:
    """The address of a server that knows this relay token.

    `url` names one; without it, the one on PORT (8000) is used if it works on our database, else a server is started
    on a free loopback port and stopped at the end. Raises NoServer.
    """
    if url is not None:
        if not _knows(url, relay_token):
            raise NoServer(f"the server at {url} works on another database than this command")
        yield url
        return
    running = f"http://{HOST}:{os.environ.get('PORT') or '8000'}"
    if _fault(running) is None and _knows(running, relay_token):
        yield running
        return
    with _started() as own:
        yield own


def _fault(url: str) -> str | None:
    """Why nothing can be asked of a server; None if it is ready."""
    try:
        with urlopen(f"{url}/readyz", timeout=5):
            return None
    except HTTPError as error:
        with error:
            return error.read(500).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error)


def _knows(url: str, relay_token: str) -> bool:
    """Whether our token, which only our database has, gets past the door: an empty batch is refused behind it."""
    try:
        with RelayClient(url, relay_token, timeout_s=10) as client:
            client.report([])
    except RelayCallFailed as error:
        if error.status == 0:
            raise NoServer(str(error)) from error
        return error.status == 400
    return False


@contextmanager
def _started() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "relayadmin.wsgi:application"),
        *("--host", HOST, "--port", str(port), "--workers", "2", "--blocking-threads", "4"),
        *("--workers-kill-timeout", "2", "--no-ws", "--log-level", "warning"),
    ]
    process = subprocess.Popen(
        launched(command, parent=os.getpid()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=PROJECT
    )
    try:
        url = f"http://{HOST}:{port}"
        end = time.monotonic() + READY_WITHIN_S
        while fault := _fault(url):
            if process.poll() is not None or time.monotonic() > end:
                raise NoServer(f"no server answers, and one started for this command is not ready ({fault})")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
