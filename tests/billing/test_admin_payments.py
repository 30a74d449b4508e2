"""Payments in the admin: recorded, approved, asked about, settled; currencies with rates that are only added."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing import closing, top_up_refusals, top_ups
from billing.models import Alarm, ExchangeRate, OperatorSettings, PayCurrency, TopUp
from tests.operator import log_in, make_staff, page, text_of
from tests.paying import add_currency, again, now, open_top_up, start
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="0")


def form(**changes: Any) -> dict[str, Any]:
    today = now().date().isoformat()
    good = {
        "kind": "bank_transfer",
        "pay_amount": "50.00",
        "currency": "USD",
        "reference": "wire 1",
        "received_on": today,
    }
    return {**good, **changes}


def act(payer: Payer) -> str:
    return page(type(payer.customer), "record_payment", payer.customer.pk)


class TestRecording:
    def test_a_payment_is_recorded_from_the_customers_page_once(self, operator: Client, payer: Payer) -> None:
        assert "Record a payment of Ada" in text_of(operator.get(act(payer)))
        answer = operator.post(act(payer), form(), follow=True)
        assert "50.00 USD (wire 1) is credited: 50.000000 USD. The balance is 50.000000 USD." in text_of(answer)
        answer = operator.post(act(payer), form())
        assert "was recorded before, as top_" in text_of(answer)
        assert payer.balance == 50

    def test_or_from_the_list_for_a_customer_who_is_named(self, operator: Client, payer: Payer) -> None:
        url = page(TopUp, "record_payment")
        answer = operator.post(url, form(customer="cus_nobody"))
        assert "There is no customer cus_nobody" in text_of(answer)
        answer = operator.post(url, form(customer=payer.customer.public_id), follow=True)
        assert "is credited: 50.000000 USD" in text_of(answer)
        answer = operator.post(url, form(customer=payer.customer.public_id))
        assert "was recorded before" in text_of(answer)

    def test_what_is_wrong_stands_beside_its_field(self, operator: Client, payer: Payer) -> None:
        for changes, said in (
            ({"pay_amount": "0"}, "must be above zero"),
            ({"rate": "2"}, "1 USD is 1 USD"),
            ({"received_on": "2999-01-01"}, "after today"),
            ({"pay_amount": "ten"}, "plain decimal"),
        ):
            assert said in text_of(operator.post(act(payer), form(**changes))), changes
        assert not TopUp.objects.exists()

    def test_a_large_one_is_approved_by_somebody_else(self, operator: Client, payer: Payer) -> None:
        OperatorSettings.objects.update(second_person_above=10)
        answer = operator.post(act(payer), form(), follow=True)
        assert "waits for a second person" in text_of(answer)
        row = TopUp.objects.get()
        own = operator.get(page(TopUp, "change", row.pk)).content.decode()
        assert page(TopUp, "reject", row.pk) in own
        assert page(TopUp, "approve", row.pk) not in own
        answer = operator.post(page(TopUp, "approve", row.pk), follow=True)
        assert "A second person has to approve it. It goes on waiting." in text_of(answer)
        second = log_in(make_staff(permissions=["billing.view_topup", "billing.record_payment"]))
        home = second.get("/admin/").context["home"]["groups"]
        assert {figure.label: figure.value for group in home for figure in group.figures}["Payments"] == "1"
        assert "Approve 50.00 USD for Ada" in text_of(second.get(page(TopUp, "approve", row.pk)))
        second.post(page(TopUp, "approve", row.pk))
        assert (again(row).status, payer.balance) == ("paid", 50)
        answer = second.post(page(TopUp, "reject", row.pk), {"note": "too late"}, follow=True)
        assert "already" in text_of(answer)

    def test_a_rejected_one_is_struck(self, operator: Client, payer: Payer) -> None:
        OperatorSettings.objects.update(second_person_above=10)
        operator.post(act(payer), form())
        row = TopUp.objects.get()
        operator.post(page(TopUp, "reject", row.pk), {"note": "a typing error"})
        assert (again(row).status, again(row).error_message, payer.balance) == ("canceled", "a typing error", 0)

    def test_it_needs_its_permission(self, payer: Payer) -> None:
        client = log_in(make_staff(permissions=["billing.view_customer", "billing.change_customer"]))
        assert client.post(act(payer), form()).status_code == 403
        assert client.post(page(TopUp, "record_payment"), form()).status_code == 403
        assert not TopUp.objects.exists()


class TestAsking:
    def test_a_pending_one_is_asked_about(self, operator: Client, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        answer = operator.post(page(TopUp, "look", row.pk), follow=True)
        assert "Paid." in text_of(answer)
        assert payer.balance == 10
        shown = text_of(operator.get(page(TopUp, "change", row.pk)))
        for words in ("visa •••• 4242", "0.59 USD", "Credit that it became", f"{row.session_id}"):
            assert words in shown

    def test_what_the_provider_says_instead_is_told(
        self, operator: Client, payer: Payer, stripe_sandbox: StripeSandbox, settings: Any
    ) -> None:
        row = start(payer)
        settings.STRIPE_SECRET_KEY = ""
        answer = operator.post(page(TopUp, "look", row.pk), follow=True)
        assert "Payments are not set up" in text_of(answer)

    def test_refused_money_is_judged_again_or_settled(
        self, operator: Client, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        rows = [open_top_up(payer) for _ in range(2)]
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.EXPIRE,
            release_holds=True,
            reason="gone",
            actor="",
            at=now(),
        )
        for row in rows:
            stripe_sandbox.pay(row.session_id or "")
            top_ups.sync(row.pk, now())
        first, second = rows
        shown = operator.get(page(TopUp, "change", first.pk)).content.decode()
        assert page(TopUp, "judge_again", first.pk) in shown
        assert page(TopUp, "settle", first.pk) in shown
        answer = operator.post(page(TopUp, "settle", first.pk), {"note": "refunded in the dashboard"}, follow=True)
        assert "nothing of it is credited" in text_of(answer)
        closing.reopen(customer_id=payer.customer.pk, reason="back", actor="", at=now())
        for row in rows:
            operator.post(page(TopUp, "judge_again", row.pk))
        assert [again(row).status for row in rows] == ["refused", "paid"]
        assert payer.balance == 10
        assert not Alarm.objects.filter(kind=top_up_refusals.ALARM, resolved_at=None).exists()
        answer = operator.post(page(TopUp, "settle", second.pk), {"note": "x"}, follow=True)
        assert "There is nothing to decide" in text_of(answer)

    def test_who_may_only_look_may_not_ask(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        client = log_in(make_staff(permissions=["billing.view_topup"]))
        assert client.get(page(TopUp, "change", row.pk)).status_code == 200
        for name in ("look", "judge_again", "settle", "approve", "reject"):
            assert client.post(page(TopUp, name, row.pk), {"note": "x"}).status_code == 403


class TestCurrencies:
    def test_a_currency_and_its_rate_are_added(self, operator: Client) -> None:
        operator.post(page(PayCurrency, "add"), {"code": "CNY", "is_offered": "on", "methods": ["alipay"]})
        assert PayCurrency.objects.get(code="CNY").methods == ["alipay"]
        assert "no rate yet" in text_of(operator.get(page(PayCurrency, "changelist")))
        rate = {"currency": "CNY", "per_usd": "7.2", "margin": "0.02", "effective_from": ""}
        assert operator.post(page(ExchangeRate, "add"), rate).status_code == 302
        row = ExchangeRate.objects.get()
        assert (row.per_usd, row.margin) == (Decimal("7.2"), Decimal("0.02"))
        assert row.created_by.startswith("staff-")
        shown = text_of(operator.get(page(PayCurrency, "changelist")))
        assert "7.344" in shown
        assert "no rate yet" not in shown
        assert "holds now" in text_of(operator.get(page(PayCurrency, "change", "CNY")))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"currency": "USD"}, "1 USD is 1 USD"),
            ({"per_usd": "0"}, "above zero"),
            ({"margin": "1"}, "below 1"),
            ({"effective_from": "2020-01-01T00:00:00"}, "in the past"),
        ],
    )
    def test_a_wrong_rate_is_refused_beside_its_field(
        self, operator: Client, changes: dict[str, str], said: str
    ) -> None:
        PayCurrency.objects.create(code="CNY", methods=["alipay"])
        rate = {"currency": "CNY", "per_usd": "7.2", "margin": "0", "effective_from": "", **changes}
        assert said in text_of(operator.post(page(ExchangeRate, "add"), rate))
        assert not ExchangeRate.objects.exists()

    def test_a_rate_is_never_changed_or_deleted(self, operator: Client) -> None:
        add_currency("CNY", "7.2")
        row = ExchangeRate.objects.get()
        assert operator.get(page(ExchangeRate, "change", row.pk)).status_code == 200
        assert operator.post(page(ExchangeRate, "change", row.pk), {"per_usd": "1"}).status_code == 403
        assert operator.post(page(ExchangeRate, "delete", row.pk), {"post": "yes"}).status_code == 403
        assert operator.post(page(PayCurrency, "delete", "CNY"), {"post": "yes"}).status_code == 403


class TestSettings:
    def settings_form(self, operator: Client) -> dict[str, Any]:
        shown = operator.get(page(OperatorSettings, "change", 1)).context["adminform"].form
        values = {name: shown[name].value() for name in shown.fields}
        values["top_up_presets"] = "\n".join(values["top_up_presets"].splitlines())
        return {name: "" if value is None else value for name, value in values.items()}

    def test_limits_presets_and_bonus_are_set(self, operator: Client) -> None:
        posted = self.settings_form(operator) | {
            "top_up_minimum": "1",
            "top_up_presets": "1.00\n25.00",
            "first_bonus_percent": "12.5",
            "first_bonus_maximum": "20",
        }
        assert operator.post(page(OperatorSettings, "change", 1), posted).status_code == 302
        row = OperatorSettings.objects.get()
        assert (row.top_up_minimum, row.top_up_presets) == (1, ["1.00", "25.00"])
        assert (row.first_bonus_percent, row.first_bonus_maximum) == (Decimal("12.5"), 20)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"top_up_minimum": "0"}, "It must be above zero."),
            ({"top_up_maximum": "1"}, "It must not be below the smallest."),
            ({"top_up_presets": "ten"}, "ten: an amount must be"),
            ({"top_up_presets": "1.001"}, "whole cents"),
            ({"first_bonus_percent": "-1"}, "from 0 to below 1000"),
            ({"first_bonus_percent": "1.001"}, "two decimals"),
            ({"first_bonus_maximum": "0"}, "above zero, in whole cents"),
        ],
    )
    def test_what_can_not_be_is_refused(self, operator: Client, changes: dict[str, str], said: str) -> None:
        posted = self.settings_form(operator) | changes
        assert said in text_of(operator.post(page(OperatorSettings, "change", 1), posted))
