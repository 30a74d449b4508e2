"""Variants, contracts upstream, plans and policies, as an event comes out of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from django.db import connection

from billing.checks import Scope
from billing.models import Invoice
from metering import parking, pricing, statements
from metering.models import (
    Channel,
    CustomerPlan,
    EventConflict,
    Model,
    ParkedEvent,
    Plan,
    PlanPolicy,
    PlanRule,
    Price,
    PriceSet,
    UpstreamAccount,
    UpstreamTerms,
    UsageEvent,
    UsageHour,
)
from metering.price_list import plans_of, price_list
from metering.usage_checks import check_usage
from tests.concurrency.racing import assert_books_are_right
from tests.world import EXAMPLE_USAGE, SONNET, CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

OPUS_5_5 = "claude-opus-5-5"
HAIKU = "claude-haiku-5-5"
NOW = datetime.now(UTC)
# The worked example at list prices: 3 + 3.75 + 12 + 3 + 7.5 thousandths.
EXAMPLE = Decimal("0.02925")
INPUT_SIDE = Decimal("0.02175")


def on_plan(payer: Payer, since: datetime | None = None, **fields: Any) -> Plan:
    plan = Plan.objects.create(name=f"plan {Plan.objects.count()}", **fields)
    CustomerPlan.objects.create(customer=payer.customer, plan=plan, effective_from=since)
    pricing.bump_version()
    return plan


def add_rule(plan: Plan, **fields: Any) -> PlanRule:
    row = PlanRule.objects.create(plan=plan, **fields)
    pricing.bump_version()
    return row


def add_variant(model: str, variant: str, share: str) -> None:
    """Prices of a variant as a share of the standard, in the list and on the maker's channel."""
    Price.objects.filter(model__public_id=model, variant=variant).delete()
    for row in Price.objects.filter(model__public_id=model, variant="", per=1_000_000):
        if row.channel_id in {None, row.model.maker_id}:
            row.pk, row.variant, row.unit_price = None, variant, row.unit_price * Decimal(share)
            row.save()
    pricing.bump_version()


def settled(payer: Payer, **changes: Any) -> UsageEvent:
    event = make_event(payer, **changes)
    answer = Relay().report(event).body
    assert answer["accepted"] == 1, (answer, list(ParkedEvent.objects.values("reason", "detail")))
    return UsageEvent.objects.get(customer=payer.customer, event_id=event["id"])


def example(**changes: Any) -> dict[str, Any]:
    return {"usage": {**EXAMPLE_USAGE, **changes}}


def content_of(event: UsageEvent) -> dict[str, Any]:
    return dict(PriceSet.objects.get(pk=event.price_set_id).content)


class TestAVariant:
    def test_has_prices_of_its_own_that_stack_with_caching(self) -> None:
        add_variant(SONNET, "batch", "0.5")
        event = settled(make_payer(), **example(service_tier="batch"))
        assert (event.charge, event.cost) == (EXAMPLE / 2, EXAMPLE / 2)
        assert content_of(event)["variant"] == "batch"

    def test_leaves_searches_at_their_price(self) -> None:
        add_variant(SONNET, "batch", "0.5")
        event = settled(make_payer(), **example(service_tier="batch", server_tool_use={"web_search_requests": 2}))
        assert event.charge == EXAMPLE / 2 + Decimal("0.02")

    def test_of_the_us_costs_a_tenth_more_on_tokens_and_not_on_searches(self) -> None:
        usage = {
            "input_tokens": 1000,
            "output_tokens": 1000,
            "inference_geo": "us",
            "server_tool_use": {"web_search_requests": 1},
        }
        event = settled(make_payer(), model=HAIKU, usage=usage)
        assert event.charge == Decimal("0.0006") * Decimal("1.1") + Decimal("0.01")
        assert content_of(event)["geo"] == "1.1"

    def test_in_the_us_and_in_a_batch_takes_both(self) -> None:
        add_variant(HAIKU, "batch", "0.5")
        usage = {"input_tokens": 1000, "output_tokens": 1000, "inference_geo": "us", "service_tier": "batch"}
        assert settled(make_payer(), model=HAIKU, usage=usage).charge == Decimal("0.00033")

    def test_without_prices_waits_until_somebody_enters_them(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, **example(service_tier="flex")))
        parked = ParkedEvent.objects.get(customer=payer.customer)
        assert (parked.reason, "flex" in parked.detail) == ("no_price", True)
        add_variant(SONNET, "flex", "0.5")
        assert parking.sweep(at=datetime.now(UTC)).settled == 1
        assert UsageEvent.objects.get(customer=payer.customer).charge == EXAMPLE / 2

    def test_is_held_for_at_its_own_price(self) -> None:
        add_variant(SONNET, "batch", "0.5")
        answer = Relay().authorize(make_payer(), service_tier="batch")
        assert (answer.status, answer.body["amount"]) == (201, "0.005550")

    def test_that_the_maker_s_list_lacks_waits_though_the_channel_has_it(self) -> None:
        payer = make_payer()
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20, "service_tier": "batch"}
        event = make_event(payer, model="gpt-oss-120b", channel="groq", format="openai.chat", usage=usage)
        assert Relay().report(event).body["parked"] == 1
        assert "no batch price on its maker's list" in ParkedEvent.objects.get(customer=payer.customer).detail

    def test_that_a_model_lacks_can_not_be_asked_for(self) -> None:
        answer = Relay().authorize(make_payer(), service_tier="flex")
        assert (answer.status, answer.code) == (404, "model_not_found")


