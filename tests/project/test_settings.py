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


def load(script: str, email_url: str, **other: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EMAIL_URL": email_url, **other}
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRIPE_SECRET_KEY", "pk_test_1"),
        ("STRIPE_SECRET_KEY", "sk_test_1 sk_test_2"),
        ("STRIPE_SECRET_KEY", "sk-1234"),
        ("STRIPE_WEBHOOK_SECRET", "sk_test_1"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_ü"),
        ("STRIPE_API_BASE", "10.1.2.3:12111"),
        ("STRIPE_API_BASE", "ftp://127.0.0.1"),
        ("STRIPE_API_BASE", "http://user:password@127.0.0.1"),
        ("STRIPE_API_BASE", "http://127.0.0.1/v1"),
        ("STRIPE_API_BASE", "https://?key=sk"),
    ],
)
def test_a_wrong_value_of_stripes_stops_the_start_and_is_not_repeated(name: str, value: str) -> None:
    stopped = load("from relayadmin import settings", "", **{name: value})
    assert stopped.returncode == 2
    assert stopped.stderr.startswith(f"relayadmin: {name} must be ")
    assert value not in stopped.stderr
    assert stopped.stderr.count("\n") == 1


def test_stripes_values_are_taken_as_they_are() -> None:
    given = {
        "STRIPE_SECRET_KEY": "rk_live_1",
        "STRIPE_WEBHOOK_SECRET": " whsec_1\n",
        "STRIPE_API_BASE": "http://localhost:12111/",
    }
    show = (
        "from relayadmin import settings as s; print(s.STRIPE_SECRET_KEY, s.STRIPE_WEBHOOK_SECRET, s.STRIPE_API_BASE)"
    )
    assert load(show, "", **given).stdout == "rk_live_1 whsec_1 http://localhost:12111\n"


def test_the_stripe_package_is_not_loaded_before_it_is_used() -> None:
    script = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'relayadmin.settings'; import django; django.setup()\n"
        "import billing.stripe_gateway, relayadmin.urls; print('stripe' in sys.modules)"
    )
    assert load(script, "").stdout == "False\n"
