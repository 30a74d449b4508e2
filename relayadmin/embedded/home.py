"""RELAYADMIN_HOME: where everything lies that the embedded servers write, and whose it is."""

from __future__ import annotations

import os
import pwd
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from relayadmin.embedded.processes import EmbeddedError

PROJECT = Path(__file__).resolve().parents[2]
LOG_BYTES_MAX = 20_000_000
# PostgreSQL refuses root, and initdb wants an entry in the machine's list of users: one that every machine has.
UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Home:
    root: Path

    @classmethod
    def open(cls, root: Path | str | None = None) -> Home:
        """The given folder, else RELAYADMIN_HOME, else var/ in the project; made if it is missing."""
        chosen = Path(root or os.environ.get("RELAYADMIN_HOME") or PROJECT / "var").expanduser()
        home = cls(chosen if chosen.is_absolute() else PROJECT / chosen)
        try:
            home.root.mkdir(parents=True, exist_ok=True)
            home = cls(home.root.resolve())
            for name, mode in (("locks", 0o700), ("log", 0o755), ("secrets", 0o700), ("run", 0o755)):
                (home.root / name).mkdir(mode=mode, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(
                f"RELAYADMIN_HOME {home.root} cannot be written ({error.strerror}); "
                "set RELAYADMIN_HOME to a folder of yours."
            ) from error
        if not os.access(home.root / "locks", os.W_OK):
            raise EmbeddedError(f"RELAYADMIN_HOME {home.root} belongs to another user; set it to a folder of yours.")
        return home

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def server_user(self, data: Path) -> str | None:
        """As whom the server runs whose files lie in `data`; None: as whoever we are."""
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError, KeyError):
            owner = data.stat().st_uid
            if owner != 0:
                return pwd.getpwuid(owner).pw_name
        return UNPRIVILEGED

    def folder(self, path: Path, *, user: str | None, mode: int = 0o700) -> Path:
        path.mkdir(mode=mode, exist_ok=True)
        give(path, user)
        return path

    def write(self, path: Path, text: str, *, user: str | None = None) -> None:
        """Replaces a file as a whole; readable by its owner only."""
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        give(draft, user)
        draft.rename(path)

    def secret(self, name: str) -> str:
        """A random value, made when it is first asked for."""
        path = self.root / "secrets" / name
        if not path.exists():
            self.write(path, secrets.token_urlsafe(48))
        return path.read_text()

    def log(self, name: str) -> Path:
        return self.root / "log" / f"{name}.log"

    def open_log(self, name: str) -> IO[bytes]:
        """The server's log, opened by us and handed down; one older file is kept when it has grown."""
        path = self.log(name)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.rename(path.with_name(path.name + ".1"))
        return path.open("ab")


def give(path: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
