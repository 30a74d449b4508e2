"""What the supervisor does with its children."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayadmin import supervisor
from relayadmin.embedded import processes
from relayadmin.embedded.home import PROJECT
from tests.project.embedded_home import clean_environment

# The supervisor with children that need no Django and no servers; CHILDREN is Python for the list of them.
RIG = """
import sys
from relayadmin.supervisor import Child, Supervisor
import relayadmin.supervisor as module

class Rig(Supervisor):
    def _set_up(self): return {}
    def _await_ready(self): pass

def python(name, text, stop_within_s=1.0):
    return Child(name, [sys.executable, "-u", "-c", text], stop_within_s)

module.children = lambda port: CHILDREN
sys.exit(Rig(1).run())
"""
Starter = Callable[..., subprocess.Popen[str]]
SLEEPER = "import time; print('up'); time.sleep(60)"


@pytest.fixture
def start() -> Iterator[Starter]:
    started = []

    def starter(children: str, *, mark: str) -> subprocess.Popen[str]:
        started.append(run_rig(children, mark=mark))
        return started[-1]

    yield starter
    for process in started:
        with process:
            process.kill()


def run_rig(children: str, *, mark: str) -> subprocess.Popen[str]:
    # Addresses that nobody connects to: with them set, no embedded server is wanted.
    environment = clean_environment(DATABASE_URL="postgres://none/none", REDIS_URL="redis://none", MARK=mark)
    return subprocess.Popen(
        [sys.executable, "-c", RIG.replace("CHILDREN", children)],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if f"MARK={mark}".encode() in environment.split(b"\0"):
                found.append(int(folder.name))
    return found


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    lines = ""
    for line in process.stdout:
        lines += line
        if text in lines:
            return lines
    raise AssertionError(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_children_even_one_that_will_not_listen(
    start: Starter, number: signal.Signals, tmp_path: Path
) -> None:
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    process = start(f"[python('calm', {SLEEPER!r}), python('deaf', {deaf!r})]", mark=str(tmp_path))
    read_until(process, "deaf   │ up")
    started = time.monotonic()
    os.killpg(process.pid, number)
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - started < 5
    assert marked(str(tmp_path)) == []


def test_a_child_that_dies_is_started_again_and_said_so(start: Starter, tmp_path: Path) -> None:
    process = start(f"[python('web', {SLEEPER!r})]", mark=str(tmp_path))
    read_until(process, "web    │ up")
    [child] = set(marked(str(tmp_path))) - {process.pid}
    os.kill(child, signal.SIGKILL)
    read_until(process, "web ended with -9; starting it again in 1 s.\nweb    │ up")
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_a_child_that_cannot_live_ends_the_run_with_a_failure(start: Starter, tmp_path: Path) -> None:
    hasty = "(setattr(module, 'RESTARTS_MAX', 1), [python('web', 'raise SystemExit(\"no such thing\")')])[1]"
    process = start(hasty, mark=str(tmp_path))
    output = read_until(process, "web ended 2 times in a row")
    assert "web    │ no such thing" in output
    assert process.wait(timeout=10) == 1


def test_children_do_not_outlive_a_killed_supervisor(start: Starter, tmp_path: Path) -> None:
    process = start(f"[python('web', {SLEEPER!r})]", mark=str(tmp_path))
    read_until(process, "web    │ up")
    process.kill()
    process.wait()
    assert processes.wait_until(lambda: marked(str(tmp_path)) == [], timeout_s=5)


def test_the_greeting_shows_the_address_and_the_demo_log_ins() -> None:
    demo: dict[str, object] = {"operator": {"email": "op@example.com", "password": "once"}, "api_key": "sk-1"}
    text = supervisor.greeting(8123, demo)
    assert "http://127.0.0.1:8123\n" in text
    assert "email     op@example.com" in text
    assert "api_key   sk-1" in text
    assert "log-ins" not in supervisor.greeting(8123, {})
