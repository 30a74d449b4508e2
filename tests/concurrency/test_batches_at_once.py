"""Batches of usage at the same moment: each event is charged once, and nobody waits for another customer."""

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from threading import Barrier, Lock
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, OperationalError, connection

from billing import ledger
from metering import event_store, settlement
from metering.models import EventKey, UsageEvent
from tests.concurrency.racing import (
    assert_books_are_right,
    at_once,
    beside,
    look_without_lock,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")


def sender(token: str, events: list[dict[str, Any]]) -> Callable[[], Answer]:
    return lambda: Relay(token).report(*events)


def summed(answers: Iterable[Answer | Exception]) -> Counter[str]:
    total: Counter[str] = Counter()
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert answer.status == 200, answer.body
        total.update({name: answer.body[name] for name in ("accepted", "duplicates", "parked")})
        total["rejected"] += len(answer.body["rejected"])
    return +total


def deadlocks_so_far() -> int:
    """As this database counts them; a connection reports its own when it ends."""
    with second_connection() as looker:
        row = looker.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    return int((row or [0])[0])


@pytest.fixture(params=[500, 1], ids=["one transaction", "a transaction for each customer"])
def in_transactions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of several transactions takes those customers first whose wallets nobody has locked."""
    monkeypatch.setattr(settlement, "CUSTOMERS_PER_TRANSACTION", request.param)


@pytest.mark.usefixtures("in_transactions")
def test_identical_batches_at_the_same_moment_charge_once() -> None:
    payers, token = [make_payer() for _ in range(3)], Relay().token
    events = [make_event(payer) for payer in payers for _ in range(40)]

    answers = at_once([sender(token, events)] * 4)

    assert summed(answers) == {"accepted": 120, "duplicates": 360}
    for payer in payers:
        assert payer.balance == 50 - 40 * EXAMPLE_CHARGE
        assert EventKey.objects.filter(customer=payer.customer).count() == 40
        assert UsageEvent.objects.filter(customer=payer.customer).count() == 40
    assert_books_are_right(*(payer.customer for payer in payers))


@pytest.mark.usefixtures("in_transactions")
def test_the_same_ids_in_opposite_orders_on_eight_connections_reach_no_deadlock() -> None:
    payers, token = [make_payer() for _ in range(30)], Relay().token
    events = [make_event(payer) for payer in payers for _ in range(10)]
    before = deadlocks_so_far()

    answers = at_once([sender(token, events if number % 2 else events[::-1]) for number in range(8)])

    assert summed(answers) == {"accepted": 300, "duplicates": 7 * 300}
    assert deadlocks_so_far() == before, "none that was tried again in secret either"
    assert {payer.balance for payer in payers} == {50 - 10 * EXAMPLE_CHARGE}
    assert_books_are_right(*(payer.customer for payer in payers))


def test_without_one_order_of_locks_there_is_a_deadlock_and_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control, and what saves the caller should there ever be one all the same."""
    ada, bob, token = make_payer(), make_payer(), Relay().token
    numbers = [ada.customer.pk, bob.customer.pk]
    lock_in_order, both_hold_one = ledger.lock_wallets, Barrier(2)
    seen: list[str] = []
    entered, orders = Lock(), [numbers, numbers[::-1]]

    def lock_as_it_comes(customer_ids: Iterable[int]) -> dict[int, ledger.LockedWallet]:
        with entered:
            mine = orders.pop() if orders else []
        if not mine:
            return lock_in_order(customer_ids)  # The one that is tried again.
        locked = lock_in_order(mine[:1])
        both_hold_one.wait(30)
        try:
            return locked | lock_in_order(mine[1:])
        except OperationalError as error:
            seen.append(type(error.__cause__).__name__)
            raise

    monkeypatch.setattr(ledger, "lock_wallets", lock_as_it_comes)
    events = [make_event(payer) for payer in (ada, bob) for _ in range(2)]
    before = deadlocks_so_far()

    answers = at_once([sender(token, events)] * 2)

    assert seen == ["DeadlockDetected"]
    assert deadlocks_so_far() == before + 1
    assert summed(answers) == {"accepted": 4, "duplicates": 4}
    assert {ada.balance, bob.balance} == {50 - 2 * EXAMPLE_CHARGE}


def test_one_customer_s_batches_at_once_are_all_charged() -> None:
    payer, token = make_payer(), Relay().token

    answers = at_once([sender(token, [make_event(payer) for _ in range(5)]) for _ in range(8)])

    assert summed(answers) == {"accepted": 40}
    assert payer.balance == 50 - 40 * EXAMPLE_CHARGE
    assert payer.wallet.version == 1 + 8
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_the_second_charge_meets_the_first_one_s_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: both charge what they saw, and the ledger's own key refuses the second."""
    payer, token = make_payer(), Relay().token
    store, first_charged = event_store.store, Lock()

    def store_once_the_other_waits(*args: Any, **kwargs: Any) -> None:
        if first_charged.acquire(blocking=False):
            wait_until(lambda: waiting_for(connection.connection))
        store(*args, **kwargs)

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(event_store, "store", store_once_the_other_waits)

    answers = at_once([sender(token, [make_event(payer)]) for _ in range(2)])

    assert summed(answers) == {"accepted": 1, "rejected": 1}
    (message,) = [
        item["message"] for answer in answers if isinstance(answer, Answer) for item in answer.body["rejected"]
    ]
    assert "entry_one_per_wallet_version" in message
    assert payer.balance == 50 - EXAMPLE_CHARGE


def test_without_the_free_wallets_locks_so_it_does_and_is_tried_again_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer, idle, token = make_payer(), make_payer(), Relay().token
    store, settle_locked, first_charged = event_store.store, settlement._settle_locked, Lock()
    seen: list[str] = []

    def store_once_the_other_waits(rated: list[settlement.Rated], *args: Any, **kwargs: Any) -> None:
        if rated[0].event.customer_id == payer.customer.pk and first_charged.acquire(blocking=False):
            wait_until(lambda: waiting_for(connection.connection))
        store(rated, *args, **kwargs)

    def settle_and_tell(*args: Any) -> settlement.Result:
        try:
            return settle_locked(*args)
        except IntegrityError as error:
            seen.append(str(error))
            raise

    monkeypatch.setattr(settlement, "CUSTOMERS_PER_TRANSACTION", 1)
    monkeypatch.setattr(ledger, "lock_free_wallets", look_without_lock)
    monkeypatch.setattr(event_store, "store", store_once_the_other_waits)
    monkeypatch.setattr(settlement, "_settle_locked", settle_and_tell)

    answers = at_once([sender(token, [make_event(payer), make_event(idle)]) for _ in range(2)])

    assert summed(answers) == {"accepted": 4}
    assert "entry_one_per_wallet_version" in seen[0]
    assert payer.balance == idle.balance == 50 - 2 * EXAMPLE_CHARGE
    assert_books_are_right(payer.customer, idle.customer)


def test_customers_whose_wallets_are_busy_come_last_and_nobody_waits_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement, "CUSTOMERS_PER_TRANSACTION", 2)
    payers, token = [make_payer() for _ in range(6)], Relay().token
    events = [make_event(payer) for payer in payers for _ in range(2)]
    busy = payers[0], payers[3]
    with second_connection() as other:
        other.execute(
            "SELECT 1 FROM billing_wallet WHERE customer_id = ANY (%s) FOR UPDATE",
            [[payer.customer.pk for payer in busy]],
        )
        with beside(sender(token, events)) as sending:
            wait_until(lambda: waiting_for(other))
            assert [payer.balance == 50 for payer in payers] == [payer in busy for payer in payers]
            other.rollback()
            assert summed([sending.result(30)]) == {"accepted": 12}
    assert {payer.balance for payer in payers} == {50 - 2 * EXAMPLE_CHARGE}
    assert_books_are_right(*(payer.customer for payer in payers))


