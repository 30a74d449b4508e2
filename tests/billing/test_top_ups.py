"""Top-ups by checkout: a row first, credit once by what the provider says, and money that doesn't match is refused."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import closing, payment_accounts, stripe_gateway, suspension, top_up_refusals, top_ups
from billing.accounts import AccountClosed
from billing.models import (
    AccountChange,
    Alarm,
    Grant,
    OperatorSettings,
    PayCurrency,
    PaymentAccount,
    TopUp,
    Transfer,
)
from tests.billing.hands import assert_books, charge, sides
from tests.paying import add_currency, again, cash, now, open_top_up, start, sync
from tests.payments import receive
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="0")


def close(payer: Payer) -> None:
    closing.close(
        customer_id=payer.customer.pk,
        paid_credit=closing.PaidCredit.REFUND,
        release_holds=True,
        reason="asked for it",
        actor="olga",
        at=now(),
    )


class TestStarting:
    def test_a_top_up_gets_a_page_that_names_it(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer, save_card=True)
        assert (row.status, row.amount, row.pay_amount, row.currency, row.rate) == ("pending", 10, 10, "USD", 1)
        assert row.session_id is not None
        assert row.checkout_url.startswith("http")
        (made,) = [call for call in stripe_sandbox.requests() if call["path"] == "/v1/checkout/sessions"]
        assert made["key"] == f"topup:{row.public_id}"
        asked = made["params"]
        assert asked["client_reference_id"] == row.public_id
        assert asked["metadata"] == asked["payment_intent_data"]["metadata"]
        assert asked["metadata"] == {"top_up": row.public_id, "customer": payer.customer.public_id}
        assert asked["success_url"].endswith("/payments/return?session_id={CHECKOUT_SESSION_ID}")
        assert asked["cancel_url"].endswith(f"/payments/return?canceled={row.public_id}")
        assert asked["payment_method_options"]["card"] == {"setup_future_usage": "off_session"}
        assert row.is_sandbox

    def test_the_row_is_committed_before_the_provider_is_called(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = start(payer)
        assert stripe_sandbox.requests() == []
        assert (row.status, row.session_id, row.checkout_url) == ("pending", None, "")
        assert row.look_at is not None

    def test_the_customer_is_made_known_once(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        rows = [open_top_up(payer) for _ in range(3)]
        assert len({row.session_id for row in rows}) == 3
        account = PaymentAccount.objects.get(customer=payer.customer)
        calls = [call for call in stripe_sandbox.requests() if call["path"] == "/v1/customers"]
        assert len(calls) == 1
        assert {
            call["params"]["customer"] for call in stripe_sandbox.requests() if call["path"] == "/v1/checkout/sessions"
        } == {account.stripe_id}

    def test_each_mode_knows_the_customer_by_another_number(
        self, payer: Payer, stripe_sandbox: StripeSandbox, settings: Any
    ) -> None:
        known = payment_accounts.ensure(customer_id=payer.customer.pk, at=now())
        assert payment_accounts.find(payer.customer.pk) == known
        settings.STRIPE_SECRET_KEY = "sk_live_0000"
        assert payment_accounts.find(payer.customer.pk) is None

    @pytest.mark.parametrize(
        ("amount", "currency", "code", "said"),
        [
            ("4.99", "USD", "amount_too_small", "5.000000 USD"),
            ("10000.01", "USD", "amount_too_large", "10000.000000 USD"),
            ("10.001", "USD", "invalid_request_error", "whole cents"),
            ("10", "XXX", "currency_not_supported", "XXX"),
            ("10", "EUR", "no_exchange_rate", "EUR"),
        ],
    )
    def test_what_can_not_be_is_refused_by_name(
        self, payer: Payer, amount: str, currency: str, code: str, said: str
    ) -> None:
        PayCurrency.objects.create(code="EUR", methods=["card"])
        with pytest.raises(top_ups.InvalidTopUp, match=said) as refused:
            start(payer, amount, currency=currency)
        assert refused.value.code == code
        assert not TopUp.objects.exists()

    def test_the_limits_are_the_operators(self, payer: Payer) -> None:
        OperatorSettings.objects.update(top_up_minimum="0.5", top_up_maximum="2")
        assert start(payer, "0.50").amount == Decimal("0.5")
        with pytest.raises(top_ups.InvalidTopUp, match=r"the largest top-up is 2\.000000 USD"):
            start(payer, "2.01")

    def test_the_suspended_can_pay_and_the_closed_can_not(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        suspension.suspend(
            customer_id=payer.customer.pk, cause=AccountChange.Cause.DEBT, reason="owes", actor="", at=now()
        )
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        assert sync(row) == "paid"
        close(payer)
        with pytest.raises(AccountClosed):
            start(payer)

    def test_what_the_provider_refuses_has_failed(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        add_currency("HUF", "390")  # which the account does not take
        row = start(payer, currency="HUF")
        with pytest.raises(stripe_gateway.GatewayRejected):
            top_ups.open_checkout(top_up_id=row.pk, at=now())
        row = again(row)
        assert (row.status, row.look_at) == ("failed", None)
        assert row.error_message


class TestCredit:
    @pytest.mark.parametrize("method", ["card", "alipay", "wechat_pay"])
    def test_what_was_paid_is_credited_once_however_often_it_is_asked(
        self, payer: Payer, stripe_sandbox: StripeSandbox, method: str
    ) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "", method=method)
        assert sync(row) == "paid"
        row = again(row)
        for _ in range(2):
            assert top_ups.sync_session(row.session_id or "", now()) == "paid before"
            assert top_ups.sync_intent(row.payment_intent_id or "", now()) == "paid before"
        assert payer.balance == 10
        grant = Grant.objects.get(customer=payer.customer)
        assert (grant.kind, grant.amount, grant.reference, grant.is_refundable) == ("paid", 10, row.public_id, True)
        assert row.grant_id == grant.pk
        transfer = Transfer.objects.get(customer=payer.customer)
        assert transfer.key == row.public_id
        assert sides(payer, transfer.pk) == {"wallet": 10, "cash:stripe": -10}
        assert (row.status, row.method, row.look_at) == ("paid", method, None)
        assert row.method_detail == ("visa •••• 4242" if method == "card" else "")
        assert (row.settled_amount, row.settled_currency) == (10, "USD")
        assert row.fee == Decimal("0.59")
        assert_books(payer)

    def test_by_the_payment_alone_it_is_credited_as_well(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        intent = stripe_sandbox.pay(row.session_id or "")["payment_intent"]
        assert top_ups.sync_intent(intent, now()) == "paid"
        assert top_ups.sync_session(row.session_id or "", now()) == "paid before"
        assert payer.balance == 10

    def test_another_currency_is_paid_at_the_rate_that_was_shown(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        add_currency("CNY", "7.2", "0.02", methods=("alipay", "wechat_pay"))
        row = open_top_up(payer, currency="CNY")
        add_currency("CNY", "9")
        stripe_sandbox.pay(row.session_id or "", method="alipay")
        assert sync(row) == "paid"
        row = again(row)
        assert (row.amount, row.pay_amount, row.rate, row.margin) == (
            10,
            Decimal("73.44"),
            Decimal("7.344"),
            Decimal("0.02"),
        )
        assert (payer.balance, cash(payer)) == (10, -10)
        assert row.settled_currency == "USD"

    @pytest.mark.parametrize(("currency", "rate", "units"), [("JPY", "151.25", 1513), ("KWD", "0.3075", 3080)])
    def test_currencies_without_or_with_three_decimals_are_asked_for_in_their_own_units(
        self, payer: Payer, stripe_sandbox: StripeSandbox, currency: str, rate: str, units: int
    ) -> None:
        add_currency(currency, rate)
        row = open_top_up(payer, currency=currency)
        assert stripe_sandbox.pay(row.session_id or "")["amount_total"] == units
        assert sync(row) == "paid"
        assert payer.balance == 10

    def test_debt_is_paid_first(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        charge(payer, "4")
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        assert payer.balance == 6
        assert Grant.objects.get(customer=payer.customer).remaining == 6
        assert_books(payer)

    def test_the_fee_may_come_later_than_the_money(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        state = top_ups.read_session(row.session_id or "")
        assert state.intent is not None
        assert state.intent.charge is not None
        early = replace(state, intent=replace(state.intent, charge=None))
        assert top_ups.apply(early, at=now()) == "paid"
        row = again(row)
        assert (row.fee, row.method) == (None, "")
        assert row.look_at is not None
        assert top_ups.sweep(at=row.look_at).looked_at == 1
        row = again(row)
        assert (row.fee, row.method, row.look_at) == (Decimal("0.59"), "card", None)
        assert payer.balance == 10


class TestWithoutCredit:
    def test_a_declined_card_leaves_the_page_open_for_another(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        stripe_sandbox.decline(row.session_id or "")
        assert sync(row) == "pending"
        row = again(row)
        assert row.error_code == "insufficient_funds"
        assert "insufficient" in row.error_message
        assert row.checkout_url
        stripe_sandbox.pay(row.session_id or "")
        assert sync(row) == "paid"
        assert (again(row).error_code, payer.balance) == ("", 10)

    def test_a_page_that_expired_leaves_no_credit(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.expire(row.session_id or "")
        assert sync(row) == "expired"
        assert sync(row) == "expired"
        assert (again(row).look_at, payer.balance) == (None, 0)

    @pytest.mark.parametrize("method", ["alipay", "wechat_pay"])
    def test_a_slow_payment_is_credited_when_it_has_arrived(
        self, payer: Payer, stripe_sandbox: StripeSandbox, method: str
    ) -> None:
        row = open_top_up(payer)
        intent = stripe_sandbox.pay(row.session_id or "", method=method, outcome="slow")["payment_intent"]
        assert sync(row) == "processing"
        assert payer.balance == 0
        stripe_sandbox.settle(intent)
        assert sync(row) == "paid"
        assert payer.balance == 10

    def test_a_slow_payment_that_did_not_arrive_has_failed(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        intent = stripe_sandbox.pay(row.session_id or "", method="alipay", outcome="slow")["payment_intent"]
        early = top_ups.read_session(row.session_id or "")
        stripe_sandbox.settle(intent, arrives=False)
        assert sync(row) == "failed"
        assert again(row).error_code == "generic_decline"
        # What was read before it failed is applied after it: nothing goes back.
        assert top_ups.apply(early, at=now()) == "failed before"
        assert (again(row).status, payer.balance) == ("failed", 0)

    def test_what_was_read_before_it_was_paid_changes_nothing_after(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        early = top_ups.read_session(row.session_id or "")
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        assert top_ups.apply(early, at=now()) == "paid before"
        assert (again(row).status, payer.balance) == ("paid", 10)

    def test_an_object_that_names_no_top_up_of_ours_is_nobodys(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer(credit="0")
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        state = top_ups.read_session(row.session_id or "")
        TopUp.objects.all().delete()
        assert top_ups.apply(state, at=now()) == top_ups.NOT_OURS


class TestAnyOrder:
    """Whatever is read when, and applied in whichever order and how often: the same ledger."""

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        deliveries=st.lists(st.sampled_from(["open", "declined", "processing", "paid", "alone"]), max_size=8),
        others=st.permutations([0, 1]),
    )
    def test_the_ledger_ends_the_same(self, payer: Payer, deliveries: list[str], others: list[int]) -> None:
        PaymentAccount.objects.get_or_create(
            customer=payer.customer, is_sandbox=True, defaults={"stripe_id": "cus_any", "created_at": now()}
        )
        before = payer.balance
        rows = [start(payer, "10.00"), start(payer, "20.00")]
        for number in others:
            states = states_of(rows[number])
            for name in deliveries:
                top_ups.apply(states[name], at=now())
        is_paid = bool({"paid", "alone"} & set(deliveries))
        assert payer.balance - before == (30 if is_paid else 0)
        expected = "paid" if is_paid else "processing" if "processing" in deliveries else "pending"
        assert {again(row).status for row in rows} == {expected}
        assert Grant.objects.filter(customer=payer.customer, reference=rows[0].public_id).count() == is_paid
        assert_books(payer)


def states_of(row: TopUp) -> dict[str, top_ups.State]:
    """What the provider may say of one top-up, from its page's opening to its payment."""
    ours = {"top_up": row.public_id, "customer": row.customer.public_id}
    session = stripe_gateway.CheckoutSession(
        id=f"cs_{row.public_id}",
        url="https://pay",
        mode="payment",
        status="open",
        payment_status="unpaid",
        amount=row.pay_amount,
        currency="usd",
        payment_intent=None,
        setup_intent=None,
        stripe_customer="cus_any",
        client_reference=row.public_id,
        metadata=ours,
        expires_at=now() + HOUR,
        livemode=False,
        created=now(),
    )
    intent = stripe_gateway.PaymentIntent(
        id=f"pi_{row.public_id}",
        status="requires_payment_method",
        amount=row.pay_amount,
        received=Decimal(0),
        currency="usd",
        stripe_customer="cus_any",
        method=None,
        metadata=ours,
        livemode=False,
        error_code="card_declined",
        decline_code="insufficient_funds",
        error_message="Your card has insufficient funds.",
        next_action_url=None,
        charge=None,
        created=now(),
    )
    tried = replace(session, payment_intent=intent.id)
    complete = replace(tried, status="complete", url=None)
    succeeded = replace(intent, status="succeeded", received=row.pay_amount, error_code=None, decline_code=None)
    return {
        "open": top_ups.State(session, None),
        "declined": top_ups.State(tried, intent),
        "processing": top_ups.State(complete, replace(intent, status="processing", error_code=None, decline_code=None)),
        "paid": top_ups.State(replace(complete, payment_status="paid"), succeeded),
        "alone": top_ups.State(None, succeeded),
    }


