"""Many workers on one payment: one row, one page, one credit; and what happens with the lock taken out."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from billing import ledger, payment_accounts, received, top_up_states, top_ups
from billing.manual import Person
from billing.models import Grant, OperatorSettings, PaymentAccount, TopUp, Transfer
from tests.concurrency.racing import (
    assert_books_are_right,
    at_once,
    beside,
    look_without_lock,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.paying import again, now, open_top_up, start
from tests.payments_sandbox import StripeSandbox
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def payer(committed: None) -> Payer:
    return make_payer(credit="0")


def paid_state(payer: Payer, stripe_sandbox: StripeSandbox) -> tuple[TopUp, top_ups.State]:
    row = open_top_up(payer)
    stripe_sandbox.pay(row.session_id or "")
    return row, top_ups.read_session(row.session_id or "")


def test_two_workers_that_apply_one_payment_credit_it_once(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    """Row 20."""
    row, state = paid_state(payer, stripe_sandbox)
    outcomes = at_once([lambda: top_ups.apply(state, at=now())] * 8)
    assert Counter(outcomes) == {"paid": 1, "paid before": 7}
    assert payer.balance == 10
    assert Grant.objects.filter(customer=payer.customer).count() == 1
    assert again(row).grant_id == Grant.objects.get(customer=payer.customer).pk
    assert_books_are_right(payer.customer)


def test_with_the_lock_taken_out_the_two_meet(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: both find the top-up unpaid, and only the unique key of the grant's transfer is left."""
    _, state = paid_state(payer, stripe_sandbox)
    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    with second_connection() as other:
        # Both have judged, and neither has committed, when the first writes the wallet.
        other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [payer.customer.pk])
        with beside(lambda: top_ups.apply(state, at=now())) as first:
            wait_until(lambda: len(waiting_for(other)) == 1)
            with beside(lambda: top_ups.apply(state, at=now())) as second:
                # It waits for the first one's key, as it was not stopped by any lock before.
                wait_until(lambda: _waits_for_a_key() or second.done())
                other.rollback()
                outcomes = [_outcome(first.result), _outcome(second.result)]
    assert "paid" in outcomes
    assert outcomes.count("paid before") == 0, "with the lock, the second would have found it paid"


def _waits_for_a_key() -> bool:
    with second_connection() as looker:
        (waiting,) = looker.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
        ).fetchone() or (0,)
    return int(waiting) >= 2


def _outcome(result: Callable[..., str]) -> str:
    try:
        return result(60)
    except (ledger.AlreadyPosted, IntegrityError) as error:
        return type(error).__name__


