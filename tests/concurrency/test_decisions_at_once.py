"""An operator decides on a correction at the moment when its estimate comes, or the sweep: the call is charged once."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import pytest
from django.db import IntegrityError, connection

from billing import ledger
from metering import corrections, decisions, parking
from metering.ingestion import Event
from metering.models import EventKey, ParkedEvent, UsageAdjustment, UsageEvent
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock, wait_until, waiting_for
from tests.concurrency.test_batches_at_once import sender, summed
from tests.concurrency.test_corrections_at_once import estimate
from tests.world import EXAMPLE_CHARGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")


def park(payer: Payer, token: str) -> tuple[dict[str, Any], ParkedEvent]:
    """An estimate that has not come, and the row where its correction waits."""
    old = estimate(payer)
    assert summed([Relay(token).report(make_event(payer, replaces=old["id"]))]) == {"parked": 1}
    return old, ParkedEvent.objects.get(customer=payer.customer)


def operator(row: ParkedEvent, decide: Callable[..., set[int]] = decisions.charge_as_they_stand) -> Any:
    return lambda: decide(parked_ids=[row.pk], actor="grace", at=datetime.now(UTC))


def sweep(row: ParkedEvent) -> Callable[[], int]:
    return lambda: parking.settle_parked(parked_ids=[row.pk], at=datetime.now(UTC))


def test_charging_as_it_stands_when_the_estimate_and_the_sweep_come_charges_once() -> None:
    for turn in range(8):
        payer, token = make_payer(), Relay().token
        old, row = park(payer, token)

        works = [operator(row), sender(token, [old]), sweep(row), operator(row)]
        answers = at_once(works[turn % 4 :] + works[: turn % 4])

        assert [answer for answer in answers if isinstance(answer, Exception)] == []
        assert_charged_once(payer, old, row, decided=answers.count({row.pk}))


def assert_charged_once(payer: Payer, old: dict[str, Any], row: ParkedEvent, *, decided: int) -> None:
    """Whoever was first; and as it stood only if the estimate had not come."""
    sweep(row)()
    assert payer.balance == 50 - EXAMPLE_CHARGE
    row.refresh_from_db()
    assert row.resolution == "settled"
    has_come = UsageEvent.objects.filter(customer=payer.customer, event_id=old["id"]).exists()
    assert UsageAdjustment.objects.filter(customer=payer.customer).exists() is has_come
    assert (decided, row.decided_by) == ((0, "") if has_come else (1, "grace"))
    assert_books_are_right(payer.customer)


@pytest.mark.parametrize(
    ("works", "has_come", "is_decided"),
    [
        (("operator", "estimate"), False, True),
        (("estimate", "operator"), False, False),
        (("operator", "operator"), False, True),
        (("operator", "sweep"), True, False),
        (("sweep", "operator"), True, False),
    ],
)
def test_who_waits_for_the_wallet_s_lock_finds_what_the_other_has_done(
    works: tuple[str, str], has_come: bool, is_decided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of `works`: the first keeps the lock until the second waits for it."""
    payer, token = make_payer(), Relay().token
    old, row = park(payer, token)
    if has_come:
        summed([Relay(token).report(old)])
    lock, is_first, held = ledger.lock_wallets, Lock(), []

    def lock_and_wait_for_the_other(customer_ids: Iterable[int]) -> dict[int, ledger.LockedWallet]:
        wallets = lock(customer_ids)
        if is_first.acquire(blocking=False):
            held.append(True)
            wait_until(lambda: waiting_for(connection.connection))
        return wallets

    monkeypatch.setattr(ledger, "lock_wallets", lock_and_wait_for_the_other)
    known = {"operator": operator(row), "estimate": sender(token, [old]), "sweep": sweep(row)}
    first, second = (known[name] for name in works)
    answers = at_once([first, lambda: wait_until(lambda: held) and second()])
    monkeypatch.undo()

    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert answers.count({row.pk}) == is_decided
    assert_charged_once(payer, old, row, decided=answers.count({row.pk}))


def test_without_the_wallet_s_lock_it_is_charged_as_it_stands_beside_its_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: the estimate comes between the look and the charge; only its id's key keeps it single."""
    payer, token = make_payer(), Relay().token
    old, row = park(payer, token)
    look, looked = corrections.of_nothing_known, []

    def look_and_let_the_estimate_come(events: Sequence[Event]) -> list[Event]:
        looked.extend(look(events))
        wait_until(lambda: UsageEvent.objects.filter(customer=payer.customer, event_id=old["id"]).exists())
        return looked

    def send_after_the_look() -> Any:
        wait_until(lambda: looked)
        return sender(token, [old])()

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(corrections, "of_nothing_known", look_and_let_the_estimate_come)

    answers = at_once([operator(row), send_after_the_look])

    assert len(looked) == 1, "it would have been charged as it stands"
    assert isinstance(answers[0], IntegrityError)
    assert "metering_eventkey" in str(answers[0])
    assert EventKey.objects.filter(customer=payer.customer).count() == 2


def test_without_the_wallet_s_lock_two_operators_charge_it_and_the_database_refuses_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: both see that it waits."""
    payer, token = make_payer(), Relay().token
    _, row = park(payer, token)
    look, looked = corrections.of_nothing_known, []

    def look_and_let_the_other_look(events: Sequence[Event]) -> list[Event]:
        found = look(events)
        looked.append(len(found))
        wait_until(lambda: len(looked) > 1)
        return found

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(corrections, "of_nothing_known", look_and_let_the_other_look)

    answers = at_once([operator(row), operator(row)])

    assert looked == [1, 1], "both would have charged it"
    assert sorted(type(answer) for answer in answers if isinstance(answer, Exception)) == [IntegrityError]
    assert payer.balance == 50 - EXAMPLE_CHARGE


def test_charging_and_refusing_at_the_same_moment_do_one_of_both() -> None:
    for _ in range(5):
        payer, token = make_payer(), Relay().token
        _, row = park(payer, token)

        answers = at_once([operator(row), operator(row, decisions.refuse)])

        assert sorted(answers, key=len) == [set(), {row.pk}]
        row.refresh_from_db()
        assert (row.resolution, payer.balance) in (("settled", 50 - EXAMPLE_CHARGE), ("refused", 50))
        assert_books_are_right(payer.customer)
