"""`make run`: servers, set-up, then web, worker and beat until Ctrl-C, all from one small process.

It imports no Django itself; what needs Django is done by `python -m relayadmin.supervisor set-up`, which ends.
"""

from __future__ import annotations

import fcntl
import http.client
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from relayadmin import embedded
from relayadmin.embedded import payments
from relayadmin.embedded.home import PROJECT, Home
from relayadmin.embedded.processes import launched

HOST = "127.0.0.1"
RESTARTS_MAX = 5
STEADY_AFTER_S = 60.0  # a child that ran this long has its earlier failures forgotten
READY_WITHIN_S = 90.0
SERVERS_LOOK_EVERY_S = 5.0


class Stopped(Exception):
    """A signal arrived while something that blocks was under way."""


class Refused(Exception):
    """Cannot start; the message is one sentence for the user."""


def say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone while we still have to stop things
        print(text, flush=True)


def chosen_port() -> int:
    """PORT, checked to be a number and free: before anything heavy starts."""
    raw = os.environ.get("PORT") or "8000"
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw) <= 65535):
        raise Refused(f"PORT must be a number from 1 to 65535, not {raw!r}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(raw)))
        except PermissionError as error:
            raise Refused(f"PORT {raw} needs root's rights; choose one from 1024 on.") from error
        except OSError as error:
            raise Refused(f"Port {raw} is taken by another program; set PORT to a free one.") from error
    return int(raw)


@contextmanager
def only_one() -> Iterator[None]:
    """Two of us in one home would run every scheduled job twice."""
    if not embedded.wanted():
        yield
        return
    home = Home.open()
    lock = os.open(home.locks / "supervisor", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"`make run` already runs on {home.root}; stop it, or set RELAYADMIN_HOME.") from error
        yield
    finally:
        os.close(lock)


@dataclass
class Child:
    name: str
    command: list[str]
    stop_within_s: float
    process: subprocess.Popen[bytes] | None = None
    rest: bytes = b""  # of its output: the line it has not finished
    started_at: float = 0.0
    failures: int = 0
    start_again_at: float | None = None

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.start_again_at = None
        self.process = start_process(self.command, output=subprocess.PIPE)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """To the whole session: what it started must not outlive it."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def start_process(command: list[str], *, output: int) -> subprocess.Popen[bytes]:
    """In a session of its own, where Ctrl-C does not reach it, and not to outlive us."""
    return subprocess.Popen(
        launched(command, parent=os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output == subprocess.PIPE else None,
        cwd=PROJECT,
        start_new_session=True,
    )


def children(port: int) -> list[Child]:
    python = sys.executable
    # In a container everything is root's; the worker's advice against it would fill the first screen.
    celery = [python, "-W", "ignore:You're running the worker", "-m", "celery", "-q", "-A", "relayadmin"]
    web = [
        *(python, "-m", "granian", "--interface", "wsgi", "relayadmin.wsgi:application"),
        *("--host", HOST, "--port", str(port), "--workers", "2", "--blocking-threads", "4"),
        *("--respawn-failed-workers", "--workers-kill-timeout", "2", "--no-ws", "--log-level", "warning"),
    ]
    worker = [
        *(*celery, "worker", "--pool", "threads", "--concurrency", "4", "--loglevel", "warning"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    beat = [*celery, "beat", "--loglevel", "warning", "--pidfile", ""]
    # The order of stopping: first nothing new comes in, then what runs may end.
    running = [Child("web", web, 4.0), Child("worker", worker, 4.0), Child("beat", beat, 2.0)]
    if payments.wanted():
        running.append(Child("pay", [python, "-m", "sandbox"], 2.0))
    return running


class Supervisor:
    def __init__(self, port: int) -> None:
        self.port = port
        self.children: list[Child] = []
        self.signals = 0
        self.interruptible = True
        self.failed = False
        self.ready = threading.Event()
        self.selector = selectors.DefaultSelector()
        # Whatever happens (a signal, a child's end, readiness) ends the selector's wait by a byte in this pair.
        self.bell, self.bell_rope = socket.socketpair()
        for end in (self.bell, self.bell_rope):
            end.setblocking(False)
        self.selector.register(self.bell, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self.bell_rope.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> int:
        try:
            servers = embedded.attach()
            try:
                self._serve(servers)
            finally:
                self.interruptible = False
                self._stop_all()
                servers.detach()
        except Stopped:
            pass
        if self.signals:
            say("relayadmin stopped.")
        return 1 if self.failed else 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.interruptible:
            self.interruptible = False
            raise Stopped

    def _serve(self, servers: embedded.Servers) -> None:
        if os.environ.get("RELAYADMIN_EMBEDDED") == "1":
            os.environ["RELAYADMIN_SANDBOX"] = "1"
        sandbox = payments.ensure(Home.open()) if payments.wanted() else None
        os.environ["PORT"] = str(self.port)
        os.environ["PYTHONUNBUFFERED"] = "1"
        demo = self._set_up()
        self.interruptible = False
        if self.signals:
            return
        self.children = children(self.port)
        for child in self.children:
            self._start(child)
        threading.Thread(target=self._await_ready, daemon=True).start()
        self._watch(servers, demo, sandbox.address if sandbox else None)

    def _set_up(self) -> dict[str, object]:
        """Migrations, price book, demo; returns what the demo has to say the first time."""
        process = start_process([sys.executable, "-m", "relayadmin.supervisor", "set-up"], output=subprocess.PIPE)
        try:
            output, _ = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        *messages, last = output.decode(errors="replace").splitlines() or [""]
        if process.returncode != 0:
            say("\n".join([*messages, last]))
            raise Refused("The database could not be set up; the lines above say why.")
        for message in messages:
            say(message)
        return dict(json.loads(last or "{}"))

    def _watch(self, servers: embedded.Servers, demo: dict[str, object], sandbox: str | None) -> None:
        greeted = False
        look_at = time.monotonic() + SERVERS_LOOK_EVERY_S
        while not self.signals and not self.failed:
            self._pump(timeout_s=1.0)
            self._tend()
            if self.ready.is_set() and not greeted:
                greeted = True
                say(greeting(self.port, demo, sandbox))
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + SERVERS_LOOK_EVERY_S
                if servers.revive():
                    say("A database server had died and was started again; its log is below RELAYADMIN_HOME/log.")

    def _start(self, child: Child) -> None:
        child.start()
        assert child.process is not None
        assert child.process.stdout is not None
        self.selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.start_again_at is not None:
                if now >= child.start_again_at:
                    self._start(child)
            elif not child.running():
                assert child.process is not None
                child.signal(signal.SIGKILL)  # its own children, if it left any
                child.failures = 1 if now - child.started_at > STEADY_AFTER_S else child.failures + 1
                if child.failures > RESTARTS_MAX:
                    say(f"{child.name} ended {child.failures} times in a row; its last lines above say why.")
                    self.failed = True
                    return
                pause_s = 2.0 ** (child.failures - 1)
                child.start_again_at = now + pause_s
                say(f"{child.name} ended with {child.process.returncode}; starting it again in {pause_s:g} s.")

    def _pump(self, *, timeout_s: float) -> None:
        """Passes on what the children write, each line under its child's name."""
        for key, _ in self.selector.select(timeout_s):
            if key.data is None:
                with suppress(BlockingIOError):
                    self.bell.recv(1024)
                continue
            child: Child = key.data
            try:
                part = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            if not part:
                self.selector.unregister(key.fileobj)
                part, child.rest = (child.rest + b"\n" if child.rest else b""), b""
            *lines, child.rest = (child.rest + part).split(b"\n")
            for line in lines:
                say(f"{child.name:<6} │ {line.decode(errors='replace')}")

    def _stop_all(self) -> None:
        seen = self.signals
        for group in (self.children[:1], self.children[1:]):
            for child in group:
                child.signal(signal.SIGTERM)
            end = time.monotonic() + max((child.stop_within_s for child in group), default=0)
            while any(child.running() for child in group) and time.monotonic() < end and self.signals == seen:
                self._pump(timeout_s=0.1)
            for child in group:
                child.signal(signal.SIGKILL)
                if child.process is not None:
                    child.process.wait()
        self._pump(timeout_s=0)

    def _await_ready(self) -> None:
        answer = "nothing answered"
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                if response.status == 200:
                    self.ready.set()
                    self.bell_rope.send(b"!")
                    return
                answer = response.read(500).decode(errors="replace")
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.1)
        say(f"Not ready after {READY_WITHIN_S:g} s ({answer}); still trying to serve.")


