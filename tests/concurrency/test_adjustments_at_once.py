"""Adjustments by hand at the same moment: approved once, never below what is there, and the books stay right."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing import closing, ledger, manual
from billing.models import AccountChange, OperatorSettings, Transfer, WalletAdjustment
from metering.closing import close_account
from tests.billing.hands import adjust, person
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock, wait_until
from tests.world import Answer, Payer, Relay, make_payer

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(autouse=True)
def _limit(committed: None) -> Any:
    OperatorSettings.objects.update(second_person_above=Decimal(100))
    yield
    OperatorSettings.objects.update(second_person_above=None)


def approver(row: WalletAdjustment) -> Callable[[], WalletAdjustment]:
    somebody = person()
    return lambda: manual.approve(adjustment_id=row.pk, person=somebody, at=datetime.now(UTC))


def rejecter(row: WalletAdjustment) -> Callable[[], WalletAdjustment]:
    somebody = person()
    return lambda: manual.reject(adjustment_id=row.pk, person=somebody, note="no", at=datetime.now(UTC))


def moved(payer: Payer, row: WalletAdjustment) -> int:
    return Transfer.objects.filter(customer=payer.customer, key=f"adjustment:{row.public_id}").count()


@pytest.mark.parametrize(("kind", "after"), [("goodwill", 700), ("debit", 300)])
def test_what_eight_approve_at_once_is_posted_once(kind: str, after: int) -> None:
    payer = make_payer(credit="500")
    row = adjust(payer, kind, "200", by=person())

    answers = at_once([approver(row) for _ in range(8)])

    assert Counter(type(answer) for answer in answers) == {WalletAdjustment: 1, manual.AlreadyDecided: 7}
    assert (payer.balance, moved(payer, row)) == (after, 1)
    assert_books_are_right(payer.customer)


def test_approved_and_rejected_at_once_it_is_one_of_both() -> None:
    for _ in range(5):
        payer = make_payer(credit="500")
        row = adjust(payer, "debit", "200", by=person())

        answers = at_once([approver(row), rejecter(row)])

        assert sorted(type(answer).__name__ for answer in answers) == ["AlreadyDecided", "WalletAdjustment"]
        row.refresh_from_db()
        assert (row.status, payer.balance) in (("posted", 300), ("rejected", 500))
        assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_two_would_post_it_and_the_database_refuses_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: both see that it waits; only its key in the ledger keeps it single."""
    payer = make_payer(credit="500")
    row = adjust(payer, "debit", "200", by=person())
    look, looked = manual._lock, []

    def look_and_let_the_other_look(adjustment_id: int) -> Any:
        found = look(adjustment_id)
        looked.append(found[0].status)
        wait_until(lambda: len(looked) > 1)
        return found

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(manual, "_lock", look_and_let_the_other_look)

    answers = at_once([approver(row), approver(row)])

    assert looked == ["pending", "pending"], "both would have posted it"
    assert sorted(type(answer) for answer in answers if isinstance(answer, Exception)) == [ledger.AlreadyPosted]
    assert (payer.balance, moved(payer, row)) == (300, 1)


def test_debits_and_authorizations_share_what_there_is() -> None:
    payer, token = make_payer(credit="1"), Relay().token
    Relay(token).authorize(payer, input_tokens=1000)

    def hold() -> int:
        return Relay(token).authorize(payer, input_tokens=1000).status  # 0.0105

    def debit() -> str:
        return adjust(payer, "debit", "0.2").status

    answers = Counter(
        type(answer) if isinstance(answer, Exception) else answer for answer in at_once([hold] * 16 + [debit] * 8)
    )

    assert answers["posted"] == 4
    assert answers[manual.TooLittleCredit] == 4
    assert payer.balance == Decimal("0.2")
    assert payer.wallet.held == (answers[201] + 1) * Decimal("0.0105") <= payer.balance
    assert_books_are_right(payer.customer)


def test_without_the_lock_debits_take_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: four debits look before any of them takes."""
    payer = make_payer(credit="1")
    debit, looked = manual._debit, []

    def look_and_let_the_others_look(row: WalletAdjustment, wallet: ledger.LockedWallet, **told: Any) -> Any:
        looked.append(wallet.balance)
        wait_until(lambda: len(looked) == 4)
        return debit(row, wallet, **told)

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(manual, "_debit", look_and_let_the_others_look)

    answers = at_once([lambda: adjust(payer, "debit", "0.6").status] * 4)

    assert looked == [1, 1, 1, 1], "each of them would have fitted"
    assert [answer for answer in answers if isinstance(answer, manual.TooLittleCredit)] == []


def test_an_account_is_closed_once_and_nothing_is_authorized_after() -> None:
    for _ in range(4):
        payer, token = make_payer(credit="1"), Relay().token

        def hold(payer: Payer = payer, token: str = token) -> Answer:
            return Relay(token).authorize(payer)

        def close(payer: Payer = payer) -> closing.Closed:
            return close_account(
                customer_id=payer.customer.pk,
                paid_credit=closing.PaidCredit.REFUND,
                release_holds=True,
                reason="asked for it",
                actor="grace",
                at=datetime.now(UTC),
            ).money

        answers = at_once([close, hold, close, hold, close])

        closed = [answer for answer in answers if isinstance(answer, closing.Closed)]
        assert sorted(answer.is_new for answer in closed) == [False, False, True]
        assert {answer.expired for answer in closed} == {Decimal(1)}
        assert AccountChange.objects.filter(customer=payer.customer, kind="closed").count() == 1
        assert (payer.balance, payer.wallet.held) == (0, 0)
        assert_books_are_right(payer.customer)
