"""Trouble on order, for tests: the next calls that match go wrong in the way that is asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sandbox.errors import Json, Refused

# Before the request is applied, or after it is applied and committed.
KINDS = {
    "error", "error_after",  # 500; under an idempotency key it is saved and replayed
    "timeout", "timeout_after",  # no answer for `seconds`, then the connection is cut
    "cut", "cut_after",  # the connection is cut at once
    "slow",  # an ordinary answer, `seconds` late
    "rate_limit",  # 429
}  # fmt: skip


@dataclass
class Fault:
    kind: str
    times: int = 1
    method: str | None = None  # GET, POST; None: both
    path: str = ""  # the beginning of it
    seconds: int = 20


class Faults:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Fault] = []

    def plan(self, wanted: Json) -> None:
        if wanted.get("kind") not in KINDS:
            raise Refused(f"kind must be one of {', '.join(sorted(KINDS))}", param="kind")
        with self._lock:
            self._planned.append(Fault(**wanted))

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that is planned for such a call, one time less of it."""
        with self._lock:
            for fault in self._planned:
                if fault.method in (None, method) and path.startswith(fault.path):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._planned.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()
