"""Settlement as the customer's account shows it: what was stored is what was charged, at the price of its moment."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import OperatorSettings, Transfer, Wallet
from metering import pricing
from metering.models import Channel, CustomerPlan, EventKey, Model, Plan, Price, PriceSet, UsageEvent, UsageHour
from tests.concurrency.racing import assert_books_are_right
from tests.world import EXAMPLE_CHARGE, EXAMPLE_USAGE, SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

HAIKU = "claude-haiku-5-5"
SONNET_4_5 = "claude-sonnet-4-5"


def charge_of(payer: Payer, **changes: Any) -> Decimal:
    event = make_event(payer, **changes)
    answer = Relay().report(event).body
    assert answer["accepted"] == 1, answer
    return UsageEvent.objects.get(customer=payer.customer, event_id=event["id"]).charge


def meters(**quantities: int) -> dict[str, Any]:
    return {"format": "meters", "usage": quantities}


def set_price(model: str, meter: str, price: str, since: datetime) -> None:
    """A new price from a moment on, in the list and on the maker's channel, as an operator enters it."""
    for row in Price.objects.filter(model__public_id=model, meter=meter, effective_until=None):
        if row.channel_id in {None, row.model.maker_id}:
            Price.objects.filter(pk=row.pk).update(effective_until=since)
            row.pk, row.unit_price, row.effective_from, row.effective_until = None, Decimal(price), since, None
            row.save()
    pricing.bump_version()


class TestAPrice:
    @pytest.mark.parametrize(
        ("model", "quantities", "charge"),
        [
            (SONNET_4_5, {"input": 200_000, "output": 10}, "0.60015"),
            (SONNET_4_5, {"input": 200_001, "output": 10}, "1.200231"),
            (SONNET_4_5, {"input": 1, "cache_read": 200_000}, "0.120006"),
            (SONNET_4_5, {"input": 1, "cache_read": 199_999}, "0.0600027"),
            (HAIKU, {"input": 100_000}, "0.01"),
            (HAIKU, {"input": 100_001}, "0.0500005"),
            (HAIKU, {"input": 1, "cache_read": 50_000, "cache_write_1h": 50_000, "output": 2}, "0.0525055"),
            (HAIKU, {"cache_read": 50_000, "cache_write_1h": 50_000, "output": 2}, "0.010501"),
        ],
    )
    def test_is_that_of_the_whole_prompt_s_tier(self, model: str, quantities: dict[str, int], charge: str) -> None:
        """Row 19: tiers judged on uncached tokens only, so that long prompts get the short price."""
        assert charge_of(make_payer(), model=model, **meters(**quantities)) == Decimal(charge)

    def test_is_judged_on_each_call_and_never_on_a_sum(self) -> None:
        payer = make_payer()
        events = [make_event(payer, model=HAIKU, **meters(input=60_000)) for _ in range(4)]
        Relay().report(*events)
        assert 50 - payer.balance == Decimal("0.024")

    @pytest.mark.parametrize(
        ("provider", "usage"),
        [
            ("anthropic.messages", {"input_tokens": 400, "cache_read_input_tokens": 800, "output_tokens": 300}),
            (
                "openai.chat",
                {
                    "prompt_tokens": 1200,
                    "completion_tokens": 300,
                    "prompt_tokens_details": {"cached_tokens": 800},
                },
            ),
            ("meters", {"input": 400, "cache_read": 800, "output": 300}),
        ],
    )
    def test_of_one_call_is_the_same_in_whatever_words(self, provider: str, usage: dict[str, Any]) -> None:
        """Row 14: cached tokens charged twice."""
        payer = make_payer()
        assert charge_of(payer, format=provider, usage=usage) == Decimal("0.00594")
        assert UsageHour.objects.get(customer=payer.customer).quantities == {
            "input": 400,
            "cache_read": 800,
            "output": 300,
        }

    def test_of_a_stream_is_that_of_one_call(self) -> None:
        """Row 17: the stream's `message_delta` is stored as a second record."""
        payer = make_payer()
        start = {**EXAMPLE_USAGE, "output_tokens": 1, "service_tier": "standard"}
        delta = {"output_tokens": 500, "input_tokens": 1000, "cache_creation_input_tokens": 3000}
        assert charge_of(payer, usage={"message_start": start, "message_delta": delta}) == EXAMPLE_CHARGE
        assert UsageEvent.objects.filter(customer=payer.customer).count() == 1

    def test_of_the_channel_is_the_cost_and_the_list_s_is_the_charge(self) -> None:
        payer = make_payer()
        Price.objects.filter(model__public_id=SONNET, channel__name="anthropic", meter="input").update(
            unit_price=Decimal("2.5")
        )
        pricing.bump_version()
        charge_of(payer, **meters(input=1_000_000))
        event = UsageEvent.objects.get(customer=payer.customer)
        hour = UsageHour.objects.get(customer=payer.customer)
        assert (event.charge, event.cost) == (hour.charge, hour.cost) == (3, Decimal("2.5"))

    def test_follows_the_customer_s_plan_from_the_next_batch_on(self) -> None:
        payer = make_payer()
        assert charge_of(payer, **meters(input=1_000_000)) == 3
        plan = Plan.objects.create(name="dear", multiplier=Decimal("1.333333"))
        CustomerPlan.objects.create(customer=payer.customer, plan=plan)
        pricing.bump_version()
        assert charge_of(payer, **meters(input=1_000_000)) == Decimal("3.999999")
        assert UsageHour.objects.filter(customer=payer.customer).count() == 2, "no line hides a blend"

    def test_in_the_us_is_a_tenth_more_for_tokens_and_not_for_searches(self) -> None:
        usage = {"input_tokens": 1000, "output_tokens": 0, "inference_geo": "us"}
        assert charge_of(make_payer(), model=HAIKU, usage=usage) == Decimal("0.00011")
        usage["server_tool_use"] = {"web_search_requests": 1}  # type: ignore[assignment]
        assert charge_of(make_payer(), model=HAIKU, usage=usage) == Decimal("0.01011")

    def test_is_kept_with_the_event_so_that_anybody_can_recompute_it(self) -> None:
        payer = make_payer()
        charge_of(payer)
        event = UsageEvent.objects.get(customer=payer.customer)
        content = PriceSet.objects.get(pk=event.price_set_id).content
        assert (content["model"], content["channel"], content["plan"]) == (SONNET, "anthropic", "list")
        total = Decimal(0)
        for meter, quantity in event.quantities.items():
            price = content["meters"][meter]
            total += Decimal(quantity) * Decimal(price["charge"]) / price["per"]
            row = Price.objects.get(pk=price["charge_price"])
            assert (row.meter, row.unit_price) == (meter, Decimal(price["charge"]))
        assert total == event.charge == EXAMPLE_CHARGE


