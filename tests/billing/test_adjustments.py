"""Usage put right: more is charged as usage, less cures debt and goes back to the very grants that had paid."""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction

from billing import adjustments, credits, ledger, write_offs
from billing.checks import Scope
from billing.models import Entry, Grant, GrantReturn, GrantUse, Transfer
from billing.verification import check_ledger
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


def grant(payer: Payer, amount: str, kind: str = "goodwill") -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="",
        reference="wire 1",
        key=f"key {random.random()}",
        at=AT,
        never_expires=True,
    )


def charge(payer: Payer, amount: str) -> int:
    with transaction.atomic():
        (number,) = credits.charge_usage(
            [credits.Charge(payer.customer.pk, NOVEMBER, Decimal(amount))],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            settlement=f"settlement {random.random()}",
            at=AT,
        )
    assert number is not None
    return number


def write_off(payer: Payer, amount: str) -> None:
    with transaction.atomic():
        write_offs.write_off(
            ledger.lock_wallets([payer.customer.pk])[payer.customer.pk],
            amount=Decimal(amount),
            key=f"key {random.random()}",
            reason="gone",
            document="",
            actor="ada",
            at=AT,
        )


def adjust(payer: Payer, *changes: tuple[str, Sequence[int]], job: str = "", period: date = NOVEMBER) -> int | None:
    """Put charges right by (difference, the transfers that charged them); the transfer's number."""
    with transaction.atomic():
        posted = adjustments.adjust_usage(
            [
                adjustments.Change(payer.customer.pk, period, Decimal(difference), tuple(charged_by))
                for difference, charged_by in changes
            ],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            job=job or f"job {random.random()}",
            reason="a wrong price",
            at=AT,
        )
    return posted.get((payer.customer.pk, period))


def sides(payer: Payer, transfer: int | None) -> dict[str, Decimal]:
    rows = Entry.objects.filter(customer=payer.customer, transfer_id=transfer)
    return {account: amount.normalize() for account, amount in rows.values_list("account", "amount")}


def remaining(payer: Payer) -> list[Decimal]:
    return list(Grant.objects.filter(customer=payer.customer).order_by("pk").values_list("remaining", flat=True))


def assert_books(payer: Payer) -> None:
    """Every check of the ledger, and that revenue is what paid credit and debt have paid."""
    for full in (True, False):
        assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=full)) == []
    paid: dict[bool, Decimal] = {True: Decimal(0), False: Decimal(0)}
    kinds = dict(Grant.objects.filter(customer=payer.customer).values_list("pk", "kind"))
    for model, sign in ((GrantUse, 1), (GrantReturn, -1)):
        for grant_id, amount in model._default_manager.filter(customer=payer.customer).values_list(
            "grant_id", "amount"
        ):
            paid[kinds[grant_id] == "paid"] += sign * amount
    debt = max(Decimal(0), -payer.balance)
    sums = {"revenue": Decimal(0), "promotional_usage": Decimal(0)}
    for account, amount in Entry.objects.filter(customer=payer.customer).values_list("account", "amount"):
        if account in sums:
            sums[account] += amount
    assert sums == {"revenue": paid[True] + debt, "promotional_usage": paid[False]}


class TestMoreToPay:
    def test_is_charged_as_usage_is(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "0.9")
        number = adjust(payer, ("0.3", [first]), job="rerating:7")
        assert sides(payer, number) == {
            "wallet": Decimal("-0.3"),
            "promotional_usage": Decimal("0.1"),
            "revenue": Decimal("0.2"),
        }
        transfer = Transfer.objects.get(customer=payer.customer, pk=number)
        assert (transfer.kind, transfer.key, transfer.reason, transfer.period) == (
            "adjustment",
            "rerating:7:2026-11-01",
            "a wrong price",
            NOVEMBER,
        )
        assert payer.balance == Decimal("-0.2")
        assert_books(payer)

    def test_the_same_job_posts_once(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "0.5")
        for difference in ("0.3", "-0.3"):
            adjust(payer, (difference, [first]), job=f"job {difference}")
            with pytest.raises(ledger.AlreadyPosted):
                adjust(payer, (difference, [first]), job=f"job {difference}")
        assert payer.balance == Decimal("0.5")
        assert_books(payer)


