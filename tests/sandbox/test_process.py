"""`python -m sandbox`: where it exists, that it survives, and that it exists nowhere else."""

import json
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayadmin import supervisor
from relayadmin.embedded import payments
from relayadmin.embedded.home import PROJECT, Home
from tests.payments_sandbox import StripeSandbox
from tests.project.embedded_home import clean_environment
from tests.sandbox.http import Stranger

MAKE_RUN = {"RELAYADMIN_EMBEDDED": "1", "RELAYADMIN_SANDBOX": "1"}
ELSEWHERE = [
    {"RELAYADMIN_EMBEDDED": ""},  # DATABASE_URL is set
    {"RELAYADMIN_SANDBOX": ""},
    {"RELAYADMIN_SANDBOX": "0"},
    {"STRIPE_SECRET_KEY": "sk_test_1"},
    {"STRIPE_WEBHOOK_SECRET": "whsec_1"},
    {"STRIPE_API_BASE": "http://127.0.0.1:1"},
]
SHOW = """
import json
from relayadmin import settings as s
print(json.dumps([s.PAYMENTS_SANDBOX, s.STRIPE_SECRET_KEY, s.STRIPE_WEBHOOK_SECRET, s.STRIPE_API_BASE]))
"""
WANTED = """
from relayadmin import embedded
from relayadmin.embedded import payments
with embedded.attach():
    print(payments.wanted())
"""


class Process:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = payments.ensure(Home.open(home))
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Stranger:
        environment = clean_environment(RELAYADMIN_HOME=str(self.home), PORT="1", **MAKE_RUN)
        self.popen = subprocess.Popen([sys.executable, "-m", "sandbox"], cwd=PROJECT, env=environment)
        end = time.monotonic() + 15
        while True:
            try:
                urllib.request.urlopen(self.settings.address, timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        known = StripeSandbox(self.settings.address)
        known.secret_key = self.settings.secret_key
        return Stranger(known)

    def stop(self, number: signal.Signals) -> int:
        assert self.popen is not None
        self.popen.send_signal(number)
        return self.popen.wait(timeout=10)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    if made.popen is not None:
        made.popen.kill()
        made.popen.wait()


def test_it_comes_up_again_after_sigkill_with_all_that_it_answered(process: Process) -> None:
    stranger = process.start()
    session = stranger.session(customer=stranger.customer()).json
    kept = stranger.post("/v1/customers", {"name": "Kept"}, key="k").json
    stranger.sandbox.pay(session["id"])
    process.stop(signal.SIGKILL)
    stranger = process.start()
    assert stranger.get(f"/v1/checkout/sessions/{session['id']}").json["payment_status"] == "paid"
    assert stranger.post("/v1/customers", {"name": "Kept"}, key="k").json == kept
    assert len(stranger.get("/v1/charges").json["data"]) == 1
    assert {each["state"] for each in stranger.sandbox.sent()} == {"pending"}  # nobody was there to take them
    assert process.stop(signal.SIGTERM) == 0


def test_it_is_small_and_listens_on_loopback_only(process: Process) -> None:
    process.start()
    assert process.popen is not None
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 40_000  # KiB
    hexadecimal = f"{process.settings.port:04X}"
    listening = [
        line.split()[1]
        for line in (Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()).splitlines()
        if f":{hexadecimal} " in line and " 0A " in line
    ]
    assert listening == [f"0100007F:{hexadecimal}"]


def test_its_secrets_are_its_owners(process: Process) -> None:
    secret = process.home / "secrets" / "payment-sandbox"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    process.start()
    assert process.popen is not None
    assert stat.S_IMODE((process.home / "sandbox").stat().st_mode) == 0o700
    assert process.settings.secret_key not in Path(f"/proc/{process.popen.pid}/cmdline").read_text()


def test_port_and_secrets_stay_until_the_port_is_taken(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    first = payments.ensure(home)
    assert payments.ensure(home) == first
    with socket.socket() as taken:
        taken.bind((payments.HOST, first.port))
        taken.listen()
        moved = payments.ensure(home)
    assert moved.port != first.port
    assert (moved.secret_key, moved.webhook_secret) == (first.secret_key, first.webhook_secret)
    (tmp_path / "secrets" / "payment-sandbox").write_text("{}")
    assert payments.read(tmp_path) is None
    assert payments.ensure(home).secret_key != first.secret_key


def loaded(home: Path, **settings: str) -> list[object]:
    environment = clean_environment(RELAYADMIN_HOME=str(home), SECRET_KEY="x" * 40, **settings)
    made = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    return list(json.loads(made.stdout))


def test_under_make_run_the_settings_point_at_it(tmp_path: Path) -> None:
    made = payments.ensure(Home.open(tmp_path))
    assert loaded(tmp_path, **MAKE_RUN) == [True, made.secret_key, made.webhook_secret, made.address]


@pytest.mark.parametrize("change", ELSEWHERE)
def test_it_exists_nowhere_else(tmp_path: Path, change: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    payments.ensure(Home.open(tmp_path))
    is_sandbox, *values = loaded(tmp_path, **(MAKE_RUN | change))
    assert not is_sandbox
    given = [change.get(name, "") for name in payments.STRIPE]
    assert values == given
    environment = clean_environment(RELAYADMIN_HOME=str(tmp_path), **(MAKE_RUN | change))
    for name in {*MAKE_RUN, *payments.STRIPE}:
        monkeypatch.delenv(name, raising=False)
    for name, value in (MAKE_RUN | change).items():
        monkeypatch.setenv(name, value)
    assert "pay" not in [child.name for child in supervisor.children(8000)]
    refused = subprocess.run(
        [sys.executable, "-m", "sandbox"], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "make run" in refused.stderr


def test_the_supervisor_starts_it_under_make_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in payments.STRIPE:
        monkeypatch.delenv(name, raising=False)
    for name, value in MAKE_RUN.items():
        monkeypatch.setenv(name, value)
    assert [child.name for child in supervisor.children(8000)] == ["web", "worker", "beat", "pay"]
    assert "payment sandbox:      http://127.0.0.1:1/" in supervisor.greeting(8000, {}, "http://127.0.0.1:1")
    assert "sandbox" not in supervisor.greeting(8000, {})


def test_with_servers_of_ones_own_make_run_brings_no_sandbox() -> None:
    """RELAYADMIN_SANDBOX=1 alone does nothing: what marks the embedded servers is set by who starts them."""
    given = clean_environment(DATABASE_URL="postgres://none/none", REDIS_URL="redis://none", RELAYADMIN_SANDBOX="1")
    made = subprocess.run(
        [sys.executable, "-c", WANTED], cwd=PROJECT, env=given, capture_output=True, text=True, timeout=30
    )
    assert made.stdout == "False\n"
