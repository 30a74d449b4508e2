"""Web processes share large pieces of work: what is handed over, to whom, and what becomes of it when one fails."""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import pytest

from relayadmin import neighbours
from relayadmin.embedded.home import PROJECT
from relayadmin.neighbours import PLACES, Desk
from tests.concurrency.racing import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is shared elsewhere than on Linux")

PATIENCE_S = 30
NOBODY = 65534
TAKEN = b"\x00\x00\x00\x01\x01"


class Work:
    """A handler that says what it was given, and can be kept at it."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, work: bytes) -> bytes | None:
        self.given.append(work)
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return b"neighbour: " + work


def at_once(work: bytes) -> bytes:
    return b"neighbour: " + work


def group() -> str:
    return uuid4().hex


def desk(of: str, handler: Callable[[bytes], bytes | None] = at_once) -> Desk:
    made = Desk(handler, group=of)
    assert made.open()
    return made


def done_meanwhile(busy: Desk, work: bytes | Callable[[], bytes] = b"second") -> bytes:
    """What becomes of a piece of work that comes to a process which is at another one."""
    second = work if callable(work) else lambda: work
    return busy.do(lambda: b"first", lambda: b"here, " + busy.do(second, lambda: b"here"))


def is_idle(one: Desk) -> bool:
    """Nothing is left at work; what a neighbour has taken ends a moment after its answer."""
    return bool(wait_until(lambda: one._at_work == 0))


class TestWork:
    def test_is_done_here_while_nothing_else_is(self) -> None:
        of = group()
        asked = Work()
        here, _ = desk(of), desk(of, asked)
        for _ in range(3):
            assert here.do(lambda: b"one", lambda: b"here") == b"here"
        assert asked.given == []

    def test_goes_to_an_idle_neighbour_while_this_process_is_at_another(self) -> None:
        of = group()
        here, _ = desk(of), desk(of)
        assert done_meanwhile(here) == b"here, neighbour: second"

    def test_comes_over_whole(self) -> None:
        of = group()
        here, _ = desk(of), desk(of)
        large = os.urandom(17 * 1024 * 1024)
        assert done_meanwhile(here, large) == b"here, neighbour: " + large

    def test_is_done_here_without_neighbours(self) -> None:
        assert done_meanwhile(desk(group())) == b"here, here"

    def test_is_done_here_while_every_neighbour_is_at_some(self) -> None:
        of = group()
        asked = Work()
        here, other = desk(of), desk(of, asked)
        assert other.do(lambda: b"own", lambda: done_meanwhile(here)) == b"here, here"
        assert asked.given == []

    def test_that_a_neighbour_has_taken_keeps_it_from_more(self) -> None:
        of = group()
        taken = Work()
        here, other = desk(of), desk(of, taken)
        with ThreadPoolExecutor(1) as pool:
            handed = pool.submit(done_meanwhile, here, b"handed")
            assert taken.begun.wait(PATIENCE_S)
            assert here.do(lambda: b"third", lambda: b"here") == b"here"
            taken.may_end.set()
            assert handed.result(PATIENCE_S) == b"here, neighbour: handed"
        assert taken.given == [b"handed"]
        assert is_idle(here)
        assert is_idle(other)

    def test_is_given_by_a_process_that_found_no_place(self) -> None:
        of = group()
        taken = [desk(of) for _ in range(PLACES)]
        late = Desk(at_once, group=of)
        assert not late.open()
        assert done_meanwhile(late) == b"here, neighbour: second"
        assert len(taken) == PLACES

    def test_of_many_is_answered_each_with_its_own(self) -> None:
        of = group()
        desks = [desk(of) for _ in range(3)]

        def ask(number: int) -> bool:
            name = b"%d" % number
            answer = desks[number % 3].do(lambda: name, lambda: b"here: " + name)
            return answer in (b"here: " + name, b"neighbour: " + name)

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(ask, range(600)))
        assert all(is_idle(each) for each in desks)


class TestWhatFails:
    def test_at_the_neighbour_is_done_here(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(work: bytes) -> bytes:
            raise ZeroDivisionError

        of = group()
        here, other = desk(of), desk(of, broken)
        assert done_meanwhile(here) == b"here, here"
        (record,) = wait_until(lambda: caplog.records)
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        assert is_idle(other)

    def test_what_the_neighbour_leaves_is_done_here(self) -> None:
        of = group()
        here, _ = desk(of), desk(of, lambda work: None)
        assert done_meanwhile(here) == b"here, here"

    def test_a_neighbour_that_is_killed_leaves_it_to_this_process(self) -> None:
        of = group()
        here = desk(of)
        with neighbour(of, does="os.kill(os.getpid(), signal.SIGKILL)") as other:
            assert done_meanwhile(here) == b"here, here"
            assert other.wait(PATIENCE_S) == -9
        assert done_meanwhile(here) == b"here, here"

    def test_a_neighbour_that_is_stopped_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "ASKS_FOR_S", 0.05)
        of = group()
        here = desk(of)
        with neighbour(of) as other:
            other.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            # More than can wait at its socket: from then on even to connect would be to wait.
            for _ in range(40):
                assert done_meanwhile(here) == b"here, here"
            assert time.monotonic() - begun < PATIENCE_S
            other.send_signal(signal.SIGCONT)
            wait_until(lambda: done_meanwhile(here) == b"here, neighbour")

    def test_a_neighbour_that_stops_at_it_is_waited_for_no_longer_than_a_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(neighbours, "ANSWERED_WITHIN_S", 0.2)
        of = group()
        here = desk(of)
        with neighbour(of, does="os.kill(os.getpid(), signal.SIGSTOP)"):
            assert done_meanwhile(here) == b"here, here"

    def test_who_stops_sending_is_waited_for_no_longer_than_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "SENT_WITHIN_S", 0.2)
        of = group()
        other = desk(of)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(f"\0relayadmin-{of}-0")
            assert asking.recv(100) == TAKEN
            asking.sendall(struct.pack("!i", 1_000_000) + bytes(1000))
            assert is_idle(other)

    def test_without_a_file_descriptor_it_is_done_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none_left(*args: object) -> socket.socket:
            raise OSError(errno.EMFILE, "Too many open files")

        of = group()
        here, _ = desk(of), desk(of)
        monkeypatch.setattr(socket, "socket", none_left)
        assert done_meanwhile(here) == b"here, here"

    def test_without_a_thread_to_spare_it_is_done_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        of = group()
        here, other = desk(of), desk(of)

        def none_left(*args: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as short:
            short.setattr(other._hands, "submit", none_left)
            assert done_meanwhile(here) == b"here, here"
        assert is_idle(other)
        assert done_meanwhile(here) == b"here, neighbour: second"

    def test_a_process_without_such_sockets_serves_all_the_same(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refused(self: Desk) -> bool:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        monkeypatch.setattr(neighbours, "_desk", None)
        monkeypatch.setattr(Desk, "open", refused)
        neighbours.serve(at_once)
        assert neighbours.do(lambda: b"one", lambda: b"here") == b"here"
        assert "takes no work" in caplog.text

    def test_here_is_told_and_leaves_this_process_idle(self) -> None:
        here = desk(group())

        def broken() -> bytes:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            here.do(lambda: b"one", broken)
        assert is_idle(here)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
class TestAStranger:
    """Names in the abstract namespace belong to nobody: anybody on the machine can listen at one, or connect to it."""

    def test_that_listens_is_given_nothing(self) -> None:
        of = group()
        with stranger(
            "listener.bind(address)\n"
            "listener.listen()\n"
            "print('open', flush=True)\n"
            "asking, _ = listener.accept()\n"
            "try: asking.sendall(bytes([0, 0, 0, 1, 1]))\n"
            "except BrokenPipeError: pass\n"
            "try: print(asking.recv(100))\n"
            "except ConnectionResetError: print(b'')",
            of,
        ) as listening:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "open\n"
            assert done_meanwhile(desk(of)) == b"here, here"
            assert listening.stdout.readline() == "b''\n"

    @pytest.mark.parametrize(("user", "told"), [(NOBODY, b""), (0, TAKEN)])
    def test_that_asks_has_nothing_taken(self, user: int, told: bytes) -> None:
        of = group()
        desk(of)
        with stranger("listener.connect(address)\nprint(listener.recv(100))", of, user=user) as asking:
            assert asking.stdout is not None
            assert asking.stdout.readline() == f"{told!r}\n"


def stranger(does: str, of: str, *, user: int = NOBODY) -> subprocess.Popen[str]:
    """Another user's process at the first place of a group."""
    code = (
        f"import os, socket\nos.setuid({user})\nlistener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n"
        f"listener.settimeout(30)\naddress = chr(0) + 'relayadmin-{of}-0'\n{does}"
    )
    return subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, text=True)


@contextmanager
def neighbour(of: str, does: str = "b'neighbour'") -> Iterator[subprocess.Popen[str]]:
    """A process of its own that takes work of this group, and does that with it."""
    code = (
        "import os, signal, sys\n"
        "from relayadmin.neighbours import Desk\n"
        f"assert Desk(lambda work: {does}, group='{of}').open()\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "relayadmin.settings", "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.communicate()
