"""Saved cards: what the provider says, and removals that survive a crash."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError

from billing import payment_accounts, saved_methods, stripe_gateway, top_ups
from billing.models import PaymentAccount, PaymentMethod
from tests.payments_sandbox import StripeSandbox
from tests.saved_cards import rule_of, save_card, set_recharge
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)


def cards_of(payer: Payer) -> list[tuple[str, bool]]:
    return [(method.last4, method.is_default) for method in saved_methods.saved(payer.customer.pk)]


def state(method: PaymentMethod, **changes: Any) -> stripe_gateway.PaymentMethod:
    """What the provider could say of a card."""
    said: dict[str, Any] = {
        "id": method.stripe_id,
        "type": "card",
        "brand": "visa",
        "last4": "4242",
        "exp_month": 8,
        "exp_year": 2034,
        "fingerprint": "f",
        "stripe_customer": payment_accounts.find(method.customer_id),
    }
    return stripe_gateway.PaymentMethod(**{**said, **changes})


class TestWhatTheProviderSays:
    def test_a_saved_card_is_known_by_its_brand_and_last_digits_and_the_first_is_the_default(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_payer()
        first = save_card(payer, stripe_sandbox)
        save_card(payer, stripe_sandbox, card="5555555555554444")
        assert cards_of(payer) == [("4242", True), ("4444", False)]
        assert (str(first), first.exp_year, first.is_sandbox) == ("visa •••• 4242", 2034, True)

    def test_said_twice_it_is_saved_once_and_brought_up_to_date(self, stripe_sandbox: StripeSandbox) -> None:
        card = save_card(make_payer(), stripe_sandbox)
        assert saved_methods.apply(state(card, exp_year=2040), at=NOW) == "saved before"
        (only,) = PaymentMethod.objects.filter(customer_id=card.customer_id)
        assert only.exp_year == 2040

    def test_a_setup_that_succeeded_saves_its_card(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        url = _setup(payer)
        assert url.startswith("http")
        session = stripe_gateway.checkout(_sessions(stripe_sandbox)[0])
        assert (session.mode, saved_methods.sync_setup_intent(session.setup_intent or "", at=NOW)) == (
            "setup",
            "setup is requires_payment_method",
        )
        stripe_sandbox.pay(session.id)
        assert saved_methods.sync_setup_intent(session.setup_intent or "", at=NOW) == "saved"
        assert cards_of(payer) == [("4242", True)]

    def test_nobody_s_card_and_what_is_no_card_are_left_alone(self, stripe_sandbox: StripeSandbox) -> None:
        card = save_card(make_payer(), stripe_sandbox)
        assert saved_methods.apply(state(card, id="pm_2", stripe_customer="cus_x"), at=NOW).startswith("no customer")
        assert saved_methods.apply(state(card, id="pm_2", stripe_customer=None), at=NOW).startswith("no customer")
        assert saved_methods.apply(state(card, id="pm_2", type="link"), at=NOW) == "not a card"
        assert PaymentMethod.objects.count() == 1

    def test_detached_there_it_is_removed_here_and_the_recharge_that_used_it_is_off(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_payer()
        card = save_card(payer, stripe_sandbox)
        set_recharge(payer)
        stripe_sandbox.detach(card.stripe_id)
        assert saved_methods.sync(card.stripe_id, at=NOW) == "removed"
        assert cards_of(payer) == []
        assert (rule_of(payer).is_on, rule_of(payer).off_because) == (False, "removed")
        assert rule_of(payer).off_message == "The card visa •••• 4242 was removed. Choose another one to go on."

    def test_what_was_read_before_the_removal_does_not_bring_it_back(self, stripe_sandbox: StripeSandbox) -> None:
        card = save_card(make_payer(), stripe_sandbox)
        attached = saved_methods.read(card.stripe_id)
        saved_methods.apply(state(card, stripe_customer=None), at=NOW)
        assert saved_methods.apply(attached, at=NOW) == "removed before"
        card.refresh_from_db()
        assert card.removed_at is not None

    def test_a_card_of_another_mode_is_not_listed(self, stripe_sandbox: StripeSandbox, settings: Any) -> None:
        payer = make_payer()
        save_card(payer, stripe_sandbox)
        settings.STRIPE_SECRET_KEY = "sk_live_0123456789"
        assert cards_of(payer) == []


class TestRemoving:
    def test_takes_it_away_here_and_there_and_proposes_the_newest_other(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        first, _, third = (save_card(payer, stripe_sandbox) for _ in range(3))
        saved_methods.remove(customer_id=payer.customer.pk, public_id=first.public_id, at=NOW)
        first.refresh_from_db()
        assert (first.removed_at, first.is_default, first.look_at) == (NOW, False, None)
        assert saved_methods.read(first.stripe_id).stripe_customer is None
        assert saved_methods.saved(payer.customer.pk)[0] == third

    def test_that_the_provider_did_not_hear_is_told_again(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        card = save_card(payer, stripe_sandbox)
        stripe_sandbox.fail_next("cut", path="/v1/payment_methods")
        saved_methods.remove(customer_id=payer.customer.pk, public_id=card.public_id, at=NOW)
        assert cards_of(payer) == []
        assert saved_methods.read(card.stripe_id).stripe_customer is not None
        assert saved_methods.sync(card.stripe_id, at=NOW) == "removed before"
        assert saved_methods.sweep(at=NOW) == saved_methods.Swept()
        assert saved_methods.sweep(at=NOW + MINUTE).detached == 1
        assert saved_methods.read(card.stripe_id).stripe_customer is None
        assert saved_methods.sweep(at=NOW + 2 * MINUTE) == saved_methods.Swept()

    def test_that_was_done_there_before_is_done(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        card = save_card(payer, stripe_sandbox)
        stripe_sandbox.detach(card.stripe_id)
        saved_methods.remove(customer_id=payer.customer.pk, public_id=card.public_id, at=NOW)
        card.refresh_from_db()
        assert (card.removed_at, card.look_at) == (NOW, None)

    def test_of_what_is_removed_or_another_customer_s_is_refused(self, stripe_sandbox: StripeSandbox) -> None:
        ada, bob = make_payer(), make_payer()
        card = save_card(ada, stripe_sandbox)
        with pytest.raises(saved_methods.UnknownMethod):
            saved_methods.remove(customer_id=bob.customer.pk, public_id=card.public_id, at=NOW)
        saved_methods.remove(customer_id=ada.customer.pk, public_id=card.public_id, at=NOW)
        with pytest.raises(saved_methods.UnknownMethod):
            saved_methods.remove(customer_id=ada.customer.pk, public_id=card.public_id, at=NOW)
        with pytest.raises(saved_methods.UnknownMethod):
            saved_methods.set_default(customer_id=ada.customer.pk, public_id=card.public_id)


class TestTheDefault:
    def test_is_one(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        first, second = (save_card(payer, stripe_sandbox) for _ in range(2))
        saved_methods.set_default(customer_id=payer.customer.pk, public_id=second.public_id)
        assert [method.pk for method in saved_methods.saved(payer.customer.pk)] == [second.pk, first.pk]
        with pytest.raises(IntegrityError, match="one_default_payment_method"):
            PaymentMethod.objects.filter(pk=first.pk).update(is_default=True)


class TestWithoutAnyWebhook:
    def test_a_card_saved_on_a_page_is_found_by_the_sweep(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer()
        _setup(payer)
        stripe_sandbox.pay(_sessions(stripe_sandbox)[0])
        assert saved_methods.sweep(at=NOW + MINUTE).looked_at == 0
        assert saved_methods.sweep(at=NOW + 2 * MINUTE).looked_at == 1
        assert cards_of(payer) == [("4242", True)]

    def test_it_is_looked_for_less_and_less_often_and_no_longer_than_the_page_lives(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_payer()
        _setup(payer)
        looks = [minute for minute in range(3 * 24 * 60) if saved_methods.sweep(at=NOW + minute * MINUTE).looked_at]
        assert looks == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
        assert PaymentAccount.objects.get(customer=payer.customer).cards_look_at is None

    def test_a_card_kept_while_paying_is_found_too(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_payer(credit="0")
        row = top_ups.start(
            customer_id=payer.customer.pk,
            amount=Decimal(10),
            currency="USD",
            save_card=True,
            return_url="http://testserver/payments/return",
            asked_by="",
            at=NOW,
        )
        session = top_ups.open_checkout(top_up_id=row.pk, at=NOW).session_id or ""
        stripe_sandbox.pay(session)
        saved_methods.sweep(at=NOW + 2 * MINUTE)
        assert cards_of(payer) == [("4242", True)]


def _setup(payer: Payer) -> str:
    return saved_methods.start_setup(
        customer_id=payer.customer.pk,
        key=None,
        success_url="http://testserver/payments/card?saved",
        cancel_url="http://testserver/payments/card",
        at=NOW,
    )


def _sessions(stripe: StripeSandbox) -> list[str]:
    made = stripe_gateway.checkouts_created(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    return [session.id for session in made]
