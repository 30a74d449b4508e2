"""Adjustments by hand at the same moment: approved once, never below what is there, and the books stay right."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from billing import closing, ledger, manual
from billing.models import (
    AccountChange,
    Customer,
    OperatorSettings,
    RedemptionCode,
    RedemptionGuesses,
    Transfer,
    WalletAdjustment,
)
from metering.closing import close_account
from tests.billing.hands import adjust, person
from tests.concurrency.racing import (
    PATIENCE_S,
    assert_books_are_right,
    at_once,
    beside,
    look_without_lock,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.redemption import make_codes
from tests.world import Answer, CustomerApi, Payer, Relay, make_payer

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


def closer(payer: Payer) -> Callable[[], closing.Closed]:
    return lambda: closing.close(
        customer_id=payer.customer.pk,
        paid_credit=closing.PaidCredit.REFUND,
        release_holds=True,
        reason="asked for it",
        actor="grace",
        at=datetime.now(UTC),
    )


def test_approved_while_the_account_closes_it_is_taken_by_closing_or_refused() -> None:
    for _ in range(8):
        payer = make_payer(credit="0")
        row = adjust(payer, "goodwill", "200", by=person())

        approved, closed = at_once([approver(row), closer(payer)])

        assert isinstance(closed, closing.Closed)
        row.refresh_from_db()
        if row.status == "posted":
            assert (approved, closed.expired, closed.withdrawn) == (row, 200, 0)
        else:
            assert (row.status, row.note) == ("withdrawn", "Account closed")
            assert (str(approved), closed.expired, closed.withdrawn) == (
                "this adjustment is withdrawn already: Account closed",
                0,
                1,
            )
        assert (payer.balance, moved(payer, row)) == (0, int(row.status == "posted"))
        assert_books_are_right(payer.customer)


def test_without_the_lock_a_closed_account_gets_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: it is seen to wait before the account closes, and posted after that."""
    payer = make_payer(credit="0")
    row = adjust(payer, "paid", "200", by=person())
    look = manual._lock

    def look_and_let_it_close(adjustment_id: int) -> Any:
        found = look(adjustment_id)
        wait_until(lambda: Customer.objects.filter(pk=payer.customer.pk, status="closed").exists())
        return found

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(manual, "_lock", look_and_let_it_close)

    at_once([approver(row), closer(payer)])

    assert payer.balance == 200


def test_a_code_that_was_let_in_before_the_account_closed_gives_it_nothing() -> None:
    payer, (code,) = make_payer(credit="0"), make_codes()
    redeem = partial(CustomerApi(payer).send, "POST", "redemptions", {"code": code})
    with second_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [payer.customer.pk])
        with beside(redeem) as redeemed:
            wait_until(lambda: waiting_for(other))
            other.execute("UPDATE billing_customer SET status = 'closed' WHERE id = %s", [payer.customer.pk])
            other.commit()
            answer = redeemed.result(PATIENCE_S)

    assert (answer.status, answer.code, payer.balance) == (403, "customer_closed", 0)
    assert RedemptionGuesses.objects.get(pk=payer.customer.pk).failures == 0
    assert not RedemptionCode.objects.filter(redeemed_by=payer.customer).exists(), "it can be redeemed elsewhere"


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
