"""What the stand-in for Stripe takes and what it refuses, as Stripe's current API does."""

import threading
import time
from typing import Any

import pytest

from tests.sandbox.http import Answer, Stranger

PRICE = "line_items[0][price_data]"
AMOUNT = f"{PRICE}[unit_amount]"
WECHAT_CLIENT = "payment_method_options[wechat_pay][client]"


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer sk_test_other", "Basic c2s6"])
def test_without_the_key_nobody_gets_in(stranger: Stranger, header: str) -> None:
    answer = stranger.ask("GET", "/v1/customers", Authorization=header)
    assert (answer.status, answer.error["type"]) == (401, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/customers", "/", "/sandbox/control/events", "/pay/cs_1"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "10.0.0.1"])
def test_only_this_machines_names_are_served(stranger: Stranger, path: str, host: str) -> None:
    answer = stranger.ask("GET", path, Host=host)
    assert answer.status == 403
    assert "127.0.0.1" in answer.text


def test_another_version_of_the_api_is_refused(stranger: Stranger) -> None:
    assert stranger.ask("GET", "/v1/customers", **{"Stripe-Version": "2020-08-27"}).status == 400


def test_localhost_is_a_name_of_this_machine(stranger: Stranger) -> None:
    assert stranger.ask("GET", "/v1/customers", Host="localhost:1").status == 200


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"payment_method_types[0]": "card"}, "parameter_unknown", "payment_method_types"),
        ({"surprise": "x"}, "parameter_unknown", "surprise"),
        ({"payment_intent_data[metdata][a]": "x"}, "parameter_unknown", "payment_intent_data[metdata]"),
        ({"mode": None}, None, "mode"),
        ({"mode": "subscription"}, None, "mode"),
        ({"success_url": None}, "parameter_missing", "success_url"),
        ({"success_url": "/paid"}, "url_invalid", "success_url"),
        ({"success_url": "javascript:alert(1)"}, "url_invalid", "success_url"),
        ({"customer": "cus_nobody"}, "resource_missing", "customer"),
        ({AMOUNT: 49}, "amount_too_small", AMOUNT),
        ({AMOUNT: 100_000_000}, "amount_too_large", AMOUNT),
        ({AMOUNT: "10.5"}, "parameter_invalid_integer", AMOUNT),
        ({AMOUNT: -5}, "parameter_invalid_integer", AMOUNT),
        ({f"{PRICE}[currency]": "jpy", AMOUNT: 74}, "amount_too_small", AMOUNT),
        ({f"{PRICE}[currency]": "kwd", AMOUNT: 3255}, "parameter_invalid_integer", AMOUNT),
        ({f"{PRICE}[currency]": "xyz"}, None, f"{PRICE}[currency]"),
        ({f"{PRICE}[currency]": "USD"}, None, f"{PRICE}[currency]"),
        ({f"{PRICE}[product_data][name]": None}, "parameter_missing", f"{PRICE}[product_data]"),
        ({"client_reference_id": ""}, "parameter_invalid_empty", "client_reference_id"),
        ({"client_reference_id": "x" * 201}, None, "client_reference_id"),
        ({"metadata[a]": "x" * 501}, None, "metadata[a]"),
        ({f"metadata[{'k' * 41}]": "x"}, None, "metadata"),
        ({f"metadata[{n}]": "x" for n in range(51)}, None, "metadata"),
        ({"metadata": "x"}, None, "metadata"),
        ({"allowed_payment_method_types[0]": "wechat_pay"}, "parameter_missing", WECHAT_CLIENT),
        ({"expires_at": 29 * 60}, None, "expires_at"),
        ({"expires_at": 24 * 3600 + 60}, None, "expires_at"),
        ({"setup_intent_data[description]": "x"}, None, "setup_intent_data"),
        ({"expand[0]": "surprise"}, None, "expand"),
    ],
)
def test_a_session_that_stripe_would_refuse(
    stranger: Stranger, changes: dict[str, Any], code: str | None, param: str
) -> None:
    if "expires_at" in changes:
        changes = {"expires_at": int(time.time()) + changes["expires_at"]}
    answer = stranger.session(**changes)
    assert answer.status == 400
    assert (answer.error.get("code"), answer.error["param"]) == (code, param)
    assert stranger.get("/v1/checkout/sessions").json["data"] == []


