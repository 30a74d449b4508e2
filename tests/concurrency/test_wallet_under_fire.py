"""Everything that moves money at once: 32 threads on one wallet, and across 200."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

import billing
from billing import credits, holds, ledger, spending
from billing.models import Grant, Hold, SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import spend
from metering.models import UsageEvent
from tests.concurrency.racing import (
    assert_books_are_right,
    at_once,
    look_without_lock,
    run,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.concurrency.test_batches_at_once import deadlocks_so_far
from tests.world import Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

THREADS = 32
PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output
USAGE = {"input_tokens": 1000, "output_tokens": 500}
PLACE_HOLD = (Path(billing.__file__).parent / "sql" / "place_hold.sql").read_text()
GATE = 7_246_011_003  # an advisory lock


def shared_out(works: list[Callable[[], Answer]]) -> list[Answer]:
    """Play works on 32 threads at once, each thread its share in order."""

    def play(mine: list[Callable[[], Answer]]) -> list[Answer]:
        return [work() for work in mine]

    outcomes = at_once([lambda start=start: play(works[start::THREADS]) for start in range(THREADS)])  # type: ignore[misc]
    answers: list[Answer] = []
    for outcome in outcomes:
        assert isinstance(outcome, list), outcome
        answers += outcome
    return answers


def test_of_400_authorizations_at_once_95_pass_and_end_once_whatever_is_sent_about_them() -> None:
    """Rows 1, 4 and 5: nothing passes that does not fit, nothing stays held, nothing is charged twice."""
    payer, token = make_payer(credit="1.00"), Relay().token

    asked = shared_out([lambda: Relay(token).authorize(payer, input_tokens=1000)] * 400)

    assert Counter((answer.status, answer.code) for answer in asked) == {
        (201, None): 95,
        (402, "insufficient_balance"): 305,
    }
    assert payer.wallet.held == 95 * PRICE == Decimal("0.9975")

    works: list[Callable[[], Answer]] = []
    for answer in asked:
        if answer.status == 201:
            hold = answer.body["id"]
            event = make_event(payer, authorization=hold, usage=USAGE)
            works += [lambda event=event: Relay(token).report(event)] * 2  # type: ignore[misc]
            works.append(lambda hold=hold: Relay(token).release(hold))  # type: ignore[misc]
    random.Random(4).shuffle(works)
    answers = shared_out(works)

    assert {answer.status for answer in answers} <= {200, 409}
    assert {answer.code for answer in answers if answer.status == 409} <= {"authorization_settled"}
    reported = [answer.body for answer in answers if answer.code is None and "accepted" in answer.body]
    assert sum(body["accepted"] for body in reported) == sum(body["duplicates"] for body in reported) == 95
    assert (payer.balance, payer.wallet.held) == (1 - 95 * PRICE, 0)
    assert not Hold.objects.filter(customer=payer.customer, status="open").exists()
    assert_books_are_right(payer.customer)


class Caller:
    """One thread's relay: does all there is to do for customers drawn at random, and keeps what should come of it."""

    def __init__(self, seed: int, payers: list[Payer], token: str) -> None:
        self.chance, self.payers, self.relay = random.Random(seed), payers, Relay(token)
        self.name = f"{seed}-{uuid4().hex}"
        self.charged: Counter[int] = Counter()
        self.granted: Counter[int] = Counter()
        self.statuses: Counter[int] = Counter()

    def play(self, steps: int) -> "Caller":
        on_holds = [self.settle, self.settle_in_parts, self.release, self.lease]
        acts = [*on_holds, self.batch, self.replace, self.grant, self.expire, self.limit]
        for step in range(steps):
            self.chance.choice(acts)(f"{self.name}-{step}", self.chance.choice(self.payers))
        return self

    def seen(self, answer: Answer) -> Answer:
        self.statuses[answer.status] += 1
        return answer

    def hold(self, name: str, payer: Payer, **changes: Any) -> str | None:
        answer = self.seen(self.relay.authorize(payer, request_id=name, input_tokens=1000, **changes))
        return answer.body["id"] if answer.status == 201 else None

    def report(self, *events: tuple[Payer, dict[str, Any]]) -> None:
        answer = self.seen(self.relay.report(*(event for _, event in events)))
        assert answer.body["accepted"] == len(events), answer.body
        for payer, _ in events:
            self.charged[payer.customer.pk] += 1

    def settle(self, name: str, payer: Payer) -> None:
        if hold := self.hold(name, payer):
            event = make_event(payer, usage=USAGE, authorization=hold)
            self.report((payer, event))
            assert self.seen(self.relay.report(event)).body["duplicates"] == 1

    def settle_in_parts(self, name: str, payer: Payer) -> None:
        if hold := self.hold(name, payer, max_output_tokens=1500):
            for more in (True, True, False):
                self.report((payer, make_event(payer, usage=USAGE, authorization=hold, more=more)))

    def release(self, name: str, payer: Payer) -> None:
        if hold := self.hold(name, payer):
            self.seen(self.relay.release(hold))
            self.seen(self.relay.release(hold))

    def lease(self, name: str, payer: Payer) -> None:
        terms = {"amount": "0.10", "minimum": "0.01", "seconds": 60}
        body = {"api_key": payer.api_key, "request_id": name, "lease": terms}
        answer = self.seen(self.relay.post("authorizations", body))
        if answer.status == 201:
            events = [make_event(payer, usage=USAGE, authorization=answer.body["id"]) for _ in range(3)]
            self.report(*((payer, event) for event in events))
            if self.chance.random() < 0.5:
                self.seen(self.relay.release(answer.body["id"]))

    def batch(self, name: str, payer: Payer) -> None:
        drawn = [payer, *self.chance.choices(self.payers, k=7)]
        self.report(*((one, make_event(one, usage=USAGE)) for one in drawn))

    def replace(self, name: str, payer: Payer) -> None:
        """An estimate of another cost, taken back: what stays is one charge."""
        old = make_event(payer, status="aborted", estimated=True, usage={"input_tokens": 9000, "output_tokens": 9000})
        assert self.seen(self.relay.report(old)).body["accepted"] == 1
        self.report((payer, make_event(payer, usage=USAGE, replaces=old["id"])))

    def grant(self, name: str, payer: Payer) -> None:
        kind = self.chance.choice(["paid", "promotional", "goodwill"])
        for _ in range(2):
            credits.grant(
                customer_id=payer.customer.pk,
                amount=PRICE,
                kind=kind,
                reason="",
                reference="r",
                key=name,
                at=datetime.now(UTC),
            )
        self.granted[payer.customer.pk] += 1

    def expire(self, name: str, payer: Payer) -> None:
        """As the job would an hour from now, while others settle and release the same."""
        holds.expire(at=datetime.now(UTC) + timedelta(hours=1), limit=self.chance.choice([3, 500]))

    def limit(self, name: str, payer: Payer) -> None:
        at, owner = datetime.now(UTC), SpendLimit.Owner.CUSTOMER
        key = self.chance.choice([None, payer.key.pk])
        if self.chance.random() < 0.7:
            limit = spend.Limit(self.chance.choice(list(Span)), Decimal(100), api_key_id=key)
            spend.set_limit(payer.customer.pk, limit, owner=owner, actor="", at=at)
        else:
            spend.replace_limits(payer.customer.pk, [], owner=owner, api_key_id=key, actor="", at=at)


