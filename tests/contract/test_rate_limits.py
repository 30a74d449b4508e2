"""`429 rate_limit_exceeded`: requests and tokens per minute, by tier and by key."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings

from billing import holds
from billing.models import Customer, Hold
from metering import keys, tiers
from metering.models import ApiKey, CustomerTier, Model, UsageTier
from tests.redis_server import let_pass
from tests.world import Answer, Payer, Relay, make_payer

pytestmark = pytest.mark.django_db
TOKENS = 1700  # What Relay.authorize asks for unless it is told otherwise.


def now() -> datetime:
    return datetime.now(UTC)


def limit(payer: Payer, *, requests: int | None = None, tokens: int | None = None, is_on: bool = True) -> UsageTier:
    """Pin the payer to a tier of its own."""
    tier = UsageTier.objects.create(
        name=f"tier {uuid4().hex[:8]}",
        top_ups_from=uuid4().int % 10**15 + 10**6,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        is_on=is_on,
    )
    tiers.pin(customer_id=payer.customer.pk, tier_id=tier.pk, at=now())
    return tier


def limit_key(payer: Payer, **limits: int | None) -> None:
    keys.change_api_key(api_key_id=payer.key.pk, changes=limits, at=now())  # type: ignore[arg-type]


def rate_headers(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}


def wait(scope: str, seconds: int) -> None:
    let_pass(scope, seconds, url=settings.REDIS_URL)


class TestACustomerWithoutLimits:
    def test_has_no_headers_and_no_end(self) -> None:
        payer, relay = make_payer(), Relay()
        answers = [relay.authorize(payer) for _ in range(12)]
        assert {answer.status for answer in answers} == {201}
        assert [rate_headers(answer) for answer in answers] == [{}] * 12
        assert not CustomerTier.objects.filter(customer=payer.customer).exists()

    def test_neither_has_one_whose_tier_is_off_or_says_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1, tokens=1, is_on=False)
        assert [relay.authorize(payer).status for _ in range(3)] == [201] * 3
        limit(payer)
        answer = relay.authorize(payer)
        assert (answer.status, rate_headers(answer)) == (201, {})


class TestRequestsPerMinute:
    def test_so_many_pass_and_each_answer_says_how_many_are_left(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=3)
        answers = [relay.authorize(payer) for _ in range(4)]
        assert [answer.status for answer in answers] == [201, 201, 201, 429]
        assert [rate_headers(answer)["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
        assert set(rate_headers(answers[0])) == {
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        }
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
        assert all(re.fullmatch(r"1m\d+s|2m0s", a.headers["x-ratelimit-reset-requests"]) for a in answers)

    def test_the_refusal_has_the_contract_s_shape_and_holds_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1)
        relay.authorize(payer)
        answer = relay.authorize(payer)
        assert answer.status == 429
        wait_s = answer.headers["Retry-After"]
        assert answer.body == {
            "error": {
                "type": "rate_limit_error",
                "code": "rate_limit_exceeded",
                "message": f"The limit of 1 request per minute is reached. Try again in {wait_s} s.",
                "param": None,
            }
        }
        assert Hold.objects.filter(customer=payer.customer).count() == 1

    def test_retry_after_is_when_the_next_one_passes(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=10)
        for _ in range(10):
            assert relay.authorize(payer).status == 201
        retry_after_s = int(relay.authorize(payer).headers["Retry-After"])
        assert 58 <= retry_after_s <= 60
        wait(payer.customer.public_id, retry_after_s - 2)
        again = relay.authorize(payer)
        assert (again.status, int(again.headers["Retry-After"])) == (429, 2)
        wait(payer.customer.public_id, 2)
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        # The other nine of the last minute count less and less: one more passes every six seconds.
        assert 5 <= int(relay.authorize(payer).headers["Retry-After"]) <= 6

    def test_after_two_quiet_minutes_all_is_free_again(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=2)
        assert [relay.authorize(payer).status for _ in range(3)] == [201, 201, 429]
        wait(payer.customer.public_id, 121)
        assert relay.authorize(payer).headers["x-ratelimit-remaining-requests"] == "1"

    def test_all_keys_of_a_customer_share_them_and_no_other_customer_does(self) -> None:
        payer, other, relay = make_payer(), make_payer(), Relay()
        tier = limit(payer, requests=2)
        tiers.pin(customer_id=other.customer.pk, tier_id=tier.pk, at=now())
        _, second = keys.create_api_key(customer=payer.customer, name="second", at=now())
        assert relay.authorize(payer).status == 201
        assert relay.authorize(payer, api_key=second).status == 201
        assert relay.authorize(payer, api_key=second).status == 429
        assert relay.authorize(other).status == 201

    def test_the_limit_is_the_customer_s_whichever_relay_asks(self) -> None:
        payer = make_payer()
        limit(payer, requests=2)
        assert [Relay().authorize(payer).status for _ in range(3)] == [201, 201, 429]


class TestTokensPerMinute:
    def test_input_and_the_most_output_count(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, tokens=2 * TOKENS + 100)
        answers = [relay.authorize(payer) for _ in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 429]
        assert [a.headers["x-ratelimit-remaining-tokens"] for a in answers] == ["1800", "100", "100"]
        assert {a.headers["x-ratelimit-limit-tokens"] for a in answers} == {"3500"}
        assert (
            "asks for 1,700 tokens, and 100 of 3,500 tokens per minute are left" in answers[2].body["error"]["message"]
        )
        smaller = relay.authorize(payer, input_tokens=60, max_output_tokens=40)
        assert (smaller.status, smaller.headers["x-ratelimit-remaining-tokens"]) == (201, "0")

    def test_what_never_fits_is_told_so(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, tokens=1000)
        answer = relay.authorize(payer)
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
        assert "asks for 1,700 tokens, more than the 1,000 tokens per minute" in answer.body["error"]["message"]
        assert answer.headers["Retry-After"] == "60"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "1000"
        assert relay.authorize(payer, input_tokens=500).status == 201

    def test_without_a_maximum_the_model_s_counts_but_no_more_than_a_minute_has(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, tokens=40_000)  # SONNET gives up to 64,000
        first = relay.authorize(payer, max_output_tokens=None)
        assert (first.status, first.headers["x-ratelimit-remaining-tokens"]) == (201, "0")
        assert relay.authorize(payer, input_tokens=1, max_output_tokens=0).status == 429
        wait(payer.customer.public_id, 121)
        Model.objects.filter(public_id=first.body["model"]).update(max_output_tokens=64_000)
        assert relay.authorize(payer, input_tokens=40_001, max_output_tokens=None).status == 429

    def test_a_request_for_no_tokens_passes_a_used_up_limit(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, tokens=TOKENS)
        assert relay.authorize(payer).status == 201
        assert relay.authorize(payer, input_tokens=0, max_output_tokens=0).status == 201
        assert relay.authorize(payer, input_tokens=1, max_output_tokens=0).status == 429

    def test_counts_beyond_every_limit_are_only_too_large(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, tokens=10**12)
        answer = relay.authorize(payer, input_tokens=10**12, max_output_tokens=10**12)
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded")


class TestWhatIsRefused:
    def test_by_tokens_counts_as_no_request(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=5, tokens=2000)
        for _ in range(20):
            assert relay.authorize(payer, input_tokens=5000).status == 429
        answer = relay.authorize(payer)
        assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (201, "4")

    def test_by_requests_counts_as_no_tokens(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1, tokens=10_000)
        relay.authorize(payer)
        for _ in range(20):
            answer = relay.authorize(payer)
            assert (answer.status, answer.headers["x-ratelimit-remaining-tokens"]) == (429, str(10_000 - TOKENS))
            assert "1 request per minute" in answer.body["error"]["message"]

    def test_by_the_balance_counts_once(self) -> None:
        payer, relay = make_payer(credit="0.001"), Relay()
        limit(payer, requests=2)
        assert [relay.authorize(payer).status for _ in range(3)] == [402, 402, 429]

    def test_before_the_limits_are_asked_counts_as_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1)
        assert relay.authorize(payer, model="claude-omega-9").status == 404
        assert relay.authorize(payer, input_tokens=-1).status == 400
        assert relay.authorize(payer).status == 201


class TestARequestThatWasAuthorizedBefore:
    """409 comes before 429, and a replay is answered whatever the limits say."""

    def test_is_answered_when_the_limit_is_used_up(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1)
        first = relay.authorize(payer, request_id="a")
        again = relay.authorize(payer, request_id="a")
        assert (first.status, again.status, again.body) == (201, 200, first.body)
        assert relay.authorize(payer, request_id="b").status == 429

    def test_counts_only_the_first_time(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=3, tokens=3 * TOKENS)
        for _ in range(6):
            assert relay.authorize(payer, request_id="a").status in {200, 201}
        assert [relay.authorize(payer).status for _ in range(3)] == [201, 201, 429]

    @pytest.mark.parametrize("requests", [1, 100], ids=["used up", "with room"])
    def test_with_another_body_is_a_conflict(self, requests: int) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=requests)
        relay.authorize(payer, request_id="a")
        for _ in range(3):
            assert relay.authorize(payer, request_id="a", input_tokens=7).code == "request_id_conflict"
        relay_again = relay.authorize(payer, request_id="b")
        assert relay_again.headers["x-ratelimit-remaining-requests"] == str(max(0, requests - 2))

    @pytest.mark.parametrize("end", ["released", "expired"])
    def test_and_has_ended_is_409(self, end: str) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1)
        first = relay.authorize(payer, request_id="a")
        if end == "released":
            relay.release(first.body["id"])
        else:
            Hold.objects.filter(customer=payer.customer).update(expires_at=now() - timedelta(seconds=1))
        assert relay.authorize(payer, request_id="a").code == f"authorization_{end}"

    def test_is_found_without_its_customer_s_other_holds(self) -> None:
        payer, other, relay = make_payer(), make_payer(), Relay()
        relay.authorize(other, request_id="a")
        found = holds.find(customer_id=payer.customer.pk, request_id="a", digest=b"", at=now())
        assert found is None


class TestTheOrderOfRefusals:
    def test_the_limit_comes_after_404_and_409_and_before_402(self) -> None:
        payer, relay = make_payer(credit="0.0111"), Relay()
        limit(payer, requests=1)
        assert relay.authorize(payer, request_id="taken").status == 201
        assert relay.authorize(payer, model="claude-omega-9").status == 404
        assert relay.authorize(payer, request_id="taken", input_tokens=7).status == 409
        assert relay.authorize(payer).status == 429
        wait(payer.customer.public_id, 121)
        assert relay.authorize(payer).status == 402

    def test_who_is_suspended_or_revoked_since_is_told_that(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=1)
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        Customer.objects.filter(pk=payer.customer.pk).update(status="suspended")
        assert relay.authorize(payer).code == "customer_suspended"
        ApiKey.objects.filter(pk=payer.key.pk).update(revoked_at=now())
        assert relay.authorize(payer).code == "invalid_api_key"


class TestAKeyOfItsOwn:
    def test_has_its_own_requests_beside_the_tier_s(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=2)
        _, second = keys.create_api_key(customer=payer.customer, name="second", at=now())
        limit_key(payer, requests_per_minute=3)
        assert [relay.authorize(payer).status for _ in range(4)] == [201, 201, 201, 429]
        assert [relay.authorize(payer, api_key=second).status for _ in range(3)] == [201, 201, 429]

    def test_may_have_less_than_the_tier_and_the_tier_s_other_limit(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, requests=100, tokens=3 * TOKENS)
        limit_key(payer, requests_per_minute=1)
        first = relay.authorize(payer)
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-tokens"] == str(2 * TOKENS)
        assert relay.authorize(payer).status == 429

    def test_needs_no_tier(self) -> None:
        payer, relay = make_payer(), Relay()
        limit_key(payer, tokens_per_minute=TOKENS)
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]

    def test_is_free_again_at_once_when_the_limit_is_taken_away(self) -> None:
        payer, relay = make_payer(), Relay()
        limit_key(payer, requests_per_minute=1)
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        limit_key(payer, requests_per_minute=None)
        assert relay.authorize(payer).status == 201

    @pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_can_have_no_limit_below_one(self, field: str, value: int) -> None:
        with pytest.raises(keys.InvalidKey, match="at least 1"):
            limit_key(make_payer(), **{field: value})


CHANGES: dict[str, Callable[[UsageTier], Any]] = {
    "raised": lambda tier: UsageTier.objects.filter(pk=tier.pk).update(requests_per_minute=50),
    "without its limit": lambda tier: UsageTier.objects.filter(pk=tier.pk).update(requests_per_minute=None),
    "switched off": lambda tier: tiers.switch(tier_ids=[tier.pk], is_on=False, at=now()),
    "taken away": lambda tier: CustomerTier.objects.filter(tier=tier).delete(),
    "pinned to none": lambda tier: tiers.pin(
        customer_id=CustomerTier.objects.get(tier=tier).customer_id, tier_id=None, at=now()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tier_that_is_changed_holds_at_the_next_authorization(change: str) -> None:
    payer, relay = make_payer(), Relay()
    tier = limit(payer, requests=2)
    assert [relay.authorize(payer).status for _ in range(3)] == [201, 201, 429]
    CHANGES[change](tier)
    assert relay.authorize(payer).status == 201


def test_a_tier_that_is_switched_on_holds_for_who_was_just_let_through() -> None:
    payer, relay = make_payer(), Relay()
    tier = limit(payer, requests=1, is_on=False)
    assert [rate_headers(relay.authorize(payer)) for _ in range(2)] == [{}, {}]
    tiers.switch(tier_ids=[tier.pk], is_on=True, at=now())
    assert relay.authorize(payer).headers["x-ratelimit-remaining-requests"] == "0"
    assert relay.authorize(payer).status == 429


def test_the_amount_held_is_the_same_with_limits() -> None:
    payer = make_payer()
    limit(payer, requests=5, tokens=5 * TOKENS)
    assert Relay().authorize(payer).body["amount"] == "0.011100"
    assert payer.wallet.held == Decimal("0.0111")
