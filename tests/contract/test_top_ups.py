"""/api/v1/top-ups: start a payment, see what became of it; refusals name what is wrong."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.test import Client

from billing import closing, received, return_page, suspension, top_ups
from billing.manual import Person
from billing.models import AccessToken, AccountChange, Membership, OperatorSettings, TopUp
from tests.operator import make_staff
from tests.paying import add_currency, again, now, open_top_up, start, sync
from tests.payments_sandbox import StripeSandbox
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="0")


def top_up(payer: Payer, amount: Any = "10.00", headers: dict[str, str] | None = None, **body: Any) -> Answer:
    return CustomerApi(payer).send("POST", "top-ups", {"amount": amount, **body}, **(headers or {}))


def pages(stripe_sandbox: StripeSandbox) -> int:
    """How many pages were opened."""
    asked = [call for call in stripe_sandbox.requests() if call["path"] == "/v1/checkout/sessions"]
    return len({call["key"] for call in asked if call["method"] == "POST"})


def asked_about(stripe_sandbox: StripeSandbox, row: TopUp) -> list[str]:
    """The calls that read this top-up's session."""
    wanted = f"/v1/checkout/sessions/{row.session_id}"
    return [call["path"] for call in stripe_sandbox.requests() if (call["method"], call["path"]) == ("GET", wanted)]


def second(number: int) -> datetime:
    """So many seconds after this minute began."""
    return now().replace(second=0, microsecond=0) + timedelta(seconds=number)