@pytest.mark.parametrize(("wallets", "steps"), [(1, 12), (200, 16)])
def test_32_threads_that_do_everything_lose_nothing_and_oversell_nothing(wallets: int, steps: int) -> None:
    """Row 7 among others: the counters that limits are judged by stay what usage and holds add up to."""
    payers, token = [make_payer(credit="5") for _ in range(wallets)], Relay().token
    before = deadlocks_so_far()

    callers = at_once([lambda seed=seed: Caller(seed, payers, token).play(steps) for seed in range(THREADS)])  # type: ignore[misc]

    charged: Counter[int] = Counter()
    granted: Counter[int] = Counter()
    statuses: Counter[int] = Counter()
    for caller in callers:
        assert isinstance(caller, Caller), caller
        charged, granted, statuses = charged + caller.charged, granted + caller.granted, statuses + caller.statuses
    assert set(statuses) <= {200, 201, 402, 409}
    assert statuses[201] > 50
    assert deadlocks_so_far() == before, "none that was tried again in secret either"
    while holds.expire(at=datetime.now(UTC) + timedelta(days=2)):
        pass
    for payer in payers:
        number = payer.customer.pk
        assert payer.balance == 5 + (granted[number] - charged[number]) * PRICE
        assert payer.wallet.held == 0
        assert Grant.objects.filter(customer=payer.customer).count() == 1 + granted[number]
        assert UsageEvent.objects.filter(customer=payer.customer, estimated=False).count() == charged[number]
    assert not SpendCounter.objects.filter(customer__in=[payer.customer for payer in payers]).exclude(held=0).exists()
    assert_books_are_right(*(payer.customer for payer in payers))


