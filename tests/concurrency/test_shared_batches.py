"""A batch that another web process takes is charged as if it had stayed, also when that process fails at it."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from metering import attribution
from metering.api import relay as relay_api
from metering.models import UsageEvent
from relayadmin import neighbours
from relayadmin.embedded.home import PROJECT
from relayadmin.neighbours import Desk
from tests.concurrency.racing import (
    assert_books_are_right,
    at_once,
    beside,
    end_who_waits_for,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.processes import environment
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = [
    pytest.mark.usefixtures("committed"),
    pytest.mark.skipif(sys.platform != "linux", reason="nothing is shared elsewhere than on Linux"),
]

MANY = 300  # events, more than is taken sooner than a neighbour is asked


@dataclass
class Office:
    """Two processes: this one, and its neighbour, with what the neighbour was asked to take."""

    here: Desk
    neighbour: Desk
    taken: list[bytes] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def take(self, work: bytes) -> bytes | None:
        self.taken.append(work)
        answer = relay_api.take_from_neighbour(work)
        self.answered.append(answer is not None)
        self.then()
        return answer

    def in_its_thread(self, work: Callable[[], Any]) -> Any:
        """Where `connection` is the neighbour's own."""
        return self.neighbour._hands.submit(work).result(60)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While this process is at another batch."""
        assert self.here._begin(only_if_idle=True)
        try:
            yield
        finally:
            self.here._end()


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    group = uuid4().hex
    here = Desk(lambda work: None, group=group)
    made = Office(here, Desk(lambda work: made.take(work), group=group))
    assert made.neighbour.open()
    monkeypatch.setattr(neighbours, "_desk", here)
    yield made
    made.in_its_thread(lambda: connection.close())


def events_of(payer: Payer, count: int = MANY) -> list[dict[str, Any]]:
    return [make_event(payer) for _ in range(count)]


def charged(payer: Payer) -> int:
    """How many events the wallet has paid, every cent of them in the books."""
    assert_books_are_right(payer.customer)
    number = UsageEvent.objects.filter(customer=payer.customer).count()
    assert payer.balance == 50 - number * EXAMPLE_CHARGE
    return number


def counts(answer: Answer) -> tuple[int, int]:
    assert answer.status == 200, answer.body
    return answer.body["accepted"], answer.body["duplicates"]


def test_a_batch_is_taken_by_a_neighbour_while_this_process_is_at_another(office: Office) -> None:
    payer, relay = make_payer(), Relay()
    events = events_of(payer)
    with office.at_work():
        answer = relay.report(*events)
        assert counts(answer) == (MANY, 0)
        assert answer.headers["Content-Type"] == "application/json"
        assert counts(relay.report(*events)) == (0, MANY)
    assert len(office.taken) == 2
    assert charged(payer) == MANY


def test_what_a_neighbour_rejects_is_told_by_its_place(office: Office) -> None:
    payer, relay = make_payer(), Relay()
    events = events_of(payer)
    events[7]["status"] = "unheard of"
    with office.at_work():
        answer = relay.report(*events)
    assert counts(answer) == (MANY - 1, 0)
    assert [(item["index"], item["code"]) for item in answer.body["rejected"]] == [(7, "invalid_event")]
    assert len(office.taken) == 1


def test_a_batch_stays_while_this_process_is_idle_or_the_batch_is_small(office: Office) -> None:
    payer, relay = make_payer(), Relay()
    assert counts(relay.report(*events_of(payer))) == (MANY, 0)
    with office.at_work():
        assert counts(relay.report(*events_of(payer, 10))) == (10, 0)
    assert office.taken == []
    assert charged(payer) == MANY + 10


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b'{"events": [' + b" " * 70_000, "application/json", 400, "invalid_request_error"),
        (b'{"events": []}' + b" " * 70_000, "text/plain", 415, "unsupported_media_type"),
        (b"{}\n" * 30_000, "application/x-ndjson", 413, "batch_too_large"),
    ],
)
def test_a_batch_that_is_refused_is_refused_as_ever(
    office: Office, body: bytes, content_type: str, status: int, code: str
) -> None:
    with office.at_work():
        answer = Relay().post("usage", body, content_type=content_type)
    assert (answer.status, answer.code) == (status, code)
    assert office.answered == [False]


def test_a_packed_batch_comes_over_packed(office: Office) -> None:
    payer = make_payer()
    body = gzip.compress(json.dumps({"events": events_of(payer, 1000)}).encode())
    with office.at_work():
        answer = Relay().post("usage", body, **{"Content-Encoding": "gzip"})
    assert counts(answer) == (1000, 0)
    assert office.answered == [True]
    assert len(office.taken[0]) < len(body) + 100
    assert charged(payer) == 1000


def test_a_caller_who_may_not_report_reaches_no_neighbour(office: Office) -> None:
    payer = make_payer()
    with office.at_work():
        answer = Relay("rl_wrong").report(*events_of(payer))
    assert (answer.status, answer.code) == (401, "invalid_relay_token")
    assert office.taken == []
    assert charged(payer) == 0


def test_what_a_neighbour_had_stored_before_it_died_is_charged_once(office: Office) -> None:
    """Row 8: a batch is taken off the queue before it is committed, and lost on a failure."""

    def die() -> None:
        raise SystemExit  # The answer is lost with it.

    payer, relay = make_payer(), Relay()
    office.then = die
    with office.at_work():
        assert counts(relay.report(*events_of(payer))) == (0, MANY)
    assert len(office.taken) == 1
    assert charged(payer) == MANY


def test_a_neighbour_that_loses_its_database_leaves_the_batch_and_takes_the_next(office: Office) -> None:
    payer, token = make_payer(), Relay().token
    with second_connection() as other, office.at_work():
        other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [payer.customer.pk])
        with beside(lambda: Relay(token).report(*events_of(payer))) as sending:
            pid = end_who_waits_for(other)
            # Now this process waits for the wallet itself.
            wait_until(lambda: [held_up for held_up in waiting_for(other) if held_up != pid])
            other.rollback()
            assert counts(sending.result(60)) == (MANY, 0)
        assert office.answered == [False]
        assert counts(Relay(token).report(*events_of(payer))) == (MANY, 0)
        assert office.answered == [False, True]
    assert charged(payer) == 2 * MANY


def test_after_a_long_wait_at_a_neighbour_nothing_is_tried_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reports would have given up before a second wait of that length had ended."""
    monkeypatch.setattr(relay_api, "_TRIED_AGAIN_WITHIN_S", 0.0)
    payer, token = make_payer(), Relay().token
    with second_connection() as other, office.at_work():
        other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [payer.customer.pk])
        with beside(lambda: Relay(token).report(*events_of(payer))) as sending:
            end_who_waits_for(other)
            answer = sending.result(60)
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert charged(payer) == 0


