"""Disputes: taken when the funds are withdrawn, given back when they return; who is suspended, who is told."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import closing, credits, disputes, money_back, refunds, suspension
from billing.models import Alarm, Customer, Dispute, Grant, Notice, Refund, TopUp
from billing.stripe_objects import Dispute as Disputed
from tests.billing.hands import charge
from tests.payments import (
    assert_right,
    books,
    charge_of,
    later,
    make_poor,
    movement,
    now,
    pay_only,
    receive,
    refund,
    start_top_up,
    suspend_on_dispute,
    the_dispute,
    top_up,
)
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db


def disputed(stripe: StripeSandbox, row: TopUp, **how: Any) -> str:
    """The payer objects, and we hear of it; the dispute's id."""
    stripe.deliveries()
    made = stripe.dispute(charge_of(row), **how)
    receive(stripe.deliveries())
    return str(made["id"])


def status_of(payer: Payer) -> str:
    return str(Customer.objects.get(pk=payer.customer.pk).status)


class TestTaken:
    def test_24_it_is_taken_when_the_funds_go_and_comes_back_when_they_return(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        expiry = Grant.objects.get(pk=top_up(stripe_sandbox, payer).grant_id).expires_at
        row = TopUp.objects.get(customer=payer.customer)
        made = disputed(stripe_sandbox, row)
        assert books(payer).accounts == {"disputes": 10, "cash:stripe": -10}
        assert_right(payer)
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert books(payer).accounts == {"wallet": 10, "cash:stripe": -10}
        back = Grant.objects.filter(customer=payer.customer).latest("pk")
        assert (back.kind, back.reference, back.expires_at) == ("paid", row.public_id, expiry)
        assert_right(payer)

    def test_24_an_inquiry_takes_nothing_until_it_becomes_a_dispute(self, stripe_sandbox: StripeSandbox) -> None:
        suspend_on_dispute()
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer), withdraws=False)
        assert (payer.balance, status_of(payer)) == (10, "active")
        stripe_sandbox.withdraw(made)
        receive(stripe_sandbox.deliveries())
        assert (payer.balance, status_of(payer)) == (0, "suspended")

    def test_24_one_that_is_lost_stays_taken(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        stripe_sandbox.lose(made)
        receive(stripe_sandbox.deliveries())
        row = the_dispute(payer)
        assert (row.status, row.taken, row.returned, row.look_at) == ("lost", 10, 0, None)
        assert (payer.balance, status_of(payer)) == (0, "active")
        assert_right(payer)

    def test_its_own_grant_is_taken_first_then_any_and_the_rest_is_debt(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer(credit="3.00")
        row = top_up(stripe_sandbox, payer)
        charge(payer, "8")
        made = disputed(stripe_sandbox, row)
        assert (payer.balance, the_dispute(payer).taken, the_dispute(payer).unpaid) == (-5, 10, 5)
        assert_right(payer)
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert payer.balance == 5, "the debt is filled first"
        assert_right(payer)

    def test_what_was_taken_of_gifts_comes_back_last_and_as_a_gift(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        charge(payer, "7")
        ends = later(days=40)
        credits.grant(
            customer_id=payer.customer.pk,
            amount=Decimal(5),
            kind="promotional",
            reason="Spring",
            reference="",
            key="gift",
            at=now(),
            expires_at=ends,
        )
        made = disputed(stripe_sandbox, row)
        assert (payer.balance, the_dispute(payer).unpaid) == (-2, 2)
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        back = Grant.objects.filter(customer=payer.customer).order_by("-pk")[:2]
        assert [(grant.kind, grant.amount, grant.remaining, grant.is_refundable) for grant in back] == [
            ("promotional", 5, 5, False),
            ("paid", 5, 3, True),
        ]
        assert back[0].expires_at == ends
        assert money_back.gone_of(row).amount == 0
        assert_right(payer)

    def test_a_part_of_a_payment(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        disputed(stripe_sandbox, top_up(stripe_sandbox, payer), amount=300)
        assert (payer.balance, the_dispute(payer).taken) == (7, 3)

    def test_what_was_refunded_before_is_not_taken_again(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        refunds.sweep(at=later(seconds=1))
        disputed(stripe_sandbox, row)
        assert (payer.balance, the_dispute(payer).taken) == (0, 6)
        assert_right(payer)

    def test_a_bank_that_takes_the_whole_of_a_refunded_payment_makes_debt(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        refunds.sweep(at=later(seconds=1))
        disputed(stripe_sandbox, row, amount=1000)
        assert (payer.balance, the_dispute(payer).unpaid) == (-4, 4)
        assert_right(payer)

    def test_a_refund_that_waits_while_a_dispute_comes_is_refused_and_given_back(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        disputed(stripe_sandbox, row)
        assert payer.balance == -4
        refunds.sweep(at=later(seconds=1))
        assert Refund.objects.get(customer=payer.customer).status == "failed"
        assert payer.balance == 0
        assert_right(payer)

    def test_a_dispute_heard_of_before_the_payment_credits_it_first(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        pay_only(stripe_sandbox, start_top_up(payer))
        paid = next(event.object for event in stripe_sandbox.deliveries() if event.type == "charge.succeeded")
        stripe_sandbox.dispute(paid["id"])
        receive([event for event in stripe_sandbox.deliveries() if "dispute" in event.type])
        assert books(payer).accounts == {"disputes": 10, "cash:stripe": -10}

    def test_a_payment_that_was_refused_here_takes_nothing(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        TopUp.objects.filter(pk=row.pk).update(pay_amount=Decimal(11))  # not what is paid
        pay_only(stripe_sandbox, row)
        receive(stripe_sandbox.deliveries())
        row.refresh_from_db()
        assert row.status == "refused"
        disputed(stripe_sandbox, row)
        assert (payer.balance, the_dispute(payer).taken, the_dispute(payer).movements) == (0, 0, 1)

    def test_an_older_state_changes_nothing(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        before = disputes.read(made, at=now())
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert disputes.apply(before, at=now()) == "nothing new: the row knows more"
        assert (payer.balance, the_dispute(payer).status, status_of(payer)) == (10, "won", "active")

    def test_without_a_webhook_the_sweep_hears_of_what_follows(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        stripe_sandbox.win(made)
        assert disputes.sweep(at=now()) == 0, "not yet"
        TopUp.objects.filter(customer=payer.customer).update(is_sandbox=False)
        assert disputes.sweep(at=later(days=3)) == 0, "the key is of another mode"
        TopUp.objects.filter(customer=payer.customer).update(is_sandbox=True)
        assert disputes.sweep(at=later(days=3)) == 1
        assert (payer.balance, the_dispute(payer).look_at) == (10, None)


class TestSuspension:
    def test_it_ends_when_no_dispute_is_open(self, stripe_sandbox: StripeSandbox) -> None:
        suspend_on_dispute()
        payer = make_poor()
        first, second = (
            disputed(stripe_sandbox, row) for row in [top_up(stripe_sandbox, payer), top_up(stripe_sandbox, payer)]
        )
        stripe_sandbox.win(first)
        receive(stripe_sandbox.deliveries())
        assert status_of(payer) == "suspended"
        stripe_sandbox.lose(second)
        receive(stripe_sandbox.deliveries())
        assert status_of(payer) == "active"

    def test_another_cause_stays(self, stripe_sandbox: StripeSandbox) -> None:
        suspend_on_dispute()
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        suspension.suspend(
            customer_id=payer.customer.pk, cause=suspension.Cause.OPERATOR, reason="r", actor="grace", at=now()
        )
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert (status_of(payer), suspension.open_causes(payer.customer.pk)) == ("suspended", {"operator"})

    def test_nobody_is_suspended_until_the_operator_says_so(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        assert (payer.balance, status_of(payer)) == (0, "active")

    def test_whom_the_operator_resumes_a_repeated_webhook_does_not_suspend_again(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        suspend_on_dispute()
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        suspension.resume(customer_id=payer.customer.pk, reason="trusted", actor="grace", at=now())
        disputes.sync(made, at=now())
        assert status_of(payer) == "active"

    def test_a_closed_account_stays_closed(self, stripe_sandbox: StripeSandbox) -> None:
        suspend_on_dispute()
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.EXPIRE,
            release_holds=False,
            reason="asked for it",
            actor="grace",
            at=now(),
        )
        disputed(stripe_sandbox, row)
        assert (status_of(payer), payer.balance) == ("closed", -10)


class TestTold:
    def test_the_operator_sees_each_open_dispute_with_the_date_until_when(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        disputes.watch(at=now())
        alarm = Alarm.objects.get(kind="disputes.open", subject=made)
        due = Dispute.objects.get(stripe_id=made).evidence_due_by
        assert due is not None
        assert f"evidence is due by {due:%Y-%m-%d %H:%M} UTC" in alarm.message
        stripe_sandbox.lose(made)
        receive(stripe_sandbox.deliveries())
        disputes.watch(at=later(seconds=1))
        alarm.refresh_from_db()
        assert alarm.resolved_at is not None

    def test_the_customer_is_told_once_of_what_was_taken_and_what_came_back(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        made = disputed(stripe_sandbox, top_up(stripe_sandbox, payer))
        stripe_sandbox.win(made)
        for _ in range(2):
            receive(stripe_sandbox.all_deliveries())
        kinds = Notice.objects.filter(customer=payer.customer, kind__startswith="dispute_").order_by("pk")
        assert list(kinds.values_list("kind", flat=True)) == ["dispute_taken", "dispute_returned"]


def state(row: TopUp, name: str, amount: str, *moved: str, status: str = "needs_response") -> disputes.State:
    """A dispute as Stripe might have it: what its balance transactions moved, in their order."""
    return disputes.State(
        row,
        Disputed(
            id=name,
            status=status,
            reason="fraudulent",
            amount=Decimal(amount),
            currency=row.currency.lower(),
            payment_intent=row.payment_intent_id,
            charge=charge_of(row),
            is_charge_refundable=False,
            evidence_due_by=None,
            balance_transactions=tuple(
                movement("adjustment", sum_, id=f"txn_{name}_{place}", created=now() + timedelta(seconds=place))
                for place, sum_ in enumerate(moved)
            ),
            livemode=False,
            created=now(),
        ),
        refunds.State(row, ()),
    )


class TestMovements:
    """What Stripe may do though the sandbox doesn't."""

    def test_several_disputes_of_one_payment(self, stripe_sandbox: StripeSandbox) -> None:
        suspend_on_dispute()
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        disputes.apply(state(row, "dp_a", "3.00", "-3"), at=now())
        disputes.apply(state(row, "dp_b", "5.00", "-5"), at=now())
        assert payer.balance == 2
        disputes.apply(state(row, "dp_a", "3.00", "-3", "3", status="won"), at=now())
        assert (payer.balance, status_of(payer)) == (5, "suspended")
        disputes.apply(state(row, "dp_b", "5.00", "-5", status="lost"), at=now())
        assert (payer.balance, status_of(payer)) == (5, "active")
        assert_right(payer)

    def test_funds_that_come_back_in_part_and_go_again(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        disputes.apply(state(row, "dp_c", "10.00", "-10", "4"), at=now())
        assert payer.balance == 4
        disputes.apply(state(row, "dp_c", "10.00", "-10", "4", "-4"), at=now())
        found = the_dispute(payer)
        assert (payer.balance, found.taken, found.returned) == (0, 14, 4)
        assert_right(payer)

    def test_in_another_currency_all_comes_back_whatever_the_rate_is_then(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        TopUp.objects.filter(pk=row.pk).update(currency="CNY", pay_amount=Decimal("71.30"), rate=Decimal("7.13"))
        row.refresh_from_db()
        disputes.apply(state(row, "dp_d", "35.65", "-4.95"), at=now())
        assert payer.balance == 5
        disputes.apply(state(row, "dp_d", "35.65", "-4.95", "4.90", status="won"), at=now())
        assert payer.balance == 10

    def test_no_more_comes_back_than_was_taken(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        disputes.apply(state(row, "dp_e", "3.00", "-3", "9", "3"), at=now())
        assert payer.balance == 10
