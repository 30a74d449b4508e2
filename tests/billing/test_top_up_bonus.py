"""A bonus with the first paid top-up: once per customer, by the operator's settings, and gone with its payment."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import received, top_up_bonus
from billing.manual import Person
from billing.models import Grant, OperatorSettings, TopUp
from tests.billing.hands import assert_books, charge, sums
from tests.paying import now
from tests.world import Payer, make_payer

ADMIN = Person(None, "olga")


def pay(payer: Payer, amount: str = "50", reference: str = "wire 1") -> TopUp:
    payment = received.Payment("cash", Decimal(amount), "USD", reference, now().date())
    return received.record(customer_id=payer.customer.pk, payment=payment, person=ADMIN, at=now())


def offer(**changes: Any) -> None:
    OperatorSettings.objects.update(**{"first_bonus_percent": 10, "first_bonus_days": 30, **changes})


@pytest.mark.parametrize(
    ("amount", "percent", "at_most", "bonus"),
    [
        ("50", "10", None, "5"),
        ("50", "10", "3", "3"),
        ("10.01", "5", None, "0.50"),  # 0.5005
        ("0.10", "5", None, "0.01"),  # 0.005, half up
        ("50", "0", None, "0"),
        ("0.01", "0.01", None, "0"),
    ],
)
def test_it_is_so_much_per_cent_and_at_most_so_much(amount: str, percent: str, at_most: str | None, bonus: str) -> None:
    given_ = top_up_bonus.bonus_of(
        Decimal(amount), percent=Decimal(percent), at_most=None if at_most is None else Decimal(at_most)
    )
    assert given_ == Decimal(bonus)


@given(
    amount=st.decimals(min_value="0.01", max_value="10000", places=2),
    percent=st.decimals(min_value=0, max_value="999.99", places=2),
    at_most=st.decimals(min_value="0.01", max_value="100", places=2),
)
def test_it_is_never_above_its_most_and_whole_cents(amount: Decimal, percent: Decimal, at_most: Decimal) -> None:
    bonus = top_up_bonus.bonus_of(amount, percent=percent, at_most=at_most)
    assert 0 <= bonus <= at_most
    assert bonus == bonus.quantize(Decimal("0.01"))
    assert bonus == at_most or abs(bonus - amount * percent / 100) <= Decimal("0.005")


@pytest.mark.django_db
class TestGiving:
    def test_nobody_gets_one_until_the_operator_says_so(self) -> None:
        payer = make_payer(credit="0")
        pay(payer)
        assert payer.balance == 50

    def test_the_first_paid_top_up_brings_it_and_no_other_does(self) -> None:
        offer()
        payer = make_payer(credit="0")
        row = pay(payer)
        assert payer.balance == 55
        bonus = Grant.objects.get(customer=payer.customer, kind="promotional")
        assert (bonus.amount, bonus.reference, bonus.is_refundable) == (5, f"bonus:{row.public_id}", False)
        assert bonus.expires_at is not None
        assert bonus.expires_at - bonus.created_at == timedelta(days=30)
        pay(payer, "100", "wire 2")
        assert payer.balance == 155
        assert sums(payer) == {"wallet": 155, "cash:manual": -150, "promotional_grants": -5}
        assert_books(payer)

    def test_who_had_paid_before_it_was_offered_gets_none(self) -> None:
        payer = make_payer(credit="0")
        pay(payer)
        offer()
        pay(payer, "100", "wire 2")
        assert payer.balance == 150

    def test_without_days_it_never_expires(self) -> None:
        offer(first_bonus_days=0, first_bonus_maximum="2")
        payer = make_payer(credit="0")
        pay(payer)
        bonus = Grant.objects.get(customer=payer.customer, kind="promotional")
        assert (bonus.amount, bonus.expires_at) == (2, None)


@pytest.mark.django_db
class TestTakingBack:
    def test_what_is_left_goes_with_the_payment_once_and_no_other_comes(self) -> None:
        offer()
        payer = make_payer(credit="0")
        row = pay(payer)
        charge(payer, "2")
        assert top_up_bonus.take_back(row, reason="Refunded", at=now())
        assert not top_up_bonus.take_back(row, reason="Refunded", at=now())
        # The bonus expires first, so the usage was paid with it.
        assert payer.balance == 50
        TopUp.objects.all().delete()
        pay(payer, "100", "wire 2")
        assert payer.balance == 150
        assert_books(payer)

    def test_another_top_up_takes_nothing_along(self) -> None:
        offer()
        payer = make_payer(credit="0")
        pay(payer)
        second = pay(payer, "100", "wire 2")
        assert not top_up_bonus.take_back(second, reason="Refunded", at=now())
        assert payer.balance == 155

    def test_who_got_none_loses_none(self) -> None:
        payer = make_payer(credit="0")
        assert not top_up_bonus.take_back(pay(payer), reason="Refunded", at=now())