def test_eight_starts_with_one_key_are_one_top_up_with_one_page(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    def work() -> Answer:
        return CustomerApi(payer).send("POST", "top-ups", {"amount": "10.00"}, **{"Idempotency-Key": "k"})

    answers = at_once([work] * 8)
    assert {answer.status for answer in answers if isinstance(answer, Answer)} == {201}, answers
    assert len({json.dumps(answer.body) for answer in answers if isinstance(answer, Answer)}) == 1
    row = TopUp.objects.get(customer=payer.customer)
    made = [
        call
        for call in stripe_sandbox.requests()
        if call["method"] == "POST" and call["path"] in {"/v1/checkout/sessions", "/v1/customers"}
    ]
    assert Counter(call["path"] for call in made) == {"/v1/checkout/sessions": 1, "/v1/customers": 1}
    assert row.session_id is not None


def test_eight_different_starts_make_the_customer_known_once(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    rows = at_once([lambda: open_top_up(payer)] * 8)
    assert len({row.session_id for row in rows if isinstance(row, TopUp)}) == 8, rows
    assert PaymentAccount.objects.filter(customer=payer.customer).count() == 1
    assert [call["path"] for call in stripe_sandbox.requests()].count("/v1/customers") == 1


def test_without_their_turn_more_than_one_asks_for_the_customer(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the provider is asked by several, and its key alone keeps it one customer."""
    monkeypatch.setattr(payment_accounts, "one_at_a_time", lambda name: nullcontext())
    stripe_sandbox.fail_next("slow", method="POST", path="/v1/customers", seconds=1)
    answers = at_once([lambda: payment_accounts.ensure(customer_id=payer.customer.pk, at=now())] * 4)
    assert any("another in-progress request" in str(answer) for answer in answers), answers
    assert PaymentAccount.objects.filter(customer=payer.customer).count() == 1


def test_two_sweeps_share_the_work(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    rows = [open_top_up(payer) for _ in range(6)]
    for row in rows:
        stripe_sandbox.pay(row.session_id or "")
    mine = TopUp.objects.filter(pk__in=[row.pk for row in rows])
    TopUp.objects.exclude(pk__in=mine).update(look_at=None)
    at = now() + timedelta(minutes=2)
    swept = at_once([lambda: top_ups.sweep(at=at)] * 3)
    assert sum(one.looked_at for one in swept if isinstance(one, top_ups.Swept)) == 6, swept
    assert sum(one.paid for one in swept if isinstance(one, top_ups.Swept)) == 6
    assert payer.balance == 60
    assert_books_are_right(payer.customer)


def test_the_bonus_comes_once_with_two_first_top_ups(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    states = [paid_state(payer, stripe_sandbox)[1] for _ in range(2)]
    OperatorSettings.objects.update(first_bonus_percent=10)
    try:
        outcomes = at_once([lambda state=state: top_ups.apply(state, at=now()) for state in states])  # type: ignore[misc]
    finally:
        OperatorSettings.objects.update(first_bonus_percent=0)
    assert outcomes == ["paid", "paid"]
    assert payer.balance == 21
    assert_books_are_right(payer.customer)


def test_one_reference_recorded_by_two_at_once_is_credited_once(payer: Payer) -> None:
    def work() -> TopUp:
        payment = received.Payment("cash", Decimal(7), "USD", "receipt 1", now().date())
        return received.record(customer_id=payer.customer.pk, payment=payment, person=Person(None, "olga"), at=now())

    outcomes = at_once([work] * 4)
    assert sum(isinstance(one, TopUp) for one in outcomes) == 1
    assert sum(isinstance(one, received.RecordedBefore) for one in outcomes) == 3
    assert payer.balance == 7
    assert_books_are_right(payer.customer)


def test_a_second_payment_seen_by_many_is_kept_once(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    row, state = paid_state(payer, stripe_sandbox)
    assert top_ups.apply(state, at=now()) == "paid"
    assert state.intent is not None
    assert state.intent.charge is not None
    name = f"pi_{row.public_id}"
    second = replace(state.intent, id=name, charge=replace(state.intent.charge, id=f"ch_{row.public_id}"))
    outcomes = at_once([lambda: top_up_states.apply(top_ups.State(None, second), at=now())] * 4)
    assert Counter(str(one).partition(":")[0] for one in outcomes) == {"refused": 1, "refused before": 3}
    assert TopUp.objects.filter(payment_intent_id=name, status="refused").count() == 1
    assert payer.balance == 10
    TopUp.objects.filter(payment_intent_id=name).update(decided_by="olga")


def test_nothing_is_asked_of_the_provider_inside_a_transaction(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    row = start(payer)
    works: list[Callable[[], Any]] = [
        lambda: top_ups.open_checkout(top_up_id=row.pk, at=now()),
        lambda: top_ups.sync_session("cs_test_x", now()),
        lambda: top_ups.sync_intent("pi_x", now()),
        lambda: payment_accounts.ensure(customer_id=payer.customer.pk, at=now()),
    ]
    for work in works:
        with pytest.raises(RuntimeError, match="inside a transaction"), transaction.atomic():
            work()
    assert stripe_sandbox.requests() == []
    assert not connection.in_atomic_block
    assert Transfer.objects.filter(customer=payer.customer).count() == 0