class TestMoneyBack:
    def test_goes_to_the_grants_that_paid_the_last_used_first(self) -> None:
        payer = make_payer(credit="1")
        grant(payer, "1", "paid")
        grant(payer, "5", "promotional")
        first = charge(payer, "2.5")  # all of the first two, and half of what the third is charged
        second = charge(payer, "1")
        number = adjust(payer, ("-1.7", [first]))
        assert remaining(payer) == [Decimal("0.2"), 1, 4]
        assert sides(payer, number) == {
            "wallet": Decimal("1.7"),
            "promotional_usage": Decimal("-0.7"),
            "revenue": Decimal(-1),
        }
        assert_books(payer)
        adjust(payer, ("-0.8", [first]))
        adjust(payer, ("-1", [second]))
        assert remaining(payer) == [1, 1, 5]
        assert payer.balance == 7
        assert_books(payer)

    def test_is_never_more_than_that_transfer_had_used_of_the_grant(self) -> None:
        payer = make_payer(credit="1")
        first, second = charge(payer, "0.4"), charge(payer, "0.4")
        adjust(payer, ("-0.4", [first]))
        with pytest.raises(AssertionError, match="no grant has paid"):
            adjust(payer, ("-0.5", [second]))
        adjust(payer, ("-0.4", [second]))
        returned = GrantReturn.objects.filter(customer=payer.customer).order_by("used_by_id")
        assert [(row.used_by_id, row.amount) for row in returned] == [
            (first, Decimal("0.4")),
            (second, Decimal("0.4")),
        ]
        assert_books(payer)

    def test_cures_debt_first(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "1")
        charge(payer, "0.6")
        number = adjust(payer, ("-0.9", [first]))
        assert sides(payer, number) == {
            "wallet": Decimal("0.9"),
            "promotional_usage": Decimal("-0.3"),
            "revenue": Decimal("-0.6"),
        }
        assert (payer.balance, remaining(payer)) == (Decimal("0.3"), [Decimal("0.3")])
        assert_books(payer)

    def test_of_usage_that_a_later_grant_paid_as_debt_goes_back_to_that_grant(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "3")
        grant(payer, "5", "paid")
        assert remaining(payer) == [0, 3]
        number = adjust(payer, ("-2.5", [first]))
        assert remaining(payer) == [1, Decimal("4.5")]
        assert sides(payer, number) == {
            "wallet": Decimal("2.5"),
            "promotional_usage": Decimal(-1),
            "revenue": Decimal("-1.5"),
        }
        assert_books(payer)

    def test_of_usage_whose_debt_other_money_back_has_cured_goes_to_what_paid_last(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "1")
        second = charge(payer, "1")  # debt
        adjust(payer, ("-1", [first]))  # cures it: now the grant pays the second
        assert (payer.balance, remaining(payer)) == (0, [0])
        adjust(payer, ("-1", [second]))
        assert (payer.balance, remaining(payer)) == (1, [1])
        assert_books(payer)

    def test_of_usage_that_was_written_off_is_nobody_s(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "3")
        write_off(payer, "2")
        adjust(payer, ("-3", [first]))
        assert (payer.balance, remaining(payer)) == (1, [1])
        assert_books(payer)

    def test_takes_up_what_was_written_off_since_though_more_was_taken_up_of_what_was_written_off_before(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "3")
        write_off(payer, "2")
        second = charge(payer, "3")
        write_off(payer, "3")
        adjust(payer, ("-3", [first]))
        assert (payer.balance, remaining(payer)) == (1, [1])
        adjust(payer, ("-3", [second]))
        assert (payer.balance, remaining(payer)) == (1, [1])
        assert_books(payer)

    def test_of_usage_whose_debt_was_cured_for_usage_that_was_written_off_takes_that_up(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "2")
        write_off(payer, "1")
        second = charge(payer, "2")  # debt
        adjust(payer, ("-2", [first]))  # cures it: the write-off is left to the second
        assert (payer.balance, remaining(payer)) == (0, [0])
        adjust(payer, ("-2", [second]))
        assert (payer.balance, remaining(payer)) == (1, [1])
        assert_books(payer)

    def test_of_an_event_that_was_made_dearer_before_comes_from_that_adjustment_first(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "0.5")
        grant(payer, "1", "paid")
        dearer = adjust(payer, ("0.7", [first]))
        assert remaining(payer) == [0, Decimal("0.8")]
        adjust(payer, ("-0.3", [dearer or 0, first]))
        assert remaining(payer) == [Decimal("0.1"), 1]
        assert_books(payer)

    def test_of_many_uses_finds_those_on_later_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adjustments, "_PAGE", 2)
        payer = make_payer(credit="1")
        numbers = [charge(payer, "0.1") for _ in range(10)]
        debt = charge(payer, "1")
        for number in numbers[:9]:
            adjust(payer, ("-0.1", [number]))
        assert payer.balance == Decimal("-0.1")
        adjust(payer, ("-1", [debt]))
        assert (payer.balance, remaining(payer)) == (Decimal("0.9"), [Decimal("0.9")])
        assert_books(payer)


