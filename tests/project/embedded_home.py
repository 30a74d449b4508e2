"""A home of embedded servers and processes that attach to it, for tests: each attached process is a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from relayadmin.embedded import processes
from relayadmin.embedded.home import PROJECT

MEMBER = """
import json, os, sys
from relayadmin import embedded
with embedded.attach(sys.argv[1], durable=False) as servers:
    names = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SECRET_KEY", "RELAYADMIN_EMBEDDED")
    print(json.dumps({name: os.environ[name] for name in names}), flush=True)
    for line in sys.stdin:
        print(json.dumps(servers.revive()), flush=True)
"""


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment of a newcomer: none of our settings."""
    ours = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE", "PORT")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not re.match("RELAYADMIN|STRIPE", name)
    }
    return kept | {"PYTHONPATH": str(PROJECT)} | settings


class Member:
    """A process that attached, and stays so until told to leave."""

    def __init__(self, home: Path, *, user: str | None, packages: Path | None) -> None:
        elsewhere = f"import sysconfig; sysconfig.get_path = lambda name: {str(packages)!r}" if packages else ""
        command = [sys.executable, "-c", elsewhere + MEMBER, str(home)]
        if user:
            command = processes.launched(command, user=user, reach=[PROJECT, Path(sys.executable).resolve()])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment(), cwd="/"
        )

    def environment(self) -> dict[str, str]:
        return dict(self._answer())

    def revive(self) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write("revive\n")
        self.process.stdin.flush()
        return bool(self._answer())

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@dataclass
class Home:
    path: Path
    members: list[Member] = field(default_factory=list)

    def join(self, *, user: str | None = None, packages: Path | None = None) -> Member:
        """`user` runs it instead of us; `packages` is where it finds the servers' programs instead of in .venv."""
        self.members.append(Member(self.path, user=user, packages=packages))
        return self.members[-1]

    def servers(self) -> list[int]:
        """The processes of this home's PostgreSQL and Redis, by their command lines."""
        ours = (f"-D {self.path}/", f"{self.path}/redis/redis.conf")
        return processes.find(lambda arguments: any(mark in " ".join(arguments) for mark in ours))

    def postmaster(self) -> int:
        return int((self.path / "postgres" / "postmaster.pid").read_text().split()[0])

    def kill_everything(self) -> None:
        for member in self.members:
            member.kill()
        self.kill_servers()

    def kill_servers(self) -> None:
        for pid in self.servers():
            os.kill(pid, signal.SIGKILL)
        assert processes.wait_until(lambda: not self.servers(), timeout_s=30)


def ask(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
