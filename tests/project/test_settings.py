"""Settings from the environment: what they make of it, and the one sentence that stops the start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("EMAIL_HOST", "EMAIL_PORT", "EMAIL_USE_TLS", "EMAIL_USE_SSL", "DEFAULT_FROM_EMAIL")
SHOW = f"import json; from relayadmin import settings as s; print(json.dumps([getattr(s, name) for name in {SHOWN}]))"


def load(script: str, email_url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EMAIL_URL": email_url}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("smtp://mail.example", ["mail.example", 25, False, False, "relayadmin@mail.example"]),
        ("smtp+tls://mail.example", ["mail.example", 587, True, False, "relayadmin@mail.example"]),
        ("smtp+ssl://ops:pw@mail.example", ["mail.example", 465, False, True, "relayadmin@mail.example"]),
        (
            "smtp+tls://ops%40firm.example:p%23w@mail.example:2525",
            ["mail.example", 2525, True, False, "ops@firm.example"],
        ),
    ],
)
def test_a_mail_server_is_read_from_its_address(url: str, made: list[object]) -> None:
    assert json.loads(load(SHOW, url).stdout) == made


@pytest.mark.parametrize("url", ["mail.example", "https://mail.example", "smtp://", "smtp://mail.example:many"])
def test_another_address_stops_the_start_with_a_sentence(url: str) -> None:
    stopped = load(SHOW, url)
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("relayadmin: EMAIL_URL ")
    assert stopped.stderr.count("\n") == 1


def test_without_an_address_nothing_is_mailed() -> None:
    script = "from relayadmin import settings as s; print(repr(s.EMAIL_URL), hasattr(s, 'EMAIL_HOST'))"
    assert load(script, " ").stdout == "'' False\n"
