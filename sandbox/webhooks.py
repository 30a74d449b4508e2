"""Sends events to the webhook's address, signed as Stripe signs, again until they are taken."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from sandbox import checkout, returns
from sandbox.errors import Json
from sandbox.world import World

TICK_S = 5.0
ANSWER_WITHIN_S = 10
ATTEMPTS_MAX = 20
PAUSE_MAX_S = 300
WECHAT_REFUND_AFTER_S = 10


def body_of(event: Json) -> bytes:
    return json.dumps(event, indent=2).encode()


def signature(secret: str, body: bytes, at: int) -> str:
    """The Stripe-Signature header: HMAC-SHA256 of "{t}.{body}"."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


class Sender(threading.Thread):
    """Also turns the wheel of time: sessions expire, WeChat's refunds arrive."""

    def __init__(self, world: World) -> None:
        super().__init__(name="webhooks", daemon=True)
        self.world = world

    def run(self) -> None:
        while True:
            self.turn()
            pause_s = min(TICK_S, max(0.0, self._next_due() - self.world.now()))
            self.world.changed.wait(pause_s if pause_s > 0 else TICK_S)
            self.world.changed.clear()

    def turn(self) -> None:
        world = self.world
        with world.store.transaction():
            checkout.expire_due(world)
            if world.store.setting("settles_refunds", False):
                for refund in world.store.every("refund", status="pending"):
                    if refund["created"] + WECHAT_REFUND_AFTER_S <= world.now():
                        returns.settle_refund(world, refund, arrives=True)
        if world.store.setting("webhook_url", None) and not world.store.setting("delivery", {}).get("paused"):
            for seq, event, attempts in self._due():
                self._send(seq, event, attempts)

    def _rows(self, condition: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.world.store.lock:
            return self.world.store.db.execute(
                f"SELECT seq, event, attempts, due_at FROM delivery WHERE state = 'pending' AND {condition}", values
            ).fetchall()

    def _due(self) -> list[tuple[int, str, int]]:
        order = self.world.store.setting("delivery", {}).get("order", "sent")
        way = {"reversed": "seq DESC", "shuffled": "random()"}.get(order, "due_at, seq")
        return [row[:3] for row in self._rows(f"due_at <= ? ORDER BY {way}", self.world.now())]

    def _next_due(self) -> float:
        rows = self._rows("due_at > ? ORDER BY due_at LIMIT 1", self.world.now())
        return rows[0][3] if rows else self.world.now() + TICK_S

    def _send(self, seq: int, event: str, attempts: int) -> None:
        store = self.world.store
        found = store.find(event)
        answer = self._post(body_of(found)) if found else "gone"
        taken = answer.startswith("2")
        state = "delivered" if taken else "failed" if attempts + 1 >= ATTEMPTS_MAX else "pending"
        due_at = self.world.now() + min(PAUSE_MAX_S, 2**attempts)
        with store.transaction():
            store.db.execute(
                "UPDATE delivery SET state = ?, attempts = ?, answer = ?, due_at = ? WHERE seq = ?",
                (state, attempts + 1, answer, due_at, seq),
            )

    def _post(self, body: bytes) -> str:
        """The status that was answered, or what went wrong."""
        target = urlsplit(self.world.store.setting("webhook_url", ""))
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=ANSWER_WITHIN_S)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(self.world.webhook_secret, body, int(time.time())),
            "User-Agent": "Stripe/1.0 (sandbox)",
        }
        try:
            connection.request("POST", target.path or "/", body, headers)
            return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()
