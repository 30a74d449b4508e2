"""Credit that begins later and credit that ends: posted once, announced, expired, voided, extended."""

import os
import pwd
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import adjustments, credits, expiry, grant_changes, holds, ledger, notices, scheduled_grants
from billing.checks import Scope
from billing.models import (
    Customer,
    Entry,
    Grant,
    GrantChange,
    GrantUse,
    Notice,
    OperatorSettings,
    ScheduledGrant,
    Transfer,
    Wallet,
)
from billing.verification import check_ledger, read_marks, save_marks
from relayadmin import ids
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
NOVEMBER = date(2026, 11, 1)


def give(payer: Payer, amount: str, **changes: Any) -> int:
    """Grant promotional credit unless changed; the grant's number."""
    asked: dict[str, Any] = {
        "customer_id": payer.customer.pk,
        "amount": Decimal(amount),
        "kind": "promotional",
        "reason": "test",
        "reference": "wire 1",
        "key": uuid4().hex,
        "at": AT,
    }
    made = credits.grant(**{**asked, **changes}).grant
    return next(row.pk for row in _all_grants(payer) if row.public_id == made)


def _all_grants(payer: Payer) -> Sequence[Any]:
    customer = payer.customer
    return [*Grant.objects.filter(customer=customer), *ScheduledGrant.objects.filter(customer=customer)]


def grant_of(number: int) -> Grant:
    return Grant.objects.get(pk=number)


def hold(payer: Payer, amount: str, at: datetime = AT) -> int:
    placed = holds.place(
        customer_id=payer.customer.pk,
        request_id=uuid4().hex,
        digest=b"d" * 32,
        amount=Decimal(amount),
        expires_at=at + timedelta(days=400),
        details={},
        at=at,
    )
    return (ids.parse_hot_id("auth", placed.public_id) or (0, 0))[1]


def release(payer: Payer, number: int, at: datetime = AT) -> None:
    holds.release(customer_id=payer.customer.pk, number=number, at=at)


def charge(payer: Payer, amount: str, at: datetime = AT) -> int:
    with transaction.atomic():
        (number,) = credits.charge_usage(
            [credits.Charge(payer.customer.pk, NOVEMBER, Decimal(amount))],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            settlement=uuid4().hex,
            at=at,
        )
    assert number is not None
    return number


def give_back(payer: Payer, amount: str, charged_by: Sequence[int] = (), at: datetime = AT) -> None:
    with transaction.atomic():
        adjustments.adjust_usage(
            [adjustments.Change(payer.customer.pk, NOVEMBER, -Decimal(amount), tuple(charged_by))],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            job=uuid4().hex,
            reason="a wrong price",
            at=at,
        )


def sweep_all(at: datetime) -> expiry.Swept:
    """Sweep until nothing is due; the sums."""
    taken = announced = looked_at = 0
    while (swept := expiry.sweep(at=at)).looked_at:
        looked_at, taken, announced = (
            looked_at + swept.looked_at,
            taken + swept.taken,
            announced + swept.announced,
        )
    return expiry.Swept(looked_at, taken, announced)


def void(payer: Payer, number: int, at: datetime = AT, reason: str = "booked twice") -> grant_changes.Voided:
    return grant_changes.void(customer_id=payer.customer.pk, number=number, reason=reason, actor="olga", at=at)


def extend(payer: Payer, number: int, until: datetime | None, at: datetime = AT, key: str = "") -> bool:
    return grant_changes.extend(
        customer_id=payer.customer.pk,
        number=number,
        expires_at=until,
        reason="they asked",
        actor="olga",
        key=key or uuid4().hex,
        at=at,
    )


def sides(payer: Payer, kind: str) -> list[dict[str, Decimal]]:
    """The entries of each transfer of a kind, oldest first."""
    found = Transfer.objects.filter(customer=payer.customer, kind=kind).order_by("pk")
    return [{entry.account: entry.amount for entry in transfer.entries} for transfer in found]


def assert_books(payer: Payer) -> None:
    for full in (True, False):
        assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=full)) == []


def mark_as_right(payer: Payer) -> None:
    save_marks(read_marks(Scope(payer.customer.pk, payer.customer.pk, full=False)), at=AT)


def notices_of(payer: Payer) -> list[dict[str, Any]]:
    found = Notice.objects.filter(customer=payer.customer).exclude(kind="key_created")
    return list(found.order_by("pk").values_list("data", flat=True))