@pytest.mark.parametrize(("changes", "taken_by_neighbour"), [({}, True), ({"SECRET_KEY": "another" * 8}, False)])
def test_web_processes_of_one_installation_find_each_other(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], taken_by_neighbour: bool
) -> None:
    here = []

    def counted(batch: Any) -> bytes:
        here.append(batch)
        return as_ever(batch)

    as_ever = relay_api._take
    monkeypatch.setattr(relay_api, "_take", counted)
    monkeypatch.setattr(neighbours, "_desk", None)
    neighbours.serve(lambda work: None)
    desk = neighbours._desk
    assert desk is not None
    payer, relay = make_payer(), Relay()
    code = "import sys, relayadmin.wsgi\nprint('serves', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=environment(**changes),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serves\n"
        assert desk._begin(only_if_idle=True)
        assert counts(relay.report(*events_of(payer))) == (MANY, 0)
        process.communicate()
    assert here == [] if taken_by_neighbour else len(here) == 1
    assert charged(payer) == MANY


def test_a_neighbour_whose_database_was_restarted_takes_the_batch_after_the_next(office: Office) -> None:
    payer, relay = make_payer(), Relay()
    with office.at_work():
        assert counts(relay.report(*events_of(payer))) == (MANY, 0)
        pid = office.in_its_thread(lambda: connection.connection.info.backend_pid)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        for _ in range(2):
            attribution.forget()  # So that it asks first outside of a transaction, which would end the connection.
            assert counts(relay.report(*events_of(payer))) == (MANY, 0)
    assert office.answered == [True, False, True]
    assert charged(payer) == 3 * MANY


def test_nodes_that_report_the_same_at_once_are_charged_once(office: Office) -> None:
    payers, token = [make_payer() for _ in range(4)], Relay().token
    batches = [[make_event(payer) for payer in payers for _ in range(75)] for _ in range(4)]
    answers = at_once([lambda batch=batch: Relay(token).report(*batch) for batch in batches * 3])
    told = [counts(answer) for answer in answers if isinstance(answer, Answer)]
    assert len(told) == 12
    assert sum(accepted for accepted, _ in told) == 4 * MANY
    assert sum(duplicates for _, duplicates in told) == 2 * 4 * MANY
    assert office.taken
    assert [charged(payer) for payer in payers] == [4 * 75] * 4
