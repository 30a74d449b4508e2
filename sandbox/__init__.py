"""A stand-in for Stripe on this machine: no real money, ever.

A small stateful HTTP server that speaks the part of Stripe's API (2026-10-28.endive) which the gateway uses, refuses
what Stripe refuses, sends signed webhooks, and has pages on which a person pays, declines or disputes. `python -m
sandbox` runs it; nothing of relayadmin imports it. Standard library only, so that it stays small when idle.

Where Stripe's behaviour is only imitated: money is settled in USD at fixed rates, a fee is 2.9 % + 0.30 for every
method, a dispute costs 15.00, nothing is paid out, and no bank, wallet or network is asked.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.server import HOST, Server
from sandbox.service import Service
from sandbox.store import Store
from sandbox.webhooks import Sender
from sandbox.world import World


def start(
    state: Path,
    *,
    port: int,
    secret_key: str,
    webhook_secret: str,
    webhook_url: str | None = None,
    settles_refunds: bool = False,
) -> Server:
    """A server bound to its port (0: a free one) with its sender running; the caller lets it serve."""
    store = Store(state)
    world = World(store, secret_key=secret_key, webhook_secret=webhook_secret)
    world.start_settings = {"webhook_url": webhook_url, "settles_refunds": settles_refunds}
    with store.transaction():
        for name, value in world.start_settings.items():
            store.set(name, value)
    server = Server(port, Service(world))
    world.address = f"http://{HOST}:{server.server_address[1]}"
    Sender(world).start()
    return server