def test_images_and_video_cost_gemini_s_customers_what_text_costs_and_sound_its_own_price() -> None:
    def seen(modality: str) -> dict[str, Any]:
        details = [{"modality": "TEXT", "tokenCount": 400_000}, {"modality": modality, "tokenCount": 600_000}]
        return {
            "promptTokenCount": 1_000_000,
            "promptTokensDetails": details,
            "candidatesTokenCount": 0,
            "totalTokenCount": 1_000_000,
        }

    flash = {"model": "gemini-2.5-flash", "channel": "google", "format": "gemini.generate"}
    charges = {
        kind: settled(make_payer(), usage=seen(kind), **flash).charge for kind in ("TEXT", "IMAGE", "VIDEO", "AUDIO")
    }
    assert charges == {
        "TEXT": Decimal("0.3"),
        "IMAGE": Decimal("0.3"),
        "VIDEO": Decimal("0.3"),
        "AUDIO": Decimal("0.12") + Decimal("0.6"),
    }


class TestAFeeForEachRequest:
    """Perplexity takes 12 USD for a thousand requests of Sonar beside the tokens, which no usage object reports."""

    USAGE: ClassVar[dict[str, Any]] = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
    SONAR: ClassVar[dict[str, Any]] = {"model": "sonar", "channel": "perplexity", "format": "openai.chat"}

    def test_is_charged_once_with_its_own_line(self) -> None:
        payer, relay = make_payer(), Relay()
        event = settled(payer, usage=self.USAGE, **self.SONAR)
        assert event.quantities == {"input": 1000, "output": 1000, "request": 1}
        assert event.charge == Decimal("0.002") + Decimal("0.012")
        again = relay.report(
            make_event(
                payer, id=event.event_id, occurred_at=event.occurred_at.isoformat(), usage=self.USAGE, **self.SONAR
            )
        )
        assert again.body["duplicates"] == 1
        assert not EventConflict.objects.exists()
        assert_books_are_right(payer.customer)

    def test_is_not_charged_where_nothing_was_used_or_the_relay_counted_it(self) -> None:
        nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        assert settled(make_payer(), usage=nothing, status="failed", **self.SONAR).charge == 0
        counted = {**self.SONAR, "format": "meters", "usage": {"request": 2}}
        assert settled(make_payer(), **counted).charge == Decimal("0.024")

    def test_is_the_list_s_on_a_channel_that_has_no_such_fee(self) -> None:
        event = settled(make_payer(), usage=self.USAGE, **{**self.SONAR, "channel": "openrouter"})
        assert (event.charge, event.cost) == (Decimal("0.014"), Decimal("0.002"))

    def test_is_held_before_the_request(self) -> None:
        answer = Relay().authorize(make_payer(), model="sonar", input_tokens=1000, max_output_tokens=1000)
        assert answer.body["amount"] == "0.014000"


