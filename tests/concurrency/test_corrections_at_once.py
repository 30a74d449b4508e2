"""Corrections at the same moment: an estimate is taken back once, and every call is charged once."""

from datetime import UTC, datetime
from threading import Lock
from typing import Any

import pytest
from django.db import connection

from billing import ledger
from metering import corrections, parking, settlement
from metering.models import EventConflict, ParkedEvent, UsageAdjustment, UsageEvent
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


def test_a_ring_whose_members_come_at_the_same_moment_ends_as_one_charge() -> None:
    payers, token = [make_payer() for _ in range(6)], Relay().token
    rings = []
    for payer in payers:
        ids = [f"ring-{place}" for place in range(3)]
        first, second = ({**estimate(payer), "id": ids[place], "replaces": ids[place - 1]} for place in (0, 1))
        rings.append([first, second, make_event(payer, id=ids[2], replaces=ids[1])])

    senders = [sender(token, [ring[place] for ring in rings]) for place in range(3)]
    total = summed(at_once([*senders, sender(token, [event for ring in rings[::-1] for event in ring[::-1]])]))
    assert total["accepted"] + total["parked"] + total["duplicates"] == 36

    for _ in range(3):
        parked = ParkedEvent.objects.filter(customer__in=[payer.customer for payer in payers], resolved_at=None)
        parking.settle_parked(parked_ids=[row.pk for row in parked], at=datetime.now(UTC))
    assert not parked.all().exists()
    assert {payer.balance for payer in payers} == {50 - EXAMPLE_CHARGE}
    for payer in payers:
        assert EventConflict.objects.filter(customer=payer.customer, kind="replaces_in_ring").count() == 1
    assert_books_are_right(*(payer.customer for payer in payers))


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
