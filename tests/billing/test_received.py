"""Bank transfers and cash: credited once for each reference, large ones after a second person's look."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from billing import closing, received
from billing.accounts import AccountClosed, InvalidChange
from billing.manual import AlreadyDecided, SamePerson
from billing.models import Customer, ExchangeRate, Grant, OperatorSettings, TopUp, Transfer
from tests.billing.hands import assert_books, person, sides
from tests.paying import add_currency, again, cash, now
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="0")


def payment(**changes: Any) -> received.Payment:
    good: dict[str, Any] = {
        "kind": "bank_transfer",
        "pay_amount": Decimal(50),
        "currency": "USD",
        "reference": "wire 1",
        "received_on": now().date(),
    }
    return received.Payment(**{**good, **changes})


def record(payer: Payer, by: Any = None, **changes: Any) -> TopUp:
    return received.record(customer_id=payer.customer.pk, payment=payment(**changes), person=by or person(), at=now())


class TestRecording:
    @pytest.mark.parametrize(("kind", "said"), [("bank_transfer", "Bank transfer wire 1"), ("cash", "Cash wire 1")])
    def test_money_by_hand_is_paid_credit_from_manual_cash(self, payer: Payer, kind: str, said: str) -> None:
        row = record(payer, kind=kind)
        assert (row.status, row.origin, row.method, row.look_at) == ("paid", kind, kind, None)
        grant = Grant.objects.get(customer=payer.customer)
        assert (grant.kind, grant.reference, grant.reason, grant.pk) == ("paid", row.public_id, said, row.grant_id)
        assert sides(payer, grant.transfer_id) == {"wallet": 50, "cash:manual": -50}
        assert Transfer.objects.get(customer=payer.customer).actor == row.asked_by
        assert_books(payer)

    def test_another_currency_is_credited_at_the_present_rate_or_the_one_that_is_told(self, payer: Payer) -> None:
        add_currency("CNY", "7.2", "0.02")
        assert record(payer, currency="CNY", pay_amount=Decimal("73.44")).amount == 10
        told = record(payer, currency="CNY", pay_amount=Decimal("73.44"), rate=Decimal("7.344"), reference="wire 2")
        assert (told.amount, told.rate, told.margin) == (10, Decimal("7.344"), 0)
        odd = record(payer, currency="CNY", pay_amount=Decimal(100), rate=Decimal(3), reference="wire 3")
        assert (odd.amount, cash(payer, "cash:manual")) == (Decimal("33.33"), Decimal("-53.33"))

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("kind", {"kind": "checkout"}),
            ("pay_amount", {"pay_amount": Decimal(0)}),
            ("pay_amount", {"pay_amount": Decimal(-5)}),
            ("pay_amount", {"pay_amount": Decimal("5.001")}),
            ("pay_amount", {"pay_amount": Decimal("NaN")}),
            ("pay_amount", {"pay_amount": Decimal(10) ** 13}),
            ("currency", {"currency": "XXX"}),
            ("rate", {"rate": Decimal(2)}),
            ("reference", {"reference": "  "}),
            ("reference", {"reference": "a\x00"}),
            ("received_on", {"received_on": now().date() + timedelta(days=1)}),
        ],
    )
    def test_what_is_wrong_is_named(self, payer: Payer, field: str, changes: dict[str, Any]) -> None:
        with pytest.raises(received.InvalidPayment) as refused:
            record(payer, **changes)
        assert refused.value.field == field
        assert not TopUp.objects.exists()

    def test_the_day_is_the_operator_s(self, payer: Payer) -> None:
        """In Shanghai it is tomorrow from 16:00 UTC on."""
        at = now().replace(hour=20)
        what = payment(received_on=at.date() + timedelta(days=1))
        OperatorSettings.objects.update(timezone="America/Los_Angeles")
        with pytest.raises(received.InvalidPayment, match="after today"):
            received.record(customer_id=payer.customer.pk, payment=what, person=person(), at=at)
        OperatorSettings.objects.update(timezone="Asia/Shanghai")
        received.record(customer_id=payer.customer.pk, payment=what, person=person(), at=at)
        assert payer.balance == 50

    def test_a_currency_without_a_rate_wants_one(self, payer: Payer) -> None:
        add_currency("CNY", "7.2")
        ExchangeRate.objects.all().delete()
        with pytest.raises(received.InvalidPayment, match="no exchange rate"):
            record(payer, currency="CNY")
        for rate in (Decimal(0), Decimal("0.0000000001")):
            with pytest.raises(received.InvalidPayment):
                record(payer, currency="CNY", rate=rate)
        assert record(payer, currency="CNY", rate=Decimal(5)).amount == 10

    def test_the_same_reference_is_credited_once_for_a_customer(self, payer: Payer) -> None:
        first = record(payer)
        for reference in ("wire 1", " wire 1 "):
            with pytest.raises(received.RecordedBefore, match=f"recorded before, as {first.public_id}"):
                record(payer, reference=reference, pay_amount=Decimal(7), kind="cash")
        other = make_payer(credit="0", name="Bob")
        record(other)
        assert (payer.balance, other.balance) == (50, 50)

    def test_the_database_refuses_the_same_reference_too(self, payer: Payer) -> None:
        row = record(payer)
        row.pk, row.public_id = None, "top_another"
        with pytest.raises(IntegrityError, match="top_up_once_per_reference"), transaction.atomic():
            row.save(force_insert=True)

    def test_neither_the_house_nor_a_closed_account_takes_payments(self, payer: Payer) -> None:
        with pytest.raises(InvalidChange):
            received.record(
                customer_id=Customer.objects.get(is_house=True).pk, payment=payment(), person=person(), at=now()
            )
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.EXPIRE,
            release_holds=True,
            reason="gone",
            actor="",
            at=now(),
        )
        with pytest.raises(AccountClosed, match="reopen it first"):
            record(payer)


class TestSecondPerson:
    @pytest.fixture(autouse=True)
    def _above(self, db: None) -> None:
        OperatorSettings.objects.update(second_person_above="49.99")

    def test_a_large_one_waits_for_somebody_else(self, payer: Payer) -> None:
        olga, hugo = person(), person()
        row = record(payer, by=olga)
        assert (row.status, row.grant_id, payer.balance) == ("waiting", None, 0)
        with pytest.raises(SamePerson):
            received.approve(top_up_id=row.pk, person=olga, at=now())
        approved = received.approve(top_up_id=row.pk, person=hugo, at=now())
        assert (approved.status, approved.decided_by, payer.balance) == ("paid", hugo.name, 50)
        assert Transfer.objects.get(customer=payer.customer).actor == f"{olga.name} and {hugo.name}"
        with pytest.raises(AlreadyDecided):
            received.approve(top_up_id=row.pk, person=hugo, at=now())
        assert_books(payer)

    def test_a_small_one_does_not(self, payer: Payer) -> None:
        assert record(payer, pay_amount=Decimal("49.99")).status == "paid"

    def test_what_it_is_worth_decides_not_its_number(self, payer: Payer) -> None:
        add_currency("JPY", "150")
        assert record(payer, currency="JPY", pay_amount=Decimal(1500)).status == "paid"
        assert record(payer, currency="JPY", pay_amount=Decimal(15000), reference="wire 2").status == "waiting"

    def test_a_rejected_one_frees_its_reference(self, payer: Payer) -> None:
        olga = person()
        row = record(payer, by=olga)
        with pytest.raises(received.RecordedBefore):
            record(payer)
        received.reject(top_up_id=row.pk, person=olga, note="typing error", at=now())
        row = again(row)
        assert (row.status, row.error_message, payer.balance) == ("canceled", "typing error", 0)
        with pytest.raises(AlreadyDecided):
            received.approve(top_up_id=row.pk, person=person(), at=now())
        assert record(payer, pay_amount=Decimal(5)).status == "paid"

    def test_an_account_that_was_closed_meanwhile_lets_it_wait(self, payer: Payer) -> None:
        row = record(payer)
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.EXPIRE,
            release_holds=True,
            reason="gone",
            actor="",
            at=now(),
        )
        with pytest.raises(AccountClosed):
            received.approve(top_up_id=row.pk, person=person(), at=now())
        assert again(row).status == "waiting"

    def test_there_is_no_such_payment(self, payer: Payer) -> None:
        with pytest.raises(received.UnknownTopUp):
            received.approve(top_up_id=0, person=person(), at=now())
