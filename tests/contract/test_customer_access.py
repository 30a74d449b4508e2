"""Who may use the customer API, and what every address does with bad requests."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from billing import customers
from billing.models import AccessToken, Customer, Membership
from tests.world import Answer, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db

LISTS = ("api-keys", "spend-limits", "usage/events", "prices", "invoices", "transfers")
# Nothing, not base64, not JSON, a string or a float or nothing in a list, a number too large, too long.
BAD_CURSORS = (
    *("", "x", "é", "%00", "bnVsbA", "WyJ4Il0", "WzFlOTld", "W10"),
    *("WzEwMDAwMDAwMDAwMDAwMDAwMDAwXQ", "x" * 2000),
)
READS = (*LISTS, "balance", "usage")


def with_token(secret: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {secret}"})


def make_token(payer: Payer, *scopes: str, expires_at: datetime | None = None) -> str:
    return customers.create_access_token(customer=payer.customer, name="script", scopes=scopes, expires_at=expires_at)[
        1
    ]


def sign_in(payer: Payer, role: str, *, csrf_checks: bool = True) -> Client:
    user = User.objects.create_user(f"{role}-{payer.customer.pk}", password="correct horse battery")
    Membership.objects.create(customer=payer.customer, user=user, role=role)
    client = Client(enforce_csrf_checks=csrf_checks)
    client.force_login(user)
    return client


def decode(response: Any) -> Answer:
    return Answer(response.status_code, json.loads(response.content), dict(response.headers))


def assert_is_error(answer: Answer, status: int, code: str, param: str | None = None) -> None:
    assert (answer.status, answer.code) == (status, code), answer.body
    assert set(answer.body) == {"error"}
    assert set(answer.body["error"]) == {"type", "code", "message", "param"}
    assert answer.body["error"]["param"] == param
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", READS)
def test_nobody_reads_without_a_token(path: str) -> None:
    answer = decode(Client().get(f"/api/v1/{path}"))
    assert_is_error(answer, 401, "invalid_access_token")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer ct_wrong", "Basic {token}", "{token}", "Bearer {token} x", "Bearer {key}"],
)
def test_a_wrong_token_gets_the_same_answer_however_it_is_wrong(header: str) -> None:
    payer = make_payer()
    sent = header.format(token=payer.access_token, key=payer.api_key)
    assert_is_error(decode(Client(headers={"Authorization": sent}).get("/api/v1/balance")), 401, "invalid_access_token")


def test_an_expired_or_revoked_token_is_a_wrong_token() -> None:
    payer = make_payer()
    now = datetime.now(UTC)
    good = make_token(payer, "read", expires_at=now + timedelta(minutes=1))
    expired = make_token(payer, "read", expires_at=now - timedelta(seconds=1))
    assert with_token(good).get("/api/v1/balance").status_code == 200
    assert_is_error(decode(with_token(expired).get("/api/v1/balance")), 401, "invalid_access_token")
    AccessToken.objects.filter(customer=payer.customer).update(revoked_at=now)
    assert_is_error(decode(with_token(good).get("/api/v1/balance")), 401, "invalid_access_token")


def test_scopes_say_what_a_token_may_do() -> None:
    payer = make_payer()
    path = f"/api/v1/api-keys/{payer.key.public_id}"
    reader, keeper = with_token(make_token(payer, "read")), with_token(make_token(payer, "keys"))
    assert reader.get(path).status_code == 200
    assert_is_error(decode(keeper.get(path)), 403, "insufficient_scope")
    for method in ("post", "patch", "delete"):
        target = "/api/v1/api-keys" if method == "post" else path
        answer = decode(getattr(reader, method)(target, data='{"name": "x"}', content_type="application/json"))
        assert_is_error(answer, 403, "insufficient_scope")
    assert keeper.post("/api/v1/api-keys", data='{"name": "x"}', content_type="application/json").status_code == 201


@pytest.mark.parametrize(("role", "status"), [("owner", 201), ("developer", 201), ("billing", 403), ("viewer", 403)])
def test_a_members_role_says_what_its_session_may_do(role: str, status: int) -> None:
    client = sign_in(make_payer(), role, csrf_checks=False)
    assert client.get("/api/v1/balance").status_code == 200
    made = client.post("/api/v1/api-keys", data='{"name": "x"}', content_type="application/json")
    assert made.status_code == status


def test_a_session_writes_only_with_the_csrf_token() -> None:
    client = sign_in(make_payer(), "owner")
    assert client.get("/api/v1/balance").status_code == 200
    sent: dict[str, Any] = {"data": '{"name": "x"}', "content_type": "application/json"}
    assert_is_error(decode(client.post("/api/v1/api-keys", **sent)), 403, "csrf_failed")
    client.get("/admin/login/?next=/")
    client.cookies["csrftoken"] = token = "a" * 32
    assert client.post("/api/v1/api-keys", headers={"X-CSRFToken": token}, **sent).status_code == 201


def test_a_signed_in_user_without_a_customer_is_told_so() -> None:
    client = Client()
    client.force_login(User.objects.create_user("operator"))
    assert_is_error(decode(client.get("/api/v1/balance")), 403, "no_customer")


def test_a_wrong_token_is_not_rescued_by_a_session() -> None:
    client = sign_in(make_payer(), "owner")
    answer = decode(client.get("/api/v1/balance", headers={"Authorization": "Bearer ct_wrong"}))
    assert_is_error(answer, 401, "invalid_access_token")


def test_a_suspended_customer_reads_and_revokes_but_changes_nothing_else() -> None:
    payer = make_payer()
    api, path = CustomerApi(payer), f"api-keys/{payer.key.public_id}"
    Customer.objects.filter(pk=payer.customer.pk).update(status="suspended")
    assert {read: api.get(read).status for read in READS} == dict.fromkeys(READS, 200)
    assert_is_error(api.send("POST", "api-keys", {"name": "x"}), 403, "customer_suspended")
    assert_is_error(api.send("PATCH", path, {"name": "x"}), 403, "customer_suspended")
    assert api.send("DELETE", path).body["status"] == "revoked"


def test_no_address_redirects_and_unknown_ones_are_404_in_the_one_shape() -> None:
    api = CustomerApi(make_payer())
    for path in (
        "balance/",
        "nothing",
        "api-keys/",
        "usage/",
        "",
        "invoices/%00",
        "api-keys/key_%00",
        "schema",
        "docs",
    ):
        assert_is_error(api.get(path), 404, "not_found")


@pytest.mark.parametrize("path", [*READS, "api-keys/key_x", "invoices/inv_x"])
def test_other_methods_are_405_with_allow(path: str) -> None:
    api = CustomerApi(make_payer())
    for method in ("OPTIONS", "TRACE") if path == "spend-limits" else ("PUT", "OPTIONS", "TRACE"):
        answer = api.send(method, path, {})
        assert_is_error(answer, 405, "method_not_allowed")
        assert "GET" in answer.headers["Allow"]
        assert method not in answer.headers["Allow"]


def test_answers_are_json_whatever_the_request_accepts_and_are_kept_nowhere() -> None:
    payer = make_payer()
    response = with_token(payer.access_token).get("/api/v1/balance", headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert with_token(payer.access_token).head("/api/v1/balance").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"name"',
        b"null",
        b"{",
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "allowed_models": [{"x": 1, "x": 2}]}',
        b'{"name": NaN}',
        b'{"name": "a", "expires_at": Infinity}',
        b'{"name": "a\\u0000"}',
        b'{"name": "a\x00"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xff"}',
        b'{"name": "a", "\\ud800": 1}',
        b'{"name": "a", "allowed_models": ["\\u0000"]}',
        b"[" * 60_000,
        b'{"name": ' + b"9" * 5000 + b"}",
        '{"name": "ä"}'.encode("utf-16"),
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    payer = make_payer()
    response = with_token(payer.access_token).post("/api/v1/api-keys", data=body, content_type="application/json")
    answer = decode(response)
    assert (answer.status, answer.code) == (400, "invalid_request_error")
    assert CustomerApi(payer).get("api-keys").body["data"][1:] == []


def test_a_large_body_is_413_and_another_content_type_415() -> None:
    client = with_token(make_payer().access_token)
    large = json.dumps({"name": "x" * 70_000})
    assert_is_error(
        decode(client.post("/api/v1/api-keys", data=large, content_type="application/json")), 413, "body_too_large"
    )
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = decode(client.post("/api/v1/api-keys", data=b'{"name": "x"}', content_type=content_type))
        assert_is_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", LISTS)
def test_bad_paging_is_400_with_its_parameter(path: str) -> None:
    api = CustomerApi(make_payer())
    for limit in ("0", "201", "-1", "x", "", "1.5", "٣", "1e2", "0x1"):
        assert_is_error(api.get(path, limit=limit), 400, "invalid_request_error", "limit")
    for cursor in (
        "",
        "x",
        "é",
        "%00",
        "bnVsbA",
        "WyJ4Il0",
        "WzFlOTld",
        "W10",
        "WzEwMDAwMDAwMDAwMDAwMDAwMDAwXQ",
        "x" * 2000,
    ):
        assert_is_error(api.get(path, cursor=cursor), 400, "invalid_request_error", "cursor")
    assert api.get(path, limit="200", nonsense="1").status == 200
