"""What the sandbox remembers: objects, saved answers, deliveries and settings, in one SQLite file.

One lock and one connection: a request changes the state in one transaction, so a killed process leaves none half done.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.errors import Json

SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS object_kind ON object (kind, seq);
CREATE TABLE IF NOT EXISTS answer (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, state TEXT NOT NULL, due_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, answer TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (state, due_at);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
TABLES = ("object", "answer", "delivery", "setting")
_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


class Store:
    def __init__(self, path: Path | str) -> None:
        self.lock = threading.RLock()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.lock:
            self.db.execute("BEGIN")
            try:
                yield
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def now(self) -> int:
        """The sandbox's clock, which can be set forward."""
        return int(time.time()) + int(self.setting("clock_ahead_s", 0))

    def find(self, id: str) -> Json | None:
        with self.lock:
            row = self.db.execute("SELECT body FROM object WHERE id = ?", (id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, thing: Json) -> Json:
        """Insert or replace an object by its id; its place in lists stays."""
        self.db.execute(
            "INSERT INTO object (id, kind, body) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (thing["id"], thing["object"], json.dumps(thing)),
        )
        return thing

    def every(self, kind: str, **fields: Any) -> list[Json]:
        """All of a kind whose top-level fields have these values, newest first."""
        wanted = {name: value for name, value in fields.items() if value is not None}
        where = "".join(f" AND json_extract(body, '$.{name}') = ?" for name in wanted)
        with self.lock:
            rows = self.db.execute(
                f"SELECT body FROM object WHERE kind = ?{where} ORDER BY seq DESC",
                (kind, *wanted.values()),
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def setting(self, name: str, default: Any) -> Any:
        with self.lock:
            row = self.db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set(self, name: str, value: Any) -> None:
        self.db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, json.dumps(value)))

    def answer(self, key: str) -> tuple[str, int, Json] | None:
        with self.lock:
            row = self.db.execute("SELECT fingerprint, status, body FROM answer WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], row[1], json.loads(row[2]))

    def save_answer(self, key: str, fingerprint: str, status: int, body: Json) -> None:
        self.db.execute("INSERT INTO answer VALUES (?, ?, ?, ?)", (key, fingerprint, status, json.dumps(body)))

    def empty(self) -> None:
        for table in TABLES:
            self.db.execute(f"DELETE FROM {table}")
