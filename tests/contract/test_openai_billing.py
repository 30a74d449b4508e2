"""What OpenAI-compatible programs ask with the `sk-…` key itself."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from metering.models import ApiKey
from tests.statements import counted_statements
from tests.world import SONNET, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

PATHS = ("dashboard/billing/subscription", "dashboard/billing/usage", "models")


def get(payer: Payer, path: str, **query: str) -> Answer:
    response = Client(headers={"Authorization": f"Bearer {payer.api_key}"}).get(f"/v1/{path}", query)
    # Numbers are read digit by digit, as they were written.
    return Answer(response.status_code, json.loads(response.content, parse_float=Decimal), dict(response.headers))


def test_the_limit_less_the_usage_is_what_is_left() -> None:
    payer, relay = make_payer(credit="50.00"), Relay()
    relay.report(make_event(payer), make_event(payer, occurred_at="2025-01-05T10:00:00Z"))
    relay.authorize(payer)

    subscription, usage = get(payer, PATHS[0]).body, get(payer, PATHS[1]).body

    limit = Decimal("49.9889")
    assert subscription == {
        "object": "billing_subscription",
        "has_payment_method": True,
        "soft_limit_usd": limit,
        "hard_limit_usd": limit,
        "system_hard_limit_usd": limit,
        "access_until": 0,
    }
    assert usage == {"object": "list", "total_usage": Decimal("5.85")}
    wallet = payer.wallet
    assert limit - usage["total_usage"] / 100 == wallet.balance - wallet.held


def test_usage_is_in_cents_of_the_days_asked_for_both_included() -> None:
    payer, relay = make_payer(), Relay()
    relay.report(
        make_event(payer, occurred_at="2026-10-05T00:00:00Z"),
        make_event(payer, occurred_at="2026-10-06T23:59:59Z"),
        make_event(payer, occurred_at="2026-10-07T00:00:00Z"),
    )

    def total(**query: str) -> Any:
        return get(payer, PATHS[1], **query).body["total_usage"]

    assert total(start_date="2026-10-05", end_date="2026-10-06") == Decimal("5.85")
    assert total(start_date="2026-10-06") == Decimal("5.85")
    assert total(end_date="2026-10-05") == Decimal("2.925")
    assert total(start_date="2026-10-08", end_date="2026-10-09") == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_date": "yesterday"}, "start_date"),
        ({"start_date": "2026-02-30"}, "start_date"),
        ({"end_date": "20261005"}, "end_date"),
        ({"end_date": "9999-12-31"}, "end_date"),
        ({"end_date": ""}, "end_date"),
        ({"start_date": "2026-10-06", "end_date": "2026-10-05"}, "start_date"),
    ],
)
def test_a_bad_date_is_named(query: dict[str, str], param: str) -> None:
    answer = get(make_payer(), PATHS[1], **query)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)


def test_access_ends_when_the_key_expires() -> None:
    payer = make_payer()
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    ApiKey.objects.filter(pk=payer.key.pk).update(expires_at=expires_at)
    assert get(payer, PATHS[0]).body["access_until"] == int(expires_at.timestamp())


def test_models_are_listed_as_openai_lists_them() -> None:
    payer = make_payer()
    body = get(payer, "models").body
    assert body["object"] == "list"
    found = {model["id"]: model for model in body["data"]}
    assert found[SONNET] == {"id": SONNET, "object": "model", "created": 0, "owned_by": "anthropic"}
    assert len(found) == len(body["data"]) > 100
    assert Relay().authorize(payer, model=body["data"][0]["id"]).status == 201


def test_models_are_those_that_the_key_may_use() -> None:
    payer = make_payer()
    ApiKey.objects.filter(pk=payer.key.pk).update(allowed_models=["claude-sonnet-4-0", "nothing-like-it"])
    assert [model["id"] for model in get(payer, "models").body["data"]] == [SONNET]


@pytest.mark.parametrize("path", PATHS)
def test_wrong_revoked_and_expired_keys_answer_alike(path: str) -> None:
    payer, now = make_payer(), datetime.now(UTC)
    answers = []
    for change in ({"expires_at": now - timedelta(seconds=1)}, {"expires_at": None, "revoked_at": now}):
        ApiKey.objects.filter(pk=payer.key.pk).update(**change)
        answers.append(get(payer, path))
    for header in ("Bearer sk-wrong", "Bearer ", f"Basic {payer.api_key}", f"Bearer {payer.access_token}"):
        response = Client(headers={"Authorization": header}).get(f"/v1/{path}")
        answers.append(Answer(response.status_code, json.loads(response.content), dict(response.headers)))
    response = Client().get(f"/v1/{path}")
    answers.append(Answer(response.status_code, json.loads(response.content), dict(response.headers)))
    assert {(answer.status, answer.code, answer.body["error"]["message"]) for answer in answers} == {
        (401, "invalid_api_key", answers[0].body["error"]["message"])
    }
    assert all(answer.headers["WWW-Authenticate"].startswith("Bearer") for answer in answers)


def test_only_reading_is_possible_and_takes_few_statements() -> None:
    payer = make_payer()
    client = Client(headers={"Authorization": f"Bearer {payer.api_key}"})
    for path in PATHS:
        answer = client.post(f"/v1/{path}", data="{}", content_type="application/json")
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
        with counted_statements() as statements:
            assert client.get(f"/v1/{path}").status_code == 200
        assert len(statements) <= 3, path
