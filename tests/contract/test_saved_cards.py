"""/payment-methods, /recharge and /top-ups/{id}/receipt, as a customer's program sees them."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from django.test import Client
from pypdf import PdfReader

from billing import receipts, recharge, stripe_gateway
from billing.models import AccessToken, Customer, OperatorSettings, PaymentMethod, TopUp
from tests.contract.test_openapi import assert_fits
from tests.payments_sandbox import StripeSandbox
from tests.saved_cards import charges_of, rule_of, save_card
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db

RULE = {"enabled": True, "threshold": "20", "amount": "50.00", "monthly_cap": "200.00"}


@pytest.fixture
def payer(stripe_sandbox: StripeSandbox) -> Payer:
    """Owns 5 USD and a saved card."""
    payer = make_payer(credit="5")
    save_card(payer, stripe_sandbox)
    return payer


def put(payer: Payer, body: Any = RULE, **headers: str) -> Answer:
    return CustomerApi(payer).send("PUT", "recharge", body, **headers)


class TestPaymentMethods:
    def test_are_listed_with_the_default_one_first(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        other = save_card(payer, stripe_sandbox, card="5555555555554444")
        answer = CustomerApi(payer).get("payment-methods")
        assert_fits(answer, "GET", "payment-methods")
        first, second = answer.body["data"]
        assert (first["last4"], first["is_default"], first["brand"], first["exp_year"]) == ("4242", True, "visa", 2034)
        assert (second["id"], second["is_default"]) == (other.public_id, False)
        assert "pm_" not in json.dumps(answer.body).replace("pmt_", "")

    def test_setup_opens_a_page_on_which_a_card_is_saved(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        answer = CustomerApi(payer).send("POST", "payment-methods/setup", **{"Idempotency-Key": "k"})
        assert answer.status == 201
        assert_fits(answer, "POST", "payment-methods/setup")
        again = CustomerApi(payer).send("POST", "payment-methods/setup", **{"Idempotency-Key": "k"})
        assert again.body == answer.body
        asked = [one["params"] for one in stripe_sandbox.requests() if one["path"] == "/v1/checkout/sessions"]
        assert (asked[0]["mode"], asked[0]["success_url"]) == ("setup", "http://testserver/payments/card?saved")

    def test_the_default_one_can_be_another(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        other = save_card(payer, stripe_sandbox)
        answer = CustomerApi(payer).send("POST", f"payment-methods/{other.public_id}/default")
        assert (answer.status, answer.body["is_default"]) == (200, True)
        assert_fits(Answer(answer.status, answer.body, answer.headers), "POST", "payment-methods/{method_id}/default")

    def test_one_is_removed_once(self, payer: Payer) -> None:
        (card,) = PaymentMethod.objects.filter(customer=payer.customer)
        answer = CustomerApi(payer).send("DELETE", f"payment-methods/{card.public_id}")
        assert_fits(answer, "DELETE", "payment-methods/{method_id}")
        assert (answer.status, answer.body["id"], answer.body["is_default"]) == (200, card.public_id, False)
        assert answer.body["removed_at"]
        assert CustomerApi(payer).get("payment-methods").body["data"] == []
        again = CustomerApi(payer).send("DELETE", f"payment-methods/{card.public_id}")
        assert (again.status, again.body) == (200, answer.body)
        assert stripe_gateway.payment_method(card.stripe_id).stripe_customer is None

    def test_another_customer_s_is_not_there(self, payer: Payer) -> None:
        (card,) = PaymentMethod.objects.filter(customer=payer.customer)
        other = CustomerApi(make_payer())
        assert other.send("DELETE", f"payment-methods/{card.public_id}").code == "payment_method_not_found"
        assert other.send("POST", f"payment-methods/{card.public_id}/default").code == "payment_method_not_found"
        assert other.get("payment-methods").body["data"] == []

    @pytest.mark.parametrize(("method", "path"), [("POST", "payment-methods/setup"), ("DELETE", "payment-methods/{}")])
    def test_without_a_provider_503(self, payer: Payer, settings: Any, method: str, path: str) -> None:
        (card,) = PaymentMethod.objects.filter(customer=payer.customer)
        settings.STRIPE_SECRET_KEY = ""
        answer = CustomerApi(payer).send(method, path.format(card.public_id))
        assert (answer.status, answer.code) == (503, "payments_not_configured")
        card.refresh_from_db()
        assert card.removed_at is None

    def test_a_provider_that_is_away_503(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        stripe_sandbox.fail_next("cut", path="/v1/checkout/sessions")
        answer = CustomerApi(payer).send("POST", "payment-methods/setup")
        assert (answer.status, answer.code) == (503, "payment_provider_unavailable")
        assert answer.headers["Retry-After"] == "60"

    def test_a_suspended_customer_can_remove_one_and_save_none(self, payer: Payer) -> None:
        (card,) = PaymentMethod.objects.filter(customer=payer.customer)
        Customer.objects.filter(pk=payer.customer.pk).update(status="suspended")
        assert CustomerApi(payer).send("POST", "payment-methods/setup").code == "customer_suspended"
        assert CustomerApi(payer).send("DELETE", f"payment-methods/{card.public_id}").status == 200


class TestRecharge:
    def test_is_off_and_empty_at_first(self, payer: Payer) -> None:
        answer = CustomerApi(payer).get("recharge")
        assert_fits(answer, "GET", "recharge")
        assert (answer.body["enabled"], answer.body["amount"], answer.body["off_because"]) == (False, None, None)

    def test_set_it_charges_the_default_card(self, payer: Payer) -> None:
        answer = put(payer)
        assert_fits(answer, "PUT", "recharge")
        assert {**answer.body, "payment_method": None} == {
            "enabled": True,
            "threshold": "20.000000",
            "amount": "50.000000",
            "monthly_cap": "200.000000",
            "payment_method": None,
            "failures": 0,
            "next_try_at": None,
            "waits_for_you": False,
            "off_because": None,
            "off_message": None,
            "currency": "USD",
        }
        assert answer.body["payment_method"] == PaymentMethod.objects.get(customer=payer.customer).public_id
        assert CustomerApi(payer).get("recharge").body == answer.body
        recharge.sweep(at=datetime.now(UTC))
        assert payer.balance == 55

    def test_switched_off_it_says_by_whom(self, payer: Payer) -> None:
        put(payer)
        answer = put(payer, {**RULE, "enabled": False})
        assert (answer.body["enabled"], answer.body["off_because"]) == (False, "customer")

    @pytest.mark.parametrize(
        ("param", "wrong"),
        [
            ("amount", {"amount": "1.00"}),
            ("amount", {"amount": 50}),
            ("amount", {"amount": "50.001"}),
            ("amount", {"amount": None}),
            ("threshold", {"threshold": "-1"}),
            ("threshold", {"threshold": "999999"}),
            ("monthly_cap", {"monthly_cap": "10.00"}),
            ("payment_method", {"payment_method": "pmt_1"}),
            ("payment_method", {"payment_method": 7}),
            ("enabled", {"enabled": "perhaps"}),
            ("cap", {"cap": "1"}),
        ],
    )
    def test_what_can_t_be_is_refused_by_its_field(self, payer: Payer, param: str, wrong: dict[str, Any]) -> None:
        answer = put(payer, {**RULE, **wrong})
        assert (answer.status, answer.code, answer.body["error"]["param"]) == (400, "invalid_request_error", param)

    def test_another_customer_s_card_is_refused(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        other = save_card(make_payer(), stripe_sandbox)
        answer = put(payer, {**RULE, "payment_method": other.public_id})
        assert (answer.status, answer.body["error"]["param"]) == (400, "payment_method")

    def test_where_it_is_not_offered_it_can_be_switched_off_alone(self, payer: Payer) -> None:
        put(payer)
        OperatorSettings.objects.update(offers_recharge=False)
        assert (put(payer).status, put(payer).code) == (409, "recharge_not_offered")
        assert put(payer, {**RULE, "enabled": False}).status == 200

    def test_the_same_idempotency_key_sets_it_once(self, payer: Payer) -> None:
        first = put(payer, **{"Idempotency-Key": "k"})
        put(payer, {**RULE, "amount": "60.00"})
        assert put(payer, **{"Idempotency-Key": "k"}).body == first.body
        assert rule_of(payer).amount == 60

    def test_it_takes_the_scope_pay(self, payer: Payer) -> None:
        AccessToken.objects.filter(customer=payer.customer).update(scopes=["read", "keys"])
        assert put(payer).code == "insufficient_scope"
        assert CustomerApi(payer).get("recharge").status == 200
        for method, path in (("POST", "payment-methods/setup"), ("DELETE", "payment-methods/pmt_1")):
            assert CustomerApi(payer).send(method, path).code == "insufficient_scope"


class TestReceipt:
    @pytest.fixture
    def paid(self, payer: Payer) -> TopUp:
        put(payer)
        recharge.sweep(at=datetime.now(UTC))
        return charges_of(payer)[0]

    def test_as_json_and_as_pdf_has_the_same_figures(self, payer: Payer, paid: TopUp) -> None:
        answer = CustomerApi(payer).get(f"top-ups/{paid.public_id}/receipt.json")
        assert_fits(answer, "GET", "top-ups/{top_up_id}/receipt.json")
        body = answer.body
        assert (body["paid"], body["credited"], body["currency"], body["rate"]) == ("50.00", "50.00", "USD", "1")
        assert (body["paid_with"], body["is_sandbox"]) == ("Card, visa •••• 4242", True)
        assert body["customer"] == {
            "id": payer.customer.public_id,
            "name": "Ada",
            "email": "",
            "address": "",
            "country": "",
            "tax_number": "",
        }
        pdf = CustomerApi(payer).client.get(f"/api/v1/top-ups/{paid.public_id}/receipt")
        assert (pdf.status_code, pdf.headers["Content-Type"]) == (200, "application/pdf")
        assert pdf.headers["Cache-Control"] == "no-store"
        assert pdf.headers["Content-Disposition"] == f'inline; filename="{body["number"]}.pdf"'
        text = PdfReader(BytesIO(pdf.content)).pages[0].extract_text()
        paid_on = f"Paid on {date.fromisoformat(body['paid_on']):%B %-d, %Y}"
        for shown in (body["number"], body["top_up"], paid_on, body["paid_with"], "Paid 50.00\xa0USD"):
            assert shown in text
        assert "NO REAL MONEY" in text

    def test_there_is_one_before_the_job_has_run_and_it_is_the_job_s_own(self, payer: Payer, paid: TopUp) -> None:
        first = CustomerApi(payer).get(f"top-ups/{paid.public_id}/receipt.json").body
        assert receipts.issue_missing(at=datetime.now(UTC)) == 0
        assert CustomerApi(payer).get(f"top-ups/{paid.public_id}/receipt.json").body == first

    @pytest.mark.parametrize("path", ["receipt", "receipt.json"])
    def test_of_what_is_not_paid_404(self, payer: Payer, path: str) -> None:
        row = TopUp.objects.create(
            customer=payer.customer,
            origin="checkout",
            amount=Decimal(1),
            currency="USD",
            pay_amount=Decimal(1),
            created_at=datetime.now(UTC),
        )
        answer = CustomerApi(payer).get(f"top-ups/{row.public_id}/{path}")
        assert (answer.status, answer.code) == (404, "receipt_not_found")
        assert answer.body["error"]["message"].endswith("is pending; there is a receipt once it is paid.")

    @pytest.mark.parametrize("path", ["receipt", "receipt.json"])
    def test_of_another_customer_404(self, paid: TopUp, path: str) -> None:
        answer = CustomerApi(make_payer()).get(f"top-ups/{paid.public_id}/{path}")
        assert (answer.status, answer.code) == (404, "top_up_not_found")

    def test_nobody_gets_one_without_a_token(self, paid: TopUp) -> None:
        assert Client().get(f"/api/v1/top-ups/{paid.public_id}/receipt").status_code == 401


@pytest.mark.parametrize(("query", "said"), [("?saved", "Your card is saved"), ("", "No card was saved")])
def test_the_page_to_come_back_to_says_what_happened(query: str, said: str, db: None) -> None:
    answer = Client().get(f"/payments/card{query}")
    assert (answer.status_code, said in answer.content.decode()) == (200, True)