class TestRow30:
    """Every request updates the same operator or team row: contention and deadlocks at 500 requests a second."""

    def test_a_settlement_waits_for_its_own_wallet_and_for_no_other(self) -> None:
        ada, bob, token = make_payer(), make_payer(), Relay().token
        with second_connection() as other:
            other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [ada.customer.pk])

            (answer,) = at_once([sender(token, [make_event(bob)])])
            assert summed([answer]) == {"accepted": 1}
            assert bob.balance == 50 - EXAMPLE_CHARGE

            with beside(sender(token, [make_event(ada)])) as waiting:
                wait_until(lambda: waiting_for(other))
                assert not waiting.done()
                other.rollback()
                assert summed([waiting.result(30)]) == {"accepted": 1}

    def test_a_settlement_and_an_authorization_need_no_row_of_anybody_else(self) -> None:
        """Every row of every table that is not this customer's is locked by somebody else all the while."""
        payer, token = make_payer(), Relay().token
        summed([Relay(token).report(make_event(payer))])

        def use() -> list[Answer]:
            relay = Relay(token)
            granted = relay.authorize(payer)
            return [granted, relay.report(make_event(payer, authorization=granted.body["id"]))]

        with second_connection() as other:
            assert lock_all_but(other, payer) > 20_000
            ((granted, reported),) = at_once([use])  # type: ignore[misc]
        assert granted.status == 201
        assert summed([reported]) == {"accepted": 1}


