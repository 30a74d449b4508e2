"""Many workers at one wallet's recharge, and at the numbers of receipts."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from billing import ledger, receipts, received, recharge, stripe_gateway
from billing.manual import Person
from billing.models import Receipt, TopUp
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock
from tests.operator import make_staff
from tests.payments_sandbox import StripeSandbox
from tests.saved_cards import charges_of, save_card, set_recharge
from tests.world import Payer, make_payer

pytestmark = pytest.mark.usefixtures("committed")

WORKERS = 8
NOW = datetime.now(UTC)


def below_its_threshold(stripe: StripeSandbox) -> Payer:
    payer = make_payer(credit="5")
    save_card(payer, stripe)
    set_recharge(payer)
    return payer


def run(payer: Payer, at: datetime = NOW) -> str:
    return recharge.run(customer_id=payer.customer.pk, at=at)


def payments_of(payer: Payer) -> list[str]:
    made = stripe_gateway.payment_intents_created(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    return [one.id for one in made if one.metadata.get("customer") == payer.customer.public_id]


def test_eight_workers_at_once_charge_once(stripe_sandbox: StripeSandbox) -> None:
    payer = below_its_threshold(stripe_sandbox)
    outcomes = at_once([partial(run, payer)] * WORKERS)
    assert sorted(map(str, outcomes)) == ["nothing to charge"] * (WORKERS - 1) + ["paid"]
    assert (payer.balance, len(payments_of(payer))) == (55, 1)
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_they_charge_several_times(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: all look before any of them writes."""
    payer = below_its_threshold(stripe_sandbox)
    all_have_looked = Barrier(WORKERS)
    locks, may_fire = ledger.lock_wallets, recharge._may_fire

    def look(customer_ids: Iterable[int]) -> dict[int, ledger.LockedWallet]:
        return look_without_lock(customer_ids)

    def look_and_wait(*args: Any) -> bool:
        fires = may_fire(*args)
        all_have_looked.wait(30)
        # What comes after the look is done under the lock again: it is the look that is at fault.
        monkeypatch.setattr(ledger, "lock_wallets", locks)
        return fires

    monkeypatch.setattr(ledger, "lock_wallets", look)
    monkeypatch.setattr(recharge, "_may_fire", look_and_wait)
    at_once([partial(run, payer)] * WORKERS)
    assert len(charges_of(payer)) == WORKERS
    assert len(payments_of(payer)) == WORKERS


def test_a_charge_that_died_is_taken_up_by_one_of_eight(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = below_its_threshold(stripe_sandbox)
    with monkeypatch.context() as killed:
        killed.setattr(recharge, "_charge", _killed)
        with pytest.raises(KeyboardInterrupt):
            run(payer)
    outcomes = at_once([partial(run, payer, NOW + timedelta(minutes=3))] * WORKERS)
    assert sorted(map(str, outcomes)) == ["nothing to charge"] * (WORKERS - 1) + ["paid"]
    assert ([row.status for row in charges_of(payer)], payer.balance, len(payments_of(payer))) == (["paid"], 55, 1)
    assert_books_are_right(payer.customer)


def test_two_that_charge_for_the_same_row_charge_once(stripe_sandbox: StripeSandbox) -> None:
    """A worker that was thought dead, and the one that took its row over: the key is the row's."""
    payer = below_its_threshold(stripe_sandbox)
    row = recharge.in_transaction(lambda: recharge._open(payer.customer.pk, NOW))
    assert row is not None
    outcomes = at_once([partial(recharge._charge, row, NOW)] * WORKERS)
    told = {str(one) for one in outcomes if not isinstance(one, stripe_gateway.GatewayUnavailable)}
    assert "paid" in told <= {"paid", "paid before"}
    assert (payer.balance, len(payments_of(payer))) == (55, 1)
    assert_books_are_right(payer.customer)


def _killed(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


class TestNumbersOfReceipts:
    def paid(self, payer: Payer, count: int) -> list[TopUp]:
        staff = make_staff()
        person = Person(staff.pk, staff.get_username())
        return [
            received.record(
                customer_id=payer.customer.pk,
                payment=received.Payment("cash", Decimal(10), "USD", f"{staff.pk}-{number}", date(2026, 11, 1)),
                person=person,
                at=NOW,
            )
            for number in range(count)
        ]

    def test_have_no_gap_and_no_double_however_many_give_them_out(self) -> None:
        payer = make_payer()
        rows = self.paid(payer, 24)
        works: list[Any] = [partial(receipts.issue_missing, at=NOW)] * 4
        works += [partial(receipts.of, row, at=NOW) for row in rows[::3]]
        assert not [one for one in at_once(works) if isinstance(one, Exception)]
        mine = Receipt.objects.filter(customer=payer.customer)
        assert mine.count() == mine.values("top_up").distinct().count() == 24
        year = mine.values_list("year", flat=True)[0]
        all_numbers = sorted(
            Receipt.objects.filter(series=receipts.SERIES, year=year).values_list("sequence", flat=True)
        )
        assert all_numbers == list(range(1, len(all_numbers) + 1))

    def test_without_the_series_lock_two_give_out_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The negative control: the second of them is refused by the database, and nobody gets a receipt from it."""
        payer = make_payer()
        first, second = self.paid(payer, 2)
        both_have_looked = Barrier(2)

        def look(series: str, year: int) -> int:
            rows = Receipt.objects.filter(series=series, year=year).order_by("-sequence")
            found = rows.values_list("sequence", flat=True).first() or 0
            if series == receipts.SERIES:
                both_have_looked.wait(30)
            return int(found)

        monkeypatch.setattr(receipts, "_lock_series", look)
        outcomes = at_once([partial(receipts.of, row, at=NOW) for row in (first, second)])
        assert sum("receipt_numbers_are_unique" in str(one) or "number" in str(one) for one in outcomes) >= 1
        assert sum(isinstance(one, Exception) for one in outcomes) == 1
