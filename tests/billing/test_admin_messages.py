"""The operator's pages of messages: what came of each, sending again, switching an endpoint off."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from billing import tasks
from billing.models import Delivery, Notice, OperatorSettings, WebhookEndpoint
from tests.operator import log_in, make_staff, page, text_of
from tests.telling import announce, deliveries, make_endpoint, now, plan, set_email
from tests.webhook_receiver import receiver
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer(settings: Any) -> Payer:
    settings.SENDS_MAIL = settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = True
    payer = make_payer(name="Northwind")
    plan()
    return payer


@pytest.fixture
def operator(db: None) -> Client:
    return log_in(make_staff(is_superuser=True))


def test_what_failed_is_sent_again_by_a_button(payer: Payer, operator: Client) -> None:
    with receiver() as server:
        make_endpoint(payer, server.url)
        notice = announce(payer)
        plan()
        Delivery.objects.update(status="failed", look_at=None, ended_at=now(), attempts=7, error="it answered 500")
        (row,) = deliveries(payer)
        assert "it answered 500" in text_of(operator.get(page(Delivery, "changelist")))
        assert "it answered 500" in text_of(operator.get(page(Notice, "change", notice.pk)))
        button = page(Delivery, "send_again", row.pk)
        assert "Send it again" in text_of(operator.get(button))
        assert deliveries(payer)[0].status == "failed", "nothing is done by looking"
        assert "sends it within seconds" in text_of(operator.post(button, follow=True))
        assert tasks.send_webhooks() == {"planned": 0, "tried": 1}
        assert len(server.received) == 1
    (row,) = deliveries(payer)
    assert (row.status, row.attempts, row.error) == ("sent", 1, "")
    assert "sent" in text_of(operator.get(page(Delivery, "change", row.pk)))


def test_what_waits_has_no_button_and_is_not_sent_twice(payer: Payer, operator: Client) -> None:
    make_endpoint(payer)
    announce(payer)
    plan()
    (row,) = deliveries(payer)
    assert "Send again" not in text_of(operator.get(page(Delivery, "change", row.pk)))
    assert "waits to be sent already" in text_of(operator.post(page(Delivery, "send_again", row.pk), follow=True))


def test_what_backs_off_for_hours_is_sent_at_once_by_the_button(payer: Payer, operator: Client) -> None:
    with receiver() as server:
        server.status = 500
        make_endpoint(payer, server.url)
        announce(payer)
        assert tasks.send_webhooks() == {"planned": 1, "tried": 1}
        (row,) = deliveries(payer)
        assert row.look_at is not None
        later = row.look_at + timedelta(hours=5)
        Delivery.objects.update(look_at=later)
        text = text_of(operator.get(page(Delivery, "change", row.pk)))
        assert "Send again" in text
        assert "tries again Attempts 1" in text
        assert f"Next attempt {later:%Y-%m-%d %H:%M:%S}" in text
        server.status = 200
        assert tasks.send_webhooks() is None
        assert "sends it within seconds" in text_of(operator.post(page(Delivery, "send_again", row.pk), follow=True))
        assert tasks.send_webhooks() == {"planned": 0, "tried": 1}
        assert [request.headers["webhook-id"] for request in server.received] == [row.notice.public_id] * 2
    (row,) = deliveries(payer)
    assert (row.status, row.attempts, row.status_code) == ("sent", 2, 200)


def test_who_may_only_look_sends_nothing(payer: Payer) -> None:
    make_endpoint(payer)
    announce(payer)
    plan()
    Delivery.objects.update(status="failed", look_at=None, ended_at=now())
    (row,) = deliveries(payer)
    viewer = log_in(make_staff(permissions=["billing.view_delivery"]))
    assert viewer.get(page(Delivery, "change", row.pk)).status_code == 200
    assert viewer.post(page(Delivery, "send_again", row.pk)).status_code == 403
    assert deliveries(payer)[0].status == "failed"


def test_an_endpoint_is_switched_off_and_no_page_shows_its_secret(payer: Payer, operator: Client) -> None:
    set_email(payer)
    endpoint = make_endpoint(payer)
    announce(payer)
    plan()
    address = page(WebhookEndpoint, "change", endpoint.pk)
    for shown in (operator.get(address), operator.get(page(WebhookEndpoint, "changelist"))):
        assert endpoint.url in text_of(shown)
        assert endpoint.secret[6:20] not in shown.content.decode()
    assert "It is switched off" in text_of(operator.post(page(WebhookEndpoint, "switch_off", endpoint.pk), follow=True))
    endpoint.refresh_from_db()
    assert endpoint.disabled_because == "Switched off by the operator."
    assert Notice.objects.filter(customer=payer.customer, kind="webhook_disabled").count() == 1
    assert {row.status for row in deliveries(payer) if row.channel == "webhook"} == {"failed"}


def test_the_threshold_of_low_balances_is_a_setting(operator: Client) -> None:
    address = page(OperatorSettings, "change", 1)
    form = operator.get(address).context["adminform"].form
    fields = {name: form[name].value() for name in form.fields}
    values = {name: "" if value is None else value for name, value in fields.items() if value is not False}
    values |= {"top_up_presets": "10.00", "first_bonus_percent": "0"}
    assert operator.post(address, {**values, "low_balance_below": "-1"}).status_code == 200
    answer = operator.post(address, {**values, "low_balance_below": "12.50", "site_url": "https://b.example"})
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    row = OperatorSettings.objects.get(pk=1)
    assert (str(row.low_balance_below.normalize()), row.site_url) == ("12.5", "https://b.example")


def test_the_mail_job_plans_and_mails(payer: Payer) -> None:
    set_email(payer)
    announce(payer)
    assert tasks.send_mail() == {"planned": 1, "tried": 1}
    assert tasks.send_mail() is None
    assert tasks.tell_of_low_balances() is None
    assert tasks.remove_old_deliveries() is None
