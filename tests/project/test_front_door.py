"""`make run` and manage.py as seen from the shell."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from relayadmin.embedded import processes
from relayadmin.embedded.home import PROJECT
from tests.project.embedded_home import clean_environment


def run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**settings)
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "80 80", "٨٠٠٠"])
def test_a_wrong_port_is_refused_in_one_sentence(port: str, tmp_path: Path) -> None:
    result = run("-m", "relayadmin.supervisor", PORT=port, RELAYADMIN_HOME=str(tmp_path / "var"))
    assert result.returncode == 1
    assert result.stderr == f"relayadmin: PORT must be a number from 1 to 65535, not {port!r}.\n"
    assert not (tmp_path / "var").exists()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("-m", "relayadmin.supervisor", PORT=str(port), RELAYADMIN_HOME=str(tmp_path / "var"))
    assert result.returncode == 1
    assert result.stderr == f"relayadmin: Port {port} is taken by another program; set PORT to a free one.\n"
    assert not (tmp_path / "var").exists()


def test_a_command_runs_on_servers_of_its_own_and_prints_only_what_is_its_own(tmp_path: Path) -> None:
    script = "from django.db import connection as c; c.ensure_connection(); print(c.vendor)"
    result = run("manage.py", "shell", "--no-imports", "-c", script, RELAYADMIN_HOME=str(tmp_path))
    assert (result.stdout, result.returncode) == ("postgresql\n", 0), result.stderr
    assert processes_of(tmp_path) == []


def test_a_failing_command_keeps_its_exit_code(tmp_path: Path) -> None:
    result = run("manage.py", "shell", "--no-imports", "-c", "raise SystemExit(7)", RELAYADMIN_HOME=str(tmp_path))
    assert result.returncode == 7
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_command_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    script = "import time; print('here', flush=True); time.sleep(60)"
    # Tests that run in the background inherit an ignored SIGINT; a terminal's command has the default one.
    default = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", default, sys.executable, "manage.py", "shell", "--no-imports", "-c", script],
        cwd=PROJECT,
        env=clean_environment(RELAYADMIN_HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"here\n"
    os.killpg(command.pid, number)
    assert command.wait(timeout=20) != 0
    assert processes_of(tmp_path) == []
    command.stdout.close()


def test_help_starts_no_server(tmp_path: Path) -> None:
    assert run("manage.py", "help", RELAYADMIN_HOME=str(tmp_path / "var")).returncode == 0
    assert not (tmp_path / "var").exists()


def processes_of(home: Path) -> list[int]:
    return processes.find(lambda arguments: str(home) in " ".join(arguments))