class TestAnUpstreamAccount:
    @pytest.fixture
    def account(self) -> UpstreamAccount:
        row = UpstreamAccount.objects.create(name="main", channel=Channel.objects.get(name="anthropic"))
        UpstreamTerms.objects.create(account=row, multiplier=Decimal("0.85"))
        pricing.bump_version()
        return row

    def test_makes_the_cost_cheaper_and_not_the_charge(self, account: UpstreamAccount) -> None:
        """Row 35: no supplier cost beside the sale price, so no margin."""
        payer = make_payer()
        event = settled(payer, upstream_account="main")
        assert (event.charge, event.cost) == (EXAMPLE, EXAMPLE * Decimal("0.85"))
        assert event.upstream_account_id == account.pk
        hour = UsageHour.objects.get(customer=payer.customer)
        assert hour.charge - hour.cost == EXAMPLE * Decimal("0.15")
        assert (content_of(event)["account"], content_of(event)["contract"]) == ("main", "0.85")
        assert_books_are_right(payer.customer)

    def test_names_the_channel_where_the_event_does_not(self, account: UpstreamAccount) -> None:
        assert settled(make_payer(), upstream_account="main", channel=None).channel_id == account.channel_id

    def test_has_other_terms_from_a_moment_on(self, account: UpstreamAccount) -> None:
        UpstreamTerms.objects.create(account=account, multiplier=Decimal("0.5"), effective_from=NOW)
        pricing.bump_version()
        payer = make_payer()
        before = settled(payer, upstream_account="main", occurred_at=(NOW - timedelta(seconds=1)).isoformat())
        after = settled(payer, upstream_account="main", occurred_at=NOW.isoformat())
        assert (before.cost, after.cost) == (EXAMPLE * Decimal("0.85"), EXAMPLE / 2)

    @pytest.mark.parametrize("changes", [{"upstream_account": "spare"}, {"channel": "bedrock"}])
    def test_that_is_unknown_or_elsewhere_parks_the_event(
        self, account: UpstreamAccount, changes: dict[str, str]
    ) -> None:
        payer = make_payer()
        answer = Relay().report(make_event(payer, **{"upstream_account": "main", **changes}))
        assert answer.body["parked"] == 1
        assert ParkedEvent.objects.get(customer=payer.customer).reason == "unknown_upstream_account"
        if "channel" not in changes:
            UpstreamAccount.objects.create(name="spare", channel=account.channel)
            pricing.bump_version()
            assert parking.sweep(at=datetime.now(UTC)).settled == 1


