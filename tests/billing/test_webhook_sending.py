"""Webhooks to customers: signed as the scheme says, tried again, given up, and endpoints that fail for days."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from billing import messages, webhook_endpoints, webhook_sending
from billing.models import Delivery, Notice
from tests.telling import announce, deliveries, make_endpoint, now, plan, post
from tests.webhook_receiver import Received, Receiver, receiver
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db
Status = Delivery.Status


@pytest.fixture
def server(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = True
    settings.SENDS_MAIL = False
    with receiver() as running:
        yield running


@pytest.fixture
def payer() -> Payer:
    payer = make_payer()
    plan()
    return payer


def is_signed(request: Received, secret: str) -> bool:
    """As a receiver checks it, by the words of the scheme."""
    key = base64.b64decode(secret[len("whsec_") :])
    signed = b".".join(
        [request.headers["webhook-id"].encode(), request.headers["webhook-timestamp"].encode(), request.body]
    )
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{wanted}" in request.headers["webhook-signature"].split(" ")


def test_the_published_example_of_the_scheme_is_signed_as_published() -> None:
    signature = webhook_sending.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_notice_is_posted_signed_with_its_id_and_what_it_carries(payer: Payer, server: Receiver) -> None:
    endpoint = make_endpoint(payer, server.url)
    notice = announce(payer, "in_debt")
    plan()
    assert (post(), post()) == (1, 0)
    (request,) = server.received
    assert is_signed(request, endpoint.secret)
    assert request.headers["webhook-id"] == notice.public_id
    assert abs(int(request.headers["webhook-timestamp"]) - now().timestamp()) < 60
    assert request.headers["content-type"] == "application/json"
    body = json.loads(request.body)
    assert body == {
        "id": notice.public_id,
        "type": "in_debt",
        "timestamp": notice.created_at.isoformat().replace("+00:00", "Z"),
        "customer": payer.customer.public_id,
        "data": notice.data,
    }
    (row,) = deliveries(payer)
    assert (row.status, row.attempts, row.status_code, row.error, row.look_at) == (Status.SENT, 1, 200, "", None)


def test_a_spend_limit_names_the_key_and_not_its_number(payer: Payer, server: Receiver) -> None:
    make_endpoint(payer, server.url)
    data = {"scope": f"key:{payer.key.pk}"}
    notice = announce(payer, "spend_limit_used", **data)
    notice.data.pop("api_key")
    Notice.objects.filter(pk=notice.pk).update(data=notice.data)
    plan()
    post()
    assert json.loads(server.received[0].body)["data"]["api_key"] == payer.key.public_id
    assert b"scope" not in server.received[0].body


def test_what_is_not_taken_is_tried_again_later_and_later_under_one_id_and_then_fails(
    payer: Payer, server: Receiver
) -> None:
    endpoint = make_endpoint(payer, server.url)
    announce(payer)
    plan()
    server.status = 500
    at = began = now()
    waits = []
    for _ in range(messages.ATTEMPTS_MAX):
        assert post(at) == 1
        row = deliveries(payer)[0]
        if row.look_at is None:
            break
        assert post(row.look_at - timedelta(milliseconds=1)) == 0, "not before its time"
        waits.append(row.look_at - at)
        at = row.look_at
    assert waits == list(messages.BACK_OFF)
    assert (row.status, row.attempts, row.status_code, row.error) == (Status.FAILED, 7, 500, "it answered 500")
    assert post(at + timedelta(days=30)) == 0
    assert len(server.received) == messages.ATTEMPTS_MAX
    assert len({request.headers["webhook-id"] for request in server.received}) == 1
    assert len({request.body for request in server.received}) == 1
    assert len({request.headers["webhook-timestamp"] for request in server.received}) == messages.ATTEMPTS_MAX
    assert all(is_signed(request, endpoint.secret) for request in server.received)
    endpoint.refresh_from_db()
    assert endpoint.failing_since == began

    server.status = 200
    messages.send_again(delivery_id=row.pk, at=at)
    assert post(at) == 1
    (row,) = deliveries(payer)
    assert (row.status, row.attempts, row.status_code) == (Status.SENT, 1, 200)
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 503])
def test_all_but_2xx_is_no_success(status: int, payer: Payer, server: Receiver) -> None:
    make_endpoint(payer, server.url)
    announce(payer)
    plan()
    server.status, server.headers = status, {"Location": "http://127.0.0.1:1/"}
    post()
    (row,) = deliveries(payer)
    assert (row.status, row.status_code) == (Status.WAITING, status)
    assert str(status) in row.error


def test_an_address_that_is_not_public_any_more_is_refused_when_it_is_sent(payer: Payer, settings: Any) -> None:
    settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = True
    with receiver() as server:
        make_endpoint(payer, server.url)
        settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = False
        announce(payer)
        plan()
        post()
    assert server.received == []
    assert deliveries(payer)[0].error == "the address must begin with https://"


def test_after_a_rotation_both_secrets_sign_for_a_day_and_then_the_new_one_alone(
    payer: Payer, server: Receiver
) -> None:
    endpoint = make_endpoint(payer, server.url)
    first = endpoint.secret
    with time_machine.travel(now(), tick=False) as clock:
        second = webhook_endpoints.rotate(endpoint_id=endpoint.pk, at=now()).secret
        assert first != second
        announce(payer)
        plan()
        post()
        clock.shift(timedelta(hours=24))
        announce(payer)
        plan()
        post()
    during, after = server.received
    assert is_signed(during, first)
    assert is_signed(during, second)
    assert not is_signed(after, first)
    assert is_signed(after, second)


def test_an_endpoint_that_took_nothing_for_days_is_switched_off_and_its_customer_told_by_mail(
    payer: Payer, server: Receiver, settings: Any
) -> None:
    settings.SENDS_MAIL = True
    payer.customer.email = "ada@example.com"
    payer.customer.save()
    endpoint = make_endpoint(payer, server.url)
    server.status = 500
    at = now() + timedelta(minutes=1)
    for day in range(7):
        announce(payer, "key_created")
        plan()
        post(at + timedelta(days=day))
    endpoint.refresh_from_db()
    assert endpoint.disabled_at == at + timedelta(days=5)
    assert endpoint.disabled_because == "It took nothing for 5 days; at last: it answered 500."
    assert not Delivery.objects.filter(endpoint=endpoint, status=Status.WAITING).exists()
    told = Notice.objects.get(customer=payer.customer, kind="webhook_disabled")
    assert told.data["endpoint"] == endpoint.public_id
    assert [(row.channel, row.address) for row in deliveries(payer, "webhook_disabled")] == [
        ("mail", "ada@example.com")
    ]

    webhook_endpoints.change(endpoint_id=endpoint.pk, changes={"enabled": True}, at=now())
    server.status = 200
    announce(payer, "key_created")
    plan()
    assert post() == 1
    assert deliveries(payer, "key_created")[-1].status == Status.SENT


def test_an_endpoint_that_says_it_is_gone_is_switched_off_at_once(payer: Payer, server: Receiver) -> None:
    endpoint = make_endpoint(payer, server.url)
    announce(payer)
    plan()
    server.status = 410
    post()
    endpoint.refresh_from_db()
    assert endpoint.disabled_because == "It answered 410: it is gone for good."


def test_a_test_goes_to_one_endpoint_and_to_no_list(payer: Payer, server: Receiver) -> None:
    endpoint = make_endpoint(payer, server.url, "in_debt")
    make_endpoint(payer, server.url)
    webhook_sending.send_test(endpoint_id=endpoint.pk, at=now())
    plan()
    assert post() == 1
    body = json.loads(server.received[0].body)
    assert (body["type"], body["data"]) == ("test", {"endpoint": endpoint.public_id})


def test_a_removed_endpoint_gets_nothing_and_its_secret_is_forgotten(payer: Payer, server: Receiver) -> None:
    endpoint = make_endpoint(payer, server.url)
    announce(payer)
    plan()
    webhook_endpoints.remove(endpoint_id=endpoint.pk, at=now())
    assert post() == 0
    endpoint.refresh_from_db()
    assert (endpoint.secret, endpoint.previous_secret) == ("", "")
    (row,) = deliveries(payer)
    assert (row.status, row.error) == (Status.FAILED, "The endpoint was removed.")
    with pytest.raises(messages.NothingToSend):
        messages.send_again(delivery_id=row.pk, at=now())
