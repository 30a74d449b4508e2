"""Web processes share large pieces of work: what is handed over, to whom, and what becomes of it when one fails."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from relayadmin import neighbours
from relayadmin.embedded.home import PROJECT
from relayadmin.neighbours import PLACES, Desk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is shared elsewhere than on Linux")

PATIENCE_S = 30
NOBODY = 65534


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
    until = time.monotonic() + PATIENCE_S
    while one._at_work and time.monotonic() < until:
        time.sleep(0.001)
    return one._at_work == 0


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

    def test_goes_to_no_other_installation(self) -> None:
        here, other = desk(group()), Work()
        desk(group(), other)
        assert done_meanwhile(here) == b"here, here"
        assert other.given == []

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
        with caplog.at_level(logging.ERROR):
            assert done_meanwhile(here) == b"here, here"
            other._hands.shutdown()
        assert caplog.records[0].exc_info is not None
        assert caplog.records[0].exc_info[0] is ZeroDivisionError
        assert is_idle(other)

    def test_what_the_neighbour_leaves_is_done_here(self) -> None:
        of = group()
        here, _ = desk(of), desk(of, lambda work: None)
        assert done_meanwhile(here) == b"here, here"

    def test_a_neighbour_that_is_killed_leaves_it_to_this_process(self) -> None:
        of = group()
        code = (
            "import os, signal, sys, django; django.setup()\n"
            "from relayadmin.neighbours import Desk\n"
            "desk = Desk(lambda work: os.kill(os.getpid(), signal.SIGKILL), group=sys.argv[1])\n"
            "assert desk.open()\n"
            "print('open', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, of]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment()
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            here = desk(of)
            assert done_meanwhile(here) == b"here, here"
            assert other.wait(PATIENCE_S) == -9
        assert done_meanwhile(here) == b"here, here"

    def test_here_is_told_and_leaves_this_process_idle(self) -> None:
        here = desk(group())

        def broken() -> bytes:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            here.do(lambda: b"one", broken)
        assert is_idle(here)

    def test_a_neighbour_that_asks_and_sends_nothing_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "SENT_WITHIN_S", 0.1)
        of = group()
        here, other = desk(of), desk(of)

        def silent() -> bytes:
            other._hands.submit(lambda: None).result(PATIENCE_S)  # Its only hand waits for us no longer.
            return b"too late"

        assert done_meanwhile(here, silent) == b"here, here"
        assert is_idle(other)


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
            "print(asking.recv(100))",
            of,
        ) as listening:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "open\n"
            assert done_meanwhile(desk(of)) == b"here, here"
            assert listening.stdout.readline() == "b''\n"

    @pytest.mark.parametrize(("user", "told"), [(NOBODY, b""), (0, b"\x00\x00\x00\x01\x01")])
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


def environment() -> dict[str, str]:
    return os.environ | {"DJANGO_SETTINGS_MODULE": "relayadmin.settings", "PYTHONPATH": str(PROJECT)}