class TestAPlan:
    def test_says_by_which_rule_a_price_came_about(self) -> None:
        payer = make_payer()
        plan = on_plan(payer, multiplier=Decimal("1.2"))
        row = add_rule(plan, model=Model.objects.get(public_id=SONNET), meter="output", multiplier=Decimal(2))
        event = settled(payer)
        assert event.charge == INPUT_SIDE * Decimal("1.2") + Decimal("0.0075") * 2
        assert event.cost == EXAMPLE
        meters = content_of(event)["meters"]
        assert (meters["output"]["rule"], meters["input"]["rule"]) == (row.pk, None)

    def test_starts_from_the_maker_s_list_whatever_channel_served_the_call(self) -> None:
        payer = make_payer()
        on_plan(payer, multiplier=Decimal("1.2"))
        on_bedrock = settled(payer, channel="bedrock-regional")
        assert on_bedrock.charge == EXAMPLE * Decimal("1.2")

    def test_may_differ_by_channel_where_the_operator_opts_in(self) -> None:
        payer = make_payer()
        add_rule(on_plan(payer), channel=Channel.objects.get(name="bedrock"), multiplier=Decimal("0.9"))
        charges = [settled(payer, channel=channel).charge for channel in ("bedrock", "anthropic")]
        assert charges == [EXAMPLE * Decimal("0.9"), EXAMPLE]

    @pytest.mark.parametrize(
        ("rule", "moved"),
        [
            (
                {"meter": "input", "multiplier": Decimal(2)},
                {"input": "0.6", "cache_read": "0.06", "image": "0.6", "image_cache": "0.06", "video": "0.6"},
            ),
            (
                {"meter": "input", "unit_price": Decimal("0.45")},
                {"input": "0.45", "cache_read": "0.045", "image": "0.45", "image_cache": "0.045", "video": "0.45"},
            ),
            ({"meter": "audio_input", "multiplier": Decimal(2)}, {"audio": "2", "audio_cache": "0.2"}),
            ({"meter": "image_input", "unit_price": Decimal("0.15")}, {"image": "0.15", "image_cache": "0.015"}),
            ({"meter": "cache_read", "multiplier": Decimal(2)}, {"cache_read": "0.06", "image_cache": "0.06"}),
        ],
        ids=["input", "a fixed input", "audio", "a fixed image input", "cache reads"],
    )
    def test_moves_what_follows_a_meter_and_tells_by_which_rule(
        self, rule: dict[str, Any], moved: dict[str, str]
    ) -> None:
        """Gemini's prices of images and video are those of text, taken over; that of sound is one of its own."""
        listed = {"input": "0.3", "cache_read": "0.03", "audio": "1", "audio_cache": "0.1"}
        listed |= {"image": "0.3", "image_cache": "0.03", "video": "0.3", "output": "2.5"}
        meters = {
            name: {"audio_cache": "audio_cache_read", "image_cache": "image_cache_read"}.get(
                name, f"{name}_input" if name in {"audio", "image", "video"} else name
            )
            for name in listed
        }
        payer = make_payer()
        row = add_rule(on_plan(payer), **rule)
        usage = {"format": "meters", "usage": dict.fromkeys(meters.values(), 1_000_000)}

        content = content_of(settled(payer, model="gemini-2.5-flash", channel="google", **usage))["meters"]

        charges = {name: f"{Decimal(content[meter]['charge']).normalize():f}" for name, meter in meters.items()}
        assert charges == listed | moved
        assert {name for name, meter in meters.items() if content[meter]["rule"] == row.pk} == moved.keys()
        shown = CustomerApi(payer).get("prices", model="gemini-2.5-flash", limit="200").body["data"]
        on_the_list = {line["meter"]: Decimal(line["unit_price"]) for line in shown if line["variant"] == "standard"}
        assert {meter: on_the_list[meter] for meter in content} == {
            meter: Decimal(price["charge"]) for meter, price in content.items()
        }

    def test_s_price_is_rounded_once_with_the_multiplier_of_the_place(self) -> None:
        Price.objects.filter(model__public_id=HAIKU, meter="input").update(unit_price=Decimal("0.010000003"))
        payer = make_payer()
        on_plan(payer, multiplier=Decimal("1.5"))
        usage = {"input_tokens": 1_000_000, "output_tokens": 0, "inference_geo": "us"}
        event = settled(payer, model=HAIKU, usage=usage)
        assert (event.charge, event.cost) == (Decimal("0.016500005"), Decimal("0.011000003"))

    def test_can_give_a_family_away(self) -> None:
        payer = make_payer()
        add_rule(on_plan(payer), family="claude-sonnet-", multiplier=Decimal(0))
        free, paid = settled(payer), settled(payer, model=OPUS_5_5)
        assert (free.charge, free.cost, free.transfer_id) == (0, EXAMPLE, None)
        assert paid.charge > 0
        assert_books_are_right(payer.customer)

    def test_s_rule_changes_nothing_before_its_moment_and_splits_the_hour(self) -> None:
        payer, hour = make_payer(), NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        middle = hour + timedelta(minutes=30)
        add_rule(on_plan(payer), multiplier=Decimal(2), effective_from=middle)
        before = settled(payer, occurred_at=(middle - timedelta(seconds=1)).isoformat())
        after = settled(payer, occurred_at=middle.isoformat())
        assert (before.charge, after.charge) == (EXAMPLE, EXAMPLE * 2)
        assert sorted(UsageHour.objects.filter(customer=payer.customer).values_list("charge", flat=True)) == [
            EXAMPLE,
            EXAMPLE * 2,
        ]
        assert_books_are_right(payer.customer)

    def test_of_a_customer_changes_from_a_moment_on(self) -> None:
        payer, moment = make_payer(), NOW - timedelta(minutes=10)
        on_plan(payer, multiplier=Decimal(2))
        on_plan(payer, since=moment, multiplier=Decimal(3))
        before = settled(payer, occurred_at=(moment - timedelta(seconds=1)).isoformat())
        after = settled(payer, occurred_at=moment.isoformat())
        assert (before.charge, after.charge) == (EXAMPLE * 2, EXAMPLE * 3)

    def test_announced_for_later_is_not_held_for_now(self) -> None:
        payer, relay = make_payer(), Relay()
        on_plan(payer, since=NOW + timedelta(days=1), multiplier=Decimal(3))
        assert [relay.authorize(payer).body["amount"] for _ in range(2)] == ["0.011100", "0.011100"]

    def test_s_announced_prices_stand_in_the_customer_s_list(self) -> None:
        payer, later = make_payer(), (NOW + timedelta(days=1)).replace(microsecond=0)
        plan = on_plan(payer)
        add_rule(plan, meter="input", unit_price=Decimal(2), effective_from=later)
        rows = CustomerApi(payer).get("prices", model=SONNET, limit="200").body["data"]
        standard = [row for row in rows if row["variant"] == "standard"]
        shown = {
            (row["meter"], row["effective_from"]): (row["unit_price"], row["multiplier_of_input"]) for row in standard
        }
        since = later.isoformat().replace("+00:00", "Z")
        assert shown["input", None] == ("3.000000", "1")
        assert shown["input", since] == ("2.000000", "1")
        assert shown["cache_read", None] == ("0.300000", "0.1")
        assert shown["cache_read", since] == ("0.200000", "0.1")
        assert ("output", since) not in shown

    def test_that_is_announced_stands_in_the_customer_s_list_with_its_day(self) -> None:
        payer, later = make_payer(), (NOW + timedelta(days=3)).replace(microsecond=0)
        on_plan(payer, since=later, multiplier=Decimal("1.5"))
        rows = CustomerApi(payer).get("prices", model=SONNET, limit="200").body["data"]
        shown = [
            (row["unit_price"], row["effective_from"], row["effective_until"])
            for row in rows
            if (row["variant"], row["meter"]) == ("standard", "input")
        ]
        since = later.isoformat().replace("+00:00", "Z")
        assert shown == [("3.000000", None, since), ("4.500000", since, None)]

    def test_s_fixed_price_keeps_windows_of_the_day_whenever_the_list_is_looked_at(self) -> None:
        payer = make_payer()
        table = pricing.current()
        number, rows = next(
            (number, rows)
            for number, rows in sorted(table.charges.items())
            if any(row.daily_from is not None and row.effective_until is None for row in rows)
        )
        model = Model.objects.get(pk=number)
        add_rule(on_plan(payer), model=model, meter="output", unit_price=Decimal(7))
        shown = set()
        for hour in range(24):
            at = NOW.replace(hour=hour) + timedelta(days=1)
            listed = price_list(
                table=pricing.current(),
                plans=plans_of(payer.customer.pk, pricing.current(), at=at),
                at=at,
                limit=200,
                model_id=number,
            )
            found = {(row.daily_from, row.unit_price) for row in listed if (row.variant, row.meter) == ("", "output")}
            shown.add(frozenset(found))
        assert len(shown) == 1
        (prices,) = shown
        plan = pricing.current().plan(CustomerPlan.objects.get(customer=payer.customer).plan_id)
        for window, price in prices:
            at = NOW.replace(hour=0, minute=0, second=0) if window is None else datetime.combine(NOW, window, UTC)
            while window is None and any(
                row.daily_from and pricing.in_window(at.time(), row.daily_from, row.daily_until) for row in rows
            ):
                at += timedelta(minutes=30)
            asked = pricing.Asked(number, model.maker_id)
            card = pricing.current().card(asked, plan=plan, at=at, prompt_tokens=1)
            assert card.meters["output"].charge == price

    def test_s_calls_inside_a_response_are_found_by_their_model(self) -> None:
        payer = make_payer()
        advisor = {"type": "advisor_message", "model": OPUS_5_5, "input_tokens": 1000, "output_tokens": 100}
        iterations = [{"type": "message", **EXAMPLE_USAGE}, advisor]
        event = settled(payer, usage={**EXAMPLE_USAGE, "iterations": iterations})
        api = CustomerApi(payer)
        for model in (SONNET, OPUS_5_5):
            assert [row["id"] for row in api.get("usage/events", model=model).body["data"]] == [event.public_id]
        assert api.get("usage/events", model=HAIKU).body["data"] == []
        lines = api.get("usage/events").body["data"][0]["meters"]
        assert {line["model"] for line in lines} == {SONNET, OPUS_5_5}
        assert sum(Decimal(line["amount"]) for line in lines) == event.charge
        assert_books_are_right(payer.customer)

    def test_s_event_of_several_calls_is_checked_against_its_own_figures(self) -> None:
        payer = make_payer()
        advisor = {"type": "advisor_message", "model": OPUS_5_5, "input_tokens": 1000, "output_tokens": 100}
        settled(payer, usage={**EXAMPLE_USAGE, "iterations": [{"type": "message", **EXAMPLE_USAGE}, advisor]})
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE metering_usageevent DISABLE TRIGGER append_only")
            cursor.execute("UPDATE metering_usageevent SET quantities = '{\"input\": 1}'")
            cursor.execute("ALTER TABLE metering_usageevent ENABLE TRIGGER append_only")
        found, _ = check_usage(Scope(payer.customer.pk, payer.customer.pk, full=True), at=datetime.now(UTC))
        assert any(difference.what.startswith("quantities of evt_") for difference in found), found


