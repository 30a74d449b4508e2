"""Authorizations, settlements, releases and expiries of one wallet at the same moment."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from django.db import connection

import billing
from billing import holds, ledger
from billing.models import Hold, Wallet
from relayadmin import ids
from tests.concurrency.racing import (
    assert_books_are_right,
    at_once,
    look_without_lock,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output
PLACE_HOLD = (Path(billing.__file__).parent / "sql" / "place_hold.sql").read_text()
GATE = 7_246_011_001  # an advisory lock


def number_of(answer: Answer) -> int:
    parsed = ids.parse_hot_id("auth", answer.body["id"])
    assert parsed is not None
    return parsed[1]


@pytest.mark.parametrize(("lock", "passing"), [("FOR UPDATE", 10), ("", 20)], ids=["with the lock", "without it"])
def test_what_lets_only_those_pass_is_the_lock_before_the_look(lock: str, passing: int) -> None:
    """The negative control of row 1: the same function, made to wait between its look and its write."""
    payer = make_payer(credit="1.00")
    name = f"place_hold_{uuid4().hex}"
    look = "FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;"
    assert PLACE_HOLD.count(look) == 1
    gated = look.replace("FOR UPDATE", lock) + f" PERFORM pg_advisory_xact_lock_shared({GATE});"
    with connection.cursor() as cursor:
        cursor.execute(PLACE_HOLD.replace("billing_place_hold", name).replace(look, gated))

    def place() -> str:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT outcome FROM {name}(%s, %s, '\\x00', 0.1, now(), now() + interval '1 hour', '{{}}', '',"
                " NULL, NULL)",
                [payer.customer.pk, uuid4().hex],
            )
            return str((cursor.fetchone() or [""])[0])

    with second_connection() as gate:
        gate.execute("SELECT pg_advisory_xact_lock(%s)", [GATE])

        def open_the_gate() -> str:
            # Without the lock all twenty have looked; with it one has, and the others wait for that one.
            wait_until(lambda: len(waiting_for(gate)) == (1 if lock else 20))
            gate.rollback()
            return "opened"

        outcomes = Counter(at_once([place] * 20 + [open_the_gate]))
    with connection.cursor() as cursor:
        cursor.execute(f"DROP FUNCTION {name}")

    assert outcomes.pop("opened") == 1
    assert outcomes["placed"] == passing
    assert payer.wallet.held == passing * Decimal("0.1")
    assert (payer.wallet.held > payer.balance) == (not lock), "without the lock it oversells"


def test_the_rich_hold_like_everybody_and_have_a_floor() -> None:
    """Row 2: a short cut for trusted (rich) customers skips the hold."""
    payer, token = make_payer(credit="1000000000000"), Relay().token

    def ten() -> list[int]:
        relay = Relay(token)
        return [relay.authorize(payer, input_tokens=1000).status for _ in range(10)]

    assert at_once([ten] * 4) == [[201] * 10] * 4
    assert payer.wallet.held == 40 * PRICE
    Wallet.objects.filter(customer=payer.customer).update(held=payer.balance - PRICE)
    statuses = Counter(status for outcome in at_once([ten] * 4) for status in outcome)  # type: ignore[union-attr]
    assert statuses == {201: 1, 402: 39}


def test_one_request_id_on_eight_connections_holds_once() -> None:
    payer, token = make_payer(credit="1"), Relay().token

    answers = at_once([lambda: Relay(token).authorize(payer, request_id="same", input_tokens=1000)] * 8)

    assert Counter(answer.status for answer in answers if isinstance(answer, Answer)) == {201: 1, 200: 7}
    assert len({answer.body["id"] for answer in answers if isinstance(answer, Answer)}) == 1
    assert payer.wallet.held == PRICE


def test_settlement_release_and_expiry_of_one_hold_end_it_once() -> None:
    """Row 5: a refund runs three times."""
    payer, token = make_payer(), Relay().token
    for _ in range(12):
        before = payer.balance
        granted = Relay(token).authorize(payer)
        event = make_event(payer, authorization=granted.body["id"])
        later = datetime.now(UTC) + timedelta(hours=1)

        settled, released, again, _, _ = at_once(
            [
                lambda event=event: Relay(token).report(event),  # type: ignore[misc]
                lambda granted=granted: Relay(token).release(granted.body["id"]),  # type: ignore[misc]
                lambda granted=granted: Relay(token).release(granted.body["id"]),  # type: ignore[misc]
                lambda later=later: holds.expire(at=later),  # type: ignore[misc]
                lambda later=later: holds.expire(at=later),  # type: ignore[misc]
            ]
        )

        assert isinstance(settled, Answer)
        assert settled.body["accepted"] == 1
        hold = Hold.objects.get(customer=payer.customer, id=number_of(granted))
        expected = 409 if hold.status == Hold.Status.SETTLED else 200
        for answer in (released, again):
            assert isinstance(answer, Answer)
            assert answer.status == expected
        assert hold.status != Hold.Status.OPEN
        assert hold.settled == (EXAMPLE_CHARGE if hold.status == Hold.Status.SETTLED else 0)
        assert (hold.remaining, payer.wallet.held) == (0, 0)
        assert payer.balance == before - EXAMPLE_CHARGE
    assert_books_are_right(payer.customer)


def release_two_at_once(payer: Payer) -> list[object]:
    relay = Relay()
    numbers = [number_of(relay.authorize(payer)) for _ in range(2)]
    at = datetime.now(UTC)
    return at_once(
        [
            lambda number=number: holds.release(customer_id=payer.customer.pk, number=number, at=at)  # type: ignore[misc]
            for number in numbers
        ]
    )


def test_two_holds_of_one_wallet_released_at_once_are_both_freed() -> None:
    """Row 4: leaked holds are false "budget exceeded" for ever."""
    payer = make_payer()
    for _ in range(10):
        release_two_at_once(payer)
        assert payer.wallet.held == 0


def test_without_the_wallet_s_lock_one_of_two_releases_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: two transactions look at the wallet before either writes it."""
    payer = make_payer()
    both_have_looked = Barrier(2)

    def look_and_wait(customer_ids: list[int]) -> dict[int, ledger.LockedWallet]:
        found = look_without_lock(customer_ids)
        both_have_looked.wait(30)
        return found

    monkeypatch.setattr(ledger, "lock_wallets", look_and_wait)
    release_two_at_once(payer)
    assert payer.wallet.held == Decimal("0.0111"), "held for ever, though both holds were released"
    assert not Hold.objects.filter(customer=payer.customer, status="open").exists()
