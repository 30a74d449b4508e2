"""Codes redeemed, credit begun, expired and voided by many at the same moment."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest

from billing import credits, expiry, grant_changes, ledger, redemption, scheduled_grants
from billing.models import Grant, Notice, RedemptionCode, Transfer
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock
from tests.redemption import make_codes
from tests.world import CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")
DAY = timedelta(days=1)


def give(payer: Payer, amount: str, **changes: Any) -> None:
    credits.grant(
        **{
            "customer_id": payer.customer.pk,
            "amount": Decimal(amount),
            "kind": "promotional",
            "reason": "race",
            "reference": "",
            "key": uuid4().hex,
            "at": datetime.now(UTC),
            **changes,
        }
    )


def redeem(payer: Payer, code: str) -> Callable[[], Grant]:
    plain = redemption.read_code(code)
    return lambda: redemption.redeem(customer_id=payer.customer.pk, code=plain, at=datetime.now(UTC))


def test_one_code_redeemed_by_many_at_once_is_redeemed_once() -> None:
    payers = [make_payer(credit="0") for _ in range(4)]
    for code in make_codes(5):
        outcomes = at_once([redeem(payer, code) for payer in payers for _ in range(3)])
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["CodeRedeemed"] * 11 + ["Grant"]
    assert sum(payer.balance for payer in payers) == 25
    assert_books_are_right(*(payer.customer for payer in payers))


def test_without_the_code_s_lock_two_customers_get_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: both find it unused, and both are given it."""
    payers = [make_payer(credit="0") for _ in range(2)]
    both_have_looked = Barrier(2)

    def look_without_lock(code: str) -> RedemptionCode | None:
        found = RedemptionCode.objects.filter(digest=redemption._digest(code)).first()
        both_have_looked.wait(30)
        return found

    monkeypatch.setattr(redemption, "_lock_code", look_without_lock)
    (code,) = make_codes()
    at_once([redeem(payer, code) for payer in payers])
    assert sum(payer.balance for payer in payers) == 10


def test_guesses_at_once_are_no_more_than_ten() -> None:
    payer = make_payer(credit="0")
    guess = {"code": "ABCDE-FGH1J-KMNPQ-RSTVW-00000"}
    outcomes = at_once([lambda: CustomerApi(payer).send("POST", "redemptions", guess).status] * 32)
    assert sorted(outcomes, key=str) == [404] * 10 + [429] * 22


def test_sweeps_at_once_expire_and_announce_each_grant_once() -> None:
    payers, now = [make_payer(credit="0") for _ in range(12)], datetime.now(UTC)
    for payer in payers:
        give(payer, "5", expires_at=now + DAY)
        give(payer, "7", expires_at=now + 20 * DAY)
    later = now + 14 * DAY

    def sweep_all() -> None:
        while expiry.sweep(at=later, limit=5).looked_at:
            pass

    assert at_once([sweep_all] * 6) == [None] * 6
    for payer in payers:
        assert payer.balance == 7
        assert Transfer.objects.filter(customer=payer.customer, kind="expiry").count() == 1
        assert Notice.objects.filter(customer=payer.customer, kind="credit_expires").count() == 1
    assert_books_are_right(*(payer.customer for payer in payers))


def test_scheduled_grants_begin_once_however_many_post_them() -> None:
    payers, now = [make_payer(credit="0") for _ in range(10)], datetime.now(UTC)
    for payer in payers:
        give(payer, "5", effective_at=now + DAY)
    outcomes = at_once([lambda: scheduled_grants.post_due(at=now + DAY)] * 6)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [payer.balance for payer in payers] == [5] * 10
    assert_books_are_right(*(payer.customer for payer in payers))


@pytest.mark.parametrize("job", ["sweep", "post_due"])
def test_without_the_wallet_s_lock_the_second_worker_fails_on_the_ledger_s_key(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: both find it due, and both move it."""
    payer, now = make_payer(credit="0"), datetime.now(UTC)
    work: Callable[[], object]
    if job == "sweep":
        give(payer, "5", expires_at=now + DAY)
        work = lambda: expiry.sweep(at=now + DAY)  # noqa: E731
    else:
        give(payer, "5", effective_at=now + DAY)
        work = lambda: scheduled_grants.post_due(at=now + DAY)  # noqa: E731
    both_have_looked = Barrier(2)
    post = ledger.post

    def post_once_both_have_looked(*args: object, **kwargs: object) -> list[int]:
        both_have_looked.wait(30)
        return post(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(ledger, "post", post_once_both_have_looked)
    outcomes = at_once([work] * 2)
    assert [type(one).__name__ for one in outcomes if isinstance(one, Exception)] == ["AlreadyPosted"]


def test_usage_holds_expiry_voids_and_grants_at_once_lose_nothing() -> None:
    payer, token, now = make_payer(credit="0"), Relay().token, datetime.now(UTC)
    give(payer, "100", expires_at=now + DAY)
    for _ in range(6):
        give(payer, "3")
    numbers = list(Grant.objects.filter(customer=payer.customer, expires_at=None).values_list("pk", flat=True))
    usage = {"format": "meters", "usage": {"output": 100_000}}  # 1.50 USD

    def use() -> None:
        relay = Relay(token)
        for _ in range(3):
            authorization = relay.authorize(payer, max_output_tokens=100_000).body.get("id")
            assert relay.report(make_event(payer, authorization=authorization, **usage)).body["accepted"] == 1

    def sweep() -> None:
        for minute in range(4):
            expiry.sweep(at=now + DAY + minute * timedelta(minutes=1))

    def void(number: int) -> Callable[[], object]:
        return lambda: grant_changes.void(
            customer_id=payer.customer.pk, number=number, reason="race", actor="", at=datetime.now(UTC)
        )

    racers: list[Callable[[], object]] = [use, sweep, use, sweep, use, *(void(number) for number in numbers[:3])]
    outcomes = at_once([*racers, *racers])
    refused = grant_changes.CannotChange
    assert not [one for one in outcomes if isinstance(one, Exception) and not isinstance(one, refused)], outcomes
    while expiry.sweep(at=now + 2 * DAY).looked_at:
        pass
    assert payer.wallet.held == 0
    assert_books_are_right(payer.customer)
