"""Relay nodes that do everything at once, keep what was not acknowledged, and know what must come of it in the end."""

import http.client
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

MODEL = "claude-sonnet-4-20250514"
INPUT_PRICE, OUTPUT_PRICE = Decimal(3).scaleb(-6), Decimal(15).scaleb(-6)
LONG_TTL_S = 86_400  # of holds that must stand until they are settled, however long that takes
REQUEST_TIMEOUT_S = 30.0
ZERO = Decimal(0)


class GaveUp(Exception):
    """The stack did not acknowledge something in time, though it was asked again and again."""


@dataclass(frozen=True)
class Account:
    """A customer that pays for what the nodes do.

    `is_exact`: everything of it runs on holds and costs what they hold, so that no floor or limit may be passed.
    """

    customer_id: int
    api_key_pk: int
    api_key_id: str
    secret: str
    credit: Decimal
    is_exact: bool = False


@dataclass
class Expected:
    """What was acknowledged, and what else was seen: by all nodes together."""

    charges: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    grants: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    surprises: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, events: Sequence[tuple[int, str, Decimal]], *, instead_of: str | None = None) -> None:
        with self.lock:
            for customer_id, event_id, charge in events:
                self.charges[customer_id, event_id] = charge
                if instead_of is not None:
                    self.charges[customer_id, instead_of] = ZERO

    def surprise(self, what: str) -> None:
        with self.lock:
            self.surprises.append(what)


@dataclass(frozen=True)
class Call:
    """What one upstream call used."""

    input: int
    output: int

    @property
    def cost(self) -> Decimal:
        return self.input * INPUT_PRICE + self.output * OUTPUT_PRICE

    @property
    def usage(self) -> dict[str, int]:
        return {"input_tokens": self.input, "output_tokens": self.output}


class Shift:
    """What the nodes of one run share: whom they serve, since when, and when they stop.

    `copies`: batches that another node sends too, as a relay does that was started again from its spool.
    """

    def __init__(self, accounts: Sequence[Account], *, port: int, token: str, patience_s: float) -> None:
        self.accounts, self.port, self.token, self.patience_s = accounts, port, token, patience_s
        self.stop = threading.Event()
        self.expected = Expected()
        self.copies: deque[list[dict[str, Any]]] = deque(maxlen=50)
        self.acknowledged: deque[dict[str, Any]] = deque(maxlen=500)


