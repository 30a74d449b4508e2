"""A customer tops up in a real browser: by card, Alipay and WeChat Pay, once each; declined, expired, canceled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django.live_server_helper import LiveServer

from billing.models import TopUp
from tests.concurrency.racing import assert_books_are_right
from tests.paying import add_currency
from tests.payments_sandbox import StripeSandbox
from tests.world import CustomerApi, Payer, make_payer

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.usefixtures("committed"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium: apt-get install chromium to run this"),
]


@pytest.fixture
def site(committed: None) -> Iterator[str]:
    server = LiveServer("127.0.0.1")
    yield server.url
    server.stop()


@pytest.fixture
def tab(site: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        broken: list[str] = []
        page = browser.new_page()
        page.on("pageerror", lambda error: broken.append(str(error)))
        yield page
        browser.close()
    assert broken == []


def top_up(payer: Payer, site: str, **body: Any) -> dict[str, Any]:
    """Start a top-up whose way back leads to the live site."""
    host = site.removeprefix("http://")
    answer = CustomerApi(payer).send("POST", "top-ups", {"amount": "10.00", **body}, Host=host)
    assert answer.status == 201, answer.body
    return dict(answer.body)


def choose(tab: Any, method: str) -> Any:
    """The part of the payment page for one method."""
    return tab.locator(f"form:has(input[name=method][value={method}])")


def in_django(work: Any) -> Any:
    """The browser's loop runs in this thread, in which Django's connections are refused: use another."""
    from concurrent.futures import ThreadPoolExecutor

    def run() -> Any:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(60)


def test_each_method_raises_the_balance_once(site: str, tab: Any, stripe_sandbox: StripeSandbox) -> None:
    from playwright.sync_api import expect

    payer = in_django(lambda: make_payer(credit="0"))
    for number, (method, name) in enumerate(
        (("card", "visa •••• 4242"), ("alipay", "alipay"), ("wechat_pay", "wechat_pay")), 1
    ):
        tab.goto(in_django(lambda: top_up(payer, site))["checkout_url"])
        choose(tab, method).get_by_role("button", name="Pay 10.00 USD").click()
        expect(tab.get_by_text("Thank you, your credit is there")).to_be_visible()
        expect(tab.get_by_text(name)).to_be_visible()
        expect(tab.get_by_text("no real money")).to_be_visible()
        tab.reload()
        expect(tab.get_by_text("Thank you, your credit is there")).to_be_visible()
        assert in_django(lambda: payer.balance) == 10 * number
    in_django(lambda: assert_books_are_right(payer.customer))


def test_what_was_declined_expired_or_left_gives_no_credit_and_can_go_on(
    site: str, tab: Any, stripe_sandbox: StripeSandbox
) -> None:
    from playwright.sync_api import expect

    payer = in_django(lambda: make_payer(credit="0"))
    made = in_django(lambda: top_up(payer, site))
    tab.goto(made["checkout_url"])
    choose(tab, "card").locator("select").select_option("4000000000009995")
    choose(tab, "card").get_by_role("button", name="Pay 10.00 USD").click()
    expect(tab.get_by_text("insufficient funds").first).to_be_visible()
    assert in_django(lambda: payer.balance) == 0

    tab.get_by_text("Cancel and go back").click()
    expect(tab.get_by_text("Nothing was paid")).to_be_visible()
    tab.get_by_role("link", name="Go on paying").click()
    choose(tab, "alipay").get_by_role("button", name="Pay 10.00 USD").click()
    expect(tab.get_by_text("Thank you, your credit is there")).to_be_visible()
    assert in_django(lambda: payer.balance) == 10

    late = in_django(lambda: top_up(payer, site))
    tab.goto(late["checkout_url"])
    tab.get_by_role("button", name="Let it expire now").click()
    tab.goto(f"{site}/payments/return?canceled={late['id']}")
    expect(tab.get_by_text("The payment page has expired")).to_be_visible()
    assert in_django(lambda: TopUp.objects.get(public_id=late["id"]).status) == "expired"
    assert in_django(lambda: payer.balance) == 10


def test_yuan_are_paid_and_dollars_credited_at_the_rate_that_was_shown(
    site: str, tab: Any, stripe_sandbox: StripeSandbox
) -> None:
    from playwright.sync_api import expect

    payer = in_django(lambda: make_payer(credit="0"))
    in_django(lambda: add_currency("CNY", "7.2", "0.02", methods=("alipay", "wechat_pay")))
    tab.goto(in_django(lambda: top_up(payer, site, currency="CNY"))["checkout_url"])
    choose(tab, "wechat_pay").get_by_role("button", name="Pay 73.44 CNY").click()
    expect(tab.get_by_text("73.44 CNY arrived, and 10.00 USD were added to your balance.")).to_be_visible()
    assert in_django(lambda: payer.balance) == 10