@pytest.mark.parametrize(
    ("changes", "offered"),
    [
        ({}, ["card", "alipay", "wechat_pay"]),
        ({f"{PRICE}[currency]": "dkk"}, ["card", "wechat_pay"]),
        ({f"{PRICE}[currency]": "nzd"}, ["card", "alipay"]),
        ({f"{PRICE}[currency]": "inr", AMOUNT: 90000}, ["card"]),
        ({"payment_intent_data[setup_future_usage]": "off_session"}, ["card"]),
        ({"payment_method_options[card][setup_future_usage]": "off_session"}, ["card", "alipay", "wechat_pay"]),
    ],
)
def test_methods_that_do_not_fit_vanish_silently(
    stranger: Stranger, changes: dict[str, Any], offered: list[str]
) -> None:
    wanted = {
        "allowed_payment_method_types[1]": "alipay",
        "allowed_payment_method_types[2]": "wechat_pay",
        "payment_method_options[wechat_pay][client]": "web",
    }
    assert stranger.session(**wanted, **changes).json["payment_method_types"] == offered


def test_unknown_paths_methods_and_ids_are_404(stranger: Stranger) -> None:
    assert stranger.get("/v1/surprises").status == 404
    assert stranger.get("/v1/refunds/re_nothing").error["code"] == "resource_missing"
    assert stranger.get("/v1/customers/pm_1").status == 404


# --- idempotency