def greeting(port: int, demo: dict[str, object], sandbox: str | None = None) -> str:
    address = f"http://{HOST}:{port}"
    lines = ["", f"  relayadmin is ready:  {address}", f"  operator's admin:     {address}/admin/"]
    if sandbox:
        lines.append(f"  payment sandbox:      {sandbox}/  (in place of Stripe; no real money)")
    lines.append("")
    if demo:
        lines += ["  Demo log-ins, shown this once:", *indented(demo, "    "), ""]
    return "\n".join([*lines, "  Ctrl-C stops everything; the data stays.", ""])


def indented(value: dict[str, object], indent: str) -> list[str]:
    lines = []
    width = max((len(name) for name in value), default=0)
    for name, inner in value.items():
        if isinstance(inner, dict):
            lines += [f"{indent}{name}", *indented(inner, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{width}}  {inner}")
    return lines


def set_up() -> None:
    """Brings the database to what this version expects. The last line on standard output is the demo's JSON."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "relayadmin.settings")
    import django
    from django.apps import apps
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    if not apps.get_model("metering", "Price")._default_manager.exists():
        call_command("import_prices", stdout=io.StringIO())
    demo = io.StringIO()
    if os.environ.get("RELAYADMIN_SANDBOX") == "1":
        call_command("setup_demo", stdout=demo)
    print(json.dumps(json.loads(demo.getvalue() or "{}")))


def guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except (Refused, embedded.EmbeddedError) as error:
        print(f"relayadmin: {error}", file=sys.stderr)
        return 1


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # terminals that know no │
    port = chosen_port()
    with only_one():
        return Supervisor(port).run()


if __name__ == "__main__":
    if sys.argv[1:] == ["set-up"]:
        set_up()
    else:
        sys.exit(guarded(main))
