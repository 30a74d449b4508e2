"""API keys: made, shown once, changed, revoked; and writes that are sent twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connection

from billing.models import IdempotentAnswer
from metering.models import ApiKey
from tests.concurrency.racing import beside
from tests.world import Answer, CustomerApi, Relay, make_payer

IDEMPOTENCY = "Idempotency-Key"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)


@pytest.mark.django_db
class TestKeys:
    def test_a_new_key_shows_its_secret_once_and_works(self) -> None:
        payer = make_payer()
        api = CustomerApi(payer)
        made = api.send("POST", "api-keys", {"name": " laptop "})
        assert made.status == 201
        secret = made.body.pop("key")
        assert secret.startswith(made.body["prefix"])
        assert secret.endswith(made.body["last4"])
        assert made.body["name"] == "laptop"
        assert made.body["status"] == "active"
        assert (made.body["allowed_models"], made.body["expires_at"], made.body["revoked_at"]) == ([], None, None)
        assert api.get(f"api-keys/{made.body['id']}").body == made.body
        assert api.get("api-keys").body["data"][0] == made.body
        assert Relay().authorize(payer, api_key=secret).status == 201

    def test_a_key_keeps_its_restrictions(self) -> None:
        body = {
            "name": "restricted",
            "expires_at": TOMORROW.isoformat(),
            "allowed_models": ["gpt-4o"],
            "allowed_networks": ["203.0.113.0/24", "2001:db8::/32"],
        }
        made = CustomerApi(make_payer()).send("POST", "api-keys", body).body
        assert made["expires_at"] == TOMORROW.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert (made["allowed_models"], made["allowed_networks"]) == (body["allowed_models"], body["allowed_networks"])

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "name"),
            ({"name": ""}, "name"),
            ({"name": "   "}, "name"),
            ({"name": None}, "name"),
            ({"name": 5}, "name"),
            ({"name": True}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": "x", "expires_at": "tomorrow"}, "expires_at"),
            ({"name": "x", "expires_at": 1790000000}, "expires_at"),
            ({"name": "x", "expires_at": "2026-12-01T10:00:00"}, "expires_at"),
            ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"name": "x", "expires_at": "9999-12-31T23:59:59-10:00"}, "expires_at"),
            ({"name": "x", "allowed_models": "gpt-4o"}, "allowed_models"),
            ({"name": "x", "allowed_models": [1]}, "allowed_models"),
            ({"name": "x", "allowed_models": [""]}, "allowed_models"),
            ({"name": "x", "allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
            ({"name": "x", "allowed_networks": ["here"]}, "allowed_networks"),
            ({"name": "x", "allowed_networks": {}}, "allowed_networks"),
            ({"name": "x", "alowed_models": []}, "alowed_models"),
            ({"name": "x", "status": "active"}, "status"),
        ],
    )
    def test_a_bad_field_is_named(self, body: dict[str, Any], param: str) -> None:
        payer = make_payer()
        answer = CustomerApi(payer).send("POST", "api-keys", body)
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["param"] == param
        assert ApiKey.objects.filter(customer=payer.customer).count() == 1

    def test_a_change_touches_only_what_it_names(self) -> None:
        api = CustomerApi(make_payer())
        made = api.send("POST", "api-keys", {"name": "a", "allowed_models": ["gpt-4o"]}).body
        path = f"api-keys/{made['id']}"
        assert api.send("PATCH", path, {"name": "b"}).body["allowed_models"] == ["gpt-4o"]
        changed = api.send("PATCH", path, {"expires_at": TOMORROW.isoformat(), "allowed_models": None})
        assert (changed.status, changed.body["name"], changed.body["allowed_models"]) == (200, "b", [])
        assert api.send("PATCH", path, {"expires_at": None}).body["expires_at"] is None
        assert api.send("PATCH", path, {}).body["name"] == "b"
        assert api.send("PATCH", path, {"name": ""}).body["error"]["param"] == "name"
        assert "key" not in api.get(path).body

    def test_an_expired_key_says_so_and_can_be_prolonged(self) -> None:
        payer = make_payer()
        api, path = CustomerApi(payer), f"api-keys/{payer.key.public_id}"
        ApiKey.objects.filter(pk=payer.key.pk).update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert api.get(path).body["status"] == "expired"
        assert api.send("PATCH", path, {"expires_at": TOMORROW.isoformat()}).body["status"] == "active"

    def test_a_revoked_key_stays_listed_and_cannot_be_changed(self) -> None:
        payer = make_payer()
        api, path = CustomerApi(payer), f"api-keys/{payer.key.public_id}"
        revoked = api.send("DELETE", path)
        assert (revoked.status, revoked.body["status"]) == (200, "revoked")
        again = api.send("DELETE", path)
        assert (again.status, again.body) == (200, revoked.body)
        answer = api.send("PATCH", path, {"name": "x"})
        assert (answer.status, answer.code) == (409, "api_key_revoked")
        assert [key["status"] for key in api.get("api-keys").body["data"]] == ["revoked"]
        assert Relay().authorize(payer).code == "invalid_api_key"

    def test_another_customers_key_is_not_there(self) -> None:
        payer, stranger = make_payer(), make_payer(name="Eve")
        api, path = CustomerApi(stranger), f"api-keys/{payer.key.public_id}"
        for answer in (api.get(path), api.send("PATCH", path, {"name": "x"}), api.send("DELETE", path)):
            assert (answer.status, answer.code) == (404, "api_key_not_found")
        assert ApiKey.objects.get(pk=payer.key.pk).revoked_at is None

    def test_keys_are_listed_newest_first_in_pages(self) -> None:
        api = CustomerApi(make_payer())
        for name in "abc":
            api.send("POST", "api-keys", {"name": name})
        first = api.get("api-keys", limit="3").body
        rest = api.get("api-keys", limit="3", cursor=first["next_cursor"]).body
        assert [key["name"] for key in first["data"] + rest["data"]] == ["c", "b", "a", "default"]
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)


@pytest.mark.django_db
class TestSentTwice:
    def test_the_same_key_makes_one_key_and_its_secret_is_not_repeated(self) -> None:
        payer = make_payer()
        api = CustomerApi(payer)
        first = api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})
        again = api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})
        assert (again.status, again.body) == (201, {**first.body, "key": None})
        assert ApiKey.objects.filter(customer=payer.customer).count() == 2
        assert first.body["key"] not in str(IdempotentAnswer.objects.values_list("body", flat=True))

    def test_the_same_key_with_another_request_is_a_conflict(self) -> None:
        payer = make_payer()
        api = CustomerApi(payer)
        path = f"api-keys/{payer.key.public_id}"
        api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})
        for answer in (
            api.send("POST", "api-keys", {"name": "b"}, **{IDEMPOTENCY: "k1"}),
            api.send("PATCH", path, {"name": "a"}, **{IDEMPOTENCY: "k1"}),
            api.send("DELETE", path, **{IDEMPOTENCY: "k1"}),
        ):
            assert (answer.status, answer.code) == (409, "idempotency_conflict")
        assert ApiKey.objects.get(pk=payer.key.pk).name == "default"

    def test_changes_and_revocations_are_replayed_too(self) -> None:
        payer = make_payer()
        api, path = CustomerApi(payer), f"api-keys/{payer.key.public_id}"
        first = api.send("PATCH", path, {"name": "a"}, **{IDEMPOTENCY: "k1"})
        api.send("PATCH", path, {"name": "b"})
        assert api.send("PATCH", path, {"name": "a"}, **{IDEMPOTENCY: "k1"}).body == first.body
        assert api.get(path).body["name"] == "b"
        revoked = api.send("DELETE", path, **{IDEMPOTENCY: "k2"})
        assert api.send("DELETE", path, **{IDEMPOTENCY: "k2"}).body == revoked.body

    def test_customers_do_not_share_keys_and_a_refusal_takes_none(self) -> None:
        one, other = CustomerApi(make_payer()), CustomerApi(make_payer(name="Eve"))
        refused = one.send("POST", "api-keys", {"name": "a", "allowed_networks": ["x"]}, **{IDEMPOTENCY: "k1"})
        assert refused.status == 400
        assert one.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"}).body["key"]
        assert other.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"}).body["key"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "ké", "a\tb"])
    def test_a_bad_idempotency_key_is_refused(self, key: str) -> None:
        answer = CustomerApi(make_payer()).send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: key})
        assert (answer.status, answer.body["error"]["param"]) == (400, IDEMPOTENCY)

    def test_the_longest_idempotency_key_is_taken(self) -> None:
        answer = CustomerApi(make_payer()).send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "x" * 255})
        assert answer.status == 201


def _send_at_once(api: CustomerApi, times: int, **headers: str) -> list[Answer]:
    barrier = Barrier(times)

    def send(_: int) -> Answer:
        barrier.wait()
        try:
            return api.send("POST", "api-keys", {"name": "raced"}, **headers)
        finally:
            connection.close()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(send, range(times)))


def test_eight_requests_with_one_idempotency_key_at_once_make_one_key(committed: None) -> None:
    payer = make_payer()
    answers = _send_at_once(CustomerApi(payer), 8, **{IDEMPOTENCY: "raced"})
    assert [answer.status for answer in answers] == [201] * 8
    assert len({answer.body["id"] for answer in answers}) == 1
    assert len([answer for answer in answers if answer.body["key"]]) == 1
    assert ApiKey.objects.filter(customer=payer.customer, name="raced").count() == 1


def test_without_an_idempotency_key_the_same_race_makes_eight(committed: None) -> None:
    payer = make_payer()
    _send_at_once(CustomerApi(payer), 8)
    assert ApiKey.objects.filter(customer=payer.customer, name="raced").count() == 8


def test_a_key_that_is_forgotten_while_its_answer_is_looked_for_does_the_work_anew(committed: None) -> None:
    payer = make_payer()
    api = CustomerApi(payer)
    first = api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})
    removed: list[int] = []

    def remove_before_it_is_read(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if not removed and sql.startswith("SELECT") and "billing_idempotentanswer" in sql:
            with beside(lambda: IdempotentAnswer.objects.filter(customer=payer.customer).delete()[0]) as removal:
                removed.append(removal.result(60))
        return execute(sql, *rest)

    with connection.execute_wrapper(remove_before_it_is_read):
        again = api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})

    assert removed == [1]
    assert again.status == 201
    assert again.body["key"] not in (None, first.body["key"])
    third = api.send("POST", "api-keys", {"name": "a"}, **{IDEMPOTENCY: "k1"})
    assert third.body == {**again.body, "key": None}
