"""Credits, debits and write-offs by hand: with a reason, counted as what they are, large ones by two people."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from billing import adjustments, credits, ledger, manual, write_offs
from billing.checks import Scope
from billing.models import Grant, GrantReturn, OperatorSettings, Transfer, Wallet, WalletAdjustment
from billing.verification import check_ledger
from tests.billing.hands import (
    AT,
    NOVEMBER,
    adjust,
    assert_books,
    charge,
    last_transfer,
    person,
    sides,
    sums,
)
from tests.operator import make_staff
from tests.world import Payer, Relay, make_payer

pytestmark = pytest.mark.django_db


def remaining(payer: Payer) -> list[Decimal]:
    return list(Grant.objects.filter(customer=payer.customer).order_by("pk").values_list("remaining", flat=True))


def give_back(payer: Payer, amount: str, charged_by: int, job: str = "rerating:1") -> int:
    with transaction.atomic():
        posted = adjustments.adjust_usage(
            [adjustments.Change(payer.customer.pk, NOVEMBER, -Decimal(amount), (charged_by,))],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            job=job,
            reason="a wrong price",
            at=AT,
        )
    return posted[payer.customer.pk, NOVEMBER]


class TestCredits:
    @pytest.mark.parametrize(
        ("kind", "source", "grant_kind"),
        [
            ("goodwill", "goodwill", "goodwill"),
            ("promotional", "promotional_grants", "promotional"),
            ("paid", "cash:manual", "paid"),
            ("money_back", "revenue", "paid"),
        ],
    )
    def test_a_credit_is_a_grant_from_the_account_it_counts_as(self, kind: str, source: str, grant_kind: str) -> None:
        payer = make_payer(credit="0")
        row = adjust(payer, kind, "5")
        assert sides(payer, row.transfer_id) == {"wallet": 5, source: -5}
        assert Grant.objects.get(customer=payer.customer).kind == grant_kind
        assert (row.status, row.posted_amount, row.decided_by) == ("posted", 5, "command line")
        assert last_transfer(payer).reason == "because"
        assert_books(payer)

    def test_money_back_pays_debt_first(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "4")
        adjust(payer, "money_back", "6")
        assert (payer.balance, remaining(payer)) == (2, [2])
        assert sums(payer) == {"wallet": 2, "revenue": -2}
        assert_books(payer)


class TestDebits:
    def test_a_debit_burns_grants_in_their_order_and_is_no_usage_revenue(self) -> None:
        payer = make_payer(credit="1")
        adjust(payer, "paid", "2")
        adjust(payer, "promotional", "3", expires_at=AT + timedelta(days=30))
        row = adjust(payer, "debit", "4.5", account="processing_fees")
        assert sides(payer, row.transfer_id) == {"wallet": Decimal("-4.5"), "processing_fees": Decimal("4.5")}
        assert remaining(payer) == [1, Decimal("0.5"), 0], "what expires first pays first"
        assert Transfer.objects.get(customer=payer.customer, pk=row.transfer_id).kind == "manual"
        assert "revenue" not in sums(payer)
        assert_books(payer)

    def test_a_debit_takes_at_most_what_is_there_and_not_held(self) -> None:
        payer = make_payer(credit="1")
        Wallet.objects.filter(customer=payer.customer).update(credit_limit=100)
        Relay().authorize(payer)
        with pytest.raises(manual.TooLittleCredit) as refused:
            adjust(payer, "debit", "1")
        assert refused.value.spendable == Decimal("0.9889")
        assert not WalletAdjustment.objects.filter(customer=payer.customer).exists()
        adjust(payer, "debit", "0.9889")
        assert payer.balance == Decimal("0.0111")
        assert_books(payer)

    def test_a_debit_makes_debt_only_where_that_was_ticked(self) -> None:
        payer = make_payer(credit="1")
        row = adjust(payer, "debit", "3", may_make_debt=True)
        assert (payer.balance, row.unpaid) == (-2, 2)
        assert sums(payer) == {"wallet": -2, "goodwill": -1, "other_revenue": 3}
        assert_books(payer)

    def test_a_gift_that_pays_a_debits_debt_is_no_promotional_usage(self) -> None:
        payer = make_payer(credit="0")
        adjust(payer, "debit", "3", may_make_debt=True)
        adjust(payer, "goodwill", "5")
        assert sums(payer) == {"wallet": 2, "goodwill": -5, "other_revenue": 3}
        assert_books(payer)

    @pytest.mark.parametrize(("gift", "promotional"), [("1", 1), ("2", 2), ("4", 2), ("9", 2)])
    def test_what_pays_a_mixed_debt_pays_the_usage_in_it_first(self, gift: str, promotional: int) -> None:
        payer = make_payer(credit="0")
        adjust(payer, "debit", "3", may_make_debt=True)
        charge(payer, "2")
        adjust(payer, "goodwill", gift)
        assert sums(payer).get("promotional_usage", 0) == promotional
        assert sums(payer).get("revenue", 0) == 2 - promotional
        assert_books(payer)

    def test_a_debits_debt_that_was_paid_once_does_not_come_back(self) -> None:
        payer = make_payer(credit="0")
        adjust(payer, "debit", "3", may_make_debt=True)
        adjust(payer, "paid", "2")
        charge(payer, "5")  # one is the debit's, five are usage
        adjust(payer, "debit", "1", may_make_debt=True)
        adjust(payer, "goodwill", "6")
        assert sums(payer)["promotional_usage"] == 5
        adjust(payer, "paid", "1")
        charge(payer, "7")
        adjust(payer, "goodwill", "7")
        assert sums(payer)["promotional_usage"] == 12
        assert payer.balance == 0
        assert_books(payer)

    def test_money_back_for_usage_never_undoes_a_debit(self) -> None:
        payer = make_payer(credit="0")
        usage = charge(payer, "4")
        adjust(payer, "paid", "10")
        debit = adjust(payer, "debit", "5")
        give_back(payer, "3", usage)
        assert payer.balance == 4
        assert not GrantReturn.objects.filter(customer=payer.customer, used_by_id=debit.transfer_id).exists()
        assert sums(payer) == {"wallet": 4, "cash:manual": -10, "other_revenue": 5, "revenue": 1}
        assert_books(payer)


class TestWriteOffs:
    def test_a_write_off_takes_no_more_than_the_debt(self) -> None:
        payer = make_payer(credit="1")
        charge(payer, "3")
        row = adjust(payer, "write_off", "50")
        assert (row.amount, row.posted_amount, payer.balance) == (50, 2, 0)
        assert sides(payer, row.transfer_id) == {"wallet": 2, "write_offs": -2}
        assert Transfer.objects.get(customer=payer.customer, pk=row.transfer_id).kind == "write_off"
        assert_books(payer)

    def test_a_part_of_the_debt_can_be_written_off(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        adjust(payer, "write_off", "1")
        assert payer.balance == -2
        adjust(payer, "paid", "5")
        assert (payer.balance, remaining(payer)) == (3, [3])
        assert_books(payer)

    def test_without_debt_there_is_nothing_to_write_off(self) -> None:
        payer = make_payer(credit="1")
        with pytest.raises(write_offs.NothingOwed):
            adjust(payer, "write_off", "1")
        assert not WalletAdjustment.objects.exists()

    @pytest.mark.parametrize(("topped_up", "kind"), [("0", ""), ("1", "paid"), ("1", "promotional"), ("9", "goodwill")])
    def test_money_back_for_what_was_written_off_makes_the_write_off_smaller(self, topped_up: str, kind: str) -> None:
        payer = make_payer(credit="0")
        usage = charge(payer, "10")
        adjust(payer, "write_off", "10")
        if kind:
            adjust(payer, kind, topped_up)
        assert_books(payer)
        give_back(payer, "4", usage)
        assert payer.balance == Decimal(topped_up), "nobody had paid it, so nobody gets it back"
        left = sums(payer)
        assert (left["revenue"], left["write_offs"]) == (6, -6)
        assert "promotional_usage" not in left
        assert_books(payer)
        with pytest.raises(AssertionError, match="no grant has paid"):
            give_back(payer, "7", usage, job="rerating:2")

    def test_credit_that_had_paid_other_usage_does_not_come_back_for_what_was_written_off(self) -> None:
        payer = make_payer(credit="0")
        adjust(payer, "paid", "10")
        paid = charge(payer, "10")
        given_up = charge(payer, "3")
        adjust(payer, "write_off", "3")
        give_back(payer, "2", given_up)
        assert (payer.balance, remaining(payer)) == (0, [0]), "nobody had paid it, so nobody gets it back"
        assert (sums(payer)["revenue"], sums(payer)["write_offs"]) == (11, -1)
        give_back(payer, "4", paid, job="rerating:2")
        assert (payer.balance, remaining(payer)) == (4, [4]), "what was paid does come back"
        assert sums(payer)["write_offs"] == -1
        assert_books(payer)

    def test_usage_after_a_write_off_was_not_written_off(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        adjust(payer, "write_off", "3")
        later = charge(payer, "5")
        adjust(payer, "paid", "5")
        give_back(payer, "5", later)
        assert (payer.balance, sums(payer)["write_offs"]) == (5, -3)
        assert_books(payer)


class TestTwoPeople:
    @pytest.fixture(autouse=True)
    def _limit(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(100))

    def test_up_to_the_limit_one_person_is_enough(self) -> None:
        payer = make_payer(credit="0")
        assert adjust(payer, "goodwill", "100").status == "posted"

    def test_above_it_a_second_person_posts_it(self) -> None:
        payer, first, second = make_payer(credit="0"), person(), person()
        row = adjust(payer, "goodwill", "100.01", by=first)
        assert (row.status, payer.balance) == ("pending", 0)
        with pytest.raises(manual.SamePerson):
            manual.approve(adjustment_id=row.pk, person=first, at=AT)
        row = manual.approve(adjustment_id=row.pk, person=second, at=AT)
        assert (row.status, row.asked_by, row.decided_by) == ("posted", first.name, second.name)
        assert payer.balance == Decimal("100.01")
        assert last_transfer(payer).actor == f"{first.name} and {second.name}"
        for decide in (
            lambda: manual.approve(adjustment_id=row.pk, person=second, at=AT),
            lambda: manual.reject(adjustment_id=row.pk, person=second, note="", at=AT),
        ):
            with pytest.raises(manual.AlreadyDecided):
                decide()
        assert payer.balance == Decimal("100.01")
        assert_books(payer)

    def test_rejected_or_withdrawn_it_moves_nothing(self) -> None:
        payer, first = make_payer(credit="0"), person()
        rows = [adjust(payer, "goodwill", "500", by=first) for _ in range(2)]
        assert manual.reject(adjustment_id=rows[0].pk, person=person(), note="too much", at=AT).status == "rejected"
        assert manual.reject(adjustment_id=rows[1].pk, person=first, note="", at=AT).status == "withdrawn"
        assert payer.balance == 0
        assert not Transfer.objects.filter(customer=payer.customer).exists()

    def test_what_does_not_fit_any_more_goes_on_waiting(self) -> None:
        payer = make_payer(credit="200")
        row = adjust(payer, "debit", "150", by=person())
        charge(payer, "100")
        with pytest.raises(manual.TooLittleCredit):
            manual.approve(adjustment_id=row.pk, person=person(), at=AT)
        assert WalletAdjustment.objects.get(pk=row.pk).status == "pending"
        assert payer.balance == 100

    def test_the_database_too_wants_two_people(self) -> None:
        payer, first = make_payer(credit="0"), make_staff()
        row = adjust(payer, "goodwill", "500", by=person(first))
        manual.approve(adjustment_id=row.pk, person=person(), at=AT)
        with pytest.raises(IntegrityError, match="by_two_people"), transaction.atomic():
            WalletAdjustment.objects.filter(pk=row.pk).update(decided_by_user=first)


def test_the_same_key_adjusts_once_and_never_another_way() -> None:
    payer = make_payer(credit="0")
    first = adjust(payer, "goodwill", "5", key="k")
    assert adjust(payer, "goodwill", "5", key="k") == first
    with pytest.raises(manual.AdjustmentKeyConflict):
        adjust(payer, "goodwill", "6", key="k")
    assert payer.balance == 5


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"kind": "theft"}, "kind"),
        ({"amount": "0"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "1e-16"}, "amount"),
        ({"amount": "1000000000001"}, "amount"),
        ({"reason": " "}, "reason"),
        ({"reason": "a\x00"}, "reason"),
        ({"kind": "paid", "document": ""}, "document"),
        ({"kind": "debit", "account": "revenue"}, "account"),
        ({"kind": "debit", "account": "wallet"}, "account"),
        ({"kind": "money_back", "account": "goodwill"}, "account"),
        ({"account": "revenue"}, "account"),
        ({"may_make_debt": True}, "may_make_debt"),
        ({"kind": "write_off", "expires_at": AT + timedelta(days=1)}, "expires_at"),
        ({"expires_at": AT}, "expires_at"),
        ({"key": ""}, "key"),
    ],
)
def test_what_makes_no_sense_is_refused_and_names_the_field(wanted: dict[str, Any], field: str) -> None:
    payer = make_payer(credit="5")
    told = {"kind": "goodwill", "amount": "1"} | wanted
    with pytest.raises(manual.InvalidAdjustment) as refused:
        adjust(payer, told.pop("kind"), told.pop("amount"), **told)
    assert refused.value.field == field
    assert payer.balance == 5


def test_the_check_notices_a_debit_that_burnt_too_little() -> None:
    payer = make_payer(credit="5")
    row = adjust(payer, "debit", "2")
    grant = Grant.objects.get(customer=payer.customer)
    credits.grant(
        customer_id=payer.customer.pk, amount=Decimal(1), kind="paid", reason="", reference="w", key="k", at=AT
    )
    other = Grant.objects.filter(customer=payer.customer).exclude(pk=grant.pk).get()
    # Half of it is said to be used by another transfer: each grant's and the wallet's sums stay right.
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_grantuse DISABLE TRIGGER append_only")
        cursor.execute(
            "UPDATE billing_grantuse SET transfer_id = %s WHERE customer_id = %s",
            [other.transfer_id, payer.customer.pk],
        )
        cursor.execute("ALTER TABLE billing_grantuse ENABLE TRIGGER append_only")
    found = check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True))
    transfer = Transfer.objects.get(customer=payer.customer, pk=row.transfer_id)
    assert [item.what for item in found] == [f"used of grants by {transfer.public_id}"]
