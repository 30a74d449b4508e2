"""Holds: placed against the one floor; settled, released or expired, exactly once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction

from billing import holds, ledger
from billing.models import Hold, Wallet
from relayadmin import ids
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
ONE = Decimal(1)


def place(payer: Payer, amount: str = "1", **changes: Any) -> holds.PlacedHold:
    asked: dict[str, Any] = {
        "customer_id": payer.customer.pk,
        "request_id": uuid4().hex,
        "digest": b"d" * 32,
        "amount": Decimal(amount),
        "expires_at": AT + timedelta(minutes=15),
        "details": {"model": "m"},
        "at": AT,
    }
    return holds.place(**{**asked, **changes})


def number_of(placed: holds.PlacedHold) -> int:
    parsed = ids.parse_hot_id("auth", placed.public_id)
    assert parsed is not None
    return parsed[1]


def row(placed: holds.PlacedHold) -> Hold:
    return Hold.objects.get(pk=number_of(placed))


def release(payer: Payer, placed: holds.PlacedHold, at: datetime = AT) -> Hold:
    return holds.release(customer_id=payer.customer.pk, number=number_of(placed), at=at)


def settle(payer: Payer, *draws: tuple[holds.PlacedHold, str, bool]) -> set[tuple[int, int]]:
    """Draw (amount, is last) on holds, in one transaction."""
    with transaction.atomic():
        wallets = ledger.lock_wallets([payer.customer.pk])
        return holds.settle(
            [
                holds.Settlement(payer.customer.pk, number_of(placed), Decimal(amount), is_last=is_last)
                for placed, amount, is_last in draws
            ],
            wallets=wallets,
            at=AT,
        ).missing


class TestTheFloor:
    """balance − held + credit limit ≥ amount: one rule, for everybody."""

    def test_is_balance_less_holds_plus_credit_limit(self) -> None:
        payer = make_payer(credit="3")
        Wallet.objects.filter(customer=payer.customer).update(credit_limit=2)
        for _ in range(4):
            place(payer)
        with pytest.raises(holds.InsufficientBalance) as caught:
            place(payer, "1.000000000000001")
        assert caught.value.available == 1
        place(payer)
        with pytest.raises(holds.InsufficientBalance) as caught:
            place(payer, "0.000000000000001")
        assert caught.value.available == 0

    def test_knows_no_short_cut_for_the_rich(self) -> None:
        """Row 2: a trusted customer's request skips the hold."""
        payer = make_payer(credit="1000000000000")
        for _ in range(3):
            place(payer, "0.01")
        assert payer.wallet.held == Decimal("0.03")
        with pytest.raises(holds.InsufficientBalance):
            place(payer, "1000000000000")

    def test_lets_nothing_through_below_zero_not_even_nothing(self) -> None:
        payer = make_payer(credit="0")
        place(payer, "0")
        Wallet.objects.filter(customer=payer.customer).update(balance=Decimal("-0.01"))
        with pytest.raises(holds.InsufficientBalance):
            place(payer, "0")

    def test_a_negative_hold_is_refused_before_it_gets_there(self) -> None:
        """Row 6: a negative amount mints credit."""
        with pytest.raises(AssertionError):
            place(make_payer(), "-1")

    def test_a_customer_that_is_none_has_no_floor(self) -> None:
        with pytest.raises(ledger.UnknownCustomer):
            place(make_payer(), customer_id=2**62)


class TestARequestId:
    def test_holds_once_however_often_it_is_replayed(self) -> None:
        payer = make_payer(credit="1")
        first = place(payer, request_id="r")
        again = place(payer, "0.5", request_id="r", details={"other": 1}, expires_at=AT + timedelta(days=1))
        assert (first.is_new, again.is_new) == (True, False)
        assert (again.public_id, again.amount, again.expires_at) == (first.public_id, ONE, first.expires_at)
        assert again.details == {"model": "m"}
        assert payer.wallet.held == 1

    def test_with_another_digest_is_a_conflict(self) -> None:
        payer = make_payer()
        place(payer, request_id="r")
        with pytest.raises(holds.RequestConflict):
            place(payer, request_id="r", digest=b"e" * 32)

    @pytest.mark.parametrize("length", [1, 255])
    def test_of_any_length_and_script_is_kept(self, length: int) -> None:
        payer = make_payer()
        assert row(place(payer, request_id="й" * length)).request_id == "й" * length


