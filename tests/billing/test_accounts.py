"""Credit lines, suspensions and closings: who did it and why, and what the next authorization makes of it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from billing import accounts, closing, credit_lines, credits, manual, suspension, tasks
from billing.models import AccountChange, Customer, Hold, Notice, OperatorSettings, WalletAdjustment
from metering.closing import ClosedAccount, close_account
from metering.models import ApiKey
from tests.billing.hands import adjust, assert_books, charge, last_transfer, person, sides, sums
from tests.world import CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
Cause = AccountChange.Cause


def now() -> datetime:
    return datetime.now(UTC)


def changes(payer: Payer) -> list[tuple[str, str, str, str, str, str]]:
    """The record, oldest first: kind, cause, before, after, reason, actor."""
    rows = AccountChange.objects.filter(customer=payer.customer).order_by("pk")
    return list(rows.values_list("kind", "cause", "before", "after", "reason", "actor"))


def set_limit(payer: Payer, limit: str) -> bool:
    return credit_lines.set_credit_limit(
        customer_id=payer.customer.pk, limit=Decimal(limit), reason="contract 7", actor="grace", at=now()
    )


def suspend(payer: Payer, cause: AccountChange.Cause = Cause.OPERATOR) -> bool:
    return suspension.suspend(
        customer_id=payer.customer.pk, cause=cause, reason="looks stolen", actor="grace", at=now()
    )


def resume(payer: Payer, *causes: AccountChange.Cause) -> bool:
    return suspension.resume(
        customer_id=payer.customer.pk, causes=causes or tuple(Cause), reason="is fine", actor="ada", at=now()
    )


def status(payer: Payer) -> str:
    return Customer.objects.get(pk=payer.customer.pk).status


class TestCreditLines:
    def test_the_floor_judges_by_the_new_limit_at_once(self) -> None:
        payer, relay = make_payer(credit="0"), Relay()
        assert relay.authorize(payer).code == "insufficient_balance"
        assert set_limit(payer, "0.02")
        assert relay.authorize(payer).status == 201
        assert relay.authorize(payer).code == "insufficient_balance"
        assert changes(payer) == [("credit_limit", "", "0.000000", "0.020000", "contract 7", "grace")]
        assert not set_limit(payer, "0.020")
        assert len(changes(payer)) == 1

    def test_a_limit_below_the_debt_stops_the_keys_until_enough_is_paid(self) -> None:
        payer, relay = make_payer(credit="0"), Relay()
        set_limit(payer, "10")
        charge(payer, "5")
        set_limit(payer, "1")
        assert relay.authorize(payer).code == "insufficient_balance"
        adjust(payer, "paid", "4.5")
        assert relay.authorize(payer).status == 201

    @pytest.mark.parametrize("limit", ["-1", "NaN", "Infinity", "1e-16", "1000000000001"])
    def test_what_is_no_limit_is_refused(self, limit: str) -> None:
        with pytest.raises(accounts.InvalidChange) as refused:
            set_limit(make_payer(), limit)
        assert refused.value.field == "limit"

    def test_the_record_is_append_only_and_the_house_has_no_line(self) -> None:
        payer = make_payer()
        set_limit(payer, "1")
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            AccountChange.objects.update(actor="eve")
        payer.customer.pk = Customer.objects.get(is_house=True).pk
        with pytest.raises(accounts.InvalidChange):
            set_limit(payer, "1")


class TestSuspension:
    def test_the_next_authorization_is_refused_and_usage_charged_all_the_same(self) -> None:
        payer, relay = make_payer(), Relay()
        running = relay.authorize(payer)
        assert relay.authorize(payer).status == 201, "this process has the key in its memory"
        assert suspend(payer)
        assert relay.authorize(payer).code == "customer_suspended"
        relay.report(make_event(payer, authorization=running.body["id"]))
        assert payer.balance < 50
        api = CustomerApi(payer)
        assert api.get("balance").status == 200
        assert api.send("POST", "api-keys", {"name": "new"}).code == "customer_suspended"
        assert resume(payer)
        assert relay.authorize(payer).status == 201
        assert changes(payer) == [
            ("suspended", "operator", "active", "suspended", "looks stolen", "grace"),
            ("resumed", "operator", "suspended", "active", "is fine", "ada"),
        ]

    def test_it_lasts_until_each_cause_has_ended(self) -> None:
        payer = make_payer()
        assert suspend(payer)
        assert not suspend(payer)
        assert suspend(payer, Cause.DISPUTE)
        assert not resume(payer, Cause.OPERATOR)
        assert (status(payer), suspension.open_causes(payer.customer.pk)) == ("suspended", {"dispute"})
        assert resume(payer, Cause.DISPUTE)
        assert not resume(payer)
        assert status(payer) == "active"

    def test_an_operator_resumes_what_was_suspended_before_there_were_records(self) -> None:
        payer = make_payer()
        Customer.objects.filter(pk=payer.customer.pk).update(status="suspended")
        assert resume(payer)
        assert status(payer) == "active"

    @pytest.mark.parametrize("reason", ["", "  ", "a\x00", "x" * 501])
    def test_there_is_always_a_reason(self, reason: str) -> None:
        payer = make_payer()
        with pytest.raises(accounts.InvalidChange) as refused:
            suspension.suspend(customer_id=payer.customer.pk, cause=Cause.OPERATOR, reason=reason, actor="a", at=now())
        assert refused.value.field == "reason"
        assert status(payer) == "active"


def told_of_debt(payer: Payer) -> list[tuple[str, str]]:
    """Debt and credit limit of each notice, oldest first."""
    found = Notice.objects.filter(customer=payer.customer, kind="in_debt").order_by("pk")
    return [(notice.data["debt"], notice.data["credit_limit"]) for notice in found]


class TestDebtors:
    def test_are_told_once_each_time_that_their_keys_stop(self) -> None:
        payer, fine = make_payer(credit="1"), make_payer(credit="1")
        charge(fine, "1")
        assert tasks.tell_debtors() is None
        charge(payer, "3")
        since = last_transfer(payer).created_at
        assert tasks.tell_debtors() == {"told": 1}
        charge(payer, "1")
        assert tasks.tell_debtors() is None, "it owes more, but was told"
        adjust(payer, "paid", "3")
        charge(payer, "0.5")
        assert tasks.tell_debtors() == {"told": 1}
        assert told_of_debt(payer) == [("2.000000", "0.000000"), ("0.500000", "0.000000")]
        assert told_of_debt(fine) == []
        first = Notice.objects.filter(customer=payer.customer, kind="in_debt").earliest("pk")
        assert first.data["since"] == since.isoformat()

    def test_within_their_credit_limit_are_not_told(self) -> None:
        payer = make_payer(credit="0")
        set_limit(payer, "5")
        charge(payer, "5")
        assert tasks.tell_debtors() is None
        set_limit(payer, "4")
        assert tasks.tell_debtors() == {"told": 1}, "a limit that was lowered stops the keys as well"
        assert told_of_debt(payer) == [("5.000000", "4.000000")]


class TestDebtPolicy:
    def test_without_a_limit_nobody_is_suspended(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "1000")
        assert tasks.apply_debt_policy() is None
        assert status(payer) == "active"

    def test_who_owes_more_is_suspended_and_resumed_once_it_is_paid(self) -> None:
        payer, just = make_payer(credit="0"), make_payer(credit="0")
        OperatorSettings.objects.update(suspend_debt_above=Decimal(5))
        charge(payer, "5.01")
        charge(just, "5")
        assert tasks.apply_debt_policy() == {"suspended": 1, "resumed": 0}
        assert tasks.apply_debt_policy() is None
        assert (status(payer), status(just)) == ("suspended", "active")
        assert Relay().authorize(payer).code == "customer_suspended"
        adjust(payer, "paid", "1")
        assert tasks.apply_debt_policy() is None, "some of it is still owed"
        adjust(payer, "paid", "4.01")
        assert tasks.apply_debt_policy() == {"suspended": 0, "resumed": 1}
        assert status(payer) == "active"
        assert [(kind, cause, actor) for kind, cause, _, _, _, actor in changes(payer)] == [
            ("suspended", "debt", "debt policy"),
            ("resumed", "debt", "debt policy"),
        ]

    def test_a_credit_line_is_no_debt_to_suspend_for(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(suspend_debt_above=Decimal(5))
        set_limit(payer, "100")
        charge(payer, "104")
        assert tasks.apply_debt_policy() is None
        charge(payer, "2")
        assert tasks.apply_debt_policy() == {"suspended": 1, "resumed": 0}
        adjust(payer, "write_off", "6")
        assert tasks.apply_debt_policy() == {"suspended": 0, "resumed": 1}

    def test_paying_does_not_end_a_suspension_by_the_operator(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(suspend_debt_above=Decimal(5))
        charge(payer, "6")
        tasks.apply_debt_policy()
        suspend(payer)
        adjust(payer, "paid", "10")
        assert tasks.apply_debt_policy() is None
        assert status(payer) == "suspended"
        assert suspension.open_causes(payer.customer.pk) == {"operator"}
        assert resume(payer)

    def test_who_the_operator_resumed_is_suspended_again_while_it_owes(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(suspend_debt_above=Decimal(5))
        charge(payer, "6")
        tasks.apply_debt_policy()
        resume(payer)
        assert tasks.apply_debt_policy() == {"suspended": 1, "resumed": 0}

    def test_switching_the_policy_off_keeps_nobody_who_has_paid(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(suspend_debt_above=Decimal(5))
        charge(payer, "6")
        tasks.apply_debt_policy()
        OperatorSettings.objects.update(suspend_debt_above=None)
        assert tasks.apply_debt_policy() is None
        adjust(payer, "paid", "6")
        assert tasks.apply_debt_policy() == {"suspended": 0, "resumed": 1}


def close(payer: Payer, paid_credit: str = "refund", *, release_holds: bool = False) -> ClosedAccount:
    return close_account(
        customer_id=payer.customer.pk,
        paid_credit=closing.PaidCredit(paid_credit),
        release_holds=release_holds,
        reason="asked for it",
        actor="grace",
        at=now(),
    )


class TestClosing:
    @pytest.mark.parametrize(("policy", "refunded", "expired"), [("refund", 7, 5), ("expire", 0, 12)])
    def test_what_is_left_is_refunded_or_expires_and_nothing_works_any_more(
        self, policy: str, refunded: int, expired: int
    ) -> None:
        payer, relay = make_payer(credit="5"), Relay()
        adjust(payer, "paid", "7")
        set_limit(payer, "100")
        closed = close(payer, policy)
        assert (closed.money.refunded, closed.money.expired, closed.money.debt, closed.keys) == (
            refunded,
            expired,
            0,
            1,
        )
        books = sums(payer)
        assert (books.get("refunds_pending", 0), books["breakage"]) == (refunded, expired)
        assert (payer.balance, payer.wallet.credit_limit, last_transfer(payer).kind) == (0, 0, "closing")
        assert relay.authorize(payer).code == "invalid_api_key"
        assert CustomerApi(payer).get("balance").code == "invalid_access_token"
        assert status(payer) == "closed"
        kind, _, before, after, reason, actor = changes(payer)[-1]
        assert (kind, before, after, reason, actor) == ("closed", "active", "closed", "asked for it", "grace")
        assert "asked for it" not in last_transfer(payer).reason, "customers don't see it"
        assert_books(payer)

    def test_a_second_time_changes_nothing_and_says_what_the_first_did(self) -> None:
        payer = make_payer(credit="5")
        first = close(payer).money
        before = (last_transfer(payer), len(changes(payer)))
        again = close(payer, "expire")
        assert (again.money.expired, again.money.is_new, again.keys) == (first.expired, False, 0)
        assert (last_transfer(payer), len(changes(payer))) == before

    def test_it_waits_for_running_requests_unless_told_to_release_them(self) -> None:
        payer, relay = make_payer(), Relay()
        running = relay.authorize(payer)
        with pytest.raises(closing.HoldsOpen) as refused:
            close(payer)
        assert (refused.value.count, refused.value.amount) == (1, Decimal("0.0111"))
        assert (status(payer), ApiKey.objects.get(customer=payer.customer).revoked_at) == ("active", None)
        closed = close(payer, release_holds=True)
        assert closed.money.released == 1
        assert (payer.balance, payer.wallet.held) == (0, 0)
        relay.report(make_event(payer, authorization=running.body["id"]))
        assert payer.balance == Decimal("-0.02925"), "it happened, so it is charged"
        assert_books(payer)

    def test_a_hold_whose_time_is_over_stops_nobody(self) -> None:
        payer = make_payer()
        Relay().authorize(payer)
        Hold.objects.filter(customer=payer.customer).update(expires_at=now() - timedelta(seconds=1))
        assert close(payer).money.released == 0
        assert payer.wallet.held == 0
        assert Hold.objects.get(customer=payer.customer).status == "expired"

    def test_debt_stays_on_the_wallet_until_it_is_paid_or_written_off(self) -> None:
        payer = make_payer(credit="0")
        charge(payer, "3")
        assert close(payer).money.debt == 3
        adjust(payer, "write_off", "3")
        assert payer.balance == 0
        assert_books(payer)

    def test_reopening_is_on_the_record_and_brings_back_neither_keys_nor_credit(self) -> None:
        payer = make_payer(credit="5")
        with pytest.raises(closing.NotClosed):
            closing.reopen(customer_id=payer.customer.pk, reason="a mistake", actor="ada", at=now())
        close(payer)
        for refused in (suspend, resume, lambda who: set_limit(who, "1")):
            with pytest.raises(accounts.AccountClosed):
                refused(payer)
        closing.reopen(customer_id=payer.customer.pk, reason="a mistake", actor="ada", at=now())
        assert changes(payer)[-1] == ("reopened", "", "closed", "active", "a mistake", "ada")
        assert Relay().authorize(payer).code == "invalid_api_key"
        assert payer.balance == 0
        adjust(payer, "goodwill", "1")
        closed = close(payer)
        assert (closed.money.expired, closed.money.is_new) == (1, True)
        assert sides(payer, last_transfer(payer).pk) == {"wallet": -1, "breakage": 1}
        assert_books(payer)

    def test_what_waits_for_a_second_person_is_withdrawn_and_can_t_be_approved(self) -> None:
        payer, beside = make_payer(credit="0"), make_payer(credit="0")
        OperatorSettings.objects.update(second_person_above=Decimal(100))
        waiting, posted = adjust(payer, "goodwill", "500", by=person()), adjust(payer, "goodwill", "5", by=person())
        adjust(payer, "debit", "200", may_make_debt=True, by=person())
        others = adjust(beside, "goodwill", "500", by=person())
        assert close(payer).money.withdrawn == 2
        waiting.refresh_from_db()
        assert (waiting.status, waiting.note, waiting.decided_by) == ("withdrawn", "Account closed", "grace")
        with pytest.raises(manual.AlreadyDecided, match="withdrawn already: Account closed"):
            manual.approve(adjustment_id=waiting.pk, person=person(), at=now())
        assert payer.balance == 0
        posted.refresh_from_db()
        others.refresh_from_db()
        assert (posted.status, posted.note, others.status) == ("posted", "", "pending")
        told = AccountChange.objects.get(customer=payer.customer, kind="closed").details["withdrawn_adjustments"]
        assert waiting.public_id in told
        assert (len(told), close(payer).money.withdrawn) == (2, 2), "a second time tells the same"
        closing.reopen(customer_id=payer.customer.pk, reason="a mistake", actor="ada", at=now())
        with pytest.raises(manual.AlreadyDecided):
            manual.approve(adjustment_id=waiting.pk, person=person(), at=now())
        assert_books(payer)

    @pytest.mark.parametrize("kind", ["goodwill", "promotional"])
    @pytest.mark.parametrize("amount", ["1", "500"])
    def test_it_gets_no_gifts(self, kind: str, amount: str) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(second_person_above=Decimal(100))
        charge(payer, "3")
        close(payer)
        with pytest.raises(accounts.AccountClosed, match="write its debt off"):
            adjust(payer, kind, amount, by=person())
        assert not WalletAdjustment.objects.filter(customer=payer.customer).exists()
        assert payer.balance == -3

    def test_a_gift_that_was_given_before_it_closed_is_told_as_before(self) -> None:
        payer = make_payer(credit="0")
        asked = {"customer_id": payer.customer.pk, "amount": Decimal(2), "kind": "goodwill", "key": "k", "at": now()}
        given = credits.grant(**asked, reason="", reference="")
        close(payer)
        assert credits.grant(**asked, reason="", reference="").grant == given.grant
        with pytest.raises(accounts.AccountClosed):
            credits.grant(**(asked | {"key": "other"}), reason="", reference="")

    def test_what_settles_it_can_be_asked_for_and_approved_after_that(self) -> None:
        payer = make_payer(credit="0")
        OperatorSettings.objects.update(second_person_above=Decimal(100))
        charge(payer, "300")
        close(payer)
        adjust(payer, "paid", "90")
        written_off = adjust(payer, "write_off", "150", by=person())
        money_back = adjust(payer, "money_back", "150", by=person())
        for row in (written_off, money_back):
            assert row.status == "pending"
            manual.approve(adjustment_id=row.pk, person=person(), at=now())
        assert payer.balance == 90
        adjust(payer, "debit", "90", account="refunds_pending")
        assert payer.balance == 0
        assert_books(payer)

    def test_what_it_was_suspended_for_has_not_ended_by_closing(self) -> None:
        payer = make_payer()
        suspend(payer, Cause.DISPUTE)
        close(payer)
        closing.reopen(customer_id=payer.customer.pk, reason="a mistake", actor="ada", at=now())
        assert status(payer) == "suspended"