class TestAPriceChange:
    def test_today_leaves_yesterday_as_it_was(self) -> None:
        """Row 18: a price refresh changes last week's closed total."""
        payer = make_payer()
        now = datetime.now(UTC)
        yesterday = (now - timedelta(days=1)).isoformat()
        charge_of(payer, occurred_at=yesterday, **meters(input=1_000_000))
        before = list(UsageEvent.objects.values()), list(UsageHour.objects.values()), payer.balance

        set_price(SONNET, "input", "30", since=now)

        assert (list(UsageEvent.objects.values()), list(UsageHour.objects.values()), payer.balance) == before
        assert charge_of(payer, occurred_at=yesterday, **meters(input=1_000_000)) == 3
        assert charge_of(payer, occurred_at=now.isoformat(), **meters(input=1_000_000)) == 30
        assert_books_are_right(payer.customer)

    def test_holds_from_its_very_moment_on(self) -> None:
        payer = make_payer()
        change = datetime(2026, 11, 3, 12, tzinfo=UTC)
        set_price(SONNET, "input", "30", since=change)
        micro = timedelta(microseconds=1)
        charges = [
            charge_of(payer, occurred_at=(change + shift).isoformat(), **meters(input=1_000_000))
            for shift in (-micro, timedelta(0), micro)
        ]
        assert charges == [3, 30, 30]

    def test_makes_a_line_of_its_own_within_one_hour(self) -> None:
        payer = make_payer()
        change = datetime(2026, 11, 3, 12, 30, tzinfo=UTC)
        set_price(SONNET, "input", "30", since=change)
        for minute in (29, 30):
            charge_of(payer, occurred_at=change.replace(minute=minute).isoformat(), **meters(input=1_000_000))
        hours = UsageHour.objects.filter(customer=payer.customer)
        assert sorted(hour.charge for hour in hours) == [3, 30]
        assert {hour.hour for hour in hours} == {change.replace(minute=0)}

    def test_is_seen_by_the_next_batch_of_this_process(self) -> None:
        payer = make_payer()
        assert charge_of(payer, **meters(input=1_000_000)) == 3
        set_price(SONNET, "input", "5", since=datetime.now(UTC) - timedelta(hours=1))
        assert charge_of(payer, **meters(input=1_000_000)) == 5

    def test_of_a_window_of_the_day_holds_inside_it_and_over_midnight(self) -> None:
        payer = make_payer()
        model = Model.objects.create(public_id="night-model", maker=Channel.objects.get(name="anthropic"))
        for kind, channel in (("cost", model.maker), ("charge", None)):
            common = {"kind": kind, "channel": channel, "model": model, "meter": "input", "per": 10**6, "source": "t"}
            Price.objects.create(**common, unit_price=2)
            Price.objects.create(**common, unit_price=1, daily_from="22:00", daily_until="06:00")
        pricing.bump_version()
        found = {}
        for clock in ("21:59:59.999999", "22:00:00", "00:00:00", "05:59:59", "06:00:00"):
            at = f"2026-11-03T{clock}+00:00"
            found[clock] = charge_of(payer, model="night-model", occurred_at=at, **meters(input=1_000_000))
        assert list(found.values()) == [2, 1, 1, 1, 2]
        at_home = "2026-11-04T06:30:00+08:00"  # 22:30 in UTC
        assert charge_of(payer, model="night-model", occurred_at=at_home, **meters(input=1_000_000)) == 1


