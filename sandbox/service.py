"""One API request: who asks, what is asked, under which key, and what goes wrong on order."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sandbox import api, forms
from sandbox.errors import Json, Refused
from sandbox.faults import Fault, Faults
from sandbox.store import new_id
from sandbox.world import API_VERSION, World, must_be

KEY_MAX = 255
BROKEN: Json = {"error": {"type": "api_error", "message": "An unexpected error occurred (the sandbox was told so)."}}
Answer = tuple[int, Json, dict[str, str]]


class Cut(Exception):
    """The connection ends without an answer."""


class Service:
    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Faults()
        self._under_way: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, query: str, body: str, headers: Mapping[str, str]) -> Answer:
        """Status, JSON and headers. Raises Cut where there is none."""
        try:
            headers = {name.title(): value for name, value in headers.items()}
            self._authenticate(headers.get("Authorization", ""))
            version = headers.get("Stripe-Version", API_VERSION)
            must_be(version == API_VERSION, f"Invalid Stripe API version: {version}; the sandbox speaks {API_VERSION}.")
            spec, handler, ids = api.find(method, path)
            params = forms.decode(body if method == "POST" else query)
            key = headers.get("Idempotency-Key", "") if method == "POST" else ""
            if len(key) > KEY_MAX:
                raise Refused(f"Keys can be at most {KEY_MAX} characters", kind="idempotency_error")
            call = Call(self.world, spec, handler, ids, params, key)
            with self._alone(key):
                fault = self.faults.take(method, path)
                self.world.requests.append({"method": method, "path": path, "params": params, "key": key or None})
                with trouble(fault):
                    return self._once(call, fault, f"{method} {path} {sorted(_flat(params))}")
        except Refused as refused:
            return refused.status, refused.body, {}

    def _authenticate(self, header: str) -> None:
        given = header.removeprefix("Bearer ").strip()
        if not given:
            raise Refused("You did not provide an API key.", status=401)
        if not hmac.compare_digest(given.encode(), self.world.secret_key.encode()):
            raise Refused("Invalid API Key provided.", status=401)

    def _once(self, call: Call, fault: Fault | None, asked: str) -> Answer:
        if not call.key:
            return (*call.run(fault), {})
        fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        saved = self.world.store.answer(call.key)
        if saved is None:
            status, body = call.run(fault, fingerprint)
            # A 500 under a key is replayed, so trying again is in vain.
            return status, body, {"Stripe-Should-Retry": "false"} if status >= 500 else {}
        if saved[0] != fingerprint:
            raise Refused(
                "Keys for idempotent requests can only be used with the same parameters and endpoint they were first "
                f"used with. Try using a key other than '{call.key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        return saved[1], saved[2], {"Idempotent-Replayed": "true", "Stripe-Should-Retry": "false"}

    def forget(self) -> None:
        """Who is under way, and what is planned."""
        self.faults.clear()
        with self._lock:
            self._under_way.clear()

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        if not key:
            yield
            return
        with self._lock:
            if key in self._under_way:
                raise Refused(
                    "There is currently another in-progress request using this Idempotent Key.",
                    status=409,
                    kind="idempotency_error",
                    code="idempotency_key_in_use",
                )
            self._under_way.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.discard(key)


@contextmanager
def trouble(fault: Fault | None) -> Iterator[None]:
    """What happens to the connection around a request."""
    kind = fault.kind if fault else ""
    if kind == "rate_limit":
        raise Refused("Too many requests", status=429, code="rate_limit")
    if fault and kind in {"timeout", "slow"}:
        time.sleep(fault.seconds)
    if kind in {"timeout", "cut"}:
        raise Cut
    yield
    if fault and kind == "timeout_after":
        time.sleep(fault.seconds)
    if kind in {"timeout_after", "cut_after"}:
        raise Cut


class Call:
    """The state changes and the answer is saved in one transaction; what is refused is not saved, a decline is."""

    def __init__(
        self, world: World, spec: forms.Spec, handler: api.Handler, ids: tuple[str, ...], params: Json, key: str
    ) -> None:
        self.world, self.spec, self.handler, self.ids, self.params, self.key = world, spec, handler, ids, params, key

    def run(self, fault: Fault | None, fingerprint: str = "") -> tuple[int, Json]:
        kind = fault.kind if fault else ""
        store = self.world.store
        try:
            with store.transaction():
                self.world.idempotency_key = self.key or None
                status, body = (500, BROKEN) if kind == "error" else self._apply()
                if kind == "error_after":
                    status, body = 500, BROKEN
                if self.key:
                    store.save_answer(self.key, fingerprint, status, body)
        finally:
            self.world.idempotency_key = None
        return status, body

    def _apply(self) -> tuple[int, Json]:
        params = forms.checked(self.params, self.spec)
        expand = params.get("expand", [])
        try:
            thing = self.handler(self.world, params, *self.ids)
        except Refused as refused:
            if not refused.keeps:
                raise
            return refused.status, refused.body
        shown = thing if thing["object"] == "list" else self.world.shown(thing)
        return 200, api.expanded(self.world, shown, expand)


def _flat(params: Json, path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}[{name}]")
        else:
            yield f"{path}[{name}]", value


def request_id() -> str:
    return new_id("req_", 14)