class TestSums:
    def test_what_evens_out_moves_nothing(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "0.5")
        before = payer.wallet.version
        assert adjust(payer, ("0.2", [first]), ("-0.2", [first])) is None
        assert payer.wallet.version == before

    def test_one_transfer_moves_the_sum(self) -> None:
        payer = make_payer(credit="1")
        first, second = charge(payer, "0.5"), charge(payer, "0.5")
        number = adjust(payer, ("0.2", [first]), ("-0.3", [second]))
        assert sides(payer, number)["wallet"] == Decimal("0.1")
        returned = GrantReturn.objects.get(customer=payer.customer)
        assert (returned.used_by_id, returned.transfer_id, returned.amount) == (second, number, Decimal("0.1"))
        assert_books(payer)

    def test_each_period_has_its_own(self) -> None:
        payer = make_payer(credit="1")
        first = charge(payer, "0.5")
        with transaction.atomic():
            posted = adjustments.adjust_usage(
                [
                    adjustments.Change(payer.customer.pk, OCTOBER, Decimal("-0.2"), (first,)),
                    adjustments.Change(payer.customer.pk, NOVEMBER, Decimal("0.9"), (first,)),
                ],
                wallets=ledger.lock_wallets([payer.customer.pk]),
                job="job",
                reason="",
                at=AT,
            )
        assert len(posted) == 2
        assert payer.balance == Decimal("-0.2")
        assert_books(payer)

    def test_many_customers_are_moved_together(self) -> None:
        payers = [make_payer(credit="1") for _ in range(6)]
        numbers = [charge(payer, "0.5") for payer in payers]
        with transaction.atomic():
            adjustments.adjust_usage(
                [
                    adjustments.Change(payer.customer.pk, NOVEMBER, Decimal(place - 3) / 10, (number,))
                    for place, (payer, number) in enumerate(zip(payers, numbers, strict=True))
                ],
                wallets=ledger.lock_wallets([payer.customer.pk for payer in payers]),
                job="job",
                reason="",
                at=AT,
            )
        assert [payer.balance for payer in payers] == [Decimal(8 - place) / 10 for place in range(6)]
        for payer in payers:
            assert_books(payer)


def test_returns_are_append_only() -> None:
    payer = make_payer(credit="1")
    adjust(payer, ("-0.1", [charge(payer, "0.5")]))
    for statement in ("UPDATE billing_grantreturn SET amount = 9", "DELETE FROM billing_grantreturn"):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.mark.parametrize("seed", range(12))
def test_random_charges_grants_and_changes_leave_every_check_clean(seed: int) -> None:
    """Charges up and down by any amount up to what they are, between grants of all kinds, in and out of debt."""
    dice = random.Random(seed)
    payer = make_payer(credit="0.5")
    charges: list[tuple[Decimal, list[int]]] = []
    for _ in range(40):
        match dice.choice(["charge", "charge", "change", "change", "grant"]):
            case "charge":
                amount = Decimal(dice.randint(1, 900)) / 1000
                charges.append((amount, [charge(payer, str(amount))]))
            case "grant":
                grant(
                    payer, str(Decimal(dice.randint(1, 1500)) / 1000), dice.choice(["paid", "promotional", "goodwill"])
                )
            case "change" if charges:
                chosen = dice.sample(range(len(charges)), dice.randint(1, min(4, len(charges))))
                news = [Decimal(dice.choice([0, dice.randint(0, 900)])) / 1000 for _ in chosen]
                changes = [
                    (str(new - charges[place][0]), charges[place][1]) for place, new in zip(chosen, news, strict=True)
                ]
                number = adjust(payer, *changes)
                for place, new in zip(chosen, news, strict=True):
                    by = charges[place][1]
                    charges[place] = (new, by if number is None else [number, *by])
        given = sum(Grant.objects.filter(customer=payer.customer).values_list("amount", flat=True))
        assert payer.balance == given - sum(amount for amount, _ in charges)
        assert_books(payer)