class TestTheExpiryOfPaidCredit:
    def test_is_a_year_from_its_beginning_unless_the_operator_says_otherwise(self) -> None:
        payer = make_payer(credit="0")
        assert grant_of(give(payer, "1", kind="paid")).expires_at == AT + 365 * DAY
        OperatorSettings.objects.update(paid_credit_days=10)
        assert grant_of(give(payer, "1", kind="paid")).expires_at == AT + 10 * DAY
        OperatorSettings.objects.update(paid_credit_days=0)
        assert grant_of(give(payer, "1", kind="paid")).expires_at is None

    def test_gives_way_to_what_is_asked_for(self) -> None:
        payer = make_payer(credit="0")
        assert grant_of(give(payer, "1", kind="paid", expires_at=AT + DAY)).expires_at == AT + DAY
        assert grant_of(give(payer, "1", kind="paid", never_expires=True)).expires_at is None
        assert grant_of(give(payer, "1", kind="promotional")).expires_at is None
        assert grant_of(give(payer, "1", kind="goodwill")).expires_at is None

    def test_is_the_first_call_s_when_the_same_key_comes_again(self) -> None:
        payer = make_payer(credit="0")
        first = give(payer, "1", kind="paid", key="k")
        OperatorSettings.objects.update(paid_credit_days=10)
        assert give(payer, "1", kind="paid", key="k", at=AT + DAY) == first
        extend(payer, first, AT + 700 * DAY)
        assert give(payer, "1", kind="paid", key="k", at=AT + 2 * DAY) == first
        assert payer.balance == 1

    def test_goes_with_a_flag_that_says_whether_it_is_refundable(self) -> None:
        payer = make_payer(credit="0")
        assert grant_of(give(payer, "1", kind="paid")).is_refundable
        assert not grant_of(give(payer, "1", kind="paid", is_refundable=False)).is_refundable
        assert not grant_of(give(payer, "1")).is_refundable


