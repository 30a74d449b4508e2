"""POST /api/v1/redemptions: a code becomes credit, once; guessing is slowed down."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from billing import redemption
from billing.checks import Scope
from billing.models import (
    AccessToken,
    Customer,
    Grant,
    OperatorSettings,
    RedemptionCode,
    RedemptionGuesses,
    Transfer,
)
from billing.verification import check_ledger
from tests.redemption import make_codes
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
NONSENSE = "ABCDE-FGH1J-KMNPQ-RSTVW-00000"


def redeem(payer: Payer, code: Any, **headers: str) -> Answer:
    return CustomerApi(payer).send("POST", "redemptions", {"code": code}, **headers)


def test_a_code_becomes_credit_with_its_terms() -> None:
    payer, ends = make_payer(credit="0"), (datetime.now(UTC) + 9 * DAY).replace(microsecond=0)
    (code,) = make_codes(amount=Decimal("12.5"), kind="goodwill", credit_expires_at=ends)
    answer = redeem(payer, code)
    assert answer.status == 201
    assert (answer.body["kind"], answer.body["amount"], answer.body["remaining"]) == (
        "goodwill",
        "12.500000",
        "12.500000",
    )
    assert answer.body["expires_at"] == f"{ends:%Y-%m-%dT%H:%M:%SZ}"
    assert answer.body == CustomerApi(payer).get("balance").body["grants"][0]
    assert payer.balance == Decimal("12.5")
    row = RedemptionCode.objects.get(redeemed_by=payer.customer)
    grant = Grant.objects.get(customer=payer.customer)
    assert (row.grant_id, grant.reference) == (grant.pk, row.public_id)
    assert grant.reason == f"Code {code[:4]}…{code[-4:]}: Spring"
    assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True)) == []


def test_its_credit_may_end_some_days_after_it_was_redeemed() -> None:
    (code,) = make_codes(credit_days=30)
    body = redeem(make_payer(credit="0"), code).body
    assert datetime.fromisoformat(body["expires_at"]) - datetime.fromisoformat(body["created_at"]) == 30 * DAY


def test_only_the_hash_of_a_code_is_kept() -> None:
    (code,) = make_codes()
    row = RedemptionCode.objects.get()
    plain = code.replace("-", "")
    kept = {name: value for name, value in row.__dict__.items() if isinstance(value, str)}
    assert not [name for name, value in kept.items() if plain[4:-4] in value]
    assert (row.prefix, row.last4, len(bytes(row.digest))) == (plain[:4], plain[-4:], 32)


@pytest.mark.parametrize("typed", [str.lower, lambda code: code.replace("-", " "), lambda code: code.replace("0", "o")])
def test_a_code_is_read_as_people_type_it(typed: Any) -> None:
    (code,) = make_codes()
    assert redeem(make_payer(credit="0"), typed(code)).status == 201


def test_a_code_gives_its_credit_once() -> None:
    ada, bob = make_payer(credit="0"), make_payer(credit="0")
    (code,) = make_codes()
    assert redeem(ada, code).status == 201
    for payer in (ada, bob):
        answer = redeem(payer, code)
        assert (answer.status, answer.code, answer.body["error"]["param"]) == (409, "code_redeemed", "code")
    assert (ada.balance, bob.balance) == (5, 0)


def test_the_same_idempotency_key_gets_the_same_grant() -> None:
    payer = make_payer(credit="0")
    code, other = make_codes(2)
    first, again = (redeem(payer, code, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert redeem(payer, other, **{"Idempotency-Key": "k"}).code == "idempotency_conflict"
    assert payer.balance == 5


def test_another_customer_s_code_is_answered_as_one_that_never_was() -> None:
    ada, bob = make_payer(credit="0"), make_payer(credit="0")
    bound, used = make_codes(2, customer_id=ada.customer.pk)
    redeem(ada, used)
    unknown = redeem(bob, NONSENSE)
    assert (unknown.status, unknown.code) == (404, "code_not_found")
    for code in (bound, used):
        assert redeem(bob, code).body == unknown.body
    assert redeem(ada, bound).status == 201


def test_expired_and_void_codes_say_so() -> None:
    payer, past = make_payer(credit="0"), datetime.now(UTC) - 2 * DAY
    (ended,) = make_codes(expires_at=past + DAY, at=past)
    (of_no_use,) = make_codes(credit_expires_at=past + DAY, at=past)
    (void,) = make_codes()
    last = RedemptionCode.objects.latest("pk")
    redemption.void_codes(code_ids=[last.pk], reason="leaked", actor="olga", at=datetime.now(UTC))
    for code, said in ((ended, "code_expired"), (of_no_use, "code_expired"), (void, "code_void")):
        answer = redeem(payer, code)
        assert (answer.status, answer.code) == (409, said)
    assert payer.balance == 0


@pytest.mark.parametrize(
    "wrong", ["", "A", NONSENSE[:-1], NONSENSE + "A", NONSENSE.replace("A", "U"), 5, None, "é" * 25]
)
def test_what_can_t_be_a_code_is_malformed_and_no_guess(wrong: Any) -> None:
    payer = make_payer()
    answer = redeem(payer, wrong)
    assert (answer.status, answer.code, answer.body["error"]["param"]) == (400, "invalid_request_error", "code")
    assert not RedemptionGuesses.objects.filter(customer=payer.customer).exists()


def test_it_takes_the_scope_pay_and_an_active_customer() -> None:
    payer = make_payer(credit="0")
    (code,) = make_codes()
    AccessToken.objects.filter(customer=payer.customer).update(scopes=["read", "keys"])
    assert redeem(payer, code).code == "insufficient_scope"
    AccessToken.objects.filter(customer=payer.customer).update(scopes=["pay"])
    Customer.objects.filter(pk=payer.customer.pk).update(status="suspended")
    assert redeem(payer, code).code == "customer_suspended"
    assert not Transfer.objects.filter(customer=payer.customer).exists()


class TestGuessing:
    def test_ends_after_ten_failures_within_an_hour_for_this_customer_alone(self) -> None:
        payer, other = make_payer(credit="0"), make_payer(credit="0")
        (code,) = make_codes()
        start = datetime.now(UTC)
        with time_machine.travel(start, tick=False):
            assert [redeem(payer, NONSENSE).status for _ in range(12)] == [404] * 10 + [429] * 2
            assert redeem(other, NONSENSE).status == 404
        with time_machine.travel(start + timedelta(minutes=45), tick=False):
            answer = redeem(payer, code)
            assert (answer.status, answer.code) == (429, "too_many_attempts")
            assert answer.headers["Retry-After"] == "900"
        with time_machine.travel(start + timedelta(hours=1), tick=False):
            assert redeem(payer, code).status == 201
        assert payer.balance == 5

    def test_is_not_what_right_codes_are(self) -> None:
        payer = make_payer(credit="0")
        assert [redeem(payer, code).status for code in make_codes(12)] == [201] * 12
        assert RedemptionGuesses.objects.get(customer=payer.customer).failures == 0

    def test_counts_every_refusal_and_leaves_what_was_answered(self) -> None:
        payer = make_payer(credit="0")
        (code,) = make_codes()
        key = {"Idempotency-Key": "k"}
        first = redeem(payer, code, **key)
        assert [redeem(payer, code).status for _ in range(11)] == [409] * 10 + [429]
        again = redeem(payer, code, **key)
        assert (again.status, again.body) == (201, first.body)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("count", {"count": 0}),
        ("count", {"count": 1_001}),
        ("amount", {"amount": Decimal(0)}),
        ("amount", {"amount": Decimal(10) ** 13}),
        ("kind", {"kind": "paid"}),
        ("campaign", {"campaign": " "}),
        ("expires_at", {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}),
        ("credit_expires_at", {"credit_expires_at": datetime(2020, 1, 1, tzinfo=UTC)}),
        ("credit_days", {"credit_days": 0}),
        ("credit_days", {"credit_days": 5, "credit_expires_at": datetime(2100, 1, 1, tzinfo=UTC)}),
    ],
)
def test_codes_that_can_t_be_made_are_refused_by_their_field(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(redemption.CannotMake) as caught:
        make_codes(**wrong)
    assert caught.value.field == field
    assert not RedemptionCode.objects.exists()


@pytest.mark.parametrize(("amount", "count", "is_bound"), [("150.01", 1, False), ("100", 2, True)])
def test_codes_give_nobody_what_takes_a_second_person(amount: str, count: int, is_bound: bool) -> None:
    OperatorSettings.objects.update(second_person_above=Decimal(150))
    bound = {"customer_id": make_payer().customer.pk} if is_bound else {}
    with pytest.raises(redemption.CannotMake, match="second person") as caught:
        make_codes(count, amount=Decimal(amount), **bound)
    assert caught.value.field == "amount"
    assert not RedemptionCode.objects.exists()


def test_many_small_codes_for_whoever_has_one_take_one_person() -> None:
    OperatorSettings.objects.update(second_person_above=Decimal(150))
    assert len(make_codes(2, amount=Decimal(100))) == 2
