"""The gateway against the sandbox: what goes out is what Stripe takes, what comes back is read right."""

import io
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe
from django.db import transaction

from billing import stripe_gateway as gateway
from tests.billing.stripe_hands import DAY, TEN, charge, checkout, customer, intent_of
from tests.payments_sandbox import StripeSandbox
from tests.stripe_params import faults

NOW = datetime.now(UTC)


def test_a_top_up_is_tied_to_our_row_in_every_place(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    session = checkout(owner)
    assert (session.mode, session.status, session.payment_status) == ("payment", "open", "unpaid")
    assert (session.amount, session.currency, session.stripe_customer) == (TEN, "usd", owner)
    assert (session.client_reference, session.metadata) == ("top_1", {"top_up": "top_1", "customer": "cus_1"})
    assert session.url is not None
    assert session.payment_intent is None
    stripe_sandbox.pay(session.id)
    paid = gateway.checkout(session.id)
    assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
    intent = intent_of(session)
    assert (intent.status, intent.amount, intent.received) == ("succeeded", TEN, TEN)
    assert intent.metadata == {"top_up": "top_1", "customer": "cus_1"}
    assert not intent.livemode
    assert intent.charge is not None
    assert (intent.charge.method_type, intent.charge.brand, intent.charge.last4) == ("card", "visa", "4242")
    booked = intent.charge.balance_transaction
    assert booked is not None
    assert (booked.amount, booked.fee, booked.net) == (TEN, Decimal("0.59"), Decimal("9.41"))
    assert (booked.currency, booked.exchange_rate, booked.source) == ("usd", None, intent.charge.id)


def test_the_fee_may_come_later(stripe_sandbox: StripeSandbox) -> None:
    stripe_sandbox.late_balance()
    session = checkout(customer())
    stripe_sandbox.pay(session.id)
    paid = intent_of(session).charge
    assert paid is not None
    assert paid.balance_transaction is None
    stripe_sandbox.book(paid.id)
    booked = intent_of(session).charge
    assert booked is not None
    assert booked.balance_transaction is not None
    assert stripe_sandbox.deliveries()[-1].type == "charge.updated"


@pytest.mark.parametrize("method", ["alipay", "wechat_pay"])
def test_wallets_pay_and_are_not_saved(stripe_sandbox: StripeSandbox, method: str) -> None:
    owner = customer()
    session = checkout(owner, save_card=True)
    stripe_sandbox.pay(session.id, method=method)
    intent = intent_of(session)
    assert intent.charge is not None
    assert (intent.status, intent.charge.method_type, intent.charge.last4) == ("succeeded", method, None)
    assert gateway.payment_methods(owner) == []


def test_a_card_is_saved_only_when_asked_for(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    stripe_sandbox.pay(checkout(owner, key="a").id)
    assert gateway.payment_methods(owner) == []
    stripe_sandbox.pay(checkout(owner, key="b", save_card=True).id)
    [card] = gateway.payment_methods(owner)
    assert (card.type, card.brand, card.last4, card.exp_year) == ("card", "visa", "4242", 2034)
    assert (card.stripe_customer, gateway.payment_method(card.id)) == (owner, card)
    gateway.set_default(owner, card.id)
    assert gateway.detach(card.id).stripe_customer is None
    assert gateway.payment_methods(owner) == []
    assert [each.type for each in stripe_sandbox.deliveries()][-2:] == ["customer.updated", "payment_method.detached"]


def test_a_card_is_saved_without_a_payment(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    session = gateway.create_setup_checkout(
        key="setup:1",
        customer="cus_1",
        stripe_customer=owner,
        currency="USD",
        success_url="http://127.0.0.1/saved",
        cancel_url="http://127.0.0.1/cancelled",
    )
    assert (session.mode, session.amount, session.payment_intent) == ("setup", None, None)
    assert session.setup_intent is not None
    stripe_sandbox.decline(session.id)
    assert gateway.setup_intent(session.setup_intent).error_code == "card_declined"
    stripe_sandbox.pay(session.id)
    saved = gateway.setup_intent(session.setup_intent)
    assert (saved.status, saved.stripe_customer, saved.metadata) == ("succeeded", owner, {"customer": "cus_1"})
    assert saved.method == gateway.payment_methods(owner)[0].id
    assert gateway.checkout(session.id).payment_status == "no_payment_required"


@pytest.mark.parametrize(
    ("currency", "amount", "settled"),
    [("cny", "73.50", "10.29"), ("jpy", "1500", "10.05"), ("kwd", "3.250", "10.56"), ("EUR", "10.00", "10.80")],
)
def test_other_currencies_keep_their_decimals(
    stripe_sandbox: StripeSandbox, currency: str, amount: str, settled: str
) -> None:
    session = checkout(customer(), amount=Decimal(amount), currency=currency, methods=["card"])
    stripe_sandbox.pay(session.id)
    intent = intent_of(session)
    assert (session.amount, intent.amount, intent.currency) == (Decimal(amount), Decimal(amount), currency.lower())
    assert intent.charge is not None
    booked = intent.charge.balance_transaction
    assert booked is not None
    assert (booked.amount, booked.currency) == (Decimal(settled), "usd")
    assert booked.exchange_rate is not None
    assert abs(intent.amount * booked.exchange_rate - booked.amount) <= Decimal("0.005")


@pytest.mark.parametrize(("amount", "currency"), [("10.001", "usd"), ("10.5", "jpy"), ("1000000", "usd")])
def test_an_amount_that_does_not_fit_is_refused_before_anything_is_sent(
    stripe_sandbox: StripeSandbox, amount: str, currency: str
) -> None:
    owner = customer()
    with pytest.raises(ValueError, match=currency.upper()):
        checkout(owner, amount=Decimal(amount), currency=currency)
    assert len(stripe_sandbox.requests()) == 1


def test_a_decline_leaves_the_page_open_and_says_why(stripe_sandbox: StripeSandbox) -> None:
    session = checkout(customer())
    stripe_sandbox.decline(session.id)
    intent = intent_of(session)
    assert (intent.status, intent.received) == ("requires_payment_method", Decimal(0))
    assert (intent.error_code, intent.decline_code) == ("card_declined", "insufficient_funds")
    assert intent.error_message == "Your card has insufficient funds."
    assert intent.charge is not None
    assert intent.charge.balance_transaction is None
    stripe_sandbox.pay(session.id)
    assert intent_of(session).status == "succeeded"


def test_authentication_has_an_address(stripe_sandbox: StripeSandbox) -> None:
    session = checkout(customer())
    stripe_sandbox.pay(session.id, outcome="authenticate")
    intent = intent_of(session)
    assert intent.status == "requires_action"
    assert intent.next_action_url == f"{stripe_sandbox.address}/authenticate/{intent.id}"
    stripe_sandbox.authenticate(intent.id, passes=False)
    assert intent_of(session).error_code == "payment_intent_authentication_failure"


def test_a_page_expires_and_so_does_its_payment(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    session = checkout(owner)
    stripe_sandbox.decline(session.id)
    assert gateway.expire_checkout(session.id).status == "expired"
    assert intent_of(session).status == "canceled"
    with pytest.raises(gateway.GatewayRejected, match="status of expired"):
        gateway.expire_checkout(session.id)
    late = checkout(owner, key="late")
    stripe_sandbox.set_clock_ahead(3601)
    assert gateway.checkout(late.id).status == "expired"


def test_a_saved_card_is_charged_without_its_owner(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    intent = charge(owner, stripe_sandbox.save_card(owner))
    assert (intent.status, intent.received, intent.stripe_customer) == ("succeeded", TEN, owner)
    assert intent.metadata == {"top_up": "top_2", "customer": "cus_1"}
    assert intent.charge is not None
    assert intent.charge.balance_transaction is not None
    with pytest.raises(gateway.GatewayRejected, match="status of succeeded"):
        gateway.cancel_payment_intent(intent.id)


@pytest.mark.parametrize(
    ("behaves", "code", "decline_code"),
    [
        ("insufficient_funds", "card_declined", "insufficient_funds"),
        ("declines_later", "card_declined", "generic_decline"),
        ("expired_card", "expired_card", None),
        ("authenticates", "authentication_required", "authentication_required"),
    ],
)
def test_a_decline_of_a_saved_card_is_told_apart(
    stripe_sandbox: StripeSandbox, behaves: str, code: str, decline_code: str | None
) -> None:
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.behave(card, behaves)
    with pytest.raises(gateway.PaymentDeclined) as declined:
        charge(owner, card)
    assert (declined.value.code, declined.value.decline_code) == (code, decline_code)
    assert declined.value.message
    intent = declined.value.payment_intent
    assert intent is not None
    assert (intent.status, intent.received) == ("requires_payment_method", Decimal(0))
    # The same key gets the same answer, also when the card would pay now; to try again is a new key.
    stripe_sandbox.behave(card, "pays")
    with pytest.raises(gateway.PaymentDeclined) as again:
        charge(owner, card)
    assert again.value.payment_intent == intent
    assert gateway.cancel_payment_intent(intent.id).status == "canceled"


def test_somebody_elses_card_is_not_charged(stripe_sandbox: StripeSandbox) -> None:
    card = stripe_sandbox.save_card(customer("a"))
    with pytest.raises(gateway.GatewayRejected) as rejected:
        charge(customer("b"), card)
    assert rejected.value.param == "payment_method"


def test_refunds_are_partial_tied_to_our_row_and_listed(stripe_sandbox: StripeSandbox) -> None:
    session = checkout(customer())
    stripe_sandbox.pay(session.id)
    intent = intent_of(session)

    def refund(key: str, amount: str) -> gateway.Refund:
        return gateway.create_refund(
            key=key, payment_intent=intent.id, amount=Decimal(amount), currency="usd", refund=key, customer="cus_1"
        )

    made = refund("ref_1", "4.00")
    assert (made.status, made.amount, made.payment_intent) == ("succeeded", Decimal("4.00"), intent.id)
    assert made.metadata == {"refund": "ref_1", "customer": "cus_1"}
    assert made.balance_transaction is not None
    assert made.balance_transaction.net == Decimal("-4.00")
    assert refund("ref_1", "4.00") == made
    with pytest.raises(gateway.GatewayRejected, match="greater than unrefunded") as rejected:
        refund("ref_2", "6.01")
    assert rejected.value.param == "amount"
    assert intent.charge is not None
    by_dashboard = stripe_sandbox.refund(intent.charge.id, amount=100)
    assert [each.id for each in gateway.refunds_of(intent.id)] == [by_dashboard["id"], made.id]
    now = intent_of(session).charge
    assert now is not None
    assert now.amount_refunded == Decimal("5.00")


@pytest.mark.parametrize(("arrives", "status", "back"), [(True, "succeeded", "10.00"), (False, "failed", "0.00")])
def test_a_wechat_refund_is_pending_first(stripe_sandbox: StripeSandbox, arrives: bool, status: str, back: str) -> None:
    session = checkout(customer())
    stripe_sandbox.pay(session.id, method="wechat_pay")
    made = gateway.create_refund(
        key="r", payment_intent=intent_of(session).id, amount=TEN, currency="usd", refund="r", customer="cus_1"
    )
    assert made.status == "pending"
    stripe_sandbox.settle_refund(made.id, arrives=arrives)
    settled = gateway.refund(made.id)
    assert (settled.status, settled.failure_reason is None) == (status, arrives)
    now = intent_of(session).charge
    assert now is not None
    assert now.amount_refunded == Decimal(back)


def test_a_dispute_takes_the_money_and_gives_it_back(stripe_sandbox: StripeSandbox) -> None:
    session = checkout(customer())
    stripe_sandbox.pay(session.id)
    intent = intent_of(session)
    assert intent.charge is not None
    opened = stripe_sandbox.dispute(intent.charge.id, withdraws=False)["id"]
    inquiry = gateway.dispute(opened)
    assert (inquiry.status, inquiry.is_charge_refundable) == ("warning_needs_response", True)
    assert inquiry.balance_transactions == ()
    assert inquiry.evidence_due_by is not None
    assert timedelta(days=6) < inquiry.evidence_due_by - NOW < timedelta(days=8)
    stripe_sandbox.withdraw(opened)
    taken = gateway.dispute(opened)
    assert (taken.status, taken.is_charge_refundable, taken.amount) == ("needs_response", False, TEN)
    assert [(each.amount, each.fee) for each in taken.balance_transactions] == [(Decimal("-10.00"), Decimal("15.00"))]
    with pytest.raises(gateway.GatewayRejected, match="charged back") as rejected:
        gateway.create_refund(
            key="r", payment_intent=intent.id, amount=TEN, currency="usd", refund="r", customer="cus_1"
        )
    assert rejected.value.code == "charge_disputed"
    stripe_sandbox.win(opened)
    [won] = gateway.disputes_of(intent.id)
    assert (won.status, sum(each.amount for each in won.balance_transactions)) == ("won", Decimal(0))
    assert [each.type for each in stripe_sandbox.deliveries()][-5:] == [
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


def test_lists_run_through_every_page_of_a_half_open_span(stripe_sandbox: StripeSandbox, monkeypatch: Any) -> None:
    monkeypatch.setattr(gateway, "PAGE", 2)
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    for number in range(5):
        charge(owner, card, key=f"c{number}")
        stripe_sandbox.expire(checkout(owner, key=f"s{number}").id)
    intents = list(gateway.payment_intents_created(NOW - DAY, NOW + DAY))
    sessions = list(gateway.checkouts_created(NOW - DAY, NOW + DAY))
    booked = list(gateway.balance_transactions(NOW - DAY, NOW + DAY))
    assert [len({each.id for each in found}) for found in (intents, sessions, booked)] == [5, 5, 5]
    assert all(intent.charge and intent.charge.balance_transaction for intent in intents)
    assert {each.reporting_category for each in booked} == {"charge"}
    first = min(each.created for each in booked)
    assert list(gateway.balance_transactions(NOW - DAY, first)) == []
    assert [each.id for each in gateway.balance_transactions(first, first + timedelta(seconds=1))]


# --- when it goes wrong


@pytest.mark.parametrize("kind", ["error", "cut", "timeout", "rate_limit"])
def test_no_answer_is_unavailable_and_nothing_was_done(
    stripe_sandbox: StripeSandbox, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT_S", 1)
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.fail_next(kind, path="/v1/payment_intents", method="POST")
    with pytest.raises(gateway.GatewayUnavailable):
        charge(owner, card)
    assert list(gateway.payment_intents_created(NOW - DAY, NOW + DAY)) == []


@pytest.mark.parametrize("kind", ["cut_after", "timeout_after"])
def test_an_answer_that_was_lost_is_found_under_the_same_key(
    stripe_sandbox: StripeSandbox, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT_S", 1)
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.fail_next(kind, path="/v1/payment_intents", method="POST")
    with pytest.raises(gateway.GatewayUnavailable):
        charge(owner, card)
    [done] = gateway.payment_intents_created(NOW - DAY, NOW + DAY)
    assert charge(owner, card) == done
    assert len(list(gateway.payment_intents_created(NOW - DAY, NOW + DAY))) == 1


def test_one_lost_connection_is_overcome_without_a_second_payment(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.fail_next("cut_after", times=1, path="/v1/payment_intents")
    assert charge(owner, card).status == "succeeded"
    assert len(list(gateway.payment_intents_created(NOW - DAY, NOW + DAY))) == 1


def test_a_500_is_replayed_under_its_key(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.fail_next("error_after", path="/v1/payment_intents")
    for _ in range(2):
        with pytest.raises(gateway.GatewayUnavailable, match="500"):
            charge(owner, card)
    # Whether it was done is found out by looking, not by asking again.
    assert len(list(gateway.payment_intents_created(NOW - DAY, NOW + DAY))) == 1


def test_a_key_that_is_under_way_is_unavailable_and_then_answers(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    card = stripe_sandbox.save_card(owner)
    stripe_sandbox.fail_next("slow", path="/v1/payment_intents", seconds=5)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(charge, owner, card)
        while len(stripe_sandbox.requests()) < 2:
            time.sleep(0.01)
        with pytest.raises(gateway.GatewayUnavailable, match="409"):
            charge(owner, card)
        assert first.result() == charge(owner, card)
    assert len(list(gateway.payment_intents_created(NOW - DAY, NOW + DAY))) == 1


def test_a_key_holds_for_its_parameters_only(stripe_sandbox: StripeSandbox) -> None:
    owner = customer()
    ends = NOW + timedelta(hours=2)
    assert checkout(owner, expires_at=ends) == checkout(owner, expires_at=ends)
    with pytest.raises(gateway.GatewayRejected) as rejected:
        checkout(owner, expires_at=ends, amount=Decimal("11.00"))
    assert rejected.value.code == "idempotency_error"


def test_a_wrong_request_names_its_parameter(stripe_sandbox: StripeSandbox) -> None:
    with pytest.raises(gateway.GatewayRejected, match="cus_nobody") as rejected:
        checkout("cus_nobody")
    assert (rejected.value.param, rejected.value.code) == ("customer", "resource_missing")


def test_a_wrong_key_is_named_but_not_shown(stripe_sandbox: StripeSandbox, settings: Any, caplog: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_live_wrongwrongwrong1234"
    caplog.set_level(logging.DEBUG)
    with redirect_stderr(io.StringIO()) as written, pytest.raises(gateway.GatewayRejected) as rejected:
        customer()
    assert "STRIPE_SECRET_KEY" in str(rejected.value)
    assert rejected.value.__cause__ is None
    assert "1234" not in str(rejected.value) + caplog.text + written.getvalue()


def test_nothing_is_there_that_answers(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_x", "http://127.0.0.1:1"
    with pytest.raises(gateway.GatewayUnavailable):
        gateway.checkout("cs_1")


def test_without_a_key_nothing_is_called(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = ""
    assert not gateway.configured()
    for call in (lambda: gateway.checkout("cs_1"), lambda: list(gateway.balance_transactions(NOW, NOW))):
        with pytest.raises(gateway.PaymentsNotConfigured):
            call()


@pytest.mark.django_db
def test_no_call_is_made_inside_a_transaction(stripe_sandbox: StripeSandbox) -> None:
    calls: list[Callable[[], Any]] = [
        customer,
        lambda: gateway.checkout("cs_1"),
        lambda: list(gateway.checkouts_created(NOW, NOW)),
    ]
    for call in calls:
        with transaction.atomic(), pytest.raises(RuntimeError, match="inside a transaction"):
            call()
    assert stripe_sandbox.requests() == []
    assert customer()  # a test's own surrounding transaction is none


# --- webhooks


def test_an_event_is_read_once_its_signature_holds(stripe_sandbox: StripeSandbox) -> None:
    session = checkout(customer())
    stripe_sandbox.pay(session.id)
    last = stripe_sandbox.deliveries()[-1]
    event = gateway.read_event(last.body, last.signature)
    assert (event.id, event.type) == (last.id, "checkout.session.completed")
    assert (event.object_id, event.object_type) == (session.id, "checkout.session")
    assert (event.livemode, event.account, event.api_version) == (False, None, gateway.API_VERSION)


def test_a_forged_or_old_signature_is_refused(stripe_sandbox: StripeSandbox) -> None:
    customer()
    [delivery] = stripe_sandbox.deliveries()
    body = delivery.body.decode()

    def signed(secret: str, age_s: int) -> str:
        return stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()) - age_s)

    ours = stripe_sandbox.webhook_secret
    assert gateway.read_event(delivery.body, signed(ours, 290)).id == delivery.id
    wrong = [
        signed(ours, 310),
        signed("whsec_another", 0),
        signed("", 0),
        delivery.signature.replace("v1=", "v0="),
        delivery.signature.replace("t=", "t=1"),
        "",
        "t=,v1=",
        "é",
        "t=1,v1=é",
    ]
    for signature in wrong:
        with pytest.raises(gateway.InvalidSignature):
            gateway.read_event(delivery.body, signature)
    with pytest.raises(gateway.InvalidSignature):
        gateway.read_event(delivery.body + b" ", delivery.signature)
    with pytest.raises(gateway.InvalidSignature):
        gateway.read_event(b"\xff", delivery.signature)


@pytest.mark.parametrize("body", ["[]", "{}", "not json", '{"id": "evt_1", "data": {}}', '"x"'])
def test_a_signed_body_that_is_no_event_is_refused(stripe_sandbox: StripeSandbox, body: str) -> None:
    header = stripe.WebhookSignature.generate_signature_header(body, stripe_sandbox.webhook_secret)
    with pytest.raises(gateway.InvalidSignature, match="not an event"):
        gateway.read_event(body.encode(), header)


def test_without_a_secret_nobody_is_believed(stripe_sandbox: StripeSandbox, settings: Any) -> None:
    customer()
    [delivery] = stripe_sandbox.deliveries()
    settings.STRIPE_WEBHOOK_SECRET = ""
    forged = stripe.WebhookSignature.generate_signature_header(delivery.body.decode(), "")
    for signature in (delivery.signature, forged):
        with pytest.raises(gateway.PaymentsNotConfigured):
            gateway.read_event(delivery.body, signature)


# --- what the check of parameters can see


@pytest.mark.parametrize(
    ("method", "path", "params", "fault"),
    [
        ("POST", "/v1/refunds", {"payment_intnt": "pi_1"}, "[payment_intnt]: unknown"),
        ("POST", "/v1/refunds", {"amount": "4.5"}, "[amount]: '4.5' is not int"),
        ("POST", "/v1/payment_intents", {"amount": "1"}, "[currency]: missing"),
        ("POST", "/v1/checkout/sessions", {"payment_method_types": {"0": "card"}}, "[payment_method_types]: unknown"),
        (
            *("POST", "/v1/checkout/sessions", {"payment_method_options": {"wechat_pay": {}}}),
            "[payment_method_options][wechat_pay][client]: missing",
        ),
        ("GET", "/v1/payment_intents", {"created": {"get": "1"}}, "[created][get]: unknown"),
        ("GET", "/v1/payment_intents", {"api_key": "sk"}, "[api_key]: unknown"),
        ("GET", "/v1/tokens", {}, "GET /v1/tokens: no definition is known"),
    ],
)
def test_a_wrong_parameter_would_be_seen(method: str, path: str, params: dict[str, Any], fault: str) -> None:
    assert faults(method, path, params) == [fault]
