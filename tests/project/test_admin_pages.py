"""Every page of the admin answers, to those who may see it and to nobody else; and it works in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.live_server_helper import LiveServer

from billing.models import Customer, Grant, Wallet
from tests.operator import MODELS, READ_ONLY, fill, label, log_in, make_staff, page
from tests.world import make_payer

PASSWORD = "a long pass phrase of the tests"
CHROMIUM = Path("/usr/bin/chromium")
TERMS = ("Northwind", "cus_0000000000000000", "evt_1_1", "tr_1_1", "50%", "\x00", "é" * 300)
MOST_HOME_QUERIES = 45


@pytest.fixture
def operator(db: None) -> Client:
    return log_in(make_staff(is_superuser=True))


def test_every_model_of_ours_has_a_page_and_a_place_in_the_sidebar(operator: Client) -> None:
    ours = {model for app in ("billing", "metering") for model in apps.get_app_config(app).get_models()}
    assert ours <= set(MODELS)
    home = operator.get("/admin/").content.decode()
    missing = [label(model) for model in MODELS if f'href="{page(model, "changelist")}"' not in home]
    assert missing == []


@pytest.mark.parametrize("model", MODELS, ids=label)
def test_any_search_term_is_answered(model: Any, operator: Client) -> None:
    for term in TERMS if admin.site._registry[model].search_fields else ():
        assert operator.get(page(model, "changelist"), {"q": term}).status_code == 200, term


def test_money_and_usage_are_read_only() -> None:
    names = {label(model) for model in READ_ONLY}
    assert names >= {
        "billing.Wallet",
        "billing.Transfer",
        "billing.Entry",
        "billing.Grant",
        "billing.GrantUse",
        "billing.Hold",
        "billing.Invoice",
        "billing.InvoiceLine",
        "billing.InvoiceSeries",
        "billing.JobRun",
        "billing.SpendCounter",
        "billing.SpendLimit",
        "metering.UsageEvent",
        "metering.UsageHour",
        "metering.EventKey",
        "metering.PriceSet",
        "metering.Price",
        "metering.PriceBookVersion",
    }


@pytest.mark.parametrize("model", MODELS, ids=label)
def test_staff_without_permission_see_nothing(model: Any, db: None) -> None:
    client = log_in(make_staff())
    assert client.get(page(model, "changelist")).status_code == 403
    assert client.get(page(model, "add")).status_code == 403


def test_strangers_are_asked_to_log_in(db: None) -> None:
    answer = Client().get("/admin/")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/admin/login/")


def test_the_home_page_of_a_new_installation_says_what_to_do_next(operator: Client) -> None:
    home = operator.get("/admin/").content.decode()
    assert "First steps" in home
    assert "Add the first customer" in home
    assert "No usage in the last 14 days" in home
    assert "No job has run yet" in home


def test_the_home_page_sums_up_money_usage_open_work_and_jobs(operator: Client) -> None:
    fill()
    with CaptureQueriesContext(connection) as queries:
        answer = operator.get("/admin/")
    assert len(queries) <= MOST_HOME_QUERIES
    shown = {figure.label: figure.value for group in answer.context["home"]["groups"] for figure in group.figures}
    assert shown["Customers"] == "2"
    assert shown["Charge today"] == shown["Cost today"] == "0.234000"
    assert shown["Margin today"] == "0.000000"
    assert shown["Credit outstanding"] == "49.853750"
    assert shown["Debt"] == "0.077750"
    assert (shown["Parked"], shown["Unclaimed"], shown["Conflicts"], shown["Quarantined"]) == ("1", "1", "1", "1")
    assert "Boom: it broke" in answer.content.decode()


def test_the_home_page_shows_staff_only_what_they_may_see(db: None) -> None:
    fill()
    home = log_in(make_staff(permissions=["billing.view_jobrun"])).get("/admin/").content.decode()
    assert "Boom: it broke" in home
    assert "Credit outstanding" not in home
    assert "Charge today" not in home
    assert "Wallets" not in home


@pytest.fixture
def site(committed: None) -> Iterator[str]:
    server = LiveServer("127.0.0.1")
    yield server.url
    server.stop()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium: apt-get install chromium to run this")
def test_an_operator_logs_in_and_grants_credit_in_a_browser(site: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    payer, user = make_payer(credit="1"), make_staff(is_superuser=True, password=PASSWORD)
    broken: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        tab = browser.new_page()
        tab.on("pageerror", lambda error: broken.append(str(error)))
        tab.on("requestfailed", lambda request: broken.append(request.url))
        tab.goto(f"{site}/admin/")
        tab.fill("[name=username]", user.username)
        tab.fill("[name=password]", PASSWORD)
        tab.keyboard.press("Enter")
        expect(tab.get_by_text("Credit outstanding")).to_be_visible()

        tab.goto(f"{site}{page(Customer, 'change', payer.customer.pk)}")
        tab.get_by_role("link", name="Grant credit").click()
        tab.fill("[name=amount]", "12.50")
        tab.fill("[name=reason]", "Sorry for the outage")
        tab.get_by_role("button", name="Grant credit").dblclick()
        expect(tab.get_by_text("The balance is 13.500000 USD")).to_be_visible()
        browser.close()
    assert broken == []
    assert Wallet.objects.get(customer=payer.customer).balance == 13.5
    assert Grant.objects.filter(customer=payer.customer).count() == 2