class TestLeasesAtOnce:
    """A lease takes what there is, which only one can have."""

    def test_never_reserve_more_than_there_is_together(self) -> None:
        payer, token = make_payer(credit="1.00"), Relay().token
        terms = {"amount": "0.15", "minimum": "0.01", "seconds": 60}

        def lease(number: int) -> Answer:
            body = {"api_key": payer.api_key, "request_id": f"lease {number}", "lease": terms}
            return Relay(token).post("authorizations", body)

        answers = at_once([lambda number=number: lease(number) for number in range(THREADS)])  # type: ignore[misc]

        amounts = Counter(
            answer.body["amount"] for answer in answers if isinstance(answer, Answer) and answer.status == 201
        )
        assert amounts == {"0.150000": 6, "0.100000": 1}
        assert (payer.balance, payer.wallet.held) == (1, 1)
        assert_books_are_right(payer.customer)

    @pytest.mark.parametrize(("lock", "held"), [("FOR UPDATE", "1.00"), ("", "3.00")], ids=["with", "without"])
    def test_do_not_because_of_the_lock_before_the_look(self, lock: str, held: str) -> None:
        """The negative control: twenty look at the same room, and each takes 0.15 of it."""
        payer = make_payer(credit="1.00")
        name = f"place_hold_{uuid4().hex}"
        look = "FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;"
        gated = look.replace("FOR UPDATE", lock) + f" PERFORM pg_advisory_xact_lock_shared({GATE});"
        with connection.cursor() as cursor:
            cursor.execute(PLACE_HOLD.replace("billing_place_hold", name).replace(look, gated))

        def place() -> str:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT outcome FROM {name}(%s, %s, '\\x00', 0.15, now(), now() + interval '1 hour', '{{}}', '',"
                    " 0.01, now() + interval '1 minute')",
                    [payer.customer.pk, uuid4().hex],
                )
                return str((cursor.fetchone() or [""])[0])

        with second_connection() as gate:
            gate.execute("SELECT pg_advisory_xact_lock(%s)", [GATE])

            def open_the_gate() -> str:
                wait_until(lambda: len(waiting_for(gate)) == (1 if lock else 20))
                gate.rollback()
                return "opened"

            at_once([place] * 20 + [open_the_gate])
        with connection.cursor() as cursor:
            cursor.execute(f"DROP FUNCTION {name}")
        assert payer.wallet.held == Decimal(held)

    def test_are_drawn_on_by_all_threads_without_losing_a_draw(self) -> None:
        payer, token = make_payer(credit="1.00"), Relay().token
        terms = {"amount": "1.00", "seconds": 60}
        body = {"api_key": payer.api_key, "request_id": "lease", "lease": terms}
        lease = Relay(token).post("authorizations", body).body["id"]

        def draw() -> int:
            relay = Relay(token)
            events = [make_event(payer, usage=USAGE, authorization=lease) for _ in range(2)]
            return sum(int(relay.report(event).body["accepted"]) for event in events)

        assert at_once([draw] * THREADS) == [2] * THREADS
        assert payer.wallet.held == 1 - 2 * THREADS * PRICE
        assert payer.balance - payer.wallet.held == 0
        assert_books_are_right(payer.customer)


@pytest.mark.parametrize("is_locked", [True, False], ids=["with the lock", "without it"])
def test_a_limit_set_beside_an_authorization_counts_it_because_of_the_wallet_s_lock(
    is_locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 7, and its negative control: a hold that is placed between the count and its writing is in neither."""
    payer, token, held_since = make_payer(), Relay().token, spending.held_since

    def set_limit(span: Span) -> None:
        limit = spend.Limit(span, Decimal(5))
        spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.OPERATOR, actor="", at=datetime.now(UTC))

    set_limit(Span.MONTH)  # With the first limit the wallet's row changes, which would do for a lock.
    with ThreadPoolExecutor(1) as pool:
        asked: list[Future[Answer]] = []

        def count_and_let_another_place(*args: Any, **kwargs: Any) -> Decimal:
            held = held_since(*args, **kwargs)
            ours = connection.connection
            asked.append(pool.submit(run, lambda: Relay(token).authorize(payer, input_tokens=1000)))
            wait_until(lambda: waiting_for(ours) if is_locked else asked[0].done())
            return held

        monkeypatch.setattr(spending, "held_since", count_and_let_another_place)
        if not is_locked:
            monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
        set_limit(Span.DAY)

    assert [one.result().status for one in asked] == [201]
    assert payer.wallet.held == PRICE
    counted = SpendCounter.objects.get(customer=payer.customer, span=Span.DAY).held
    assert counted == (PRICE if is_locked else 0)
    monkeypatch.undo()
    spend.count_anew([payer.customer.pk], at=datetime.now(UTC))  # Or the sweep of another test would fail on it.
    assert_books_are_right(payer.customer)