def paid(stripe_sandbox: StripeSandbox, row: TopUp) -> tuple[stripe_gateway.CheckoutSession, Any]:
    stripe_sandbox.pay(row.session_id or "")
    state = top_ups.read_session(row.session_id or "")
    assert state.session is not None
    assert state.intent is not None
    return state.session, state.intent


class TestRefused:
    """Row 23: with another amount, for somebody else, in another mode; and money for who has gone."""

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"received": Decimal("9.99")}, "other_amount"),
            ({"received": Decimal("1000.00")}, "other_amount"),
            ({"currency": "jpy", "received": Decimal(10)}, "other_currency"),
            ({"stripe_customer": "cus_somebody"}, "other_customer"),
            ({"stripe_customer": None}, "other_customer"),
            ({"livemode": True}, "other_mode"),
            ({"metadata": {}}, "other_top_up"),
        ],
    )
    def test_money_that_does_not_match_credits_nothing_and_raises_an_alarm(
        self, payer: Payer, stripe_sandbox: StripeSandbox, changes: dict[str, Any], code: str
    ) -> None:
        row = open_top_up(payer)
        session, intent = paid(stripe_sandbox, row)
        state = top_ups.State(session, replace(intent, **changes))
        assert top_ups.apply(state, at=now()).startswith("refused:")
        row = again(row)
        assert (row.status, row.error_code, row.look_at) == ("refused", code, None)
        assert (payer.balance, Transfer.objects.filter(customer=payer.customer).count()) == (0, 0)
        top_ups.sweep(at=now())
        alarm = Alarm.objects.get(kind=top_up_refusals.ALARM, subject=row.public_id)
        assert "came in and were not credited" in alarm.message
        # The right state comes too late: a person decides.
        assert sync(row) == "refused before"
        assert payer.balance == 0

    def test_another_customers_top_up_can_not_be_completed(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        other = make_payer(credit="0", name="Bob")
        row, others = open_top_up(payer), open_top_up(other)
        session, intent = paid(stripe_sandbox, others)
        names = {"top_up": row.public_id, "customer": payer.customer.public_id}
        for state in (
            top_ups.State(None, replace(intent, metadata=names)),
            top_ups.State(replace(session, id="cs_other", metadata=names), replace(intent, metadata=names)),
        ):
            assert top_ups.apply(state, at=now()).startswith("refused")
        assert (payer.balance, other.balance) == (0, 0)

    def test_what_was_put_right_is_judged_again_and_credited_once(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        close(payer)
        stripe_sandbox.pay(row.session_id or "")
        assert sync(row).startswith("refused: the account was closed")
        assert Alarm.objects.filter(kind=top_up_refusals.ALARM, resolved_at=None).count() == 1
        assert top_ups.judge_again(top_up_id=row.pk, at=now()).startswith("refused:")
        closing.reopen(customer_id=payer.customer.pk, reason="they paid", actor="olga", at=now())
        assert top_ups.judge_again(top_up_id=row.pk, at=now()) == "paid"
        assert payer.balance == 10
        assert not Alarm.objects.filter(kind=top_up_refusals.ALARM, resolved_at=None).exists()
        with pytest.raises(top_up_refusals.NotRefused):
            top_ups.judge_again(top_up_id=row.pk, at=now())

    @pytest.mark.parametrize("went_back", ["refund", "dispute"])
    def test_what_has_gone_back_meanwhile_is_not_credited_by_judging_again(
        self, payer: Payer, stripe_sandbox: StripeSandbox, went_back: str
    ) -> None:
        row = open_top_up(payer)
        close(payer)
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        getattr(stripe_sandbox, went_back)(again(row).charge_id)
        receive(stripe_sandbox.deliveries())
        closing.reopen(customer_id=payer.customer.pk, reason="they paid", actor="olga", at=now())
        assert top_ups.judge_again(top_up_id=row.pk, at=now()).startswith("refused: it was refunded or disputed")
        assert (again(row).status, payer.balance) == ("refused", 0)

    def test_what_was_given_back_elsewhere_is_settled_and_never_credited(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        close(payer)
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        top_up_refusals.decide(top_up_id=row.pk, actor="olga", note="refunded in the dashboard", at=now())
        assert not Alarm.objects.filter(kind=top_up_refusals.ALARM, resolved_at=None).exists()
        closing.reopen(customer_id=payer.customer.pk, reason="they paid", actor="olga", at=now())
        assert sync(row) == "refused before"
        with pytest.raises(top_up_refusals.NotRefused):
            top_up_refusals.decide(top_up_id=row.pk, actor="olga", note="", at=now())
        assert payer.balance == 0

    def test_a_second_payment_for_one_top_up_is_kept_and_not_credited(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        """Row 25."""
        row = open_top_up(payer)
        _, intent = paid(stripe_sandbox, row)
        assert sync(row) == "paid"
        assert intent.charge is not None
        second = replace(intent, id="pi_second", charge=replace(intent.charge, id="ch_second"))
        for _ in range(2):
            assert top_ups.apply(top_ups.State(None, second), at=now()).startswith("refused")
        kept = TopUp.objects.get(payment_intent_id="pi_second")
        assert (kept.status, kept.error_code, kept.charge_id) == ("refused", "paid_twice", "ch_second")
        assert (again(row).status, payer.balance) == ("paid", 10)


class TestSweep:
    def test_a_call_that_died_is_made_again_under_its_key(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = start(payer)
        stripe_sandbox.fail_next("cut", path="/v1/checkout/sessions")
        with pytest.raises(stripe_gateway.GatewayUnavailable):
            top_ups.open_checkout(top_up_id=row.pk, at=now())
        assert again(row).status == "pending"
        assert top_ups.sweep(at=now()).looked_at == 0
        assert top_ups.sweep(at=now() + timedelta(minutes=2)).looked_at == 1
        assert again(row).session_id is not None
        calls = [call for call in stripe_sandbox.requests() if call["path"] == "/v1/checkout/sessions"]
        assert {call["key"] for call in calls} == {f"topup:{row.public_id}"}
        assert len({str(call["params"]) for call in calls}) == 1

    def test_the_words_are_the_same_even_if_the_settings_have_changed(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = start(payer)
        stripe_sandbox.fail_next("cut", path="/v1/checkout/sessions")
        with pytest.raises(stripe_gateway.GatewayUnavailable):
            top_ups.open_checkout(top_up_id=row.pk, at=now())
        OperatorSettings.objects.update(name="Another name", top_up_minimum=100)
        PayCurrency.objects.update(methods=["card"])
        top_ups.sweep(at=now() + timedelta(minutes=2))
        assert (again(row).status, again(row).session_id is not None) == ("pending", True)

    @pytest.mark.parametrize("was_made", [True, False])
    def test_after_20_hours_it_looks_for_what_the_call_may_have_made(
        self, payer: Payer, stripe_sandbox: StripeSandbox, was_made: bool
    ) -> None:
        row = start(payer)
        if was_made:
            made = top_ups._create_checkout(row, now())
            stripe_sandbox.pay(made.id)
        swept = top_ups.sweep(at=now() + 21 * HOUR)
        assert swept.looked_at == 1
        row = again(row)
        assert (row.status, payer.balance) == (("paid", 10) if was_made else ("failed", 0))
        assert row.error_code == ("" if was_made else "not_opened")
        sent = [call for call in stripe_sandbox.requests() if call["method"] == "POST"]
        assert len([call for call in sent if call["path"] == "/v1/checkout/sessions"]) == was_made

    def test_it_asks_less_and_less_often_and_once_more_when_the_page_has_expired(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        looks = []
        while (at := again(row).look_at) is not None:
            looks.append(at)
            stripe_sandbox.set_clock_ahead(int((at - now()).total_seconds()))
            assert top_ups.sweep(at=at).looked_at == 1
        gaps = [later - earlier for earlier, later in pairwise(looks)]
        assert gaps[0] >= timedelta(minutes=1)
        assert gaps[:-1] == sorted(gaps[:-1])
        assert len(looks) < 40
        assert again(row).status == "expired"
        assert row.expires_at is not None
        assert row.expires_at < looks[-1] <= row.expires_at + 2 * timedelta(minutes=1)

    def test_a_lost_webhook_loses_nothing(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        assert top_ups.sweep(at=now() + timedelta(minutes=2)) == top_ups.Swept(1, 1)
        assert payer.balance == 10

    def test_while_the_provider_is_away_everything_waits(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        stripe_sandbox.fail_next("error", times=2, method="GET", path="/v1/checkout")
        at = now() + timedelta(minutes=2)
        assert top_ups.sweep(at=at).paid == 0
        assert top_ups.sweep(at=at).looked_at == 0
        assert top_ups.sweep(at=at + timedelta(minutes=6)).paid == 1

    def test_one_call_that_always_breaks_keeps_nobody_waiting(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        """The provider saves a fault of its own under the key, and answers it again for a day."""
        broken = start(payer)
        stripe_sandbox.fail_next("error", path="/v1/checkout/sessions", method="POST")
        with pytest.raises(stripe_gateway.GatewayUnavailable):
            top_ups.open_checkout(top_up_id=broken.pk, at=now())
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        at = now() + timedelta(minutes=2)
        assert top_ups.sweep(at=at) == top_ups.Swept(2, 1)
        assert again(broken).look_at == at + timedelta(minutes=5)
        top_ups.sweep(at=at + 8 * HOUR)
        assert again(broken).look_at == at + 9 * HOUR
        top_ups.sweep(at=at + 21 * HOUR)
        assert (again(broken).status, again(broken).error_code) == ("failed", "not_opened")

    def test_after_three_without_an_answer_it_leaves_the_others_for_later(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        rows = [open_top_up(payer) for _ in range(5)]
        stripe_sandbox.fail_next("error", times=100, method="GET")
        at = now() + timedelta(minutes=2)
        assert top_ups.sweep(at=at).looked_at == 3
        assert top_ups.sweep(at=at).looked_at == 0
        assert {again(row).status for row in rows} == {"pending"}

    def test_one_that_can_not_be_asked_about_keeps_nobody_waiting(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        lost, row = open_top_up(payer), open_top_up(payer)
        TopUp.objects.filter(pk=lost.pk).update(session_id="cs_test_gone")
        stripe_sandbox.pay(row.session_id or "")
        at = now() + timedelta(minutes=2)
        assert top_ups.sweep(at=at) == top_ups.Swept(2, 1)
        assert again(lost).look_at == at + HOUR

    def test_rows_of_another_mode_and_without_keys_are_left_alone(
        self, payer: Payer, stripe_sandbox: StripeSandbox, settings: Any
    ) -> None:
        open_top_up(payer)
        for key in ("sk_live_0000", ""):
            settings.STRIPE_SECRET_KEY = key
            assert top_ups.sweep(at=now() + HOUR).looked_at == 0


class TestRecharge:
    def test_a_saved_card_pays_a_row_that_is_credited_as_any_other(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        account = payment_accounts.ensure(customer_id=payer.customer.pk, at=now())
        card = stripe_sandbox.save_card(account)
        row = top_ups.open_recharge(customer_id=payer.customer.pk, amount=Decimal(20), currency="USD", at=now())
        assert (row.origin, row.status) == ("recharge", "pending")
        assert top_ups.sweep(at=now() + HOUR).looked_at == 0
        intent = stripe_gateway.charge_saved(
            key=top_ups.request_key(row),
            stripe_customer=account,
            method=card,
            amount=row.pay_amount,
            currency=row.currency,
            top_up=row.public_id,
            customer=payer.customer.public_id,
            description="Recharge",
        )
        assert top_ups.apply(top_ups.State(None, intent), at=now()) == "paid"
        assert sync(row) == "paid before"
        assert payer.balance == 20
        assert_books(payer)

    def test_a_decline_ends_it(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        account = payment_accounts.ensure(customer_id=payer.customer.pk, at=now())
        card = stripe_sandbox.save_card(account, card="4000000000000341")
        row = top_ups.open_recharge(customer_id=payer.customer.pk, amount=Decimal(20), currency="USD", at=now())
        with pytest.raises(stripe_gateway.PaymentDeclined) as declined:
            stripe_gateway.charge_saved(
                key=top_ups.request_key(row),
                stripe_customer=account,
                method=card,
                amount=row.pay_amount,
                currency=row.currency,
                top_up=row.public_id,
                customer=payer.customer.public_id,
                description="Recharge",
            )
        assert top_ups.apply(top_ups.State(None, declined.value.payment_intent), at=now()) == "failed"
        assert (again(row).status, payer.balance) == ("failed", 0)