def test_the_same_key_and_body_get_the_same_answer(stranger: Stranger) -> None:
    first = stranger.post("/v1/customers", {"name": "Acme"}, key="k")
    again = stranger.post("/v1/customers", {"name": "Acme"}, key="k")
    assert (again.status, again.json) == (200, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(stranger.get("/v1/customers").json["data"]) == 1


@pytest.mark.parametrize(
    ("path", "params"), [("/v1/customers", {"name": "Other"}), ("/v1/refunds", {"name": "Acme"}), ("/v1/customers", {})]
)
def test_the_same_key_with_something_else_is_an_error(stranger: Stranger, path: str, params: dict[str, str]) -> None:
    stranger.post("/v1/customers", {"name": "Acme"}, key="k")
    answer = stranger.post(path, params, key="k")
    assert (answer.status, answer.error["type"]) == (400, "idempotency_error")


def test_a_500_is_replayed_and_a_refusal_is_not(stranger: Stranger) -> None:
    assert stranger.post("/v1/customers", {"nam": "Acme"}, key="k").status == 400
    stranger.sandbox.fail_next("error")
    assert stranger.post("/v1/customers", {"name": "Acme"}, key="k").status == 500
    replayed = stranger.post("/v1/customers", {"name": "Acme"}, key="k")
    assert (replayed.status, replayed.headers["idempotent-replayed"]) == (500, "true")
    assert stranger.get("/v1/customers").json["data"] == []
    assert stranger.post("/v1/customers", {"name": "Acme"}, key="another").status == 200


def test_the_same_key_twice_at_once_is_a_conflict(stranger: Stranger) -> None:
    stranger.sandbox.fail_next("slow", seconds=3)
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(stranger.post("/v1/customers", {"name": "Acme"}, key="k"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    conflict = next(answer for answer in answers if answer.status == 409)
    assert conflict.error["code"] == "idempotency_key_in_use"
    assert stranger.post("/v1/customers", {"name": "Acme"}, key="k").headers["idempotent-replayed"] == "true"


def test_a_key_is_at_most_255_characters(stranger: Stranger) -> None:
    assert stranger.post("/v1/customers", key="k" * 255).status == 200
    assert stranger.post("/v1/customers", key="k" * 256).error["type"] == "idempotency_error"


# --- lists


def test_lists_are_newest_first_and_paged_both_ways(stranger: Stranger) -> None:
    made = [stranger.customer() for _ in range(5)][::-1]

    def ids(**params: Any) -> tuple[list[str], bool]:
        page = stranger.get("/v1/customers", **params).json
        return [each["id"] for each in page["data"]], page["has_more"]

    assert ids(limit=2) == (made[:2], True)
    assert ids(limit=2, starting_after=made[1]) == (made[2:4], True)
    assert ids(limit=2, starting_after=made[3]) == (made[4:], False)
    assert ids(limit=2, ending_before=made[3]) == (made[1:3], True)
    assert ids() == (made, False)
    for limit in (0, 101):
        assert stranger.get("/v1/customers", limit=limit).error["param"] == "limit"
    assert stranger.get("/v1/customers", starting_after="cus_nobody").error["code"] == "resource_missing"


def test_lists_are_bounded_by_time(stranger: Stranger) -> None:
    stranger.customer()
    [made] = stranger.get("/v1/customers").json["data"]
    at = made["created"]
    bounds = [
        ({"created": at}, 1),
        ({"created[gte]": at, "created[lt]": at + 1}, 1),
        ({"created[gt]": at - 1, "created[lte]": at}, 1),
        ({"created[gt]": at}, 0),
        ({"created[lt]": at}, 0),
        ({"created": at + 1}, 0),
    ]
    for bound, count in bounds:
        assert len(stranger.get("/v1/customers", **bound).json["data"]) == count, bound
    assert stranger.get("/v1/customers", **{"created[get]": at}).error["param"] == "created[get]"


def test_references_are_expanded_where_asked(stranger: Stranger) -> None:
    session = stranger.session(customer=stranger.customer()).json["id"]
    stranger.sandbox.pay(session)
    path = f"/v1/checkout/sessions/{session}"
    plain = stranger.get(path).json
    assert plain["payment_intent"].startswith("pi_")
    deep = stranger.get(path, **{"expand[]": "payment_intent.latest_charge.balance_transaction"}).json
    assert deep["payment_intent"]["latest_charge"]["balance_transaction"]["fee"] == 59
    listed = stranger.get("/v1/checkout/sessions", **{"expand[0]": "data.customer", "expand[1]": "data.payment_intent"})
    assert [each["customer"]["name"] for each in listed.json["data"]] == ["Acme"]
    assert stranger.get(path, **{"expand[0]": "status"}).status == 400
    assert "_sandbox" not in stranger.get("/v1/events").text + listed.text


# --- money


def test_an_off_session_decline_keeps_its_traces(stranger: Stranger) -> None:
    owner = stranger.customer()
    card = stranger.sandbox.save_card(owner, card="4000000000009995")
    params = {
        "amount": 1000,
        "currency": "usd",
        "customer": owner,
        "payment_method": card,
        "off_session": "true",
        "confirm": "true",
    }
    answer = stranger.post("/v1/payment_intents", params, key="k")
    assert (answer.status, answer.error["type"]) == (402, "card_error")
    assert (answer.error["code"], answer.error["decline_code"]) == ("card_declined", "insufficient_funds")
    intent = answer.error["payment_intent"]
    assert stranger.get(f"/v1/payment_intents/{intent['id']}").json == intent
    assert [each["status"] for each in stranger.get("/v1/charges").json["data"]] == ["failed"]
    assert stranger.get("/v1/balance_transactions").json["data"] == []
    assert stranger.post("/v1/payment_intents", params, key="k").json == answer.json


def test_money_adds_up_on_the_balance(stranger: Stranger) -> None:
    session = stranger.session().json["id"]
    stranger.sandbox.pay(session)
    [charge] = stranger.get("/v1/charges").json["data"]
    stranger.sandbox.refund(charge["id"], amount=400)
    dispute = stranger.sandbox.dispute(charge["id"])
    assert dispute["amount"] == 600
    stranger.sandbox.win(dispute["id"])
    booked = stranger.get("/v1/balance_transactions").json["data"]
    moved = [(each["reporting_category"], each["amount"], each["fee"], each["net"]) for each in reversed(booked)]
    assert moved == [
        ("charge", 1000, 59, 941),
        ("refund", -400, 0, -400),
        ("dispute", -600, 1500, -2100),
        ("dispute_reversal", 600, 0, 600),
    ]


def test_a_slow_bank_answers_after_the_page(stranger: Stranger) -> None:
    for arrives, status, told in [(True, "paid", "succeeded"), (False, "unpaid", "failed")]:
        session = stranger.session().json["id"]
        done = stranger.sandbox.pay(session, outcome="slow")
        assert (done["status"], done["payment_status"]) == ("complete", "unpaid")
        stranger.sandbox.settle(done["payment_intent"], arrives=arrives)
        assert stranger.get(f"/v1/checkout/sessions/{session}").json["payment_status"] == status
        assert f"checkout.session.async_payment_{told}" in [each.type for each in stranger.sandbox.deliveries()]