class TestAnEnd:
    def test_by_release_frees_it_once(self) -> None:
        payer = make_payer()
        placed = place(payer)
        assert release(payer, placed).status == Hold.Status.RELEASED
        assert release(payer, placed).status == Hold.Status.RELEASED
        assert (payer.wallet.held, row(placed).remaining) == (0, 0)

    def test_by_expiry_frees_it_once(self) -> None:
        """Row 4: a crash leaks holds, and they block the customer for ever."""
        payer = make_payer()
        placed = [place(payer), place(payer, expires_at=AT + timedelta(hours=1))]
        at = AT + timedelta(minutes=15)
        assert holds.expire(at=at - timedelta(microseconds=1)) == 0
        assert holds.expire(at=at) == 1
        assert holds.expire(at=at) == 0
        assert [row(item).status for item in placed] == ["expired", "open"]
        assert payer.wallet.held == 1

    def test_by_expiry_is_done_in_portions_till_nothing_is_left(self) -> None:
        payers = [make_payer() for _ in range(3)]
        for payer in payers:
            place(payer)
            place(payer)
        at = AT + timedelta(minutes=15)
        done = [holds.expire(at=at, limit=2) for _ in range(7)]
        assert sum(done) == 6
        assert done[-1] == 0
        assert {payer.wallet.held for payer in payers} == {0}

    def test_of_an_overdue_hold_by_release_is_an_expiry(self) -> None:
        payer = make_payer()
        placed = place(payer)
        assert release(payer, placed, AT + timedelta(minutes=15)).status == Hold.Status.EXPIRED
        assert payer.wallet.held == 0

    def test_by_settlement_frees_what_was_not_used_and_shows_what_was(self) -> None:
        payer = make_payer()
        placed = place(payer)
        assert settle(payer, (placed, "0.25", True)) == set()
        hold = row(placed)
        assert (hold.status, hold.remaining, hold.settled, hold.overrun) == ("settled", 0, Decimal("0.25"), 0)
        assert hold.resolved_at == AT
        assert payer.wallet.held == 0

    def test_by_settlement_above_it_shows_the_overrun(self) -> None:
        payer = make_payer()
        placed = place(payer)
        settle(payer, (placed, "7", True))
        assert (row(placed).settled, row(placed).overrun, payer.wallet.held) == (7, 6, 0)

    def test_in_parts_frees_each_part_and_then_the_rest(self) -> None:
        payer = make_payer()
        placed = place(payer)
        settle(payer, (placed, "0.25", False), (placed, "0.25", False))
        assert (row(placed).status, row(placed).remaining, payer.wallet.held) == (
            "open",
            Decimal("0.5"),
            Decimal("0.5"),
        )
        settle(payer, (placed, "0.25", False), (placed, "0.1", True), (placed, "5", True))
        assert (row(placed).status, row(placed).settled, payer.wallet.held) == ("settled", Decimal("0.85"), 0)

    def test_after_part_of_it_was_drawn_frees_only_the_rest(self) -> None:
        payer = make_payer()
        placed = place(payer)
        other = place(payer)
        settle(payer, (placed, "0.75", False))
        release(payer, placed)
        assert payer.wallet.held == 1
        assert row(placed).settled == Decimal("0.75")
        release(payer, other)
        assert payer.wallet.held == 0

    def test_by_settlement_can_t_be_released(self) -> None:
        payer = make_payer()
        placed = place(payer)
        settle(payer, (placed, "0.25", True))
        with pytest.raises(holds.AlreadySettled):
            release(payer, placed)

    @pytest.mark.parametrize("ended_by", ["release", "expiry", "settlement"])
    def test_is_final_for_every_later_settlement(self, ended_by: str) -> None:
        payer = make_payer()
        placed = place(payer)
        if ended_by == "release":
            release(payer, placed)
        elif ended_by == "expiry":
            holds.expire(at=AT + timedelta(hours=1))
        else:
            settle(payer, (placed, "0.5", True))
        before = row(placed)
        assert settle(payer, (placed, "5", True)) == set()
        after = row(placed)
        assert (after.status, after.settled, after.resolved_at) == (before.status, before.settled, before.resolved_at)
        assert payer.wallet.held == 0

    def test_of_a_hold_that_is_not_there_is_reported_back(self) -> None:
        payer, other = make_payer(), make_payer()
        foreign = place(other)
        assert settle(payer, (foreign, "1", True)) == {(payer.customer.pk, number_of(foreign))}
        assert other.wallet.held == 1
        with pytest.raises(holds.UnknownHold):
            release(payer, foreign)
        with pytest.raises(holds.UnknownHold):
            holds.release(customer_id=2**62, number=1, at=AT)


def test_expiry_frees_all_others_where_one_customers_figures_are_wrong() -> None:
    right, wrong = make_payer(), make_payer()
    for payer in (wrong, right):
        place(payer)
    Wallet.objects.filter(customer=wrong.customer).update(held=0)
    late = AT + timedelta(hours=1)

    assert holds.expire(at=late) == 1
    assert right.wallet.held == 0
    with pytest.raises(holds.HoldsStuck, match=f"customer number {wrong.customer.pk}: .*wallet_held_not_negative"):
        holds.expire(at=late)

    Wallet.objects.filter(customer=wrong.customer).update(held=1)
    assert holds.expire(at=late) == 1
