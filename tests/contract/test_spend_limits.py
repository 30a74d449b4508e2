"""A customer's own spend limits beside those of the operator: read, replaced, and what is refused."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from billing.models import Membership, OperatorSettings, SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import keys, spend
from metering.verification import verify_books
from tests.contract.test_customer_access import make_token, sign_in
from tests.world import EXAMPLE_CHARGE, CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

IDEMPOTENCY = "Idempotency-Key"
PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output
DAILY = {"span": "day", "amount": "5.00", "type": "hard"}


def put(payer: Payer, *limits: dict[str, Any], api_key: str | None = None, **headers: str) -> Any:
    return CustomerApi(payer).send("PUT", "spend-limits", {"api_key": api_key, "limits": list(limits)}, **headers)


def shown(payer: Payer) -> list[tuple[Any, ...]]:
    """What the list says of each limit, the oldest first."""
    rows = CustomerApi(payer).get("spend-limits").body["data"]
    return [(row["api_key"], row["span"], row["type"], row["amount"], row["set_by"]) for row in reversed(rows)]


def limit_of_operator(payer: Payer, amount: str, **changes: Any) -> None:
    limit = spend.Limit(changes.pop("span", Span.DAY), Decimal(amount), **changes)
    spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.OPERATOR, actor="op", at=datetime.now(UTC))


class TestReading:
    def test_nobody_has_limits_unasked(self) -> None:
        answer = CustomerApi(make_payer()).get("spend-limits")
        assert (answer.status, answer.body) == (200, {"data": [], "has_more": False, "next_cursor": None})

    def test_a_limit_tells_what_is_spent_held_and_left_and_when_it_begins_anew(self) -> None:
        payer, relay = make_payer(), Relay()
        with time_machine.travel("2026-11-22T10:00:00Z", tick=False):
            put(payer, DAILY, {"span": "month", "amount": "100", "type": "soft"})
            relay.report(make_event(payer))
            relay.authorize(payer, input_tokens=1000)
            month, day = CustomerApi(payer).get("spend-limits").body["data"]
        assert day == {
            "api_key": None,
            "span": "day",
            "type": "hard",
            "amount": "5.000000",
            "set_by": "customer",
            "spent": "0.029250",
            "held": "0.010500",
            "left": "4.960250",
            "resets_at": "2026-11-23T00:00:00Z",
        }
        assert (month["span"], month["type"], month["resets_at"]) == ("month", "soft", "2026-12-01T00:00:00Z")
        assert month["left"] == "99.960250"

    def test_days_are_the_operators(self) -> None:
        OperatorSettings.objects.update(timezone="America/New_York")
        payer = make_payer()
        with time_machine.travel("2026-11-01T10:00:00Z", tick=False):  # the night in which its clocks go back
            (row,) = put(payer, DAILY).body["data"]
        assert row["resets_at"] == "2026-11-02T05:00:00Z"

    def test_a_new_day_begins_with_nothing_spent(self) -> None:
        payer = make_payer()
        with time_machine.travel("2026-11-22T10:00:00Z", tick=False):
            put(payer, DAILY)
            Relay().report(make_event(payer))
        with time_machine.travel("2026-11-23T10:00:00Z", tick=False):
            (row,) = CustomerApi(payer).get("spend-limits").body["data"]
        assert (row["spent"], row["left"], row["resets_at"]) == ("0.000000", "5.000000", "2026-11-24T00:00:00Z")

    def test_what_is_left_can_be_below_zero(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        (row,) = put(payer, {**DAILY, "amount": "0.02"}).body["data"]
        assert (row["spent"], row["left"]) == ("0.029250", "-0.009250")

    def test_limits_come_in_pages_the_newest_first(self) -> None:
        payer = make_payer()
        api = CustomerApi(payer)
        put(payer, DAILY, {**DAILY, "span": "month"}, {**DAILY, "type": "soft"})
        first = api.get("spend-limits", limit="2").body
        rest = api.get("spend-limits", limit="2", cursor=first["next_cursor"]).body
        assert [(row["span"], row["type"]) for row in first["data"] + rest["data"]] == [
            ("day", "soft"),
            ("month", "hard"),
            ("day", "hard"),
        ]
        assert (first["has_more"], rest["has_more"]) == (True, False)

    def test_a_suspended_customer_reads_them_but_sets_none(self) -> None:
        payer = make_payer()
        put(payer, DAILY)
        payer.customer.status = "suspended"
        payer.customer.save(update_fields=["status"])
        assert len(shown(payer)) == 1
        assert put(payer).code == "customer_suspended"


class TestReplacing:
    def test_a_limit_holds_from_the_next_authorization_on(self) -> None:
        payer, relay = make_payer(), Relay()
        assert relay.authorize(payer, input_tokens=1000).status == 201
        answer = put(payer, {**DAILY, "amount": "0.0210"})
        assert (answer.status, answer.body["has_more"], answer.body["next_cursor"]) == (200, False, None)
        assert [row["held"] for row in answer.body["data"]] == ["0.010500"]
        assert relay.authorize(payer, input_tokens=1000).status == 201
        assert relay.authorize(payer, input_tokens=1000).code == "spend_limit_reached"
        put(payer, {**DAILY, "amount": "1"})
        assert relay.authorize(payer, input_tokens=1000).status == 201

    def test_the_new_ones_are_the_only_ones_of_that_key_or_customer(self) -> None:
        payer = make_payer()
        key = payer.key.public_id
        put(payer, DAILY, {"span": "month", "amount": "50", "type": "soft"})
        put(payer, {**DAILY, "amount": "1"}, api_key=key)
        answer = put(payer, {**DAILY, "amount": "7"})
        assert [row["api_key"] for row in answer.body["data"]] == [None], "it answers with what it was asked to set"
        assert shown(payer) == [
            (None, "day", "hard", "7.000000", "customer"),
            (key, "day", "hard", "1.000000", "customer"),
        ]
        assert put(payer, api_key=key).body["data"] == []
        assert len(shown(payer)) == 1
        put(payer)
        assert shown(payer) == []
        assert not SpendCounter.objects.filter(customer=payer.customer).exists()
        assert not payer.wallet.counts_spend

    def test_the_operators_are_seen_and_stay_whatever_a_customer_sets(self) -> None:
        payer, relay = make_payer(), Relay()
        limit_of_operator(payer, "0.0105")
        limit_of_operator(payer, "3", api_key_id=payer.key.pk)
        for limits in ([{**DAILY, "amount": "1000"}], []):
            answer = put(payer, *limits)
            assert ("day", "0.010500", "operator") in [
                (row["span"], row["amount"], row["set_by"]) for row in answer.body["data"]
            ]
        put(payer, api_key=payer.key.public_id)
        assert shown(payer) == [
            (None, "day", "hard", "0.010500", "operator"),
            (payer.key.public_id, "day", "hard", "3.000000", "operator"),
        ]
        assert [relay.authorize(payer, input_tokens=1000).status for _ in range(2)] == [201, 402]

    def test_a_narrower_one_beside_the_operators_holds_too(self) -> None:
        payer, relay = make_payer(), Relay()
        limit_of_operator(payer, "100")
        put(payer, {**DAILY, "amount": "0.0105"})
        assert [relay.authorize(payer, input_tokens=1000).status for _ in range(2)] == [201, 402]

    def test_what_a_key_has_spent_before_counts_and_other_keys_do_not(self) -> None:
        payer = make_payer()
        other, _ = keys.create_api_key(customer=payer.customer, name="other", at=datetime.now(UTC))
        Relay().report(make_event(payer), make_event(payer, api_key_id=other.public_id))
        (row,) = put(payer, DAILY, api_key=payer.key.public_id).body["data"]
        assert Decimal(row["spent"]) == EXAMPLE_CHARGE
        assert verify_books(full=True, at=datetime.now(UTC)).differences == []

    def test_who_set_it_is_kept_where_somebody_is_signed_in(self) -> None:
        payer = make_payer()
        put(payer, DAILY)
        assert SpendLimit.objects.get(customer=payer.customer).actor == ""
        client = sign_in(payer, Membership.Role.OWNER, csrf_checks=False)
        body = {"api_key": None, "limits": [DAILY]}
        assert client.put("/api/v1/spend-limits", body, content_type="application/json").status_code == 200
        assert SpendLimit.objects.get(customer=payer.customer).actor == f"owner-{payer.customer.pk}"

    def test_setting_needs_the_scope_keys(self) -> None:
        payer = make_payer()
        for scopes, status in ((["read"], 403), (["read", "pay"], 403), (["keys"], 200)):
            api = CustomerApi(Payer(payer.customer, payer.key, payer.api_key, make_token(payer, *scopes)))
            answer = api.send("PUT", "spend-limits", {"api_key": None, "limits": [DAILY]})
            assert (answer.status, answer.code) == (status, None if status == 200 else "insufficient_scope")


class TestSentTwice:
    def test_the_same_key_sets_once_and_gets_the_first_answer_again(self) -> None:
        payer = make_payer()
        first = put(payer, DAILY, **{IDEMPOTENCY: "k1"})
        put(payer, {**DAILY, "amount": "9"})
        assert put(payer, DAILY, **{IDEMPOTENCY: "k1"}).body == first.body
        assert shown(payer) == [(None, "day", "hard", "9.000000", "customer")]

    def test_the_same_key_with_other_limits_is_a_conflict(self) -> None:
        payer = make_payer()
        put(payer, DAILY, **{IDEMPOTENCY: "k1"})
        assert put(payer, **{IDEMPOTENCY: "k1"}).code == "idempotency_conflict"
        assert len(shown(payer)) == 1

    def test_the_same_limits_again_change_nothing(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        first = put(payer, DAILY)
        assert put(payer, DAILY).body == first.body


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "api_key"),
            ({"limits": [DAILY]}, "api_key"),
            ({"api_key": None}, "limits"),
            ({"api_key": None, "limits": None}, "limits"),
            ({"api_key": None, "limits": {}}, "limits"),
            ({"api_key": None, "limits": "all"}, "limits"),
            ({"api_key": None, "limits": [DAILY, DAILY]}, "limits"),
            ({"api_key": None, "limits": [DAILY, {**DAILY, "amount": "6"}]}, "limits"),
            ({"api_key": None, "limits": ["day"]}, "limits[0]"),
            ({"api_key": None, "limits": [DAILY, None]}, "limits"),
            ({"api_key": None, "limits": [DAILY, 7]}, "limits[1]"),
            ({"api_key": None, "limits": [[]]}, "limits[0]"),
            ({"api_key": None, "limits": [{}]}, "limits[0].span"),
            ({"api_key": None, "limits": [{**DAILY, "span": "week"}]}, "limits[0].span"),
            ({"api_key": None, "limits": [{**DAILY, "span": ["day"]}]}, "limits[0].span"),
            ({"api_key": None, "limits": [{**DAILY, "type": True}]}, "limits[0].type"),
            ({"api_key": None, "limits": [{**DAILY, "type": None}]}, "limits[0].type"),
            ({"api_key": None, "limits": [{"span": "day", "type": "hard"}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [DAILY, {**DAILY, "span": "month", "amount": 5}]}, "limits[1].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": 0.5}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": None}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": ""}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": "-0.01"}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": "1e3"}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": "NaN"}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": "1.0000000000000001"}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "amount": "1" * 19}]}, "limits[0].amount"),
            ({"api_key": None, "limits": [{**DAILY, "owner": "operator"}]}, "limits[0].owner"),
            ({"api_key": 7, "limits": []}, "api_key"),
            ({"api_key": "", "limits": []}, "api_key"),
            ({"api_key": None, "limits": [], "set_by": "operator"}, "set_by"),
        ],
    )
    def test_a_bad_field_is_named_and_nothing_is_set(self, body: dict[str, Any], param: str) -> None:
        payer = make_payer()
        put(payer, {**DAILY, "amount": "2"})
        answer = CustomerApi(payer).send("PUT", "spend-limits", body)
        assert (answer.status, answer.code) == (400, "invalid_request_error"), answer.body
        assert answer.body["error"]["param"] == param
        assert param in answer.body["error"]["message"]
        assert shown(payer) == [(None, "day", "hard", "2.000000", "customer")]

    def test_an_unknown_key_and_another_customers_are_not_there(self) -> None:
        payer, other = make_payer(), make_payer(name="Eve")
        for api_key in ("key_0000000000000000", "x", other.key.public_id):
            answer = put(payer, DAILY, api_key=api_key)
            assert (answer.status, answer.code) == (404, "api_key_not_found")
            assert answer.body["error"]["param"] == "api_key"
        assert not SpendLimit.objects.exists()

    def test_other_customers_limits_are_not_seen(self) -> None:
        payer, other = make_payer(), make_payer(name="Eve")
        put(payer, DAILY)
        assert shown(other) == []

    def test_the_amount_zero_is_a_limit(self) -> None:
        payer = make_payer()
        put(payer, {**DAILY, "amount": "0"})
        assert Relay().authorize(payer).code == "spend_limit_reached"


def test_a_lease_and_requests_share_what_is_left_until_the_lease_ends() -> None:
    payer, relay = make_payer(), Relay()
    put(payer, {**DAILY, "amount": "1"})
    now = datetime.now(UTC)
    lease = relay.post(
        "authorizations", {"api_key": payer.api_key, "request_id": "l", "lease": {"amount": "5", "minimum": "0.5"}}
    )
    assert lease.body["amount"] == "1.000000"
    assert relay.authorize(payer).code == "spend_limit_reached"
    relay.report(make_event(payer, authorization=lease.body["id"]))
    assert relay.release(lease.body["id"]).status == 200
    (row,) = CustomerApi(payer).get("spend-limits").body["data"]
    assert (row["spent"], row["held"], row["left"]) == ("0.029250", "0.000000", "0.970750")
    assert datetime.fromisoformat(row["resets_at"]) <= now + timedelta(days=1)
