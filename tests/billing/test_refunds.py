"""Refunds: what may go back, at which rate, in which order; and what becomes of them at Stripe and by hand."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import closing, credits, refund_states, refunds, top_up_states
from billing.models import Account, ExchangeRate, Grant, Notice, OperatorSettings, PayCurrency, Refund, TopUp
from tests.billing.hands import charge
from tests.paying import add_currency
from tests.payments import (
    assert_right,
    books,
    charge_of,
    later,
    make_poor,
    now,
    pay_only,
    receive,
    refund,
    start_top_up,
    the_refund,
    top_up,
)
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, Relay, make_payer

pytestmark = pytest.mark.django_db


def send_all(payer: Payer) -> None:
    refunds.sweep(at=later(seconds=1))


def by_hand(payer: Payer, amount: str = "10.00", *, origin: str = "bank_transfer") -> TopUp:
    """A bank transfer that has come in."""
    row = TopUp.objects.create(
        customer=payer.customer,
        origin=origin,
        amount=Decimal(amount),
        currency="USD",
        pay_amount=Decimal(amount),
        reference=f"wire {TopUp.objects.count()}",
        created_at=now(),
    )

    top_up_states.credit(row, reason="Bank transfer", source=Account.CASH_MANUAL, at=now())
    return row


class TestWhatMayGoBack:
    def test_it_is_taken_before_anybody_is_told_and_booked_when_it_succeeds(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        (row,) = refund(payer, "4.00")
        assert (row.status, payer.balance) == ("pending", 6)
        assert books(payer).accounts == {"wallet": 6, "refunds_pending": 4, "cash:stripe": -10}
        assert not [one for one in stripe_sandbox.requests() if one["path"] == "/v1/refunds"]
        assert_right(payer)
        send_all(payer)
        assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}
        assert the_refund(payer).status == "succeeded"
        assert Notice.objects.filter(customer=payer.customer, kind="refund_paid").count() == 1
        assert_right(payer)

    def test_no_more_than_what_is_left_of_paid_credit(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer(credit="50.00")  # goodwill is nobody's money
        top_up(stripe_sandbox, payer)
        with pytest.raises(refunds.TooMuch) as refused:
            refund(payer, "10.01")
        assert refused.value.refundable == 10
        assert payer.balance == 60

    def test_no_more_than_what_is_not_held(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        assert Relay().authorize(payer, input_tokens=1000).status == 201  # 0.0105
        with pytest.raises(refunds.TooMuch) as refused:
            refund(payer, "10.00")
        assert refused.value.refundable == Decimal("9.98"), "in whole cents"
        assert sum(row.amount for row in refund(payer, None)) == Decimal("9.98")
        assert payer.wallet.balance - payer.wallet.held >= 0

    def test_who_has_spent_it_gets_nothing(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        charge(payer, "12")
        with pytest.raises(refunds.TooMuch, match="nothing can be refunded"):
            refund(payer, None)

    def test_credit_by_hand_that_names_a_top_up_is_not_part_of_it(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        _credit_by_hand(payer, reference=row.public_id)
        assert sum(part.amount for part in refunds.refundable(customer_id=payer.customer.pk, at=now())) == 10
        with pytest.raises(refunds.TooMuch):
            refund(payer, "10.01")
        (sent,) = refund(payer, None)
        assert (sent.amount, sent.pay_amount, payer.balance) == (10, 10, 7)
        with pytest.raises(refunds.TooMuch):
            refund(payer, None, key="again")

    def test_expired_credit_does_not_go_back(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        Grant.objects.filter(customer=payer.customer).update(expires_at=now())
        with pytest.raises(refunds.TooMuch):
            refund(payer, None)

    def test_the_newest_top_up_goes_back_first(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        first, second = (top_up(stripe_sandbox, payer) for _ in range(2))
        rows = refund(payer, "14.00")
        assert [(row.top_up_id, row.amount) for row in rows] == [(second.pk, 10), (first.pk, 4)]
        send_all(payer)
        assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}
        assert_right(payer)

    def test_one_top_up_alone(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        first, _ = (top_up(stripe_sandbox, payer) for _ in range(2))
        with pytest.raises(refunds.TooMuch):
            refund(payer, "14.00", top_up_id=first.pk)
        (row,) = refund(payer, None, top_up_id=first.pk)
        assert (row.top_up_id, row.amount) == (first.pk, 10)

    def test_the_same_key_refunds_once_and_another_refund_under_it_is_refused(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        assert [row.pk for row in refund(payer, "4.00")] == [row.pk for row in refund(payer, "4.00")]
        assert payer.balance == 6
        with pytest.raises(refunds.RefundKeyConflict):
            refund(payer, "3.00")

    @pytest.mark.parametrize("amount", ["0", "-1", "0.001", "NaN"])
    def test_impossible_amounts(self, amount: str) -> None:
        with pytest.raises(refunds.InvalidRefund):
            refund(make_poor(), amount)


class TestForeignCurrency:
    def test_parts_go_back_at_the_rate_of_the_top_up_and_the_last_is_the_rest(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        PayCurrency.objects.update_or_create(code="CNY", defaults={"methods": ["card", "alipay", "wechat_pay"]})
        _rate("7.13")
        row = top_up(stripe_sandbox, payer, currency="CNY")
        assert row.pay_amount == Decimal("71.30")
        parts = [refund(payer, amount, key=f"{n}")[0] for n, amount in enumerate(("3.33", "3.34", "3.33"))]
        assert [part.pay_amount for part in parts] == [Decimal("23.74"), Decimal("23.81"), Decimal("23.75")]
        assert sum(part.pay_amount for part in parts) == row.pay_amount
        send_all(payer)
        assert {part.status for part in Refund.objects.filter(customer=payer.customer)} == {"succeeded"}
        assert books(payer).accounts == {}
        assert_right(payer)

    def test_parts_made_at_stripe_are_taken_at_the_same_rate(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        PayCurrency.objects.update_or_create(code="CNY", defaults={"methods": ["card", "alipay", "wechat_pay"]})
        _rate("7.13")
        row = top_up(stripe_sandbox, payer, currency="CNY")
        stripe_sandbox.deliveries()
        for _ in range(2):
            stripe_sandbox.refund(charge_of(row), amount=1000)
        stripe_sandbox.refund(charge_of(row))
        receive(stripe_sandbox.deliveries())
        amounts = Refund.objects.filter(customer=payer.customer).order_by("pk").values_list("amount", flat=True)
        assert list(amounts) == [Decimal("1.402525"), Decimal("1.402525"), Decimal("7.194950")]
        assert payer.balance == 0
        assert_right(payer)


def _rate(per_usd: str) -> None:
    ExchangeRate.objects.create(
        currency_id="CNY", per_usd=Decimal(per_usd), effective_from=now() - timedelta(days=1), created_at=now()
    )


def _credit_by_hand(payer: Payer, *, reference: str) -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(7),
        kind=Grant.Kind.PAID,
        reason="Paid twice",
        reference=reference,
        key="by hand",
        at=now(),
    )


class TestAtStripe:
    def test_one_of_another_mode_waits_for_its_key(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        TopUp.objects.filter(pk=row.pk).update(is_sandbox=False)
        before = len(stripe_sandbox.requests())
        assert refunds.sweep(at=later(seconds=1)) == 0
        assert len(stripe_sandbox.requests()) == before
        assert (the_refund(payer).status, the_refund(payer).attempts) == ("pending", 0)

    def test_what_went_out_after_it_was_given_back_is_taken_anew(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        stripe_sandbox.fail_next("cut_after", path="/v1/refunds")
        refunds.sweep(at=later(seconds=1))
        refund_states.fail(the_refund(payer), "Stripe did not know of it", at=now())
        assert payer.balance == 10
        assert row.payment_intent_id is not None
        for _ in range(2):
            refunds.apply(refunds.read_payment(row.payment_intent_id, at=now()), at=now())
        assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}
        assert_right(payer)

    def test_5_a_refund_that_died_on_the_way_is_sent_again_and_runs_once(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        stripe_sandbox.fail_next("cut_after", path="/v1/refunds")
        refunds.sweep(at=later(seconds=1))
        assert the_refund(payer).status == "pending"
        for hours in range(1, 4):
            refunds.sweep(at=later(hours=hours))
        assert (the_refund(payer).status, payer.balance) == ("succeeded", 6)
        receive(stripe_sandbox.deliveries())
        assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}
        assert Refund.objects.filter(customer=payer.customer).count() == 1

    def test_5_after_the_key_is_forgotten_what_was_sent_is_looked_for(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        stripe_sandbox.fail_next("cut_after", path="/v1/refunds")
        refunds.sweep(at=later(seconds=1))
        Refund.objects.filter(customer=payer.customer).update(created_at=now() - timedelta(days=3))
        sent = [one for one in stripe_sandbox.requests() if one["path"] == "/v1/refunds" and one["method"] == "POST"]
        refunds.sweep(at=later(hours=3))
        after = [one for one in stripe_sandbox.requests() if one["path"] == "/v1/refunds" and one["method"] == "POST"]
        assert len(after) == len(sent), "it is not made a second time"
        assert the_refund(payer).status == "succeeded"

    def test_what_stripe_refuses_is_given_back(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        stripe_sandbox.deliveries()
        stripe_sandbox.refund(charge_of(row))  # all of it, in the dashboard, before ours is sent
        send_all(payer)
        assert (the_refund(payer).status, payer.balance) == ("failed", 10)
        assert Notice.objects.filter(customer=payer.customer, kind="refund_failed").count() == 1
        receive(stripe_sandbox.deliveries())
        assert payer.balance == 0
        assert_right(payer)

    def test_wechat_pay_says_later_that_it_succeeded(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer, method="wechat_pay")
        refund(payer, "4.00")
        send_all(payer)
        row = the_refund(payer)
        assert (row.status, row.stripe_id is not None, payer.balance) == ("pending", True, 6)
        stripe_sandbox.settle_refund(str(row.stripe_id))
        refunds.sweep(at=later(hours=3))
        assert the_refund(payer).status == "succeeded"
        assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}

    @pytest.mark.parametrize("known_to_succeed", [False, True])
    def test_what_fails_later_comes_back_with_its_expiry(
        self, known_to_succeed: bool, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        bought = top_up(stripe_sandbox, payer, method="card" if known_to_succeed else "wechat_pay")
        expiry = Grant.objects.get(customer=payer.customer).expires_at
        refund(payer, "4.00")
        send_all(payer)
        assert the_refund(payer).status == ("succeeded" if known_to_succeed else "pending")
        stripe_sandbox.deliveries()
        stripe_sandbox.settle_refund(str(the_refund(payer).stripe_id), arrives=False)
        receive(stripe_sandbox.deliveries())
        assert (the_refund(payer).status, payer.balance) == ("failed", 10)
        back = Grant.objects.filter(customer=payer.customer).latest("pk")
        assert (back.amount, back.reference, back.expires_at) == (4, bought.public_id, expiry)
        assert books(payer).accounts == {"wallet": 10, "cash:stripe": -10}
        assert_right(payer)
        (again,) = refund(payer, None, key="again")
        assert again.amount == 10, "what came back may go back again"

    def test_what_comes_back_after_its_expiry_can_be_used_a_month(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer, method="wechat_pay")
        Grant.objects.filter(customer=payer.customer).update(expires_at=later(hours=1))
        refund(payer, "4.00")
        send_all(payer)
        stripe_sandbox.settle_refund(str(the_refund(payer).stripe_id), arrives=False)
        at = later(days=2)
        refunds.sweep(at=at)
        back = Grant.objects.filter(customer=payer.customer).latest("pk")
        assert (back.amount, back.expires_at) == (4, at + timedelta(days=30))

    def test_made_in_the_dashboard_it_is_taken_wherever_credit_is_left_and_the_rest_is_debt(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_payer(credit="3.00")
        row = top_up(stripe_sandbox, payer)
        charge(payer, "8")
        stripe_sandbox.deliveries()
        stripe_sandbox.refund(charge_of(row))
        receive(stripe_sandbox.deliveries())
        made = the_refund(payer)
        assert (made.origin, made.amount, made.unpaid, payer.balance) == ("provider", 10, 5, -5)
        assert_right(payer)
        credits.grant(
            customer_id=payer.customer.pk,
            amount=Decimal(5),
            kind="promotional",
            reason="",
            reference="",
            key="p",
            at=now(),
        )
        assert "promotional_usage" not in books(payer).accounts, "no usage is paid by what paid for the refund"
        assert_right(payer)

    def test_it_is_credited_first_when_the_refund_is_heard_of_first(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        pay_only(stripe_sandbox, row)
        events = stripe_sandbox.deliveries()
        paid = next(event.object for event in events if event.type == "charge.succeeded")
        stripe_sandbox.refund(paid["id"], amount=400)
        receive([event for event in stripe_sandbox.deliveries() if event.type == "charge.refunded"])
        assert (payer.balance, the_refund(payer).amount) == (6, 4)

    def test_without_an_answer_it_stays_and_says_why(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        refund(payer, "4.00")
        moment = now()
        for _ in range(4):
            stripe_sandbox.fail_next("cut", path="/v1/refunds")
            row = the_refund(payer)
            moment = max(moment, row.look_at or moment)
            refunds.sweep(at=moment)
        assert the_refund(payer).status == "pending"
        assert the_refund(payer).failure.startswith("Stripe gave no answer")
        assert refunds.watch(at=now()).opened == 1
        refunds.sweep(at=moment + timedelta(days=1))
        assert the_refund(payer).status == "succeeded"
        assert refunds.watch(at=now()).resolved == 1


class TestByHand:
    @pytest.mark.parametrize("origin", ["bank_transfer", "cash"])
    def test_it_waits_until_somebody_has_paid_it_out(self, origin: str) -> None:
        payer = make_poor()
        by_hand(payer, origin=origin)
        (row,) = refund(payer, "4.00")
        assert refunds.sweep(at=later(days=9)) == 0
        assert refunds.watch(at=now()).opened == 1
        done = refunds.pay_out(refund_id=row.pk, reference="wire 9", person="olga", at=now())
        assert (done.status, done.reference, done.ended_by) == ("succeeded", "wire 9", "olga")
        assert books(payer).accounts == {"wallet": 6, "cash:manual": -6}
        assert_right(payer)
        with pytest.raises(refunds.NotByHand):
            refunds.pay_out(refund_id=row.pk, reference="wire 9", person="olga", at=now())

    def test_or_given_it_back(self) -> None:
        payer = make_poor()
        by_hand(payer)
        (row,) = refund(payer, "4.00")
        refunds.give_up(refund_id=row.pk, reason="no account", person="olga", at=now())
        assert books(payer).accounts == {"wallet": 10, "cash:manual": -10}
        assert_right(payer)

    def test_a_large_one_is_paid_out_by_another_person_than_who_asked(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(3))
        payer = make_poor()
        by_hand(payer)
        (row,) = refund(payer, "4.00")
        with pytest.raises(refunds.SamePerson):
            refunds.pay_out(refund_id=row.pk, reference="wire 9", person="grace", at=now())
        refunds.pay_out(refund_id=row.pk, reference="wire 9", person="olga", at=now())

    def test_what_was_paid_at_stripe_is_not_paid_out_by_hand(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        (row,) = refund(payer, "4.00")
        with pytest.raises(refunds.NotByHand):
            refunds.pay_out(refund_id=row.pk, reference="x", person="olga", at=now())


class TestClosing:
    def test_what_is_left_of_top_ups_is_sent_and_the_rest_waits_to_be_paid_out(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_payer(credit="1.00")
        bought, wired = top_up(stripe_sandbox, payer), by_hand(payer, "20.00")
        credits.grant(
            customer_id=payer.customer.pk,
            amount=Decimal(5),
            kind="paid",
            reason="",
            reference="an old wire",
            key="old",
            at=now(),
        )
        charge(payer, "3")  # the goodwill, and 2 of the first grant
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.REFUND,
            release_holds=False,
            reason="asked for it",
            actor="grace",
            at=now(),
        )
        rows = {row.top_up_id: row for row in Refund.objects.filter(customer=payer.customer)}
        assert {number: (row.amount, row.origin, row.look_at is None) for number, row in rows.items()} == {
            bought.pk: (rows[bought.pk].amount, "closing", False),
            wired.pk: (20, "closing", True),
            None: (5, "closing", True),
        }
        total = sum(row.amount for row in rows.values())
        assert books(payer).accounts["refunds_pending"] == total
        assert_right(payer)
        send_all(payer)
        for row in rows.values():
            if row.top_up_id != bought.pk:
                refunds.pay_out(refund_id=row.pk, reference="wire 9", person="olga", at=now())
        assert "refunds_pending" not in books(payer).accounts
        assert {row.status for row in Refund.objects.filter(customer=payer.customer)} == {"succeeded"}
        assert_right(payer)

    def test_credit_by_hand_that_names_a_top_up_is_paid_out_by_hand(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        bought = top_up(stripe_sandbox, payer)
        _credit_by_hand(payer, reference=bought.public_id)
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.REFUND,
            release_holds=False,
            reason="asked for it",
            actor="grace",
            at=now(),
        )
        rows = Refund.objects.filter(customer=payer.customer)
        assert {row.top_up_id: (row.amount, row.pay_amount) for row in rows} == {bought.pk: (10, 10), None: (7, 7)}
        assert_right(payer)

    def test_what_of_it_does_not_go_through_comes_back_under_its_own_reference(self) -> None:
        payer = make_poor()
        credits.grant(
            customer_id=payer.customer.pk,
            amount=Decimal(5),
            kind="paid",
            reason="",
            reference="an old wire",
            key="old",
            at=now(),
        )
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.REFUND,
            release_holds=False,
            reason="asked for it",
            actor="grace",
            at=now(),
        )
        refunds.give_up(refund_id=the_refund(payer).pk, reason="no account", person="olga", at=now())
        assert (payer.balance, Grant.objects.filter(customer=payer.customer).latest("pk").reference) == (
            5,
            "an old wire",
        )
        assert_right(payer)


class TestBonus:
    """What was given with a first top-up goes with it."""

    @pytest.fixture(autouse=True)
    def _ten_per_cent(self, db: None) -> None:
        OperatorSettings.objects.update(first_bonus_percent=Decimal(10))

    def test_it_is_taken_back_when_all_of_the_payment_was_refunded(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        assert payer.balance == 11
        refund(payer, "4.00", key="a part")
        send_all(payer)
        assert payer.balance == 7
        refund(payer, None, key="the rest")
        assert payer.balance == 1, "not before it has gone through"
        send_all(payer)
        assert payer.balance == 0
        assert_right(payer)

    def test_a_dispute_takes_what_is_left_of_it(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        stripe_sandbox.deliveries()
        stripe_sandbox.dispute(charge_of(row))
        receive(stripe_sandbox.deliveries())
        assert payer.balance == 0
        assert_right(payer)


@pytest.mark.parametrize(
    ("currency", "per_usd", "parts"), [("JPY", "151.25", (504, 1009)), ("KWD", "0.3075", (1030, 2050))]
)
def test_a_part_goes_back_in_what_the_currency_can_pay_and_the_rest_is_the_rest(
    stripe_sandbox: StripeSandbox, currency: str, per_usd: str, parts: tuple[int, int]
) -> None:
    add_currency(currency, per_usd)
    payer = make_poor()
    top_up(stripe_sandbox, payer, currency=currency)
    for number, amount in enumerate(("3.33", "6.67")):
        refund(payer, amount, key=str(number))
        send_all(payer)
    sent = [int(one["params"]["amount"]) for one in stripe_sandbox.requests() if one["path"] == "/v1/refunds"]
    assert tuple(sent) == parts
    assert (payer.balance, set(Refund.objects.values_list("status", flat=True))) == (0, {"succeeded"})
