"""Large pieces of work are shared among the web processes of one machine: one that has nothing to do takes them.

The server gives every connection to one of its processes, and a connection that is kept stays there. So two relay nodes
that report usage may both end in one process, whose interpreter runs one of them at a time, while the other process
idles. Where a process is at such work already, it asks its neighbours; if none is idle, it does the work itself.

A process listens at a socket in Linux's abstract namespace, which needs no file and ends with the process; elsewhere
nothing is shared. Its name is derived from the secret key and the database, and each side checks that the other runs as
the same user, so that no request comes into foreign hands. No wait for a neighbour is without a limit.
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
from django.db import close_old_connections, connections

Handler = Callable[[bytes], bytes | None]
PLACES = 32  # how many processes of one machine can share work
ASKS_FOR_S = 0.05
SENT_WITHIN_S = 10.0
ANSWERED_WITHIN_S = 45.0  # longer than a statement waits for a lock
_TAKEN = b"\x01"

logger = logging.getLogger(__name__)


class Desk:
    """A process's place among its neighbours; `group` names those who may share work with each other."""

    def __init__(self, handler: Handler, *, group: str) -> None:
        self._handler, self._group = handler, group
        self._lock, self._at_work = threading.Lock(), 0
        self._address = ""
        # Joined when the interpreter ends: a process that stops lets this work end first.
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="neighbours")

    def open(self) -> bool:
        """Take work from now on; False if all places of the group are taken: then this process only gives.

        Raises OSError where there are no such sockets, or none are left.
        """
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
            connection = _reach(address)
            if connection is not None:
                with connection, suppress(OSError, EOFError):
                    if connection.poll(max(0.0, until - time.monotonic())) and connection.recv_bytes() == _TAKEN:
                        _limit(connection, sent_s=SENT_WITHIN_S, came_s=ANSWERED_WITHIN_S)
                        connection.send_bytes(work())
                        return connection.recv_bytes()
            if time.monotonic() > until:
                break
        return None

    def _receive(self, listener: socket.socket) -> None:
        while True:
            try:
                asking, _ = listener.accept()
            except OSError:  # No file descriptor is left, or who asked has gone already.
                time.sleep(0.1)
                continue
            if _is_ours(asking) and self._begin(only_if_idle=True):
                try:
                    self._hands.submit(self._take, asking).add_done_callback(_report)
                    continue
                except RuntimeError:  # The interpreter is ending, or has no thread to spare.
                    self._end()
            asking.close()

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
            try:
                close_old_connections()
            finally:
                self._end()


def _reach(address: str) -> Connection | None:
    """A connection to a neighbour of ours; None if the place is free, a stranger's, or its process doesn't answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as neighbour:
            # A process that is stopped accepts nothing, and where its queue is full even connecting would wait for it.
            neighbour.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(ASKS_FOR_S))
            neighbour.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(ASKS_FOR_S))
            neighbour.connect(address)
            return Connection(neighbour.detach()) if _is_ours(neighbour) else None
    except OSError:
        return None


def _received(connection: Connection) -> bytes | None:
    """The work of who asks, once told that it is taken; None if it has gone, or stops sending."""
    with suppress(OSError, EOFError):
        _limit(connection, sent_s=SENT_WITHIN_S, came_s=SENT_WITHIN_S)
        connection.send_bytes(_TAKEN)
        return connection.recv_bytes()
    return None


def _limit(connection: Connection, *, sent_s: float, came_s: float) -> None:
    """Let sending and receiving end with an OSError when nothing moves for so long."""
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(sent_s))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(came_s))


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


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
    """Share work with the neighbours of this installation from now on, where that is possible.

    `handler` returns the answer, or None for what the process that asks is to do itself.
    """
    global _desk
    if sys.platform != "linux":
        return
    database = [connections["default"].settings_dict[name] for name in ("HOST", "PORT", "NAME", "USER")]
    installation = "\0".join(map(str, [settings.SECRET_KEY, *database]))
    desk = Desk(handler, group=hashlib.sha256(installation.encode()).hexdigest()[:32])
    try:
        desk.open()
    except (OSError, RuntimeError):
        logger.warning("this process takes no work of its neighbours", exc_info=True)
    _desk = desk


def do(work: Callable[[], bytes], here: Callable[[], bytes]) -> bytes:
    """What `here` returns; if this process is at work already, an idle neighbour's answer to `work`."""
    return here() if _desk is None else _desk.do(work, here)
