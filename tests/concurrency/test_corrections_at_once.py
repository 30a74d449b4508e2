"""Corrections at the same moment: an estimate is taken back once, and every call is charged once."""

from datetime import UTC, datetime
from threading import Lock
from typing import Any

import pytest
from django.db import connection

from billing import ledger
from metering import corrections, parking, settlement
from metering.models import EventConflict, UsageAdjustment, UsageEvent
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock, wait_until, waiting_for
from tests.concurrency.test_batches_at_once import sender, summed
from tests.world import EXAMPLE_CHARGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")


def estimate(payer: Payer) -> dict[str, Any]:
    return make_event(payer, status="aborted", estimated=True, usage={"input_tokens": 1000, "output_tokens": 100})


def test_two_corrections_of_one_estimate_at_the_same_moment_charge_one() -> None:
    for _ in range(5):
        payer, token = make_payer(), Relay().token
        old = estimate(payer)
        summed([Relay(token).report(old)])

        answers = at_once([sender(token, [make_event(payer, replaces=old["id"])]) for _ in range(4)])

        assert summed(answers) == {"accepted": 1, "duplicates": 3}
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert UsageAdjustment.objects.filter(customer=payer.customer).count() == 1
        assert EventConflict.objects.filter(customer=payer.customer, kind="replaced_before").count() == 3
        assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_both_take_it_back_and_the_database_refuses_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: both see an estimate that nobody has replaced."""
    payer, token = make_payer(), Relay().token
    old = estimate(payer)
    summed([Relay(token).report(old)])
    judge, first_judged = corrections.judge, Lock()
    seen: list[int] = []

    def judge_and_let_the_other_judge(items: Any) -> corrections.Judged:
        judged = judge(items)
        seen.append(len(judged.charged))
        wait_until(lambda: len(seen) > 1)
        return judged

    store = settlement._store

    def store_once_the_other_waits(rated: list[settlement.Rated], **kwargs: Any) -> None:
        if rated and len(seen) > 1 and first_judged.acquire(blocking=False):
            wait_until(lambda: waiting_for(connection.connection))
        store(rated, **kwargs)

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(corrections, "judge", judge_and_let_the_other_judge)
    monkeypatch.setattr(settlement, "_store", store_once_the_other_waits)

    answers = at_once([sender(token, [make_event(payer, replaces=old["id"])]) for _ in range(2)])

    assert seen == [1, 1], "both would have taken it back"
    assert summed(answers) == {"accepted": 1, "rejected": 1}
    assert payer.balance == 50 - EXAMPLE_CHARGE


def test_an_estimate_and_its_correction_at_the_same_moment_end_as_one_charge() -> None:
    payers, token = [make_payer() for _ in range(6)], Relay().token
    olds = [estimate(payer) for payer in payers]
    news = [make_event(payer, replaces=old["id"]) for payer, old in zip(payers, olds, strict=True)]

    total = summed(at_once([sender(token, olds), sender(token, news[::-1]), sender(token, olds[::-1] + news)]))
    assert total["accepted"] + total["parked"] == 12

    parking.sweep(at=datetime.now(UTC))
    assert {payer.balance for payer in payers} == {50 - EXAMPLE_CHARGE}
    for payer in payers:
        assert UsageEvent.objects.filter(customer=payer.customer).count() == 2
    assert_books_are_right(*(payer.customer for payer in payers))
