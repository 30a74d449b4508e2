"""Test runs side by side: each throws away what killed runs left, and nothing of one that lives."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from relayadmin.embedded.home import PROJECT
from tests import servers
from tests.project.embedded_home import Home, ask, clean_environment

RUN = """
import os, sys
from tests import servers
print(servers._home, os.environ["DATABASE_URL"], flush=True)
sys.stdin.read()
"""
HOLDER = """
import pathlib, sys
from tests import servers
print(servers.make_home(pathlib.Path(sys.argv[1]))[0], flush=True)
sys.stdin.read()
"""


class Process:
    """One that holds a folder until it is killed."""

    def __init__(self, *command: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def words(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Process]:
    """A run that has made its folder below `tmp_path` and starts nothing there."""
    holder = Process(HOLDER, str(tmp_path), environment=os.environ | {"PYTHONPATH": str(PROJECT)})
    yield holder
    holder.kill()


def age(folder: Path) -> None:
    """Nothing may depend on how old a folder is."""
    os.utime(folder, (time.time() - 86_400,) * 2)


def test_a_folder_stays_as_long_as_its_run_lives_and_goes_with_it(tmp_path: Path, holder: Process) -> None:
    (path,) = holder.words()
    age(Path(path))
    servers.discard_left(tmp_path)
    assert [str(folder) for folder in tmp_path.iterdir()] == [path]
    holder.kill()
    servers.discard_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_discarded_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    made: list[str] = []

    def find_it_at_once(**options: Any) -> str:
        made.append(str(make(**options)))
        if len(made) == 1:
            servers.discard_left(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", find_it_at_once)
    home, lock = servers.make_home(tmp_path)
    assert [str(folder) for folder in tmp_path.iterdir()] == [str(home)] == made[1:]
    os.close(lock)


def test_a_folder_that_another_run_is_discarding_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp
    locks: list[int | None] = []

    def lock_it_at_once(**options: Any) -> str:
        folder = str(make(**options))
        if not locks:
            locks.append(servers._take_lock(Path(folder)))
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", lock_it_at_once)
    home, lock = servers.make_home(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert home.is_dir()
    for open_lock in (lock, *locks):
        assert open_lock is not None
        os.close(open_lock)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket; what still runs below it at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="relayadmin-Runs-", ignore_cleanup_errors=True) as path:
        yield Path(path)
        for home in Path(path).iterdir():
            Home(home).kill_everything()


def test_a_run_that_starts_beside_another_leaves_its_servers_and_clears_a_killed_one_s(folder: Path) -> None:
    runs: list[Process] = []

    def start() -> tuple[Process, Path, str]:
        runs.append(Process(RUN, environment=clean_environment(TMPDIR=str(folder))))
        home, url = runs[-1].words()
        return runs[-1], Path(home), url

    try:
        first, first_home, first_url = start()
        age(first_home)
        _, second_home, second_url = start()
        assert ask(first_url, "SELECT 1") == ask(second_url, "SELECT 1") == 1
        first.kill()
        assert ask(first_url, "SELECT 1") == 1, "its servers live on without it"
        _, third_home, third_url = start()
        assert sorted(folder.iterdir()) == sorted([second_home, third_home])
        with pytest.raises(psycopg.OperationalError):
            ask(first_url, "SELECT 1")
        assert Home(first_home).servers() == []
        assert ask(second_url, "SELECT 1") == ask(third_url, "SELECT 1") == 1
    finally:
        for run in runs:
            run.kill()
