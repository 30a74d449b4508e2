"""The pages for people, without scripts: plain forms that a browser posts."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.sandbox.http import Answer, Stranger


def submit(stranger: Stranger, path: str, **form: str) -> Answer:
    return stranger.ask("POST", path, urlencode(form))


def state(stranger: Stranger, session: str) -> tuple[str, str]:
    now = stranger.get(f"/v1/checkout/sessions/{session}").json
    return now["status"], now["payment_status"]


def test_every_page_says_that_no_money_is_real(stranger: Stranger) -> None:
    session = stranger.session(customer=stranger.customer()).json["id"]
    stranger.sandbox.pay(session)
    [charge] = stranger.get("/v1/charges").json["data"]
    waiting = stranger.session().json["id"]
    asks = stranger.sandbox.pay(stranger.session().json["id"], outcome="authenticate")["payment_intent"]
    pages = [
        "/",
        f"/pay/{session}",
        f"/pay/{waiting}",
        f"/receipts/{charge['id']}",
        f"/authenticate/{asks}",
        "/nowhere",
    ]
    for path in [*pages, "/pay/cs_nobody"]:
        page = stranger.ask("GET", path)
        assert "Sandbox: no real money" in page.text, path
        assert 'name="viewport"' in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script" not in page.text


@pytest.mark.parametrize("method", ["card", "alipay", "wechat_pay"])
def test_paying_leads_back_to_the_shop(stranger: Stranger, method: str) -> None:
    wanted = {
        "success_url": "http://127.0.0.1/paid?session={CHECKOUT_SESSION_ID}",
        "allowed_payment_method_types[1]": "alipay",
        "allowed_payment_method_types[2]": "wechat_pay",
        "payment_method_options[wechat_pay][client]": "web",
    }
    session = stranger.session(**wanted).json["id"]
    page = stranger.ask("GET", f"/pay/{session}").text
    assert "Pay 10.00 USD" in page
    assert f'name="method" value="{method}"' in page
    paid = submit(stranger, f"/pay/{session}", method=method, card="4242424242424242", outcome="pay")
    assert (paid.status, paid.headers["location"]) == (303, f"http://127.0.0.1/paid?session={session}")
    assert state(stranger, session) == ("complete", "paid")
    again = submit(stranger, f"/pay/{session}", method=method, card="4242424242424242", outcome="pay")
    assert again.status == 409
    assert len(stranger.get("/v1/charges").json["data"]) == 1
    assert "Paid." in stranger.ask("GET", f"/pay/{session}").text


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"card": "4242424242424242", "outcome": "decline:insufficient_funds"}, "Your card has insufficient funds."),
        ({"card": "4000000000000002", "outcome": "pay"}, "Your card was declined."),
    ],
)
def test_a_decline_is_shown_and_can_be_tried_again(stranger: Stranger, form: dict[str, str], message: str) -> None:
    session = stranger.session().json["id"]
    declined = submit(stranger, f"/pay/{session}", method="card", **form)
    assert declined.headers["location"] == f"/pay/{session}"
    assert message in stranger.ask("GET", f"/pay/{session}").text
    assert state(stranger, session) == ("open", "unpaid")
    submit(stranger, f"/pay/{session}", method="card", card="4242424242424242", outcome="pay")
    assert state(stranger, session) == ("complete", "paid")


def test_authentication_and_expiry(stranger: Stranger) -> None:
    session = stranger.session().json["id"]
    submit(stranger, f"/pay/{session}", method="card", card="4000002760003184", outcome="pay")
    asked = stranger.ask("GET", f"/pay/{session}").headers["location"]
    assert asked.startswith("/authenticate/pi_")
    assert submit(stranger, asked, passes="no").headers["location"] == f"/pay/{session}"
    submit(stranger, f"/pay/{session}", method="card", card="4000002760003184", outcome="pay")
    assert submit(stranger, asked, passes="yes").headers["location"] == "http://127.0.0.1/paid"
    assert state(stranger, session) == ("complete", "paid")
    other = stranger.session().json["id"]
    submit(stranger, f"/pay/{other}", outcome="expire")
    assert state(stranger, other) == ("expired", "unpaid")
    assert "Nothing was paid" in stranger.ask("GET", f"/pay/{other}").text


def press(stranger: Stranger, text: str, **fields: str) -> None:
    """The first button of the home page with this text."""
    page = stranger.ask("GET", "/").text
    forms: list[Any] = re.findall(r'<form method="post" action="([^"]+)"[^>]*>(.*?)</form>', page)
    action, inner = next(form for form in forms if f">{text}</button>" in form[1])
    given = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', inner))
    assert submit(stranger, action, **(given | fields)).headers["location"] == "/"


def test_the_home_page_refunds_disputes_and_detaches(stranger: Stranger) -> None:
    wanted = {"payment_method_options[card][setup_future_usage]": "off_session"}
    session = stranger.session(customer=stranger.customer(), **wanted).json["id"]
    stranger.sandbox.pay(session)
    press(stranger, "Refund", amount="4.00")
    press(stranger, "Inquiry")
    press(stranger, "Withdraw the money")
    [dispute] = stranger.get("/v1/disputes").json["data"]
    assert (dispute["amount"], dispute["status"]) == (600, "needs_response")
    press(stranger, "Win")
    assert "dispute won" in stranger.ask("GET", "/").text
    press(stranger, "Detach")
    assert "No saved card" in stranger.ask("GET", "/").text
    before = len(stranger.sandbox.sent())
    press(stranger, "Send webhooks again")
    assert len(stranger.sandbox.sent()) > before


@pytest.mark.parametrize("amount", ["", "10.01", "4.001", "-1", "x", "0"])
def test_a_refund_that_cannot_be_is_refused_with_a_sentence(stranger: Stranger, amount: str) -> None:
    stranger.sandbox.pay(stranger.session().json["id"])
    [charge] = stranger.get("/v1/charges").json["data"]
    refused = submit(stranger, f"/do/charges/{charge['id']}/refund", amount=amount)
    assert (refused.status, "Not possible" in refused.text) == (409, True)
    assert stranger.get("/v1/refunds").json["data"] == []


def test_what_the_shop_sends_is_shown_as_text(stranger: Stranger) -> None:
    name = "line_items[0][price_data][product_data][name]"
    session = stranger.session(**{name: "<script>alert(1)</script>", "client_reference_id": "<b>x</b>"}).json["id"]
    for path in ("/", f"/pay/{session}"):
        page = stranger.ask("GET", path).text
        assert "<script>" not in page
        assert "<b>x" not in page


def test_another_sites_form_cannot_reach_the_controls(stranger: Stranger) -> None:
    session = stranger.session().json["id"]
    answer = stranger.ask("POST", f"/sandbox/control/sessions/{session}/pay", "{}", **{"Content-Type": "text/plain"})
    assert answer.status == 415
    assert state(stranger, session) == ("open", "unpaid")