class Node:
    """One relay node: one connection, one thread."""

    def __init__(self, shift: Shift, seed: int) -> None:
        self._shift, self._chance = shift, random.Random(seed)
        self._expected = shift.expected
        self._connection = http.client.HTTPConnection("127.0.0.1", shift.port, timeout=REQUEST_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {shift.token}", "Content-Type": "application/json"}

    def run(self) -> None:
        """Work until told to stop; what was begun is finished."""
        acts = (
            *(self._request, self._request, self._request, self._request_in_parts, self._forsaken, self._lease),
            *(self._batch, self._estimate, self._repeat, self._copy, self._settle_and_release),
        )
        try:
            while not self._shift.stop.is_set():
                self._chance.choice(acts)()
        except GaveUp as error:
            self._expected.surprise(str(error))
        finally:
            self._connection.close()

    # --- one call, sent until it is acknowledged ---

    def _send(self, path: str, body: Any) -> tuple[int, Any, bool]:
        """Status and body of the first answer that is not a 5xx, and whether it was the first try."""
        raw, begun, tries = json.dumps(body).encode(), time.monotonic(), 0
        while True:
            tries += 1
            status, answer = self._try(path, raw)
            with self._expected.lock:
                self._expected.statuses[str(status) if status else "no answer"] += 1
                self._expected.repeated += tries > 1
            if status and status < 500:
                return status, json.loads(answer), tries == 1
            if time.monotonic() - begun > self._shift.patience_s:
                raise GaveUp(f"{path} was not acknowledged in {self._shift.patience_s:g} s, last {status}: {answer!r}")
            time.sleep(min(0.05 * 2**tries, 0.5))

    def _try(self, path: str, raw: bytes) -> tuple[int, bytes]:
        try:
            self._connection.request("POST", f"/relay/v1/{path}", body=raw, headers=self._headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return 0, repr(error).encode()

    def _report(self, *events: tuple[Account, dict[str, Any], Decimal], is_alone: bool = True) -> None:
        """Report until it is acknowledged; `is_alone`: nobody else sends these, so the first try must be new."""
        status, body, is_first = self._send("usage", {"events": [event for _, event, _ in events]})
        told = (body.get("accepted", 0), body.get("duplicates", 0)) if status == 200 else (0, 0)
        if sum(told) != len(events) or (is_first and is_alone and told[1]):
            self._expected.surprise(f"a batch of {len(events)} was answered {status}: {json.dumps(body)[:300]}")
        replaces = events[0][1].get("replaces")
        self._expected.acknowledge(
            [(account.customer_id, event["id"], charge) for account, event, charge in events], instead_of=replaces
        )
        self._shift.acknowledged.extend(event for _, event, _ in events[:3])

    def _event(self, account: Account, call: Call, **more: Any) -> tuple[Account, dict[str, Any], Decimal]:
        event = {
            "id": f"soak_{uuid4().hex}",
            "api_key_id": account.api_key_id,
            "model": MODEL,
            "occurred_at": datetime.now(UTC).isoformat(),
            "channel": "anthropic",
            "format": "anthropic.messages",
            "status": "completed",
            "usage": call.usage,
        }
        return account, {**event, **more}, call.cost

    def _hold(self, account: Account, call: Call, *, ttl_s: int = LONG_TTL_S) -> str | None:
        body = {
            "api_key": account.secret,
            "model": MODEL,
            "request_id": f"soak_{uuid4().hex}",
            "input_tokens": call.input,
            "max_output_tokens": call.output,
            "ttl_seconds": ttl_s,
        }
        return self._granted(*self._send("authorizations", body))

    def _granted(self, status: int, body: Any, is_first: bool) -> str | None:
        if status in (200, 201) and not (status == 200 and is_first):
            return str(body["id"])
        code = body["error"]["code"] if status >= 400 else "replayed at the first try"
        # What was granted while nobody heard of it may have expired before it was asked for again.
        is_late = code == "authorization_expired" and not is_first
        if code not in ("insufficient_balance", "spend_limit_reached") and not is_late:
            self._expected.surprise(f"an authorization was answered {status} {code}")
        return None

    def _release(self, hold: str) -> None:
        status, body, _ = self._send(f"authorizations/{hold}/release", {})
        if status != 200 and not (status == 409 and body["error"]["code"] == "authorization_settled"):
            self._expected.surprise(f"a release was answered {status}: {json.dumps(body)[:300]}")

    # --- what a node does ---

    def _account(self) -> Account:
        return self._chance.choice(self._shift.accounts)

    def _free_account(self) -> Account:
        return self._chance.choice([account for account in self._shift.accounts if not account.is_exact])

    def _call(self) -> Call:
        return Call(self._chance.randrange(1, 5_000), self._chance.randrange(1, 1_000))

    def _request(self) -> None:
        account, call = self._account(), self._call()
        hold = self._hold(account, call)
        if hold is None:
            return
        if self._chance.random() < 0.15:
            self._release(hold)
            return
        used = call if account.is_exact else self._call()
        self._report(self._event(account, used, authorization=hold))

    def _request_in_parts(self) -> None:
        account, parts = self._account(), [self._call() for _ in range(3)]
        hold = self._hold(account, Call(sum(part.input for part in parts), sum(part.output for part in parts)))
        if hold is not None:
            for place, part in enumerate(parts):
                self._report(self._event(account, part, authorization=hold, more=place < 2))

    def _forsaken(self) -> None:
        """A request of which nothing more is heard: its hold expires."""
        self._hold(self._free_account(), self._call(), ttl_s=self._chance.randrange(1, 30))

    def _lease(self) -> None:
        account = self._free_account()
        terms = {"amount": "0.50", "minimum": "0.01", "seconds": 60}
        body = {"api_key": account.secret, "request_id": f"soak_{uuid4().hex}", "lease": terms}
        lease = self._granted(*self._send("authorizations", body))
        if lease is not None:
            for _ in range(4):
                calls = [self._call() for _ in range(5)]
                self._report(*(self._event(account, call, authorization=lease) for call in calls))
            if self._chance.random() < 0.7:
                self._release(lease)

    def _batch(self) -> None:
        """Usage without authorizations, of many customers; now and then another node sends the same."""
        events = [self._event(self._free_account(), self._call()) for _ in range(self._chance.randrange(2, 100))]
        is_copied = self._chance.random() < 0.3
        if is_copied:
            self._shift.copies.append([event for _, event, _ in events])
        self._report(*events, is_alone=not is_copied)

    def _copy(self) -> None:
        if self._shift.copies:
            try:
                events = self._shift.copies.popleft()
            except IndexError:  # Another node took it.
                return
            self._repeated(events, duplicates=None)

    def _repeat(self) -> None:
        """Send what was acknowledged again, out of order."""
        known = list(self._shift.acknowledged)
        if known:
            events = self._chance.sample(known, min(20, len(known)))
            self._repeated(events, duplicates=len(events))

    def _repeated(self, events: list[dict[str, Any]], *, duplicates: int | None) -> None:
        status, body, _ = self._send("usage", {"events": events})
        told = body.get("accepted", 0) + body.get("duplicates", 0) if status == 200 else 0
        if told != len(events) or (duplicates is not None and body["duplicates"] != duplicates):
            self._expected.surprise(f"a repeat of {len(events)} was answered {status}: {json.dumps(body)[:300]}")

    def _estimate(self) -> None:
        """An estimate, then what it really was, in its place."""
        account = self._free_account()
        old = self._event(account, self._call(), status="aborted", estimated=True)
        self._report(old)
        self._report(self._event(account, self._call(), replaces=old[1]["id"]))

    def _settle_and_release(self) -> None:
        """Usage of a hold that was given back by mistake: it happened, so it is charged."""
        account, call = self._free_account(), self._call()
        hold = self._hold(account, call)
        if hold is not None:
            event = self._event(account, call, authorization=hold)
            if self._chance.random() < 0.5:
                self._release(hold)
                self._report(event)
            else:
                self._report(event)
                self._release(hold)