def lock_all_but(other: psycopg.Connection[Any], payer: Payer) -> int:
    """Lock every row that is not this customer's, whatever the table; returns how many there are."""
    columns = other.execute(
        "SELECT t.table_name, bool_or(c.column_name = 'customer_id') FROM information_schema.tables t"
        " JOIN information_schema.columns c USING (table_schema, table_name)"
        " WHERE t.table_schema = 'public' AND t.table_type = 'BASE TABLE' GROUP BY 1"
    ).fetchall()
    locked = 0
    for table, has_customer in columns:
        mine = "customer_id" if has_customer else "id" if table == "billing_customer" else None
        others = "true" if mine is None else f"{mine} IS DISTINCT FROM {payer.customer.pk}"
        locked += other.execute(f'SELECT 1 FROM "{table}" WHERE {others} FOR UPDATE').rowcount
    return locked


def test_batches_that_share_events_in_part_charge_each_once() -> None:
    payer, token = make_payer(), Relay().token
    events = [make_event(payer) for _ in range(60)]
    windows = [events[start : start + 30] for start in range(0, 31, 5)]

    answers = at_once([sender(token, window) for window in windows])

    assert summed(answers) == {"accepted": 60, "duplicates": 7 * 30 - 60}
    assert payer.balance == 50 - 60 * EXAMPLE_CHARGE


def test_one_unknown_key_s_events_at_once_are_kept_once() -> None:
    token = Relay().token
    events = [make_event(api_key_id="key_nobody_at_once") for _ in range(50)]

    answers = at_once([sender(token, events if number % 2 else events[::-1]) for number in range(6)])

    assert summed(answers) == {"parked": 50, "duplicates": 250}


def test_amounts_of_batches_at_once_add_up_to_the_last_decimal() -> None:
    payer, token = make_payer(credit="0.01"), Relay().token
    tiny = {"format": "meters", "usage": {"cache_read": 1}}  # 0.0000003 USD

    answers = at_once([sender(token, [make_event(payer, **tiny) for _ in range(25)]) for _ in range(8)])

    assert summed(answers) == {"accepted": 200}
    assert payer.balance == Decimal("0.01") - 200 * Decimal("0.0000003")
    assert_books_are_right(payer.customer)


def test_what_was_answered_is_committed() -> None:
    payer = make_payer()
    summed([Relay().report(make_event(payer))])
    with second_connection() as other:
        row = other.execute("SELECT balance FROM billing_wallet WHERE customer_id = %s", [payer.customer.pk]).fetchone()
    assert row == (50 - EXAMPLE_CHARGE,)
