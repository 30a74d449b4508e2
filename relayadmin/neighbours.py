"""Large pieces of work are shared among the web processes of one machine: one that has nothing to do takes them.

The server gives every connection to one of its processes, and a connection that is kept stays there. So two relay nodes
that report usage may both end in one process, whose interpreter runs one of them at a time, while the other process
idles. Where a process is at such work already, it asks its neighbours; only if none is idle it does the work itself.

A process listens at a socket in Linux's abstract namespace, which needs no file and ends with the process; elsewhere
nothing is shared. Its name is derived from the secret key and the database, and each side checks that the other runs as
the same user, so that no request comes into foreign hands.
"""

import hashlib
import logging
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection

from django.conf import settings
from django.db import close_old_connections

Handler = Callable[[bytes], bytes | None]
PLACES = 32  # how many processes of one machine can share work
ASKS_FOR_S = 0.05
SENT_WITHIN_S = 10.0
_TAKEN = b"\x01"

logger = logging.getLogger(__name__)


class Desk:
    """A process's place among its neighbours; `group` names those who may share work with each other."""

    def __init__(self, handler: Handler, *, group: str) -> None:
        self._handler, self._group = handler, group
        self._lock, self._at_work = threading.Lock(), 0
        self._address = ""
        # Joined when the interpreter ends: a server that stops lets this work end as it does its own requests'.
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="neighbours")

    def open(self) -> bool:
        """Take work from now on; False if all places of the group are taken: then this process only gives."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for address in _addresses(self._group):
            with suppress(OSError):
                listener.bind(address)
                listener.listen(16)
                self._address = address
                threading.Thread(target=self._receive, args=(listener,), name="neighbours", daemon=True).start()
                return True
        listener.close()
        return False

    def do(self, work: Callable[[], bytes], here: Callable[[], bytes]) -> bytes:
        """What `here` returns; if this process is at work already, an idle neighbour's answer to `work`.

        A neighbour that dies, or finds that it can't do it, leaves it to `here`, so it must be safe to begin again.
        """
        if not self._begin(only_if_idle=True):
            answer = self._ask(work)
            if answer is not None:
                return answer
            self._begin(only_if_idle=False)
        try:
            return here()
        finally:
            self._end()

    def _begin(self, *, only_if_idle: bool) -> bool:
        with self._lock:
            if only_if_idle and self._at_work:
                return False
            self._at_work += 1
            return True

    def _end(self) -> None:
        with self._lock:
            self._at_work -= 1

    def _ask(self, work: Callable[[], bytes]) -> bytes | None:
        until = time.monotonic() + ASKS_FOR_S
        addresses = [address for address in _addresses(self._group) if address != self._address]
        random.shuffle(addresses)
        for address in addresses:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as neighbour:
                try:
                    neighbour.connect(address)
                except OSError:
                    continue  # The place is free.
                if not _is_ours(neighbour):
                    continue
                with suppress(OSError, EOFError), Connection(neighbour.detach()) as connection:
                    if connection.poll(max(0.0, until - time.monotonic())) and connection.recv_bytes() == _TAKEN:
                        connection.send_bytes(work())
                        return connection.recv_bytes()
            if time.monotonic() > until:
                break
        return None

    def _receive(self, listener: socket.socket) -> None:
        while True:
            asking, _ = listener.accept()
            if not (_is_ours(asking) and self._begin(only_if_idle=True)):
                asking.close()
                continue
            try:
                self._hands.submit(self._take, asking).add_done_callback(_report)
            except RuntimeError:  # The interpreter is ending.
                asking.close()
                return

    def _take(self, asking: socket.socket) -> None:
        try:
            with Connection(asking.detach()) as connection:
                work = _received(connection)
                if work is None:
                    return
                close_old_connections()
                answer = self._handler(work)
                if answer is not None:
                    with suppress(OSError):  # Nobody waits for it any more.
                        connection.send_bytes(answer)
        finally:
            close_old_connections()
            self._end()


def _received(connection: Connection) -> bytes | None:
    """The work of who asks, once told that it is taken; None if it has gone, or sends nothing."""
    with suppress(OSError, EOFError):
        connection.send_bytes(_TAKEN)
        if connection.poll(SENT_WITHIN_S):
            return connection.recv_bytes()
    return None


def _report(taken: Future[None]) -> None:
    fault = taken.exception()
    if fault is not None:
        logger.error("work taken from a neighbour failed; the neighbour does it itself", exc_info=fault)


def _addresses(group: str) -> list[str]:
    return [f"\0relayadmin-{group}-{place}" for place in range(PLACES)]


def _is_ours(peer: socket.socket) -> bool:
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())


_desk: Desk | None = None


def serve(handler: Handler) -> None:
    """Share work with the neighbours of this installation from now on.

    `handler` returns the answer, or None for what the process that asks is to do itself.
    """
    global _desk
    if sys.platform == "linux":
        installation = f"{settings.SECRET_KEY}\0{settings.DATABASE_URL}"
        _desk = Desk(handler, group=hashlib.sha256(installation.encode()).hexdigest()[:32])
        _desk.open()


def do(work: Callable[[], bytes], here: Callable[[], bytes]) -> bytes:
    """What `here` returns; if this process is at work already, an idle neighbour's answer to `work`."""
    return here() if _desk is None else _desk.do(work, here)
