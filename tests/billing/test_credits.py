"""Credit: given once per key, burnt down in a fixed order, posted to the right accounts, debt filled first."""

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from billing import credits, ledger
from billing.checks import Scope
from billing.models import Entry, Grant, GrantUse, Transfer
from billing.verification import check_ledger
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = date(2026, 11, 1)
PAID = {"kind": "paid", "reference": "wire 1", "never_expires": True}
PROMO = {"kind": "promotional", "reference": ""}


def grant(payer: Payer, amount: str, key: str = "", /, **changes: Any) -> credits.Granted:
    asked: dict[str, Any] = {
        "customer_id": payer.customer.pk,
        "amount": Decimal(amount),
        "kind": "goodwill",
        "reason": "test",
        "reference": "",
        "key": key or f"key {random.random()}",
        "at": AT,
    }
    return credits.grant(**{**asked, **changes})


def charge(payer: Payer, *amounts: str, settlement: str = "") -> list[int | None]:
    """Charge amounts for November, December, … in one settlement."""
    with transaction.atomic():
        wallets = ledger.lock_wallets([payer.customer.pk])
        return credits.charge_usage(
            [
                credits.Charge(payer.customer.pk, date(2026 + month // 12, month % 12 + 1, 1), Decimal(amount))
                for month, amount in enumerate(amounts, 10)
            ],
            wallets=wallets,
            settlement=settlement or f"settlement {random.random()}",
            at=AT,
        )


def accounts(payer: Payer) -> dict[str, Decimal]:
    """What stands on each account for this customer, zeros left out."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for account, amount in Entry.objects.filter(customer=payer.customer).values_list("account", "amount"):
        sums[account] += amount
    return {account: amount for account, amount in sums.items() if amount}


def remaining(payer: Payer) -> list[Decimal]:
    return list(Grant.objects.filter(customer=payer.customer).order_by("pk").values_list("remaining", flat=True))


def assert_books(payer: Payer) -> None:
    assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True)) == []


class TestAGrant:
    @pytest.mark.parametrize(
        ("kind", "reference", "account"),
        [("paid", "wire 1", "cash:manual"), ("promotional", "", "promotional_grants"), ("goodwill", "", "goodwill")],
    )
    def test_comes_from_the_account_of_its_kind(self, kind: str, reference: str, account: str) -> None:
        payer = make_payer(credit="0")
        given = grant(payer, "12.50", kind=kind, reference=reference)
        assert given.balance == payer.balance == Decimal("12.5")
        assert given.grant.startswith("gr_")
        assert accounts(payer) == {"wallet": Decimal("12.5"), account: Decimal("-12.5")}
        assert_books(payer)

    def test_is_given_once_per_key(self) -> None:
        payer = make_payer(credit="0")
        first, again = grant(payer, "5", "k"), grant(payer, "5.00", "k")
        assert first == again
        assert (payer.balance, Grant.objects.filter(customer=payer.customer).count()) == (5, 1)

    @pytest.mark.parametrize(
        "other",
        [
            {"amount": Decimal(6)},
            {"kind": "promotional"},
            {"priority": 1},
            {"never_expires": True},
            {"expires_at": AT + timedelta(days=1)},
            {"effective_at": AT + timedelta(days=1)},
        ],
    )
    def test_under_the_key_of_another_one_is_a_conflict(self, other: dict[str, Any]) -> None:
        payer = make_payer(credit="0")
        grant(payer, "5", "k")
        with pytest.raises(credits.GrantKeyConflict):
            grant(payer, "5", "k", **other)
        assert payer.balance == 5

    def test_under_another_customer_s_key_is_one_of_its_own(self) -> None:
        ada, bob = make_payer(credit="0"), make_payer(credit="0")
        grant(ada, "5", "k")
        grant(bob, "5", "k")
        assert (ada.balance, bob.balance) == (5, 5)

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("amount", {"amount": Decimal(0)}),
            ("amount", {"amount": Decimal("-0")}),
            ("amount", {"amount": Decimal(-5)}),
            ("amount", {"amount": Decimal("NaN")}),
            ("amount", {"amount": Decimal("sNaN")}),
            ("amount", {"amount": Decimal("Infinity")}),
            ("amount", {"amount": Decimal("-Infinity")}),
            ("amount", {"amount": Decimal("1E-16")}),
            ("amount", {"amount": Decimal("1.0000000000000000")}),
            ("amount", {"amount": Decimal("1000000000000.01")}),
            ("kind", {"kind": "gift"}),
            ("kind", {"kind": ""}),
            ("reference", {"kind": "paid"}),
            ("reference", {"kind": "paid", "reference": "  "}),
            ("reference", {"reference": "r" * 256}),
            ("reference", {"reference": "a\x00b"}),
            ("reason", {"reason": "r" * 501}),
            ("reason", {"reason": "a\x00b"}),
            ("key", {"key": ""}),
            ("key", {"key": "k" * 256}),
            ("key", {"key": "a\x00b"}),
            ("expires_at", {"expires_at": AT}),
            ("expires_at", {"expires_at": AT - timedelta(days=1)}),
            ("expires_at", {"expires_at": AT + timedelta(days=1), "never_expires": True}),
            ("expires_at", {"expires_at": AT + timedelta(days=1), "effective_at": AT + timedelta(days=1)}),
            ("expires_at", {"expires_at": datetime(9999, 12, 31, tzinfo=UTC)}),
            ("effective_at", {"effective_at": AT + timedelta(days=4_000)}),
            ("priority", {"priority": 1_001}),
            ("priority", {"priority": -1_001}),
            ("is_refundable", {"is_refundable": True}),
        ],
    )
    def test_that_can_t_be_made_is_refused_by_its_field(self, field: str, wrong: dict[str, Any]) -> None:
        """Row 6 among them: a negative or zero grant."""
        payer = make_payer(credit="0")
        with pytest.raises(credits.InvalidGrant) as caught:
            grant(payer, "5", **{"key": "k", **wrong})
        assert caught.value.field == field
        assert (payer.balance, payer.wallet.version) == (0, 0)

    def test_to_a_customer_that_is_none_is_refused(self) -> None:
        with pytest.raises(ledger.UnknownCustomer):
            grant(make_payer(), "5", customer_id=2**62)

    @pytest.mark.parametrize("amount", ["1E+3", "0.000000000000001", "1000000000000"])
    def test_of_the_smallest_and_the_largest_amount_is_exact(self, amount: str) -> None:
        payer = make_payer(credit="0")
        grant(payer, amount)
        assert payer.balance == Decimal(amount)


class TestBurningDown:
    def test_takes_promotional_usage_from_promotional_credit_and_revenue_from_paid(self) -> None:
        payer = make_payer(credit="0")
        grant(payer, "1", **PROMO)
        grant(payer, "2", **PAID)
        charge(payer, "1.5")
        assert remaining(payer) == [0, Decimal("1.5")]
        assert accounts(payer) == {
            "wallet": Decimal("1.5"),
            "promotional_grants": -1,
            "cash:manual": -2,
            "promotional_usage": 1,
            "revenue": Decimal("0.5"),
        }
        assert_books(payer)

    def test_goes_by_priority_then_expiry_then_age(self) -> None:
        payer = make_payer(credit="0")
        for expires_at in (None, AT + timedelta(days=9), AT + timedelta(days=3), None):
            grant(payer, "1", expires_at=expires_at)
        grant(payer, "1", priority=-1)
        oldest, late, soon, _, first = Grant.objects.filter(customer=payer.customer).order_by("pk")
        order = []
        for _ in range(4):
            (number,) = charge(payer, "1")
            order.append(GrantUse.objects.get(customer=payer.customer, transfer_id=number).grant_id)
        assert order == [first.pk, soon.pk, late.pk, oldest.pk]

    def test_says_what_each_charge_took_of_each_grant(self) -> None:
        payer = make_payer(credit="0")
        grant(payer, "1")
        grant(payer, "1", **PAID)
        november, december = charge(payer, "0.75", "1")
        uses = GrantUse.objects.filter(customer=payer.customer).order_by("transfer_id", "grant_id")
        assert [(use.transfer_id, use.amount) for use in uses] == [
            (november, Decimal("0.75")),
            (december, Decimal("0.25")),
            (december, Decimal("0.75")),
        ]
        assert_books(payer)

    def test_of_two_periods_makes_a_transfer_for_each(self) -> None:
        payer = make_payer()
        numbers = charge(payer, "1", "2")
        transfers = Transfer.objects.filter(customer=payer.customer, kind="usage").order_by("period")
        assert [transfer.pk for transfer in transfers] == numbers
        assert [str(transfer.period) for transfer in transfers] == ["2026-11-01", "2026-12-01"]
        assert payer.balance == 47

    def test_of_nothing_makes_no_transfer(self) -> None:
        payer = make_payer()
        assert charge(payer, "0", "1")[0] is None
        assert charge(payer, "0") == [None]
        assert Transfer.objects.filter(customer=payer.customer, kind="usage").count() == 1

    def test_of_less_than_nothing_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="never credits"):
            charge(make_payer(), "-1")

    def test_beyond_all_credit_is_debt_and_counts_as_revenue(self) -> None:
        payer = make_payer(credit="1")
        charge(payer, "3")
        assert payer.balance == -2
        assert accounts(payer)["revenue"] == 2
        assert accounts(payer)["promotional_usage"] == 1
        assert_books(payer)


class TestDebt:
    def test_is_filled_first_by_paid_credit_and_stays_revenue(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        grant(payer, "5", **PAID)
        assert (payer.balance, remaining(payer)) == (2, [2])
        assert accounts(payer) == {"wallet": 2, "revenue": 3, "cash:manual": -5}
        assert_books(payer)

    @pytest.mark.parametrize("kind", ["promotional", "goodwill"])
    def test_filled_by_credit_nobody_paid_is_no_longer_revenue(self, kind: str) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        grant(payer, "5", kind=kind)
        assert (payer.balance, remaining(payer)) == (2, [2])
        account = "goodwill" if kind == "goodwill" else "promotional_grants"
        assert accounts(payer) == {"wallet": 2, "promotional_usage": 3, account: -5}
        assert_books(payer)

    def test_larger_than_the_grant_takes_all_of_it(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        grant(payer, "1", **PROMO)
        assert (payer.balance, remaining(payer)) == (-2, [0])
        assert accounts(payer) == {"wallet": -2, "revenue": 2, "promotional_usage": 1, "promotional_grants": -1}
        grant(payer, "2", **PAID)
        assert (payer.balance, remaining(payer)) == (0, [0, 0])
        charge(payer, "1")
        assert payer.balance == -1
        assert_books(payer)

    def test_is_named_in_the_uses_of_the_grant_that_paid_it(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        grant(payer, "5", **PAID)
        use = GrantUse.objects.get(customer=payer.customer)
        assert use.amount == 3
        assert Transfer.objects.get(customer=payer.customer, pk=use.transfer_id).kind == "grant"


class Shadow:
    """The same money kept by a pocket calculator: one list of grants, one debt."""

    def __init__(self) -> None:
        self.grants: list[tuple[str, Decimal]] = []
        self.debt = Decimal(0)
        self.promotional = Decimal(0)
        self.revenue = Decimal(0)

    def give(self, kind: str, amount: Decimal) -> None:
        covered = min(self.debt, amount)
        self.debt -= covered
        self.grants.append((kind, amount - covered))
        if kind != "paid":
            self.revenue -= covered
            self.promotional += covered

    def take(self, amount: Decimal) -> None:
        for place, (kind, left) in enumerate(self.grants):
            part = min(left, amount)
            amount -= part
            self.grants[place] = (kind, left - part)
            if kind == "paid":
                self.revenue += part
            else:
                self.promotional += part
        self.debt += amount
        self.revenue += amount


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_given_and_taken_the_wallet_is_what_a_calculator_says(seed: int) -> None:
    chance, payer, shadow = random.Random(seed), make_payer(credit="0"), Shadow()
    for step in range(40):
        amounts = [Decimal(chance.randrange(1, 10**9)).scaleb(-chance.randrange(6, 16)) for _ in range(3)]
        if chance.random() < 0.5:
            kind = chance.choice(["paid", "promotional", "goodwill"])
            grant(payer, str(amounts[0]), f"grant {step}", kind=kind, reference="r", never_expires=True)
            shadow.give(kind, amounts[0])
        else:
            due = amounts[: chance.randrange(1, 4)]
            charge(payer, *map(str, due), settlement=f"settlement {step}")
            for amount in due:
                shadow.take(amount)
        assert payer.balance == sum((left for _, left in shadow.grants), Decimal(0)) - shadow.debt
        assert remaining(payer) == [left for _, left in shadow.grants]
    found = accounts(payer)
    assert found.get("revenue", 0) == shadow.revenue
    assert found.get("promotional_usage", 0) == shadow.promotional
    assert_books(payer)
