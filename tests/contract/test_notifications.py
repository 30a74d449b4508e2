"""/notifications, /notices and /webhook-endpoints, as a customer's program sees them."""

from collections.abc import Iterator
from typing import Any

import pytest

from billing.models import Delivery, IdempotentAnswer, NotificationSettings, WebhookEndpoint
from billing.notice_kinds import KINDS
from tests.contract.test_customer_access import make_token
from tests.contract.test_openapi import assert_fits
from tests.telling import announce, plan, post, set_email
from tests.webhook_receiver import Receiver, receiver
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db
URL = "https://hooks.example.com/in"
ENDPOINT = "webhook-endpoints/{endpoint_id}"


@pytest.fixture
def payer(settings: Any) -> Payer:
    settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = False
    payer = make_payer()
    set_email(payer)
    return payer


@pytest.fixture
def server(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = True
    with receiver() as running:
        yield running


def make(payer: Payer, url: str = URL, **more: Any) -> Answer:
    return CustomerApi(payer).send("POST", "webhook-endpoints", {"url": url, **more})


class TestNotifications:
    def test_before_anything_is_set_it_shows_what_is_told(self, payer: Payer) -> None:
        answer = CustomerApi(payer).get("notifications")
        assert answer.status == 200
        assert_fits(answer, "get", "notifications")
        assert answer.body["addresses"] == []
        assert answer.body["goes_to"] == ["ada@example.com"]
        assert (answer.body["low_balance_below"], answer.body["low_balance_default"]) == (None, "5.000000")
        assert [one["kind"] for one in answer.body["kinds"]] == list(KINDS)
        assert {one["kind"] for one in answer.body["kinds"] if not one["webhook"]} == {"webhook_disabled"}

    def test_what_is_set_stands_and_kinds_that_are_absent_stay(self, payer: Payer) -> None:
        api = CustomerApi(payer)
        body = {
            "addresses": ["a@example.com", "b@example.com"],
            "low_balance_below": "12.50",
            "kinds": [{"kind": "in_debt", "mail": False, "webhook": True}],
        }
        answer = api.send("PUT", "notifications", body)
        assert answer.status == 200
        assert_fits(answer, "put", "notifications")
        assert (answer.body["goes_to"], answer.body["low_balance_below"]) == (body["addresses"], "12.500000")
        again = api.send("PUT", "notifications", {"kinds": [{"kind": "key_created", "mail": False, "webhook": False}]})
        chosen = {one["kind"]: (one["mail"], one["webhook"]) for one in again.body["kinds"]}
        assert (chosen["in_debt"], chosen["key_created"], chosen["key_revoked"]) == (
            (False, True),
            (False, False),
            (True, True),
        )
        assert (again.body["addresses"], again.body["goes_to"]) == ([], ["ada@example.com"])
        assert again.body["low_balance_below"] is None

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"addresses": ["not an address"]}, "addresses"),
            ({"addresses": ["a@example.com\r\nBcc: b@example.com"]}, "addresses"),
            ({"addresses": ["a@example.com,b@example.com"]}, "addresses"),
            ({"addresses": [f"a{number}@example.com" for number in range(6)]}, "addresses"),
            ({"addresses": [7]}, "addresses"),
            ({"low_balance_below": 5}, "low_balance_below"),
            ({"low_balance_below": "-1"}, "low_balance_below"),
            ({"kinds": [{"kind": "nonsense", "mail": True, "webhook": True}]}, "kinds"),
            ({"kinds": [{"kind": "webhook_disabled", "mail": True, "webhook": True}]}, "kinds"),
            ({"kinds": [{"kind": "in_debt", "mail": "yes", "webhook": True}]}, "kinds"),
            ({"kinds": [{"kind": "in_debt", "mail": True}]}, "kinds"),
            ({"adresses": []}, "adresses"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name_and_changes_nothing(
        self, body: Any, param: str, payer: Payer
    ) -> None:
        answer = CustomerApi(payer).send("PUT", "notifications", body)
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["param"].startswith(param)
        assert not NotificationSettings.objects.filter(customer=payer.customer).exists()

    def test_a_token_that_only_reads_sets_nothing(self, payer: Payer) -> None:
        api = CustomerApi(payer)
        api.client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {make_token(payer, 'read')}"
        assert api.get("notifications").status == 200
        assert api.send("PUT", "notifications", {}).status == 403
        assert api.send("POST", "webhook-endpoints", {"url": URL}).status == 403


class TestNotices:
    def test_are_listed_newest_first_with_what_they_carry(self, payer: Payer) -> None:
        notice = announce(payer, "in_debt")
        announce(make_payer(), "in_debt")
        answer = CustomerApi(payer).get("notices", limit="1")
        assert_fits(answer, "get", "notices")
        (row,) = answer.body["data"]
        assert (row["id"], row["type"], row["data"]) == (notice.public_id, "in_debt", notice.data)
        following = CustomerApi(payer).get("notices", cursor=answer.body["next_cursor"])
        assert [one["type"] for one in following.body["data"]] == ["key_created"]

    def test_of_one_kind(self, payer: Payer) -> None:
        announce(payer, "in_debt")
        found = CustomerApi(payer).get("notices", type="key_created").body["data"]
        assert [one["type"] for one in found] == ["key_created"]
        assert CustomerApi(payer).get("notices", type="nonsense").status == 400


class TestEndpoints:
    def test_a_new_one_shows_its_secret_once(self, payer: Payer) -> None:
        api = CustomerApi(payer)
        body = {"url": URL, "description": "billing", "kinds": ["in_debt", "balance_low"]}
        made = api.send("POST", "webhook-endpoints", body, **{"Idempotency-Key": "k"})
        assert made.status == 201
        assert_fits(made, "post", "webhook-endpoints")
        secret = made.body["secret"]
        assert secret.startswith("whsec_")
        assert made.body["kinds"] == ["balance_low", "in_debt"]
        replayed = api.send("POST", "webhook-endpoints", body, **{"Idempotency-Key": "k"})
        assert (replayed.status, replayed.body["secret"]) == (201, None)
        assert_fits(replayed, "post", "webhook-endpoints")
        assert secret not in str(list(IdempotentAnswer.objects.values_list("body", flat=True)))
        listed = api.get("webhook-endpoints")
        assert_fits(listed, "get", "webhook-endpoints")
        assert [one["id"] for one in listed.body["data"]] == [made.body["id"]]
        one = api.get(f"webhook-endpoints/{made.body['id']}")
        assert_fits(one, "get", ENDPOINT)
        assert secret not in str(listed.body) + str(one.body)

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"url": "http://hooks.example.com/"}, "url"),
            ({"url": "https://127.0.0.1/"}, "url"),
            ({"url": "https://[::ffff:169.254.169.254]/"}, "url"),
            ({"url": "https://user:secret@example.com/"}, "url"),
            ({"url": 7}, "url"),
            ({}, "url"),
            ({"url": URL, "kinds": ["nonsense"]}, "kinds"),
            ({"url": URL, "kinds": ["webhook_disabled"]}, "kinds"),
            ({"url": URL, "secret": "whsec_mine"}, "secret"),
            ({"url": URL, "description": "a" * 201}, "description"),
        ],
    )
    def test_what_is_wrong_is_refused_by_name(self, body: Any, param: str, payer: Payer) -> None:
        answer = CustomerApi(payer).send("POST", "webhook-endpoints", body)
        assert (answer.status, answer.body["error"]["param"]) == (400, param)
        assert_fits(answer, "post", "webhook-endpoints")

    def test_there_are_ten_at_most(self, payer: Payer) -> None:
        for number in range(10):
            assert make(payer, f"{URL}/{number}").status == 201
        refused = make(payer)
        assert (refused.status, refused.code) == (409, "too_many_webhook_endpoints")

    def test_one_is_changed_switched_off_and_on_and_removed(self, payer: Payer) -> None:
        api, path = CustomerApi(payer), f"webhook-endpoints/{make(payer).body['id']}"
        changed = api.send("PATCH", path, {"url": f"{URL}/new", "kinds": ["in_debt"]})
        assert_fits(changed, "patch", ENDPOINT)
        assert (changed.body["url"], changed.body["kinds"]) == (f"{URL}/new", ["in_debt"])
        off = api.send("PATCH", path, {"enabled": False})
        assert (off.body["enabled"], off.body["disabled_because"]) == (False, "Switched off by the customer.")
        assert off.body["kinds"] == ["in_debt"]
        assert api.send("POST", f"{path}/test").code == "webhook_endpoint_disabled"
        assert api.send("PATCH", path, {"enabled": True}).body["enabled"] is True
        assert api.send("PATCH", path, {"url": "https://10.0.0.1/"}).status == 400
        assert_fits(api.send("DELETE", path), "delete", ENDPOINT)
        assert api.get(path).status == 404
        assert api.send("DELETE", path).status == 404

    def test_another_customer_s_is_not_there(self, payer: Payer) -> None:
        path = f"webhook-endpoints/{make(make_payer()).body['id']}"
        api = CustomerApi(payer)
        for method, tail in (("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test")):
            assert api.send(method, path + tail, {} if method == "PATCH" else None).status == 404
        assert api.get(path).status == api.get(f"{path}/deliveries").status == 404
        assert WebhookEndpoint.objects.get(customer__name="Ada", public_id=path.split("/")[1]).removed_at is None

    def test_a_rotation_shows_the_new_secret_and_until_when_both_hold(self, payer: Payer) -> None:
        made = make(payer)
        rotated = CustomerApi(payer).send("POST", f"webhook-endpoints/{made.body['id']}/rotate")
        assert_fits(rotated, "post", f"{ENDPOINT}/rotate")
        assert rotated.status == 200
        assert rotated.body["secret"] not in {made.body["secret"], None}
        assert rotated.body["previous_secret_until"] is not None

    def test_a_test_is_sent_and_the_deliveries_tell_what_came_of_it(self, payer: Payer, server: Receiver) -> None:
        api, path = CustomerApi(payer), f"webhook-endpoints/{make(payer, server.url).body['id']}"
        asked = api.send("POST", f"{path}/test")
        assert asked.status == 201
        assert_fits(asked, "post", f"{ENDPOINT}/test")
        assert (asked.body["type"], asked.body["status"], asked.body["attempts"]) == ("test", "waiting", 0)
        server.status = 500
        plan()
        Delivery.objects.filter(notice__kind="key_created").delete()
        assert post() == 1
        listed = api.get(f"{path}/deliveries")
        assert_fits(listed, "get", f"{ENDPOINT}/deliveries")
        (row,) = listed.body["data"]
        assert (row["id"], row["status"], row["status_code"], row["error"]) == (
            asked.body["id"],
            "waiting",
            500,
            "it answered 500",
        )
        assert row["next_attempt_at"] is not None
        assert server.received[0].headers["webhook-id"] == row["notice"]
