"""A database that falls silent is given up: no thread waits until the kernel does, a quarter of an hour later."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from relayadmin.embedded.home import PROJECT

# What PostgreSQL says to a client that it lets in: no password is wanted, and it may begin.
_WELCOME = b"R\x00\x00\x00\x08\x00\x00\x00\x00" + b"Z\x00\x00\x00\x05I"
_OPTIONS = ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
_SHOW = f"""
import django, json, os, socket
django.setup()
from django.db import connection
driver = __import__("psycopg").connect(**{{k: v for k, v in connection.get_connection_params().items() if k not in
    ("cursor_factory", "context", "prepare_threshold")}})
with socket.socket(fileno=os.dup(driver.fileno())) as one:
    shown = [one.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in {_OPTIONS}]
print(json.dumps(shown + [driver.info.get_parameters().get("connect_timeout")]))
"""
_CONNECT = "import django; django.setup()\nfrom django.db import connection; connection.ensure_connection()"


@contextmanager
def server(says: bytes) -> Iterator[int]:
    """A port at which somebody says this, and then no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        callers = []

        def answer() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    callers.append(caller)
                    if says:
                        caller.recv(1000)
                        caller.sendall(says)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        for caller in callers:
            caller.close()


def run(script: str, port: int, parameters: str = "") -> subprocess.CompletedProcess[str]:
    url = f"postgres://anybody@127.0.0.1:{port}/any?sslmode=disable&gssencmode=disable{parameters}"
    environment = os.environ | {"DATABASE_URL": url, "SECRET_KEY": "s" * 50}
    environment["DJANGO_SETTINGS_MODULE"] = "relayadmin.settings"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are read by Linux's names")
@pytest.mark.parametrize(
    ("parameters", "limits"),
    [
        ("", [30_000, 15, 5, 3, "10"]),
        ("&tcp_user_timeout=5000&keepalives_idle=2&connect_timeout=4", [5_000, 2, 5, 3, "4"]),
    ],
    ids=["as shipped", "as the address says"],
)
def test_the_kernel_is_told_how_long_to_wait(parameters: str, limits: list[object]) -> None:
    with server(_WELCOME) as port:
        shown = run(_SHOW, port, parameters)
    assert shown.stdout, shown.stderr
    assert json.loads(shown.stdout) == limits


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    begun = time.monotonic()
    with server(b"") as port:
        ended = run(_CONNECT, port, "&connect_timeout=2")
    assert "timeout" in ended.stderr
    assert ended.returncode == 1
    assert time.monotonic() - begun < 40
