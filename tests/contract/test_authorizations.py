"""`POST /relay/v1/authorizations` and `…/release`, refusal by refusal, as the contract has them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from billing import holds
from billing.models import Customer, Hold
from metering import authorization, keys, pricing
from metering.models import ApiKey, CustomerPlan, Model, Plan, Price, RelayToken
from relayadmin import ids
from tests.statements import counted_statements
from tests.world import SONNET, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

HAIKU = "claude-haiku-5-5"
SONNET_4_5 = "claude-sonnet-4-5"
UNKNOWN_KEY = "sk-" + "x" * 48


def now() -> datetime:
    return datetime.now(UTC)


def change_key(payer: Payer, **fields: Any) -> None:
    ApiKey.objects.filter(pk=payer.key.pk).update(**fields)


def suspend(payer: Payer, status: str = "suspended") -> None:
    Customer.objects.filter(pk=payer.customer.pk).update(status=status)


def hold_of(answer: Answer) -> Hold:
    parsed = ids.parse_hot_id("auth", answer.body["id"])
    assert parsed is not None
    return Hold.objects.get(customer_id=parsed[0], id=parsed[1])


def assert_error(answer: Answer, status: int, code: str, param: str | None = None) -> None:
    assert (answer.status, answer.code) == (status, code), answer.body
    error = answer.body["error"]
    assert set(error) == {"type", "code", "message", "param"}
    assert error["param"] == param, error
    assert error["message"].endswith(".")
    assert error["message"][0].isupper() or error["message"].startswith(param or "-")


class TestAGrantedRequest:
    def test_answers_with_the_contract_s_fields_and_amount(self) -> None:
        payer = make_payer()
        before = now()
        answer = Relay().authorize(payer, request_id="req_example", client_ip="203.0.113.9")
        assert answer.status == 201
        expires = datetime.fromisoformat(answer.body.pop("expires_at"))
        assert timedelta(seconds=899) < expires - before < timedelta(seconds=920)
        assert answer.body.pop("id").startswith("auth_")
        assert answer.body == {
            "request_id": "req_example",
            "customer": payer.customer.public_id,
            "api_key_id": payer.key.public_id,
            "model": SONNET,
            "amount": "0.011100",
            "currency": "USD",
        }

    def test_times_end_in_z(self) -> None:
        assert Relay().authorize(make_payer()).body["expires_at"].endswith("Z")

    @pytest.mark.parametrize(
        ("cache_ttl", "amount"),
        [
            (None, "0.011100"),  # 1,200 × 3 + 500 × 15
            ("5m", "0.012000"),  # 1,200 × 3.75
            ("30m", "0.011100"),  # no dearer than input
            ("1h", "0.014700"),  # 1,200 × 6
            ("12h", "0.011100"),
        ],
    )
    def test_holds_the_dearer_of_input_and_the_write_it_may_make(self, cache_ttl: str | None, amount: str) -> None:
        answer = Relay().authorize(make_payer(), cache_ttl=cache_ttl)
        assert (answer.status, answer.body["amount"]) == (201, amount)

    def test_a_cheaper_write_rate_never_lowers_the_hold(self) -> None:
        Price.objects.filter(model__public_id=SONNET, meter="cache_write_5m").update(unit_price=Decimal(1))
        pricing.bump_version()
        assert Relay().authorize(make_payer(), cache_ttl="5m").body["amount"] == "0.011100"

    @pytest.mark.parametrize(
        ("model", "input_tokens", "amount"),
        [
            (SONNET_4_5, 200_000, "0.615000"),  # × 3, and 1,000 × 15
            (SONNET_4_5, 200_001, "1.222506"),  # × 6, and 1,000 × 22.5
            (HAIKU, 100_000, "0.010500"),  # × 0.1, and 1,000 × 0.5
            (HAIKU, 100_001, "0.0525005"),  # five times that
        ],
    )
    def test_is_priced_in_the_tier_of_its_input(self, model: str, input_tokens: int, amount: str) -> None:
        answer = Relay().authorize(make_payer(), model=model, input_tokens=input_tokens, max_output_tokens=1000)
        assert (answer.status, answer.body["amount"]) == (201, amount)

    def test_reserves_the_model_s_maximum_output_where_none_is_named(self) -> None:
        assert Model.objects.get(public_id=SONNET).max_output_tokens == 64_000
        answer = Relay().authorize(make_payer(), input_tokens=0, max_output_tokens=None)
        assert answer.body["amount"] == "0.960000"

    @pytest.mark.parametrize(
        ("context_window", "amount"),
        [(32_000, "0.480000"), (200_000, "1.920000"), (None, "1.920000")],  # × 15; the last two 128,000 tokens
    )
    def test_reserves_the_context_window_up_to_128_000_where_the_model_s_maximum_is_unknown(
        self, context_window: int | None, amount: str
    ) -> None:
        Model.objects.filter(public_id=SONNET).update(max_output_tokens=None, context_window=context_window)
        pricing.bump_version()
        answer = Relay().authorize(make_payer(), input_tokens=0, max_output_tokens=None)
        assert (answer.status, answer.body["amount"]) == (201, amount)

    def test_a_maximum_output_of_null_is_an_absent_one(self) -> None:
        payer, relay = make_payer(), Relay()
        body = {"api_key": payer.api_key, "model": SONNET, "request_id": "a", "input_tokens": 0}
        first = relay.post("authorizations", {**body, "max_output_tokens": None})
        second = relay.post("authorizations", body)
        assert (first.status, second.status) == (201, 200)
        assert first.body == second.body

    def test_reserves_the_searches_it_may_make(self) -> None:
        answer = Relay().authorize(make_payer(), web_search_max=3)
        assert answer.body["amount"] == "0.041100"

    def test_asking_for_nothing_holds_nothing(self) -> None:
        payer = make_payer(credit="0")
        answer = Relay().authorize(payer, input_tokens=0, max_output_tokens=0)
        assert (answer.status, answer.body["amount"]) == (201, "0.000000")
        assert payer.wallet.held == 0

    def test_inference_in_the_us_costs_a_tenth_more_where_the_model_says_so(self) -> None:
        answer = Relay().authorize(
            make_payer(), model=HAIKU, input_tokens=1000, max_output_tokens=1000, inference_geo="us"
        )
        assert answer.body["amount"] == "0.000660"

    @pytest.mark.parametrize("words", [{"service_tier": "standard"}, {"speed": "standard"}, {"channel": "anthropic"}])
    def test_saying_what_is_standard_changes_nothing(self, words: dict[str, str]) -> None:
        assert Relay().authorize(make_payer(), **words).body["amount"] == "0.011100"

    def test_is_charged_by_the_customer_s_own_plan(self) -> None:
        payer = make_payer()
        CustomerPlan.objects.create(
            customer=payer.customer, plan=Plan.objects.create(name="partners", multiplier=Decimal("1.2"))
        )
        pricing.bump_version()
        assert Relay().authorize(payer).body["amount"] == "0.013320"

    def test_an_alias_is_answered_with_the_model_s_own_name(self) -> None:
        answer = Relay().authorize(make_payer(), model="claude-sonnet-4-5-20250929")
        assert answer.body["model"] == SONNET_4_5

    @pytest.mark.parametrize("ttl", [1, 60, 86_400])
    def test_lives_as_long_as_it_asks(self, ttl: int) -> None:
        before = now()
        answer = Relay().authorize(make_payer(), ttl_seconds=ttl)
        lives = datetime.fromisoformat(answer.body["expires_at"]) - before
        assert timedelta(seconds=ttl) <= lives < timedelta(seconds=ttl + 20)

    def test_the_last_cent_can_be_held_and_not_one_digit_more(self) -> None:
        payer, relay = make_payer(credit="0.0111"), Relay()
        refused = relay.authorize(payer, input_tokens=1201)
        assert_error(refused, 402, "insufficient_balance")
        assert relay.authorize(payer).status == 201
        assert payer.wallet.held == payer.wallet.balance == Decimal("0.0111")

    def test_a_credit_limit_lets_a_balance_go_below_zero_and_no_further(self) -> None:
        payer, relay = make_payer(credit="0"), Relay()
        type(payer.wallet).objects.filter(customer=payer.customer).update(credit_limit=Decimal("0.0222"))
        assert [relay.authorize(payer).status for _ in range(3)] == [201, 201, 402]


class TestAReplay:
    def test_with_the_same_body_answers_200_with_the_same_answer_and_holds_once(self) -> None:
        payer, relay = make_payer(), Relay()
        first = relay.authorize(payer, request_id="again", client_ip="203.0.113.9")
        second = relay.authorize(payer, request_id="again", client_ip="203.0.113.9")
        assert (first.status, second.status) == (201, 200)
        assert first.body == second.body
        assert payer.wallet.held == Decimal("0.0111")

    def test_does_not_depend_on_the_order_of_the_fields_or_on_spelt_out_nulls(self) -> None:
        payer, relay = make_payer(), Relay()
        body = {"api_key": payer.api_key, "model": SONNET, "request_id": "a", "input_tokens": 5, "max_output_tokens": 5}
        first = relay.post("authorizations", body)
        second = relay.post("authorizations", {"cache_ttl": None, **dict(reversed(body.items())), "speed": None})
        assert (first.status, second.status) == (201, 200)

    @pytest.mark.parametrize(
        "change",
        [
            {"input_tokens": 1201},
            {"max_output_tokens": 499},
            {"model": HAIKU},
            {"cache_ttl": "5m"},
            {"client_ip": "203.0.113.10"},
            {"ttl_seconds": 901},
            {"web_search_max": 1},
        ],
    )
    def test_with_another_body_is_a_conflict(self, change: dict[str, Any]) -> None:
        payer, relay = make_payer(), Relay()
        relay.authorize(payer, request_id="again")
        answer = relay.authorize(payer, **{"request_id": "again", **change})
        assert_error(answer, 409, "request_id_conflict", "request_id")
        assert Hold.objects.filter(customer=payer.customer).count() == 1

    def test_with_another_key_of_the_same_customer_is_a_conflict(self) -> None:
        payer, relay = make_payer(), Relay()
        _, other = keys.create_api_key(customer=payer.customer, name="second", at=now())
        relay.authorize(payer, request_id="again")
        assert_error(
            relay.authorize(payer, request_id="again", api_key=other), 409, "request_id_conflict", "request_id"
        )

    def test_of_another_customer_s_request_id_is_a_request_of_its_own(self) -> None:
        ada, bob, relay = make_payer(), make_payer(name="Bob"), Relay()
        assert relay.authorize(ada, request_id="same").status == 201
        assert relay.authorize(bob, request_id="same").status == 201

    def test_is_answered_although_the_wallet_is_empty_by_now(self) -> None:
        payer, relay = make_payer(credit="0.0111"), Relay()
        relay.authorize(payer, request_id="again")
        assert relay.authorize(payer, request_id="again").status == 200

    def test_after_settlement_says_so(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer, request_id="again")
        relay.report(make_event(payer, authorization=granted.body["id"]))
        assert_error(relay.authorize(payer, request_id="again"), 409, "authorization_settled", "request_id")

    def test_after_release_says_so(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.release(relay.authorize(payer, request_id="again").body["id"])
        assert_error(relay.authorize(payer, request_id="again"), 409, "authorization_released", "request_id")

    def test_after_expiry_says_so_before_and_after_the_sweep(self) -> None:
        payer, relay = make_payer(), Relay()
        hold = hold_of(relay.authorize(payer, request_id="again"))
        Hold.objects.filter(pk=hold.pk).update(expires_at=now() - timedelta(seconds=1))
        assert_error(relay.authorize(payer, request_id="again"), 409, "authorization_expired", "request_id")
        assert holds.expire(at=now()) == 1
        assert_error(relay.authorize(payer, request_id="again"), 409, "authorization_expired", "request_id")

    def test_of_a_refusal_is_judged_anew(self) -> None:
        payer, relay = make_payer(credit="0.01"), Relay()
        assert_error(relay.authorize(payer, request_id="again"), 402, "insufficient_balance")
        assert relay.authorize(payer, request_id="again", input_tokens=100).status == 201


class TestARefusalOfTheCaller:
    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", "Bearer ", "Bearer rl_wrong", "Basic cmw6eA==", "rl_x", "Bearer \x00é"]
    )
    def test_without_a_relay_token_of_ours_is_401(self, header: str | None) -> None:
        relay = Relay()
        headers = {} if header is None else {"Authorization": header}
        response = relay.client.post(
            "/relay/v1/authorizations", b"{}", content_type="application/json", headers=headers
        )
        assert_error(Answer(response.status_code, json.loads(response.content), {}), 401, "invalid_relay_token")
        assert response.headers["WWW-Authenticate"] == "Bearer"

    def test_a_revoked_relay_token_is_worth_as_little_as_a_wrong_one(self) -> None:
        token, secret = keys.create_relay_token(name="node")
        wrong = Relay("rl_" + "0" * 48).authorize(make_payer())
        keys.revoke_relay_token(relay_token_id=token.pk, at=now())
        revoked = Relay(secret).authorize(make_payer())
        assert revoked.status == 401
        assert revoked.body == wrong.body

    def test_an_api_key_or_an_access_token_is_no_relay_token(self) -> None:
        payer = make_payer()
        for secret in (payer.api_key, payer.access_token):
            assert_error(Relay(secret).authorize(payer), 401, "invalid_relay_token")

    def test_comes_before_anything_in_the_body(self) -> None:
        assert_error(Relay("rl_wrong").post("authorizations", b"{not json"), 401, "invalid_relay_token")

    def test_a_token_that_may_only_report_usage_may_not_authorize(self) -> None:
        _, secret = keys.create_relay_token(name="reporter", scopes=["usage"])
        assert_error(Relay(secret).authorize(make_payer()), 403, "insufficient_scope")
        _, secret = keys.create_relay_token(name="gate", scopes=["authorize"])
        assert_error(Relay(secret).report(make_event(make_payer())), 403, "insufficient_scope")

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_any_other_method_is_405(self, method: str) -> None:
        response = getattr(Relay().client, method)("/relay/v1/authorizations")
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")
        assert json.loads(response.content)["error"]["code"] == "method_not_allowed"

    def test_a_trailing_slash_is_404_and_no_redirect(self) -> None:
        assert Relay().post("authorizations/", {}).status == 404


def _stricter_networks(payer: Payer, _: Relay) -> None:
    change_key(payer, allowed_networks=["203.0.113.0/24"])


def _other_models(payer: Payer, _: Relay) -> None:
    change_key(payer, allowed_models=[HAIKU])


def _revoke_relay_token(_: Payer, relay: Relay) -> None:
    RelayToken.objects.filter(digest=ids.secret_digest(relay.token)).update(revoked_at=now())


def _narrow_relay_token(_: Payer, relay: Relay) -> None:
    RelayToken.objects.filter(digest=ids.secret_digest(relay.token)).update(scopes=["usage"])


class TestWhoWasGrantedSomethingBefore:
    """The second request of a key takes one round trip; all that changed since the first counts all the same."""

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda payer, _: change_key(payer, revoked_at=now()), "invalid_api_key"),
            (lambda payer, _: change_key(payer, expires_at=now()), "key_expired"),
            (_stricter_networks, "ip_not_allowed"),
            (_other_models, "model_not_allowed"),
            (lambda payer, _: suspend(payer), "customer_suspended"),
            (lambda payer, _: suspend(payer, "closed"), "customer_suspended"),
            (_revoke_relay_token, "invalid_relay_token"),
            (_narrow_relay_token, "insufficient_scope"),
        ],
    )
    def test_is_refused_from_the_very_next_request_on(self, change: Callable[[Payer, Relay], None], code: str) -> None:
        payer, relay = make_payer(), Relay()
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 201]
        held = payer.wallet.held
        change(payer, relay)
        assert relay.authorize(payer).code == code
        assert payer.wallet.held == held

    def test_pays_the_new_price_and_then_the_new_plan(self) -> None:
        payer, relay = make_payer(), Relay()
        assert [relay.authorize(payer).body["amount"] for _ in range(2)] == ["0.011100", "0.011100"]
        Price.objects.filter(model__public_id=SONNET, kind="charge").update(unit_price=Decimal(1))
        pricing.bump_version()
        assert [relay.authorize(payer).body["amount"] for _ in range(2)] == ["0.001700", "0.001700"]
        plan = Plan.objects.create(name="partners", multiplier=Decimal(2))
        CustomerPlan.objects.create(customer=payer.customer, plan=plan)
        pricing.bump_version()
        assert [relay.authorize(payer).body["amount"] for _ in range(2)] == ["0.003400", "0.003400"]

    def test_is_answered_in_one_round_trip(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.authorize(payer)
        with counted_statements() as sent:
            assert relay.authorize(payer).status == 201
        assert len(sent) == 1, sent

    def test_a_key_that_changed_hands_in_memory_only_is_judged_by_the_database(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.authorize(payer)
        for digests, caller in list(authorization._remembered.items()):
            authorization._remembered[digests] = replace(caller, state="(other)")
        assert relay.authorize(payer).status == 201
        assert Hold.objects.filter(customer=payer.customer).count() == 2

    def test_a_replay_and_a_conflict_and_an_empty_wallet_answer_as_ever(self) -> None:
        payer, relay = make_payer(credit="0.0222"), Relay()
        first = relay.authorize(payer, request_id="one")
        again = relay.authorize(payer, request_id="one")
        assert (first.status, again.status, again.body) == (201, 200, first.body)
        assert_error(relay.authorize(payer, request_id="one", input_tokens=1), 409, "request_id_conflict", "request_id")
        relay.authorize(payer)
        assert_error(relay.authorize(payer), 402, "insufficient_balance")


class TestAMalformedBody:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b'{"api_key": "sk-a", "model": ',
            b"[]",
            b"null",
            b'"text"',
            b"{}x",
            b"\xff\xfe",
            b"[" * 60_000,
            b'{"a":' * 9_000,
            b'{"api_key":"' + b"a" * 70_000 + b'"}',
            b'{"input_tokens": NaN}',
        ],
    )
    def test_that_is_no_such_document_is_400(self, body: bytes) -> None:
        answer = Relay().post("authorizations", body)
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize("field", ["api_key", "model", "request_id", "input_tokens"])
    def test_that_lacks_a_field_names_it(self, field: str) -> None:
        assert_error(Relay().authorize(make_payer(), **{field: None}), 400, "invalid_request_error", field)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("api_key", 5),
            ("api_key", ["sk-a"]),
            ("model", ""),
            ("model", "m" * 256),
            ("model", 5),
            ("model", "a\x00b"),
            ("request_id", ""),
            ("request_id", "r" * 256),
            ("request_id", "a\x00b"),
            ("request_id", {"a": 1}),
            ("input_tokens", -1),
            ("input_tokens", 10**12 + 1),
            ("input_tokens", 10**30),
            ("input_tokens", 1.5),
            ("input_tokens", 1200.0),
            ("input_tokens", True),
            ("input_tokens", "1200"),
            ("max_output_tokens", -1),
            ("max_output_tokens", 10**19),
            ("max_output_tokens", False),
            ("max_output_tokens", 0.5),
            ("web_search_max", -1),
            ("web_search_max", "3"),
            ("cache_ttl", "10m"),
            ("cache_ttl", ""),
            ("cache_ttl", 300),
            ("client_ip", "localhost"),
            ("client_ip", "203.0.113"),
            ("client_ip", ""),
            ("client_ip", "203.0.113.9/24"),
            ("client_ip", 5),
            ("ttl_seconds", 0),
            ("ttl_seconds", -5),
            ("ttl_seconds", 86_401),
            ("ttl_seconds", 10**40),
            ("ttl_seconds", 1.5),
            ("channel", "nowhere"),
            ("channel", "a\x00b"),
            ("channel", ""),
            ("service_tier", "gold"),
            ("service_tier", 5),
            ("speed", "warp"),
            ("inference_geo", "eu"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, field: str, value: Any) -> None:
        payer = make_payer()
        assert_error(Relay().authorize(payer, **{field: value}), 400, "invalid_request_error", field)
        assert payer.wallet.held == 0

    @pytest.mark.parametrize("digits", [1000, 5000])
    def test_an_integer_of_thousands_of_digits_is_only_malformed(self, digits: int) -> None:
        payer = make_payer()
        body = json.dumps({"api_key": payer.api_key, "model": SONNET, "request_id": "a", "input_tokens": 7})
        answer = Relay().post("authorizations", body.replace("7}", "9" * digits + "}").encode())
        assert_error(answer, 400, "invalid_request_error", "input_tokens")

    @pytest.mark.parametrize("field", ["api_key", "model", "request_id", "channel"])
    def test_a_lone_surrogate_is_only_malformed(self, field: str) -> None:
        assert Relay().authorize(make_payer(), **{field: "a\ud800b"}).status == 400

    def test_an_unknown_field_is_passed_over(self) -> None:
        assert Relay().authorize(make_payer(), stream=True).status == 201


class TestARefusalOfTheKey:
    def test_is_the_same_for_unknown_revoked_and_malformed_keys(self) -> None:
        payer, relay = make_payer(), Relay()
        change_key(payer, revoked_at=now())
        answers = [
            relay.authorize(payer, api_key=key)
            for key in (payer.api_key, UNKNOWN_KEY, "sk-", "", "a", "sk-\x00", "ключ", payer.api_key + " ", "x" * 5000)
        ]
        assert {answer.status for answer in answers} == {401}
        assert {json.dumps(answer.body) for answer in answers} == {json.dumps(answers[0].body)}
        assert_error(answers[0], 401, "invalid_api_key")
        assert {json.dumps(answer.headers, sort_keys=True) for answer in answers} == {
            json.dumps(answers[0].headers, sort_keys=True)
        }

    def test_an_expired_key_is_403(self) -> None:
        payer = make_payer()
        change_key(payer, expires_at=now())
        assert_error(Relay().authorize(payer), 403, "key_expired")

    def test_a_key_is_good_until_the_moment_it_expires(self) -> None:
        payer = make_payer()
        change_key(payer, expires_at=now() + timedelta(seconds=30))
        assert Relay().authorize(payer).status == 201

    @pytest.mark.parametrize(
        ("networks", "client_ip"),
        [
            (["203.0.113.0/24"], "203.0.113.9"),
            (["203.0.113.9/32"], "203.0.113.9"),
            (["198.51.100.0/24", "203.0.113.0/24"], "203.0.113.255"),
            (["2001:db8::/32"], "2001:db8:1::9"),
            (["2001:db8::9/128"], "2001:0DB8::0009"),
            (["203.0.113.0/24"], "::ffff:203.0.113.9"),
            (["::ffff:203.0.113.0/120"], "203.0.113.9"),
            (["::ffff:203.0.113.0/120"], "::ffff:203.0.113.9"),
            (["0.0.0.0/0", "::/0"], "2001:db8::1"),
        ],
    )
    def test_an_address_inside_the_key_s_networks_may_use_it(self, networks: list[str], client_ip: str) -> None:
        payer = make_payer()
        change_key(payer, allowed_networks=networks)
        assert Relay().authorize(payer, client_ip=client_ip).status == 201

    @pytest.mark.parametrize(
        ("networks", "client_ip"),
        [
            (["203.0.113.0/24"], "203.0.114.9"),
            (["203.0.113.0/24"], None),
            (["203.0.113.0/24"], "2001:db8::1"),
            (["203.0.113.0/24"], "::ffff:203.0.114.9"),
            (["2001:db8::/32"], "2001:db9::1"),
            (["2001:db8::/32"], "203.0.113.9"),
            (["0.0.0.0/0"], "2001:db8::1"),
        ],
    )
    def test_an_address_outside_or_unknown_may_not(self, networks: list[str], client_ip: str | None) -> None:
        payer = make_payer()
        change_key(payer, allowed_networks=networks)
        assert_error(Relay().authorize(payer, client_ip=client_ip), 403, "ip_not_allowed")

    @pytest.mark.parametrize("status", ["suspended", "closed"])
    def test_a_suspended_or_closed_customer_is_403(self, status: str) -> None:
        payer = make_payer()
        suspend(payer, status)
        assert_error(Relay().authorize(payer), 403, "customer_suspended")

    def test_only_the_allowed_models_may_be_used_by_any_of_their_names(self) -> None:
        payer, relay = make_payer(), Relay()
        change_key(payer, allowed_models=["claude-sonnet-4-5-20250929"])
        assert relay.authorize(payer, model=SONNET_4_5).status == 201
        assert relay.authorize(payer, model="claude-sonnet-4-5-20250929").status == 201
        assert_error(relay.authorize(payer), 403, "model_not_allowed", "model")

    def test_an_unknown_model_is_404(self) -> None:
        assert_error(Relay().authorize(make_payer(), model="claude-omega-9"), 404, "model_not_found", "model")

    def test_a_model_without_a_price_is_404(self) -> None:
        payer, relay = make_payer(), Relay()
        Price.objects.filter(model__public_id=HAIKU, kind="charge").delete()
        pricing.bump_version()
        assert_error(relay.authorize(payer, model=HAIKU), 404, "model_not_found", "model")

    def test_a_model_that_the_channel_does_not_sell_is_404(self) -> None:
        assert_error(Relay().authorize(make_payer(), channel="deepseek"), 404, "model_not_found", "model")

    def test_searches_on_a_model_without_a_price_for_them_are_404(self) -> None:
        answer = Relay().authorize(make_payer(), model="deepseek-chat", web_search_max=1)
        assert_error(answer, 404, "model_not_found", "model")

    def test_more_than_is_there_is_402_and_names_what_is_there(self) -> None:
        payer = make_payer(credit="0.01")
        answer = Relay().authorize(payer)
        assert_error(answer, 402, "insufficient_balance")
        assert "0.010000" in answer.body["error"]["message"]
        assert not Hold.objects.filter(customer=payer.customer).exists()

    def test_a_long_answer_is_held_whole_so_that_it_cannot_end_below_zero(self) -> None:
        """Row 3: long streams settle at −$50 and more, because only "balance > 0" was asked."""
        payer, relay = make_payer(credit="0.95"), Relay()
        asked = {"input_tokens": 1000, "max_output_tokens": None}  # As much as the model can answer: 64,000 tokens.
        assert_error(relay.authorize(payer, **asked), 402, "insufficient_balance")
        granted = relay.authorize(payer, **(asked | {"max_output_tokens": 60_000}))
        assert granted.status == 201
        assert_error(relay.authorize(payer, max_output_tokens=10_000), 402, "insufficient_balance")
        longest = {"input_tokens": 1000, "output_tokens": 60_000}
        relay.report(make_event(payer, authorization=granted.body["id"], usage=longest))
        assert payer.balance == Decimal("0.95") - Decimal("0.903")

    def test_the_floor_is_hard_for_the_poor_and_the_indebted_alike(self) -> None:
        payer, relay = make_payer(credit="0.01"), Relay()
        relay.report(make_event(payer))
        assert payer.balance < 0
        answer = relay.authorize(payer, input_tokens=0, max_output_tokens=0)
        assert_error(answer, 402, "insufficient_balance")
        assert "-" not in answer.body["error"]["message"].split("USD")[0]


class TestTheOrderOfJudging:
    """Each refusal hides those after it: mend the first fault, and the next one shows."""

    def test_is_the_contract_s_from_the_first_to_the_last(self) -> None:
        payer, relay = make_payer(credit="50"), Relay()
        change_key(
            payer,
            expires_at=now() - timedelta(days=1),
            allowed_networks=["203.0.113.0/24"],
            allowed_models=["claude-unheard-of", SONNET],
        )
        assert relay.authorize(payer, request_id="taken").code == "key_expired"
        change_key(payer, expires_at=None)
        relay.authorize(payer, request_id="taken", client_ip="203.0.113.1", input_tokens=1)
        change_key(payer, expires_at=now() - timedelta(days=1))
        suspend(payer)
        asked: dict[str, Any] = {
            "request_id": "taken",
            "client_ip": "198.51.100.1",
            "model": HAIKU,
            "input_tokens": -1,
            "api_key": UNKNOWN_KEY,
            "speed": "warp",
        }
        huge = 10**12

        assert Relay("rl_wrong").authorize(payer, **asked).code == "invalid_relay_token"
        assert relay.authorize(payer, **asked).body["error"]["param"] == "input_tokens"
        asked["input_tokens"] = huge
        assert relay.authorize(payer, **asked).body["error"]["param"] == "speed"
        del asked["speed"]
        assert relay.authorize(payer, **asked).code == "invalid_api_key"
        asked["api_key"] = payer.api_key
        assert relay.authorize(payer, **asked).code == "key_expired"
        change_key(payer, expires_at=None)
        assert relay.authorize(payer, **asked).code == "ip_not_allowed"
        asked["client_ip"] = "203.0.113.1"
        assert relay.authorize(payer, **asked).code == "customer_suspended"
        suspend(payer, "active")
        assert relay.authorize(payer, **asked).code == "model_not_allowed"
        asked["model"] = "claude-unheard-of"
        assert relay.authorize(payer, **asked).code == "model_not_found"
        asked["model"] = SONNET
        assert relay.authorize(payer, **asked).code == "request_id_conflict"
        asked["request_id"] = "fresh"
        assert relay.authorize(payer, **asked).code == "insufficient_balance"
        asked["input_tokens"] = 1200
        assert relay.authorize(payer, **asked).status == 201

    def test_a_refusal_leaves_no_trace(self) -> None:
        payer, relay = make_payer(credit="0.001"), Relay()
        relay.authorize(payer)
        relay.authorize(payer, model="claude-omega-9")
        assert not Hold.objects.filter(customer=payer.customer).exists()
        assert (payer.wallet.held, payer.wallet.version) == (0, 1)


class TestARelease:
    def test_gives_all_of_the_hold_back(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        answer = relay.release(granted.body["id"])
        assert answer.status == 200
        assert answer.body == {**granted.body, "status": "released"}
        assert (payer.wallet.held, payer.balance) == (0, 50)

    def test_may_be_said_twice(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        first, second = relay.release(granted.body["id"]), relay.release(granted.body["id"])
        assert (second.status, second.body) == (200, first.body)
        assert payer.wallet.held == 0

    def test_after_settlement_is_409_and_changes_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        relay.report(make_event(payer, authorization=granted.body["id"]))
        assert_error(relay.release(granted.body["id"]), 409, "authorization_settled")
        assert payer.balance == Decimal("49.97075")

    @pytest.mark.parametrize("is_swept", [False, True])
    def test_after_expiry_is_200_with_the_status_expired(self, is_swept: bool) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        Hold.objects.filter(pk=hold_of(granted).pk).update(expires_at=now() - timedelta(seconds=1))
        if is_swept:
            holds.expire(at=now())
        answer = relay.release(granted.body["id"])
        assert (answer.status, answer.body["status"]) == (200, "expired")
        assert payer.wallet.held == 0

    @pytest.mark.parametrize(
        "unknown",
        [
            "auth_1_1",
            "auth_zzzzzzzzzzzz_1",
            "auth_7zzzzzzzzzzzz_7zzzzzzzzzzzz",
            "auth_zzzzzzzzzzzzz_1",
            "auth_0_0",
            "auth_01_1",
            "auth_",
            "auth",
            "tr_1_1",
            "1",
            "%00",
            "auth_1_1%00",
            "auth_-1_1",
            "auth_١_1",
            "..",
            "' OR 1=1 --",
            "a" * 3000,
        ],
    )
    def test_of_an_unknown_id_is_404(self, unknown: str) -> None:
        assert_error(Relay().release(unknown), 404, "authorization_not_found", "id")

    def test_of_the_right_customer_s_other_number_is_404(self) -> None:
        payer, relay = make_payer(), Relay()
        hold = hold_of(relay.authorize(payer))
        assert relay.release(ids.hot_id("auth", payer.customer.pk, hold.pk + 10**6)).status == 404
        assert relay.release(ids.hot_id("auth", make_payer().customer.pk, hold.pk)).status == 404
        assert payer.wallet.held == Decimal("0.0111")

    def test_needs_a_relay_token(self) -> None:
        payer = make_payer()
        granted = Relay().authorize(payer)
        assert_error(Relay("rl_wrong").release(granted.body["id"]), 401, "invalid_relay_token")
        assert payer.wallet.held == Decimal("0.0111")

    def test_works_for_a_suspended_customer_with_a_revoked_key(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        suspend(payer)
        change_key(payer, revoked_at=now())
        assert relay.release(granted.body["id"]).status == 200

    def test_frees_money_for_the_next_request(self) -> None:
        payer, relay = make_payer(credit="0.0111"), Relay()
        granted = relay.authorize(payer)
        assert relay.authorize(payer).status == 402
        relay.release(granted.body["id"])
        assert relay.authorize(payer, request_id=f"req_{uuid4().hex}").status == 201