class TestStarting:
    def test_a_top_up_is_pending_with_a_page_to_pay_on(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        answer = top_up(payer)
        assert answer.status == 201
        assert answer.body["id"].startswith("top_")
        assert {name: answer.body[name] for name in ("status", "amount", "currency")} == {
            "status": "pending",
            "amount": "10.000000",
            "currency": "USD",
        }
        assert answer.body["checkout_url"].startswith(f"{stripe_sandbox.address}/")
        row = TopUp.objects.get(public_id=answer.body["id"])
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        body = CustomerApi(payer).get(f"top-ups/{row.public_id}").body
        assert (body["status"], body["checkout_url"], body["method_detail"]) == ("paid", None, "visa •••• 4242")
        assert body["grant"] == CustomerApi(payer).get("balance").body["grants"][0]["id"]
        assert (payer.balance, body["sandbox"], body["refunded"]) == (10, True, "0.000000")

    def test_in_another_currency_the_answer_says_what_is_paid_at_which_rate(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        add_currency("CNY", "7.2", "0.02", methods=("alipay",))
        body = top_up(payer, currency="CNY").body
        assert (body["amount"], body["currency"], body["pay_amount"], body["rate"]) == (
            "10.000000",
            "CNY",
            "73.44",
            "7.344",
        )

    def test_where_payments_are_not_set_up_it_says_so(self, payer: Payer, settings: Any) -> None:
        settings.STRIPE_SECRET_KEY = ""
        answer = top_up(payer)
        assert (answer.status, answer.code) == (503, "payments_not_configured")
        assert not TopUp.objects.exists()
        assert CustomerApi(payer).get("top-ups/options").body["available"] is False

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"amount": "4.99"}, "amount", "amount_too_small"),
            ({"amount": "10000.01"}, "amount", "amount_too_large"),
            ({"amount": 10}, "amount", "invalid_request_error"),
            ({"amount": "10.001"}, "amount", "invalid_request_error"),
            ({"amount": "0"}, "amount", "invalid_request_error"),
            ({"amount": "-10"}, "amount", "invalid_request_error"),
            ({"amount": "1e1"}, "amount", "invalid_request_error"),
            ({}, "amount", "invalid_request_error"),
            ({"amount": "10", "currency": "XXX"}, "currency", "currency_not_supported"),
            ({"amount": "10", "currency": "usd"}, "currency", "invalid_request_error"),
            ({"amount": "10", "currency": 7}, "currency", "invalid_request_error"),
            ({"amount": "10", "save_card": "maybe"}, "save_card", "invalid_request_error"),
            ({"amount": "10", "colour": "red"}, "colour", "invalid_request_error"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, payer: Payer, stripe_sandbox: StripeSandbox, body: dict[str, Any], param: str, code: str
    ) -> None:
        answer = CustomerApi(payer).send("POST", "top-ups", body)
        assert (answer.status, answer.code, answer.body["error"]["param"]) == (400, code, param)
        assert not TopUp.objects.exists()
        assert stripe_sandbox.requests() == []

    def test_a_limit_is_told_in_the_message(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        OperatorSettings.objects.update(top_up_minimum="20")
        assert "20.000000 USD" in top_up(payer).body["error"]["message"]


class TestTwice:
    def test_the_same_key_starts_one_top_up_and_gets_the_first_answer_again(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        key = {"Idempotency-Key": "k1"}
        first, second = top_up(payer, headers=key), top_up(payer, headers=key)
        assert (first.status, second.status) == (201, 201)
        assert first.body == second.body
        assert second.headers["Idempotent-Replayed"] == "true"
        assert (TopUp.objects.count(), pages(stripe_sandbox)) == (1, 1)
        row = TopUp.objects.get()
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        assert top_up(payer, headers=key).body == first.body

    def test_the_same_key_for_another_amount_is_a_conflict(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        top_up(payer, headers={"Idempotency-Key": "k1"})
        answer = top_up(payer, "20", headers={"Idempotency-Key": "k1"})
        assert (answer.status, answer.code) == (409, "idempotency_conflict")

    def test_while_the_provider_is_away_the_row_is_kept_and_the_same_key_goes_on_with_it(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        stripe_sandbox.fail_next("cut", path="/v1/checkout/sessions")
        answer = top_up(payer, headers={"Idempotency-Key": "k1"})
        assert (answer.status, answer.code) == (503, "payment_provider_unavailable")
        assert answer.headers["Retry-After"] == "60"
        row = TopUp.objects.get()
        assert row.public_id in answer.body["error"]["message"]
        assert CustomerApi(payer).get(f"top-ups/{row.public_id}").body["checkout_url"] is None
        again_answer = top_up(payer, headers={"Idempotency-Key": "k1"})
        assert (again_answer.status, again_answer.body["id"]) == (201, row.public_id)
        assert again_answer.body["checkout_url"]
        assert top_up(payer, headers={"Idempotency-Key": "k1"}).body == again_answer.body

    def test_the_sweep_goes_on_with_it_too(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        stripe_sandbox.fail_next("cut", path="/v1/customers")
        assert top_up(payer).status == 503
        top_ups.sweep(at=now() + timedelta(minutes=2))
        (body,) = CustomerApi(payer).get("top-ups").body["data"]
        assert (body["status"], bool(body["checkout_url"])) == ("pending", True)

    def test_what_the_provider_refuses_has_failed_and_says_so_again(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        add_currency("HUF", "390")  # which the account does not take
        for _ in range(2):
            answer = top_up(payer, currency="HUF", headers={"Idempotency-Key": "k1"})
            assert (answer.status, answer.code) == (502, "payment_provider_error")
        row = TopUp.objects.get()
        assert (row.status, row.look_at) == ("failed", None)


class TestWhoMay:
    @pytest.mark.parametrize(("scopes", "status"), [(["pay"], 201), (["read"], 403), (["keys"], 403)])
    def test_paying_needs_its_scope(
        self, payer: Payer, stripe_sandbox: StripeSandbox, scopes: list[str], status: int
    ) -> None:
        AccessToken.objects.update(scopes=scopes)
        assert top_up(payer).status == status

    @pytest.mark.parametrize(
        ("role", "status"), [("owner", 201), ("billing", 201), ("developer", 403), ("viewer", 403)]
    )
    def test_members_pay_by_their_role(
        self, payer: Payer, stripe_sandbox: StripeSandbox, role: str, status: int
    ) -> None:
        user = make_staff()
        Membership.objects.create(customer=payer.customer, user=user, role=role)
        client = Client()
        client.force_login(user)
        answer = client.post("/api/v1/top-ups", {"amount": "10.00"}, content_type="application/json")
        assert answer.status_code == status
        if status == 201:
            assert TopUp.objects.get().asked_by == user.username

    def test_the_suspended_may_pay_and_the_closed_may_not(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        user = make_staff()
        Membership.objects.create(customer=payer.customer, user=user)
        client = Client()
        client.force_login(user)
        suspension.suspend(
            customer_id=payer.customer.pk, cause=AccountChange.Cause.DEBT, reason="owes", actor="", at=now()
        )
        assert top_up(payer).status == 201
        closing.close(
            customer_id=payer.customer.pk,
            paid_credit=closing.PaidCredit.EXPIRE,
            release_holds=True,
            reason="gone",
            actor="",
            at=now(),
        )
        answer = client.post("/api/v1/top-ups", {"amount": "10.00"}, content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "customer_closed")

    def test_another_customers_is_not_there(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        other = CustomerApi(make_payer(credit="0", name="Bob"))
        for public_id in (row.public_id, "top_0", "x"):
            assert (other.get(f"top-ups/{public_id}").status) == 404
        assert other.get("top-ups").body["data"] == []


class TestHistory:
    def test_it_is_paged_newest_first_with_everything_that_was_paid_in(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        rows = [start(payer) for _ in range(2)]
        by_hand = received.record(
            customer_id=payer.customer.pk,
            payment=received.Payment("bank_transfer", Decimal(7), "USD", "wire 9", datetime.now(UTC).date()),
            person=Person(None, "olga"),
            at=now(),
        )
        api = CustomerApi(payer)
        first = api.get("top-ups", limit="2").body
        second = api.get("top-ups", limit="2", cursor=first["next_cursor"]).body
        listed = [row["id"] for row in first["data"] + second["data"]]
        assert listed == [by_hand.public_id, rows[1].public_id, rows[0].public_id]
        assert (first["has_more"], second["has_more"]) == (True, False)
        assert (first["data"][0]["origin"], first["data"][0]["reference"]) == ("bank_transfer", "wire 9")
        assert [row["id"] for row in api.get("top-ups", status="paid").body["data"]] == [by_hand.public_id]
        assert api.get("top-ups", status="lost").status == 400

    def test_what_went_back_of_a_payment_stands_beside_it(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        for number, status in enumerate(("pending", "succeeded", "failed")):
            again(row).refunds.create(
                customer=payer.customer,
                origin="operator",
                status=status,
                amount=2,
                currency="USD",
                pay_amount=2,
                key=str(number),
                transfer_id=number,
                ended_at=None if status == "pending" else now(),
                reason="r",
                created_at=now(),
            )
        assert CustomerApi(payer).get(f"top-ups/{row.public_id}").body["refunded"] == "4.000000"

    def test_options_tell_what_can_be_paid(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        add_currency("JPY", "151.25", "0.02")
        OperatorSettings.objects.update(top_up_presets=["5.00", "25.00"])
        assert CustomerApi(payer).get("top-ups/options").body == {
            "available": True,
            "sandbox": True,
            "tax": None,
            "minimum": "5.000000",
            "maximum": "10000.000000",
            "presets": ["5.000000", "25.000000"],
            "currencies": [
                {"currency": "USD", "methods": ["card", "alipay", "wechat_pay"], "rate": "1", "decimals": 2},
                {"currency": "JPY", "methods": ["card"], "rate": "154.275", "decimals": 0},
            ],
        }


class TestReturnPage:
    def test_who_has_paid_reads_so_and_has_the_credit_at_once(
        self, payer: Payer, stripe_sandbox: StripeSandbox
    ) -> None:
        row = open_top_up(payer)
        url = f"/payments/return?session_id={row.session_id}"
        page = Client().get(url)
        assert "We wait for your payment" in page.content.decode()
        assert 'http-equiv="refresh"' in page.content.decode()
        stripe_sandbox.pay(row.session_id or "", method="alipay")
        page = Client().get(url)
        assert page.status_code == 200
        text = page.content.decode()
        assert "Thank you, your credit is there" in text
        assert "no real money" in text
        assert "refresh" not in text
        assert page.headers["Cache-Control"] == "no-store"
        assert payer.balance == 10
        Client().get(url)
        assert payer.balance == 10

    def test_what_the_address_says_credits_nothing(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        for url in (
            f"session_id={row.session_id}&status=paid&payment_status=paid",
            f"canceled={row.public_id}&session_id=",
        ):
            assert Client().get(f"/payments/return?{url}").status_code == 200
        assert (again(row).status, payer.balance) == ("pending", 0)

    @pytest.mark.parametrize(
        "query", ["", "session_id=cs_test_unknown", "canceled=top_unknown", "session_id=%00", "canceled=%00&x=1"]
    )
    def test_an_unknown_payment_asks_nobody(self, stripe_sandbox: StripeSandbox, query: str) -> None:
        page = Client().get(f"/payments/return?{query}")
        assert page.status_code == 404
        assert b"know this payment" in page.content
        assert stripe_sandbox.requests() == []

    def test_who_came_back_without_paying_can_go_on(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        text = Client().get(f"/payments/return?canceled={row.public_id}").content.decode()
        assert "Nothing was paid" in text
        assert row.checkout_url in text

    @pytest.mark.parametrize(
        ("deed", "said"),
        [
            ("expire", "The payment page has expired"),
            ("slow", "Your payment is on its way"),
            ("lost", "The payment did not go through"),
        ],
    )
    def test_it_says_in_plain_words_what_happened(
        self, payer: Payer, stripe_sandbox: StripeSandbox, deed: str, said: str
    ) -> None:
        row = open_top_up(payer)
        if deed == "expire":
            stripe_sandbox.expire(row.session_id or "")
        else:
            intent = stripe_sandbox.pay(row.session_id or "", method="alipay", outcome="slow")["payment_intent"]
            if deed == "lost":
                stripe_sandbox.settle(intent, arrives=False)
        assert said in Client().get(f"/payments/return?session_id={row.session_id}").content.decode()
        assert payer.balance == 0

    def test_while_the_provider_is_away_it_waits(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        stripe_sandbox.pay(row.session_id or "")
        stripe_sandbox.fail_next("cut", method="GET")
        url = f"/payments/return?session_id={row.session_id}"
        assert "We wait for your payment" in Client().get(url).content.decode()
        assert "refresh" not in Client().get(f"{url}&turn=60").content.decode()
        assert payer.balance == 10

    def test_who_asks_again_and_again_is_answered_without_asking_the_provider(
        self, payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(return_page, "ASKED_A_MINUTE_MAX", 2)
        row, other = open_top_up(payer), open_top_up(payer)
        with time_machine.travel(second(1), tick=False):
            for _ in range(4):
                page = Client().get(f"/payments/return?session_id={row.session_id}")
                assert "We wait for your payment" in page.content.decode()
            assert len(asked_about(stripe_sandbox, row)) == 2
            Client().get(f"/payments/return?session_id={other.session_id}")
            assert len(asked_about(stripe_sandbox, other)) == 1, "others are not slowed down by it"
        with time_machine.travel(second(60), tick=False):
            Client().get(f"/payments/return?session_id={row.session_id}")
        assert len(asked_about(stripe_sandbox, row)) == 3

    @pytest.mark.parametrize("path", ["return?session_id=cs_test_guess", "card?saved=1"])
    def test_an_address_that_asks_too_often_waits_and_others_don_t(
        self, db: None, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        monkeypatch.setattr(return_page, "VIEWS_A_MINUTE_MAX", 3)
        address = f"203.0.{secrets.randbelow(250)}.{secrets.randbelow(250)}"
        with time_machine.travel(second(15), tick=False):
            views = [Client(REMOTE_ADDR=address).get(f"/payments/{path}") for _ in range(4)]
            assert [view.status_code == 429 for view in views] == [False, False, False, True]
            assert views[3].headers["Retry-After"] == "45"
            assert "Too many requests" in views[3].content.decode()
            # Each proxy adds whom it saw at the end; what a caller wrote there itself stands before it.
            behind = Client(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR=f"192.0.2.1, {address}")
            assert behind.get(f"/payments/{path}").status_code == 429
            assert Client(REMOTE_ADDR="198.51.100.7").get(f"/payments/{path}").status_code != 429
        with time_machine.travel(second(60), tick=False):
            assert Client(REMOTE_ADDR=address).get(f"/payments/{path}").status_code != 429

    def test_while_redis_is_away_everybody_passes_and_waits_for_nothing(
        self, db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(return_page, "VIEWS_A_MINUTE_MAX", 0)
        cache = settings.CACHES["default"]
        settings.CACHES = {"default": {**cache, "LOCATION": "redis://127.0.0.1:1/0"}}
        began = time.monotonic()
        assert Client().get("/payments/return?session_id=cs_test_guess").status_code == 404
        assert time.monotonic() - began < 2