class TestAGrantThatBeginsLater:
    def test_is_in_no_balance_until_its_moment_and_once_from_then_on(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", effective_at=AT + DAY, expires_at=AT + 9 * DAY)
        assert payer.balance == 0
        assert scheduled_grants.post_due(at=AT + DAY - MINUTE) == 0
        assert scheduled_grants.post_due(at=AT + DAY) == 1
        assert scheduled_grants.post_due(at=AT + DAY) == 0
        assert payer.balance == 5
        row = grant_of(number)
        assert (row.effective_at, row.created_at, row.expires_at) == (AT + DAY, AT + DAY, AT + 9 * DAY)
        assert_books(payer)

    def test_fills_debt_when_it_begins(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", effective_at=AT + DAY)
        charge(payer, "3")
        scheduled_grants.post_due(at=AT + DAY)
        assert (payer.balance, grant_of(number).remaining) == (2, 2)
        assert_books(payer)

    def test_is_one_under_its_key_before_and_after_it_begins(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", key="k", effective_at=AT + DAY)
        assert give(payer, "5", key="k", effective_at=AT + DAY) == number
        with pytest.raises(credits.GrantKeyConflict):
            give(payer, "6", key="k", effective_at=AT + DAY)
        scheduled_grants.post_due(at=AT + DAY)
        assert give(payer, "5", key="k", effective_at=AT + DAY, at=AT + 2 * DAY) == number
        with pytest.raises(credits.GrantKeyConflict):
            give(payer, "5", key="k", at=AT + 2 * DAY)
        assert payer.balance == 5

    def test_counts_the_year_of_paid_credit_from_its_beginning(self) -> None:
        number = give(make_payer(credit="0"), "5", kind="paid", effective_at=AT + DAY)
        assert ScheduledGrant.objects.get(pk=number).expires_at == AT + 366 * DAY

    def test_that_has_passed_begins_at_once(self) -> None:
        payer = make_payer(credit="0")
        assert grant_of(give(payer, "5", effective_at=AT - DAY)).effective_at == AT - DAY
        assert payer.balance == 5

    def test_which_came_to_its_end_before_the_job_ran_is_posted_and_expired(self) -> None:
        payer = make_payer(credit="0")
        give(payer, "5", effective_at=AT + DAY, expires_at=AT + 2 * DAY)
        assert scheduled_grants.post_due(at=AT + 3 * DAY) == 1
        assert sweep_all(AT + 3 * DAY).taken == 1
        assert payer.balance == 0
        assert_books(payer)

    def test_is_cancelled_before_it_begins_and_not_after(self) -> None:
        payer = make_payer(credit="0")
        number, other = give(payer, "5", effective_at=AT + DAY), give(payer, "6", effective_at=AT + DAY)

        def cancel(which: int) -> bool:
            return scheduled_grants.cancel(
                customer_id=payer.customer.pk, number=which, reason="no", actor="olga", at=AT
            )

        assert (cancel(number), cancel(number)) == (True, False)
        assert scheduled_grants.post_due(at=AT + DAY) == 1
        assert payer.balance == 6
        with pytest.raises(scheduled_grants.AlreadyPosted):
            cancel(other)
        with pytest.raises(scheduled_grants.UnknownGrant):
            cancel(2**62)
        assert_books(payer)

    def test_is_given_by_the_command_line(self) -> None:
        payer, out = make_payer(credit="0"), StringIO()
        asked = ["grant_credit", payer.customer.public_id, "5", "--kind", "paid", "--reference", "w", "--key", "k"]
        later = [*asked, "--effective-at", "2120-01-01T00:00:00Z"]
        with pytest.raises(CommandError, match="at most ten years ahead"):
            call_command(*later)
        call_command(*asked, "--expires-at", "never", "--priority", "3", "--non-refundable", stdout=out)
        row = Grant.objects.get(customer=payer.customer)
        assert out.getvalue().strip() == f'{{"grant":"{row.public_id}","balance":"5.000000"}}'
        assert (row.expires_at, row.priority, row.is_refundable) == (None, 3, False)

    def test_the_command_line_says_who_and_why(self) -> None:
        payer = make_payer(credit="0")
        asked = ["grant_credit", payer.customer.public_id, "5", "--kind", "goodwill"]
        call_command(*asked, "--by", " ada ", "--reason", "outage", stdout=StringIO())
        call_command(*asked, stdout=StringIO())
        system = pwd.getpwuid(os.getuid()).pw_name
        rows = Transfer.objects.filter(customer=payer.customer).order_by("pk").values_list("actor", "reason")
        assert list(rows) == [("ada (command line)", "outage"), (f"{system} (command line)", "")]
        with pytest.raises(CommandError, match="at most 100 characters"):
            call_command(*asked, "--by", "a" * 101)

    def test_the_command_line_grants_much_only_where_it_is_told_alone(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(second_person_above=Decimal(100))
        asked = ["grant_credit", payer.customer.public_id, "100.01", "--kind", "goodwill", "--by", "ada"]
        with pytest.raises(CommandError, match=r"Above 100\.000000 USD a second person"):
            call_command(*asked)
        with pytest.raises(CommandError, match="needs a second person"):
            call_command("create_customer", "Bea", "--credit", "100.01")
        assert (payer.balance, Customer.objects.filter(name="Bea").exists()) == (0, False)
        call_command(*asked, "--alone", stdout=StringIO())
        call_command(*[*asked[:2], "100", *asked[3:]], "--alone", stdout=StringIO())
        actors = Transfer.objects.filter(customer=payer.customer).order_by("pk").values_list("actor", flat=True)
        assert list(actors) == ["ada (command line, alone)", "ada (command line)"]

    def test_the_command_line_gives_a_closed_account_no_gift(self) -> None:
        payer = make_payer(credit="0")
        Customer.objects.filter(pk=payer.customer.pk).update(status="closed")
        with pytest.raises(CommandError, match="account is closed"):
            call_command("grant_credit", payer.customer.public_id, "1", "--kind", "goodwill")
        call_command("grant_credit", payer.customer.public_id, "1", "--kind", "paid", "--reference", "w")
        assert payer.balance == 1


class TestTheSweep:
    def test_expires_what_is_left_to_breakage_once(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        charge(payer, "2")
        assert sweep_all(AT + DAY - MINUTE).taken == 0
        assert sweep_all(AT + DAY).taken == 1
        assert sweep_all(AT + 2 * DAY).looked_at == 0
        assert sides(payer, "expiry") == [{"wallet": -3, "breakage": 3}]
        assert (payer.balance, grant_of(number).remaining, grant_of(number).look_at) == (0, 0, None)
        transfer = Transfer.objects.get(customer=payer.customer, kind="expiry")
        assert transfer.document == grant_of(number).public_id
        assert GrantUse.objects.filter(customer=payer.customer, transfer_id=transfer.pk).get().amount == 3
        assert_books(payer)

    def test_leaves_what_is_held_and_comes_back_for_the_rest(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        held = hold(payer, "2")
        assert sweep_all(AT + DAY).taken == 1
        assert (payer.balance, grant_of(number).remaining) == (2, 2)
        assert sweep_all(AT + DAY + MINUTE).taken == 0
        assert payer.balance == 2
        release(payer, held, AT + DAY)
        assert sweep_all(AT + DAY + 2 * MINUTE).taken == 1
        assert sides(payer, "expiry") == [{"wallet": -3, "breakage": 3}, {"wallet": -2, "breakage": 2}]
        assert payer.balance == 0
        assert_books(payer)

    def test_takes_the_rest_where_other_credit_can_carry_what_is_held(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        hold(payer, "2")
        sweep_all(AT + DAY)
        give(payer, "10", at=AT + DAY)
        sweep_all(AT + DAY + MINUTE)
        assert (payer.balance, grant_of(number).remaining) == (10, 0)
        assert_books(payer)

    def test_never_takes_a_wallet_below_zero_for_a_credit_limit(self) -> None:
        payer = make_payer(credit="0")
        give(payer, "5", expires_at=AT + DAY)
        Wallet.objects.filter(customer=payer.customer).update(credit_limit=Decimal(100))
        hold(payer, "50")
        assert sweep_all(AT + DAY).taken == 0
        assert payer.balance == 5

    def test_expires_several_of_one_customer_in_the_order_in_which_they_are_used(self) -> None:
        payer = make_payer(credit="0")
        late = give(payer, "5", expires_at=AT + 2 * DAY)
        soon = give(payer, "5", expires_at=AT + DAY)
        first = give(payer, "5", expires_at=AT + 3 * DAY, priority=-1)
        hold(payer, "4")
        assert sweep_all(AT + 3 * DAY).taken == 3
        assert [grant_of(number).remaining for number in (first, soon, late)] == [0, 0, 4]
        assert_books(payer)

    def test_goes_in_slices(self) -> None:
        payers = [make_payer(credit="0") for _ in range(5)]
        for payer in payers:
            give(payer, "1", expires_at=AT + DAY)
        looked_at = []
        while (swept := expiry.sweep(at=AT + DAY, limit=2)).looked_at:
            looked_at.append(swept.looked_at)
        assert looked_at == [2, 2, 1]
        assert [payer.balance for payer in payers] == [0] * 5

    def test_takes_what_an_adjustment_gives_back_to_a_grant_that_has_expired(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        charged_by = charge(payer, "2")
        sweep_all(AT + DAY)
        give_back(payer, "1", [charged_by], at=AT + 2 * DAY)
        assert (payer.balance, grant_of(number).remaining) == (1, 1)
        assert sweep_all(AT + 2 * DAY).taken == 1
        assert payer.balance == 0
        assert_books(payer)

    def test_is_not_undone_by_money_back(self) -> None:
        """Money back without a known use goes to whatever usage used last, never to what has expired."""
        payer = make_payer(credit="0")
        used = give(payer, "5")
        charge(payer, "2")
        expired = give(payer, "7", expires_at=AT + DAY)
        sweep_all(AT + DAY)
        give_back(payer, "2", at=AT + 2 * DAY)
        assert [grant_of(number).remaining for number in (used, expired)] == [5, 0]
        assert_books(payer)


class TestNotices:
    def test_are_given_thirty_and_seven_days_before_once_each(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + 60 * DAY)
        for day in range(60):
            sweep_all(AT + day * DAY)
        ends = (AT + 60 * DAY).isoformat()
        public_id = grant_of(number).public_id
        assert notices_of(payer) == [
            {"grant": public_id, "remaining": "5.000000", "expires_at": ends, "days": 30},
            {"grant": public_id, "remaining": "5.000000", "expires_at": ends, "days": 7},
        ]

    def test_that_are_late_are_given_as_one(self) -> None:
        payer = make_payer(credit="0")
        give(payer, "5", expires_at=AT + 60 * DAY)
        sweep_all(AT + 58 * DAY)
        assert [notice["days"] for notice in notices_of(payer)] == [7]

    def test_are_not_given_for_credit_that_was_given_for_less_time(self) -> None:
        payer = make_payer(credit="0")
        give(payer, "5", expires_at=AT + 8 * DAY)
        give(payer, "5", expires_at=AT + 3 * DAY)
        assert sweep_all(AT).looked_at == 0
        sweep_all(AT + 2 * DAY)
        assert [notice["days"] for notice in notices_of(payer)] == [7]

    def test_are_not_given_for_credit_that_is_used_up(self) -> None:
        payer = make_payer(credit="0")
        give(payer, "5", expires_at=AT + 60 * DAY)
        charge(payer, "5")
        assert sweep_all(AT + 40 * DAY).announced == 0

    def test_are_given_anew_for_credit_that_was_extended(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + 10 * DAY)
        sweep_all(AT + 4 * DAY)
        extend(payer, number, AT + 20 * DAY, at=AT + 4 * DAY)
        sweep_all(AT + 14 * DAY)
        assert [notice["days"] for notice in notices_of(payer)] == [7, 7]

    def test_say_one_thing_once(self) -> None:
        payer = make_payer(credit="0")

        def tell(key: str) -> bool:
            return notices.announce(customer_id=payer.customer.pk, kind="k", key=key, data={"a": 'é"\\'}, at=AT)

        assert [tell("a"), tell("a"), tell("b")] == [True, False, True]
        assert notices_of(payer) == [{"a": 'é"\\'}] * 2


class TestVoiding:
    @pytest.mark.parametrize(
        ("kind", "account"),
        [("paid", "cash:manual"), ("promotional", "promotional_grants"), ("goodwill", "goodwill")],
    )
    def test_takes_what_is_left_back_to_where_it_came_from(self, kind: str, account: str) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", kind=kind)
        charge(payer, "2")
        assert void(payer, number) == grant_changes.Voided(Decimal(3), Decimal(0), is_new=True)
        assert sides(payer, "void") == [{"wallet": -3, account: 3}]
        transfer = Transfer.objects.get(customer=payer.customer, kind="void")
        assert (transfer.reason, transfer.actor) == ("booked twice", "olga")
        change = GrantChange.objects.get(customer=payer.customer)
        assert (change.kind, change.grant_id, change.reason, change.actor) == (
            "voided",
            number,
            "booked twice",
            "olga",
        )
        assert_books(payer)

    def test_happens_once(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5")
        void(payer, number)
        assert void(payer, number) == grant_changes.Voided(Decimal(0), Decimal(0), is_new=False)
        assert len(sides(payer, "void")) == 1

    def test_leaves_what_is_held_and_takes_the_rest_when_the_hold_ends(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5")
        held = hold(payer, "4")
        assert void(payer, number) == grant_changes.Voided(Decimal(1), Decimal(4), is_new=True)
        assert (payer.balance, payer.wallet.held) == (4, 4)
        charge(payer, "1")
        release(payer, held)
        sweep_all(AT + MINUTE)
        assert (payer.balance, grant_of(number).remaining) == (0, 0)
        first, rest = Transfer.objects.filter(customer=payer.customer, kind="void").order_by("pk")
        assert (rest.reason, rest.actor) == (first.reason, first.actor) == ("booked twice", "olga")
        assert sides(payer, "void")[1] == {"wallet": -3, "promotional_grants": 3}
        assert_books(payer)

    def test_takes_what_comes_back_to_the_grant_later(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5")
        charged_by = charge(payer, "2")
        void(payer, number)
        give_back(payer, "2", [charged_by])
        assert payer.balance == 2
        sweep_all(AT + MINUTE)
        assert (payer.balance, grant_of(number).remaining) == (0, 0)
        assert_books(payer)

    def test_needs_a_reason_something_left_and_a_grant(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5")
        for reason in ("", "  ", "r" * 501, "a\x00b"):
            with pytest.raises(grant_changes.CannotChange, match="reason"):
                void(payer, number, reason=reason)
        for customer_id, wrong in ((payer.customer.pk, 2**62), (2**62, number), (make_payer().customer.pk, number)):
            with pytest.raises(grant_changes.UnknownGrant):
                grant_changes.void(customer_id=customer_id, number=wrong, reason="r", actor="", at=AT)
        charge(payer, "5")
        with pytest.raises(grant_changes.CannotChange, match="nothing is left"):
            void(payer, number)


class TestExtending:
    def test_gives_more_time_and_moves_no_money(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        version = payer.wallet.version
        assert extend(payer, number, AT + 9 * DAY)
        assert sweep_all(AT + 8 * DAY).taken == 0
        assert (payer.balance, payer.wallet.version) == (5, version)
        change = GrantChange.objects.get(customer=payer.customer)
        assert (change.expires_before, change.expires_after) == (AT + DAY, AT + 9 * DAY)
        assert sweep_all(AT + 9 * DAY).taken == 1
        assert_books(payer)

    def test_happens_once_per_key(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        assert [extend(payer, number, AT + 9 * DAY, key="k") for _ in range(2)] == [True, False]
        with pytest.raises(grant_changes.ChangeKeyConflict):
            extend(payer, number, AT + 10 * DAY, key="k")
        assert GrantChange.objects.filter(customer=payer.customer).count() == 1

    def test_for_ever_keeps_it_for_ever(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        extend(payer, number, None)
        assert sweep_all(AT + 999 * DAY).looked_at == 0
        with pytest.raises(grant_changes.CannotChange, match="never expires"):
            extend(payer, number, AT + 2 * DAY)

    def test_gives_the_rest_that_is_held_another_life(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        held = hold(payer, "2")
        sweep_all(AT + DAY)
        extend(payer, number, AT + 9 * DAY, at=AT + DAY)
        release(payer, held, AT + DAY)
        sweep_all(AT + 2 * DAY)
        assert payer.balance == 2

    def test_is_refused_where_it_means_nothing(self) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + 2 * DAY)
        for until in (AT - DAY, AT + DAY, AT + 2 * DAY):
            with pytest.raises(grant_changes.CannotChange, match="later than before"):
                extend(payer, number, until)
        sweep_all(AT + 2 * DAY)
        with pytest.raises(grant_changes.CannotChange, match="nothing is left"):
            extend(payer, number, AT + 9 * DAY, at=AT + 2 * DAY)
        voided = give(payer, "5", expires_at=AT + 2 * DAY)
        hold(payer, "1")
        void(payer, voided)
        with pytest.raises(grant_changes.CannotChange, match="was voided"):
            extend(payer, voided, AT + 9 * DAY)

    def test_leaves_a_row_that_nobody_changes(self) -> None:
        payer = make_payer(credit="0")
        extend(payer, give(payer, "5", expires_at=AT + DAY), AT + 9 * DAY)
        for change in ("UPDATE billing_grantchange SET reason = ''", "DELETE FROM billing_grantchange"):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(change)


class TestTheCheck:
    """Row by row: what is wrong with an expiry or a void is found, in full and since the last check."""

    def expired(self) -> tuple[Payer, int, int]:
        """A payer, its expired grant, and the transfer; the check was right before the sweep."""
        payer = make_payer(credit="0")
        number = give(payer, "5", expires_at=AT + DAY)
        mark_as_right(payer)
        sweep_all(AT + DAY)
        return payer, number, Transfer.objects.get(customer=payer.customer, kind="expiry").pk

    def found(self, payer: Payer, *, full: bool) -> str:
        return " ".join(item.what for item in check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=full)))

    def tamper(self, table: str, statement: str, *parameters: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            cursor.execute(statement, parameters)
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_an_expiry_that_used_no_grant(self, full: bool) -> None:
        payer, _, transfer = self.expired()
        assert self.found(payer, full=full) == ""
        self.tamper("billing_grantuse", "DELETE FROM billing_grantuse WHERE transfer_id = %s", transfer)
        assert "took credit of" in self.found(payer, full=full)

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_an_expiry_that_took_another_amount(self, full: bool) -> None:
        payer, _, transfer = self.expired()
        self.tamper("billing_grantuse", "UPDATE billing_grantuse SET amount = 4 WHERE transfer_id = %s", transfer)
        assert "taken of the grant by tr_" in self.found(payer, full=full)

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_an_expiry_on_another_account(self, full: bool) -> None:
        payer, _, transfer = self.expired()
        self.tamper("billing_entry", "UPDATE billing_entry SET account = 'revenue' WHERE id = %s", transfer * 16 + 1)
        assert "accounts of tr_" in self.found(payer, full=full)

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_a_void_of_a_grant_that_nobody_voided(self, full: bool) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5")
        mark_as_right(payer)
        void(payer, number)
        assert self.found(payer, full=full) == ""
        Grant.objects.filter(pk=number).update(voided_at=None)
        assert "that were voided" in self.found(payer, full=full)

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_money_back_for_what_had_expired(self, full: bool) -> None:
        payer, number, transfer = self.expired()
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO billing_grantreturn (customer_id, used_by_id, grant_id, transfer_id, amount)"
                " VALUES (%s, %s, %s, %s, 1)",
                [payer.customer.pk, transfer, number, transfer],
            )
        assert "though no usage had used it" in self.found(payer, full=full)

    @pytest.mark.parametrize("full", [True, False])
    def test_finds_a_scheduled_grant_that_was_posted_and_is_not_there(self, full: bool) -> None:
        payer = make_payer(credit="0")
        number = give(payer, "5", effective_at=AT + DAY)
        assert self.found(payer, full=full) == ""
        ScheduledGrant.objects.filter(pk=number).update(posted_at=AT)
        assert "as scheduled" in self.found(payer, full=full)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["give", "give", "later", "charge", "charge", "hold", "release", "wait", "void", "extend", "back"]
        ),
        st.integers(1, 10**9),
        st.integers(0, 14),
        st.sampled_from(["paid", "promotional", "goodwill"]),
    ),
    min_size=4,
    max_size=25,
)


@given(OPERATIONS)
@settings(max_examples=40)
def test_whatever_is_given_used_held_voided_and_expired_no_money_is_made_or_lost(
    operations: list[tuple[str, int, int, str]],
) -> None:
    payer, at, used = make_payer(credit="0"), AT, Decimal(0)
    open_holds: list[int] = []
    for (what, size, which, kind), step in zip(operations, count(), strict=False):
        amount = str(Decimal(size).scaleb(-(6 + step % 10)))
        numbers = [row.pk for row in Grant.objects.filter(customer=payer.customer, remaining__gt=0).order_by("pk")]
        floor = min(payer.balance, payer.wallet.held)
        match what:
            case "give":
                give(payer, amount, kind=kind, at=at, expires_at=at + which * DAY if which else None)
            case "later":
                give(payer, amount, kind=kind, at=at, effective_at=at + which * DAY)
            case "charge":
                charge(payer, amount, at)
                used += Decimal(amount)
            case "hold" if payer.balance - payer.wallet.held >= Decimal(amount):
                open_holds.append(hold(payer, amount, at))
            case "release" if open_holds:
                release(payer, open_holds.pop(which % len(open_holds)), at)
            case "void" if numbers:
                void(payer, numbers[which % len(numbers)], at)
                assert payer.balance >= floor, "voiding takes nothing that is held"
            case "extend" if numbers:
                chosen = grant_of(numbers[which % len(numbers)])
                if chosen.expires_at is not None and chosen.voided_at is None:
                    extend(payer, chosen.pk, max(at, chosen.expires_at) + DAY, at)
            case "back" if used >= Decimal(amount):
                give_back(payer, amount, at=at)
                used -= Decimal(amount)
            case _:
                at += which * DAY + MINUTE
                scheduled_grants.post_due(at=at)
                floor = min(payer.balance, payer.wallet.held)
                sweep_all(at)
                assert payer.balance >= floor, "expiry takes nothing that is held"
        left = sum(Grant.objects.filter(customer=payer.customer).values_list("remaining", flat=True), Decimal(0))
        entries = Entry.objects.filter(customer=payer.customer, account="wallet").values_list("amount", flat=True)
        given = Transfer.objects.filter(customer=payer.customer, kind="grant").values_list("pk", flat=True)
        taken = Transfer.objects.filter(customer=payer.customer, kind__in=("expiry", "void")).values_list("pk")
        into = sum(_on_wallet(payer, list(given)), Decimal(0))
        out = -sum(_on_wallet(payer, [row[0] for row in taken]), Decimal(0))
        assert payer.balance == sum(entries, Decimal(0)) == left - max(Decimal(0), left - payer.balance)
        assert payer.balance == into - out - used
        assert left == max(Decimal(0), payer.balance), "nobody has credit and debt at once"
    for name, value in Entry.objects.filter(customer=payer.customer).values_list("account", "amount"):
        assert name != "breakage" or value > 0
    assert_books(payer)


def _on_wallet(payer: Payer, transfers: list[int]) -> list[Decimal]:
    rows = Entry.objects.filter(customer=payer.customer, account="wallet", transfer_id__in=transfers)
    return list(rows.values_list("amount", flat=True))