class TestABillingPeriod:
    @pytest.mark.parametrize(
        ("zone", "occurred_at", "period"),
        [
            ("UTC", "2026-10-31T23:59:59.999999Z", "2026-10-01"),
            ("UTC", "2026-11-01T00:00:00Z", "2026-11-01"),
            ("Asia/Shanghai", "2026-10-31T15:59:59Z", "2026-10-01"),
            ("Asia/Shanghai", "2026-10-31T16:00:00Z", "2026-11-01"),
            ("America/New_York", "2026-11-01T03:59:59Z", "2026-10-01"),
            ("America/New_York", "2026-11-01T04:00:00Z", "2026-11-01"),
            ("UTC", "2026-11-01T07:59:59+08:00", "2026-10-01"),
            ("UTC", "0001-01-01T00:00:00Z", "0001-01-01"),
            ("America/New_York", "0001-01-01T00:00:00Z", "0001-01-01"),
        ],
    )
    def test_is_the_month_of_the_event_in_the_operator_s_time_zone(
        self, zone: str, occurred_at: str, period: str
    ) -> None:
        OperatorSettings.objects.update(timezone=zone)
        payer = make_payer()
        charge_of(payer, occurred_at=occurred_at)
        assert str(UsageEvent.objects.get(customer=payer.customer).period) == period
        assert str(UsageHour.objects.get(customer=payer.customer).period) == period
        assert str(Transfer.objects.get(customer=payer.customer, kind="usage").period) == period

    def test_is_the_first_open_one_where_that_month_is_closed(self) -> None:
        payer = make_payer()
        Wallet.objects.filter(customer=payer.customer).update(closed_through="2026-10-01")
        Relay().report(
            make_event(payer, occurred_at="2026-09-15T00:00:00Z"),
            make_event(payer, occurred_at="2026-10-15T00:00:00Z"),
            make_event(payer, occurred_at="2026-11-15T00:00:00Z"),
        )
        assert {str(event.period) for event in UsageEvent.objects.filter(customer=payer.customer)} == {"2026-11-01"}
        transfer = Transfer.objects.get(customer=payer.customer, kind="usage")
        assert -transfer.entries.get(account="wallet").amount == 3 * EXAMPLE_CHARGE


class TestAnHour:
    def test_adds_up_what_is_alike_and_keeps_apart_what_is_not(self) -> None:
        payer = make_payer()
        at = "2026-11-03T10:59:59Z"
        for changes in (
            {},
            {"occurred_at": "2026-11-03T10:00:00Z"},
            {"occurred_at": "2026-11-03T11:00:00Z"},
            {"model": "claude-opus-4-20250514"},
            {"channel": "bedrock"},
        ):
            charge_of(payer, **{"occurred_at": at, **changes})
        hours = list(UsageHour.objects.filter(customer=payer.customer))
        assert sorted(hour.requests for hour in hours) == [1, 1, 1, 2]
        assert sum(hour.charge for hour in hours) == 50 - payer.balance
        assert_books_are_right(payer.customer)

    def test_before_1970_begins_at_its_full_hour(self) -> None:
        payer = make_payer()
        charge_of(payer, occurred_at="1969-12-31T23:30:00.5Z")
        assert UsageHour.objects.get(customer=payer.customer).hour == datetime(1969, 12, 31, 23, tzinfo=UTC)


class TestAnEventsNumber:
    """The number that its id got, by which parked, charged and corrected events are found."""

    @pytest.mark.parametrize("repeated", [0, 7, 30])
    def test_is_its_own_id_s_whoever_else_is_in_the_batch(self, repeated: int) -> None:
        relay, payers = Relay(), [make_payer(), make_payer()]
        # Ids in no order, so that neither that of the batch nor that of the sums is the one they were made in.
        events = [
            make_event(
                payers[place % 2], id=f"{place * 7919 % 101:03d}", usage={**EXAMPLE_USAGE, "output_tokens": place}
            )
            for place in range(30)
        ]
        relay.report(*events[:repeated])
        answer = relay.report(*events).body
        assert (answer["accepted"], answer["duplicates"]) == (30 - repeated, repeated)
        for payer in payers:
            taken = dict(EventKey.objects.filter(customer=payer.customer).values_list("event_id", "id"))
            stored = UsageEvent.objects.filter(customer=payer.customer)
            assert {event.event_id: event.pk for event in stored} == taken
            assert {event.event_id: event.usage["output_tokens"] for event in stored} == {
                event["id"]: event["usage"]["output_tokens"]
                for event in events
                if event["api_key_id"] == payer.key.public_id
            }
            assert_books_are_right(payer.customer)


def test_the_cost_of_a_batch_in_statements_does_not_grow_with_its_customers() -> None:
    relay = Relay()
    counts = []
    for size in (2, 40):
        payers = [make_payer() for _ in range(size)]
        relay.report(*[make_event(payer) for payer in payers])
        with CaptureQueriesContext(connection) as queries:
            relay.report(*[make_event(payer) for payer in payers])
        counts.append(len(queries))
    assert counts[0] == counts[1]
