"""`python -m sandbox`: serves until it is told to end. `make run` starts it; what it needs lies in RELAYADMIN_HOME."""

from __future__ import annotations

import os
import signal
import sys

from relayadmin.embedded import payments
from relayadmin.embedded.home import Home
from sandbox import start


def main() -> int:
    home = Home.open()
    found = payments.read(home.root)
    if found is None or not payments.wanted():
        print("sandbox: `make run` starts the payment sandbox, without STRIPE_* and DATABASE_URL set.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    server = start(
        home.folder(home.root / "sandbox", user=None) / "state.sqlite",
        port=found.port,
        secret_key=found.secret_key,
        webhook_secret=found.webhook_secret,
        webhook_url=f"http://127.0.0.1:{os.environ.get('PORT') or '8000'}/webhooks/stripe",
        settles_refunds=True,
    )
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
