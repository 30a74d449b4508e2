"""Automatic recharge: a wallet below its threshold is filled from a saved card, once, and not again and again."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import recharge, recharge_rules, saved_methods, suspension, top_ups
from billing.checks import Scope
from billing.models import AccountChange, Customer, Notice, OperatorSettings, PaymentMethod, Recharge, TopUp
from billing.verification import check_ledger
from tests.payments import charge_of, receive, refund
from tests.payments_sandbox import StripeSandbox
from tests.saved_cards import DECLINES_LATER, WANTS_ITS_OWNER, charges_of, rule_of, save_card, set_recharge
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def payer(stripe_sandbox: StripeSandbox) -> Payer:
    """Owns 5 USD and a card that pays."""
    payer = make_payer(credit="5")
    save_card(payer, stripe_sandbox)
    return payer


def sweep(at: datetime = NOW) -> recharge.Swept:
    return recharge.sweep(at=at)


def notices_of(payer: Payer) -> list[tuple[str, Any]]:
    """What was told of recharges; of keys and payments it is told as well."""
    found = Notice.objects.filter(customer=payer.customer).exclude(kind__in=["key_created", "payment_received"])
    return [(row.kind, row.data) for row in found.order_by("pk")]


def charge_calls(stripe: StripeSandbox) -> list[dict[str, Any]]:
    return [one for one in stripe.requests() if (one["method"], one["path"]) == ("POST", "/v1/payment_intents")]


def charged(payer: Payer) -> list[str]:
    return [top_up.status for top_up in charges_of(payer)]


def test_it_fires_when_the_balance_is_already_below_as_it_is_switched_on(payer: Payer) -> None:
    """Row 26: auto-recharge never fires when the balance is already below the threshold."""
    set_recharge(payer)
    sweep()
    (top_up,) = charges_of(payer)
    assert (top_up.status, top_up.amount, top_up.method_detail) == ("paid", 50, "visa •••• 4242")
    assert payer.balance == 55
    assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True)) == []


def test_it_fires_once_and_again_only_when_the_balance_has_fallen_again(payer: Payer) -> None:
    set_recharge(payer, threshold=Decimal(20))
    for minute in range(3):
        sweep(NOW + minute * MINUTE)
    assert (payer.balance, charged(payer)) == (55, ["paid"])
    set_recharge(payer, threshold=Decimal(60))
    sweep(NOW + 4 * MINUTE)
    assert (payer.balance, charged(payer)) == (105, ["paid", "paid"])


@pytest.mark.parametrize("went_back", ["refund", "dispute"])
def test_what_has_gone_back_is_not_charged_again(payer: Payer, stripe_sandbox: StripeSandbox, went_back: str) -> None:
    set_recharge(payer, threshold=Decimal(20))
    sweep()
    (top_up,) = charges_of(payer)
    if went_back == "refund":
        refund(payer, "40.00")
    else:
        stripe_sandbox.dispute(charge_of(top_up))
        receive(stripe_sandbox.deliveries())
    sweep(NOW + HOUR)
    assert charged(payer) == ["paid"]
    rule = rule_of(payer)
    assert (rule.is_on, rule.off_because) == (False, "went_back")
    assert notices_of(payer)[-1][0] in {"recharge_off", "dispute_taken"}
    set_recharge(payer, threshold=Decimal(20))
    sweep(NOW + 2 * HOUR)
    assert charged(payer) == ["paid", "paid"], "switched on again by the customer"


def test_a_refund_that_leaves_enough_changes_nothing(payer: Payer) -> None:
    set_recharge(payer, threshold=Decimal(20))
    sweep()
    refund(payer, "10.00")
    assert rule_of(payer).is_on


def test_at_the_threshold_nothing_is_charged(payer: Payer) -> None:
    set_recharge(payer, threshold=Decimal(5))
    assert recharge.due(at=NOW) == []
    assert recharge.run(customer_id=payer.customer.pk, at=NOW) == "nothing to charge"
    assert charges_of(payer) == []


def test_a_declined_card_is_left_alone_for_hours_and_then_for_good(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    """Row 27: auto-recharge fires again and again after a decline."""
    stripe_sandbox.behave(PaymentMethod.objects.get(customer=payer.customer).stripe_id, "insufficient_funds")
    set_recharge(payer)
    for minute in range(0, 24 * 60, 10):
        sweep(NOW + minute * MINUTE)
    assert charged(payer) == ["failed"] * 3
    assert [call["params"]["metadata"]["top_up"] for call in charge_calls(stripe_sandbox)] == [
        top_up.public_id for top_up in charges_of(payer)
    ]
    # At once, an hour later, six hours after that.
    hours = [round((top_up.created_at - NOW) / HOUR) for top_up in charges_of(payer)]
    assert hours == [0, 1, 7]
    rule = rule_of(payer)
    assert (rule.is_on, rule.off_because, rule.failures) == (False, "declined", 3)
    told = notices_of(payer)
    assert [kind for kind, _ in told] == ["recharge_failed", "recharge_failed", "recharge_off"]
    assert told[0][1]["code"] == "insufficient_funds"
    assert told[0][1]["next_try_at"] == (NOW + HOUR).isoformat()
    assert told[2][1]["because"] == "declined"
    assert "insufficient funds" in told[2][1]["message"]
    assert payer.balance == 5


def test_a_payment_forgets_the_declines_before_it(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    card = PaymentMethod.objects.get(customer=payer.customer)
    stripe_sandbox.behave(card.stripe_id, "insufficient_funds")
    set_recharge(payer)
    sweep()
    assert (rule_of(payer).failures, rule_of(payer).next_try_at) == (1, NOW + HOUR)
    stripe_sandbox.behave(card.stripe_id, "pays")
    sweep(NOW + HOUR)
    assert (rule_of(payer).failures, rule_of(payer).next_try_at, payer.balance) == (0, None, 55)


def test_setting_the_same_rule_again_does_not_try_a_declined_card_again(
    payer: Payer, stripe_sandbox: StripeSandbox
) -> None:
    stripe_sandbox.behave(PaymentMethod.objects.get(customer=payer.customer).stripe_id, "insufficient_funds")
    set_recharge(payer)
    sweep()
    set_recharge(payer)
    sweep(NOW + MINUTE)
    assert charged(payer) == ["failed"]


def test_another_card_is_tried_at_once(payer: Payer, stripe_sandbox: StripeSandbox) -> None:
    stripe_sandbox.behave(PaymentMethod.objects.get(customer=payer.customer).stripe_id, "insufficient_funds")
    set_recharge(payer)
    sweep()
    other = save_card(payer, stripe_sandbox)
    set_recharge(payer, method=other.public_id)
    sweep(NOW + MINUTE)
    assert charged(payer) == ["failed", "paid"]


class TestTheBankWantsTheCustomer:
    @pytest.fixture
    def waiting(self, stripe_sandbox: StripeSandbox) -> Payer:
        payer = make_payer(credit="5")
        save_card(payer, stripe_sandbox, card=WANTS_ITS_OWNER)
        set_recharge(payer)
        sweep()
        return payer

    def test_they_are_sent_a_page_and_nothing_is_tried_until_they_act(self, waiting: Payer) -> None:
        for hours in range(1, 72):
            sweep(NOW + hours * HOUR)
        assert charged(waiting) == ["failed"]
        ((kind, data),) = notices_of(waiting)
        page = TopUp.objects.get(customer=waiting.customer, origin="checkout")
        assert (kind, data["amount"], data["top_up"]) == ("authentication_required", "50.000000", page.public_id)
        assert data["checkout_url"] == page.checkout_url != ""
        assert (page.amount, page.status) == (50, "pending")
        assert (rule_of(waiting).is_on, rule_of(waiting).failures) == (True, 0)

    def test_once_they_have_paid_it_goes_on_with_the_card_they_paid_with(
        self, waiting: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        page = TopUp.objects.get(customer=waiting.customer, origin="checkout")
        stripe_sandbox.pay(page.session_id or "")
        top_ups.sync(page.pk, NOW + HOUR)
        assert saved_methods.sweep(at=NOW + HOUR).looked_at == 1
        assert waiting.balance == 55
        sweep(NOW + HOUR)
        assert rule_of(waiting).waits_for_id is None
        assert str(rule_of(waiting).method) == "visa •••• 4242"
        assert charged(waiting) == ["failed"]
        set_recharge(waiting, threshold=Decimal(60))
        sweep(NOW + 2 * HOUR)
        assert (charged(waiting), waiting.balance) == (["failed", "paid"], 105)

    def test_who_saved_no_other_card_goes_on_with_the_same(self, waiting: Payer, stripe_sandbox: StripeSandbox) -> None:
        page = TopUp.objects.get(customer=waiting.customer, origin="checkout")
        stripe_sandbox.pay(page.session_id or "", method="alipay")
        top_ups.sync(page.pk, NOW + HOUR)
        sweep(NOW + HOUR)
        assert (rule_of(waiting).waits_for_id, str(rule_of(waiting).method)) == (None, "visa •••• 3184")

    def test_a_page_that_died_before_it_was_sent_is_opened_once(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer(credit="5")
        save_card(payer, stripe_sandbox, card=WANTS_ITS_OWNER)
        set_recharge(payer)
        stripe_sandbox.fail_next("cut", method="POST", path="/v1/checkout/sessions")
        assert sweep().failed == 1
        assert notices_of(payer) == []
        sweep(NOW + MINUTE)
        ((kind, data),) = notices_of(payer)
        assert (kind, bool(data["checkout_url"])) == ("authentication_required", True)
        assert TopUp.objects.filter(customer=payer.customer, origin="checkout").count() == 1


class TestTheMonthlyCap:
    def test_is_never_exceeded_and_the_next_month_goes_on(self, payer: Payer) -> None:
        OperatorSettings.objects.update(timezone="Asia/Shanghai")
        # 15:59 UTC on the last day is one minute before midnight in Shanghai.
        last_minute = datetime(2027, 1, 31, 15, 59, tzinfo=UTC)
        set_recharge(payer, threshold=Decimal(500), monthly_cap=Decimal(120))
        for minute in (-3, -2, -1, 0):
            sweep(last_minute + minute * MINUTE)
        assert (charged(payer), payer.balance) == (["paid", "paid"], 105)
        assert rule_of(payer).next_try_at == last_minute + MINUTE
        assert [kind for kind, _ in notices_of(payer)] == ["recharge_capped"]
        sweep(last_minute + MINUTE)
        assert charged(payer) == ["paid"] * 3

    def test_counts_a_charge_that_is_under_way(self, payer: Payer) -> None:
        rule = set_recharge(payer, monthly_cap=Decimal(60))
        top_ups.open_recharge(customer_id=payer.customer.pk, amount=Decimal(50), currency="USD", at=NOW)
        zone = recharge.operator_timezone()
        assert recharge.charged_in_month(rule.customer_id, at=NOW, zone=zone) == 50

    def test_raised_lets_it_go_on_at_once(self, payer: Payer) -> None:
        set_recharge(payer, threshold=Decimal(500), monthly_cap=Decimal(50))
        sweep(), sweep(NOW + MINUTE)
        set_recharge(payer, threshold=Decimal(500), monthly_cap=Decimal(100))
        sweep(NOW + 2 * MINUTE)
        assert charged(payer) == ["paid", "paid"]


class TestNothingIsCharged:
    @pytest.mark.parametrize("status", ["suspended", "closed"])
    def test_to_customers_who_are_not_active(self, payer: Payer, status: str) -> None:
        set_recharge(payer)
        Customer.objects.filter(pk=payer.customer.pk).update(status=status)
        sweep()
        assert charges_of(payer) == []

    def test_where_the_operator_does_not_offer_it(self, payer: Payer) -> None:
        set_recharge(payer)
        OperatorSettings.objects.update(offers_recharge=False)
        sweep()
        assert charges_of(payer) == []

    def test_to_a_card_that_has_expired(self, payer: Payer) -> None:
        set_recharge(payer)
        PaymentMethod.objects.filter(customer=payer.customer).update(exp_year=2020, exp_month=1)
        sweep()
        assert charges_of(payer) == []
        assert rule_of(payer).off_because == "expired"
        assert "•••• 4242 has expired" in notices_of(payer)[0][1]["message"]

    def test_to_a_card_saved_in_another_mode(self, payer: Payer, settings: Any) -> None:
        set_recharge(payer)
        settings.STRIPE_SECRET_KEY = "sk_live_0123456789"
        sweep()
        assert (charges_of(payer), rule_of(payer).off_because) == ([], "removed")

    def test_outside_of_the_operator_s_limits(self, payer: Payer) -> None:
        set_recharge(payer)
        OperatorSettings.objects.update(top_up_maximum=Decimal(40))
        sweep()
        assert (charges_of(payer), rule_of(payer).off_because) == ([], "limits")

    def test_without_a_provider(self, payer: Payer, settings: Any) -> None:
        set_recharge(payer)
        settings.STRIPE_SECRET_KEY = ""
        assert sweep() == recharge.Swept()

    def test_after_the_card_was_removed(self, payer: Payer) -> None:
        set_recharge(payer)
        card = PaymentMethod.objects.get(customer=payer.customer)
        saved_methods.remove(customer_id=payer.customer.pk, public_id=card.public_id, at=NOW)
        sweep()
        assert (charges_of(payer), rule_of(payer).off_because) == ([], "removed")
        assert [kind for kind, _ in notices_of(payer)] == ["recharge_off"]

    def test_after_the_operator_switched_it_off_until_it_is_allowed_again(self, payer: Payer) -> None:
        set_recharge(payer)
        assert recharge_rules.forbid(customer_id=payer.customer.pk, reason="Under review.", at=NOW)
        assert not recharge_rules.forbid(customer_id=payer.customer.pk, reason="Under review.", at=NOW)
        sweep()
        with pytest.raises(recharge_rules.NotOffered):
            set_recharge(payer)
        assert charges_of(payer) == []
        assert recharge_rules.allow(customer_id=payer.customer.pk, at=NOW)
        set_recharge(payer)
        sweep()
        assert charged(payer) == ["paid"]


def test_a_suspended_customer_is_charged_again_when_the_suspension_ends(payer: Payer) -> None:
    set_recharge(payer)
    who: dict[str, Any] = {"customer_id": payer.customer.pk, "reason": "r", "actor": "olga", "at": NOW}
    suspension.suspend(cause=AccountChange.Cause.OPERATOR, **who)
    sweep()
    suspension.resume(**who)
    sweep()
    assert charged(payer) == ["paid"]


def test_a_card_detached_at_the_provider_without_a_word_to_us_is_found_out_by_the_charge(
    payer: Payer, stripe_sandbox: StripeSandbox
) -> None:
    set_recharge(payer)
    card = PaymentMethod.objects.get(customer=payer.customer)
    stripe_sandbox.detach(card.stripe_id)
    sweep()
    card.refresh_from_db()
    assert card.removed_at is not None
    assert (charged(payer), rule_of(payer).off_because) == (["failed"], "removed")


def test_a_key_that_stripe_does_not_take_is_no_fault_of_the_card(payer: Payer, settings: Any) -> None:
    set_recharge(payer)
    settings.STRIPE_SECRET_KEY = "sk_test_another"
    assert sweep().failed == 1
    assert (charged(payer), rule_of(payer).failures) == (["pending"], 0)


class TestWhatDied:
    """The process is killed between two steps; the next sweep goes on from the rows."""

    def test_between_the_row_and_the_charge_is_charged_once(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge, "_charge", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        assert (charged(payer), charge_calls(stripe_sandbox)) == (["pending"], [])
        sweep(NOW + MINUTE)
        assert charge_calls(stripe_sandbox) == [], "who made the row may still be at it"
        sweep(NOW + 3 * MINUTE)
        assert (charged(payer), payer.balance, len(charge_calls(stripe_sandbox))) == (["paid"], 55, 1)

    def test_between_the_charge_and_the_credit_is_charged_once(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge.top_up_states, "apply", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        assert (charged(payer), payer.balance) == (["pending"], 5)
        sweep(NOW + 3 * MINUTE)
        assert (charged(payer), payer.balance) == (["paid"], 55)
        assert len(_payments(stripe_sandbox, payer)) == 1

    def test_at_the_provider_before_it_was_charged_is_charged_when_it_is_back(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        set_recharge(payer)
        stripe_sandbox.fail_next("cut", times=10, path="/v1/payment_intents")
        assert sweep().failed == 1
        assert (charged(payer), payer.balance) == (["pending"], 5)
        for minute in range(2, 20):
            sweep(NOW + minute * MINUTE)
        assert (charged(payer), payer.balance, len(_payments(stripe_sandbox, payer))) == (["paid"], 55, 1)

    def test_at_the_provider_after_it_was_charged_is_found(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        set_recharge(payer)
        stripe_sandbox.fail_next("error_after", method="POST", path="/v1/payment_intents")
        sweep()
        assert (charged(payer), payer.balance, len(_payments(stripe_sandbox, payer))) == (["paid"], 55, 1)

    def test_and_was_credited_by_the_webhook_meanwhile_is_left_as_it_is(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge.top_up_states, "apply", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        (payment,) = _payments(stripe_sandbox, payer)
        assert top_ups.sync_intent(payment, NOW) == "paid"
        sweep(NOW + 3 * MINUTE)
        assert (charged(payer), payer.balance) == (["paid"], 55)

    def test_and_is_found_after_a_day_is_credited_and_not_charged_anew(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge.top_up_states, "apply", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        sweep(NOW + 2 * DAY)
        assert (charged(payer), payer.balance, len(charge_calls(stripe_sandbox))) == (["paid"], 55, 1)

    def test_and_was_never_sent_is_not_charged_a_day_later(self, payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge, "_charge", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        sweep(NOW + 2 * DAY)
        assert charged(payer)[0] == "canceled"
        sweep(NOW + 2 * DAY + MINUTE)
        assert (charged(payer), payer.balance) == (["canceled", "paid"], 55)

    def test_and_is_no_longer_wanted_is_not_charged(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_recharge(payer)
        with monkeypatch.context() as killed:
            killed.setattr(recharge, "_charge", _killed)
            with pytest.raises(KeyboardInterrupt):
                sweep()
        set_recharge(payer, is_on=False)
        sweep(NOW + 3 * MINUTE)
        assert (charged(payer), charge_calls(stripe_sandbox)) == (["canceled"], [])


def test_money_that_was_taken_and_does_not_match_stops_it(payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
    set_recharge(payer)
    with monkeypatch.context() as killed:
        killed.setattr(recharge.top_up_states, "apply", _killed)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    TopUp.objects.filter(customer=payer.customer).update(pay_amount=Decimal(50), currency="EUR")
    (payment,) = recharge.gateway.payment_intents_created(NOW - HOUR, NOW + HOUR)
    assert top_ups.sync_intent(payment.id, NOW).startswith("refused")
    for minute in range(5):
        sweep(NOW + minute * MINUTE)
    assert (charged(payer), payer.balance, rule_of(payer).off_because) == (["refused"], 5, "refused")


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("amount", {"amount": Decimal("4.99")}),
            ("amount", {"amount": Decimal(10_001)}),
            ("amount", {"amount": Decimal("50.001")}),
            ("threshold", {"threshold": Decimal(10_001)}),
            ("monthly_cap", {"monthly_cap": Decimal(49)}),
            ("payment_method", {"method": "pmt_0000000000000000"}),
        ],
    )
    def test_a_rule_that_can_t_be_is_refused_by_its_field(
        self, payer: Payer, field: str, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(recharge_rules.InvalidRule) as caught:
            set_recharge(payer, **wrong)
        assert caught.value.field == field
        assert not Recharge.objects.exists()

    def test_there_is_no_rule_without_a_card(self, stripe_sandbox: StripeSandbox) -> None:
        with pytest.raises(recharge_rules.InvalidRule, match="save a card first"):
            set_recharge(make_payer())

    def test_what_is_to_be_off_need_not_be_within_limits_that_have_changed(self, payer: Payer) -> None:
        set_recharge(payer)
        OperatorSettings.objects.update(top_up_maximum=Decimal(40))
        assert set_recharge(payer, is_on=False).off_because == "customer"


def test_a_card_that_declines_later_is_a_decline(stripe_sandbox: StripeSandbox) -> None:
    payer = make_payer(credit="5")
    save_card(payer, stripe_sandbox, card=DECLINES_LATER)
    set_recharge(payer)
    sweep()
    assert (charged(payer), rule_of(payer).failures) == (["failed"], 1)


def _killed(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def _payments(stripe: StripeSandbox, payer: Payer) -> list[str]:
    """The payments that the provider has for this customer."""
    made = recharge.gateway.payment_intents_created(NOW - DAY, NOW + DAY)
    return [one.id for one in made if one.metadata.get("customer") == payer.customer.public_id]