class TestARequestThatDidNotComplete:
    def test_is_charged_what_is_known_by_default(self) -> None:
        payer = make_payer()
        assert settled(payer, status="aborted", estimated=True).charge == EXAMPLE

    @pytest.mark.parametrize(
        ("policy", "status", "charge"),
        [
            ({"aborted": "input"}, "aborted", INPUT_SIDE),
            ({"aborted": "nothing"}, "aborted", Decimal(0)),
            ({"aborted": "nothing"}, "failed", EXAMPLE),
            ({"aborted": "nothing"}, "completed", EXAMPLE),
            ({"failed": "nothing"}, "failed", Decimal(0)),
        ],
    )
    def test_is_charged_as_the_plan_says_and_costs_what_it_costs(
        self, policy: dict[str, str], status: str, charge: Decimal
    ) -> None:
        payer = make_payer()
        PlanPolicy.objects.create(plan=on_plan(payer), **policy)
        pricing.bump_version()
        event = settled(payer, status=status)
        assert (event.charge, event.cost) == (charge, EXAMPLE)
        waived = None if charge == EXAMPLE else {"status": status, "charged": policy[status]}
        assert content_of(event).get("waived") == waived
        assert payer.balance == 50 - charge
        assert_books_are_right(payer.customer)

    def test_says_why_in_the_customer_s_list_of_events(self) -> None:
        payer = make_payer()
        PlanPolicy.objects.create(plan=on_plan(payer), aborted="input")
        pricing.bump_version()
        settled(payer, status="aborted")
        settled(payer)
        rows = CustomerApi(payer).get("usage/events").body["data"]
        assert {row["status"]: row["waived"] for row in rows} == {
            "completed": None,
            "aborted": "aborted: only the input side is charged",
        }

    def test_stands_on_the_invoice_with_the_reason(self) -> None:
        payer, last_month = make_payer(), (NOW.replace(day=1) - timedelta(days=3))
        PlanPolicy.objects.create(plan=on_plan(payer), aborted="input")
        pricing.bump_version()
        for status in ("completed", "aborted"):
            settled(payer, status=status, occurred_at=last_month.isoformat())
        statements.close_invoices(period=last_month.date().replace(day=1), at=NOW)
        lines = Invoice.objects.get(customer=payer.customer).lines.filter(meter="output")
        assert {(line.unit_price, line.description.partition(", ")[2]) for line in lines} == {
            (Decimal(15), ""),
            (Decimal(0), "aborted, not charged"),
        }

    def test_and_its_retry_are_two_events_of_one_authorization(self) -> None:
        """Row 32: what failed upstream was billed by the provider, so it is known, whoever pays for it."""
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer).body["id"]
        tried = make_event(payer, authorization=granted, status="failed", more=True)
        done = make_event(payer, authorization=granted)
        assert relay.report(tried, done).body["accepted"] == 2
        rows = UsageEvent.objects.filter(customer=payer.customer)
        assert {row.status for row in rows} == {"failed", "completed"}
        assert len({row.hold_id for row in rows}) == 1
        assert sum(row.cost for row in rows) == 2 * EXAMPLE
        assert payer.wallet.held == 0
