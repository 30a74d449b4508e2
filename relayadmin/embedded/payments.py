"""The payment sandbox's port and secrets: beside the embedded servers, for `make run` without Stripe's own keys."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from relayadmin.embedded.home import Home

HOST = "127.0.0.1"
STRIPE = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE")


@dataclass(frozen=True)
class Sandbox:
    port: int
    secret_key: str
    webhook_secret: str

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"


def wanted() -> bool:
    """Only on the embedded PostgreSQL, under `make run`, and never beside anything of Stripe's."""
    return (
        os.environ.get("RELAYADMIN_EMBEDDED") == "1"
        and os.environ.get("RELAYADMIN_SANDBOX") == "1"
        and not any(os.environ.get(name, "").strip() for name in STRIPE)
    )


def read(root: Path) -> Sandbox | None:
    """What stands in the home; None if there is nothing that can be used."""
    try:
        return Sandbox(**json.loads(_file(root).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def ensure(home: Home) -> Sandbox:
    """The sandbox of a home: the same as last time, at another port if somebody has taken it."""
    known = read(home.root)
    if known is not None and _is_free(known.port):
        return known
    sandbox = Sandbox(
        port=_free_port(),
        secret_key=known.secret_key if known else f"sk_test_sandbox{secrets.token_hex(24)}",
        webhook_secret=known.webhook_secret if known else f"whsec_{secrets.token_hex(24)}",
    )
    home.write(_file(home.root), json.dumps(asdict(sandbox)))
    return sandbox


def _file(root: Path) -> Path:
    return root / "secrets" / "payment-sandbox"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
