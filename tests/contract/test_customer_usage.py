"""Usage as its customer reads it: series by hour, day and month, and single events."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metering import queries
from metering.models import ApiKey, CustomerPlan, Plan
from metering.pricing import bump_version
from tests.statements import counted_statements
from tests.world import EXAMPLE_USAGE, SONNET, CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

HAIKU = "claude-3-5-haiku-20241022"
QUANTITIES = {"input": 1000, "cache_read": 10000, "cache_write_5m": 1000, "cache_write_1h": 2000, "output": 500}
# 10,000 reads × (3 − 0.3) − 1,000 writes × (3.75 − 3) − 2,000 × (6 − 3), per million.
EXAMPLE_SAVINGS = "0.020250"
OCTOBER = {"start": "2026-10-01T00:00:00Z", "end": "2026-11-01T00:00:00Z"}


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="50.00")


def report(payer: Payer, *moments: str, **changes: Any) -> None:
    answer = Relay().report(*(make_event(payer, occurred_at=moment, **changes) for moment in moments))
    assert answer.body["accepted"] == len(moments), answer.body


def starts(payer: Payer, **query: str) -> list[str]:
    answer = CustomerApi(payer).get("usage", **query)
    assert answer.status == 200, answer.body
    return [row["start"] for row in answer.body["data"]]


class TestSeries:
    def test_the_worked_example_stands_in_the_series(self, payer: Payer) -> None:
        Relay().report(make_event(payer))
        body = CustomerApi(payer).get("usage", group_by="model,api_key", bucket="hour").body
        figures = {
            "requests": 1,
            "quantities": QUANTITIES,
            "amount": "0.029250",
            "cache_savings": EXAMPLE_SAVINGS,
        }
        (row,) = body["data"]
        now = datetime.now(UTC)
        assert row.pop("start") in {f"{at:%Y-%m-%dT%H}:00:00Z" for at in (now, now - timedelta(minutes=5))}
        assert row == {"model": SONNET, "api_key": payer.key.public_id, **figures}
        assert body["total"] == figures

    def test_without_usage_there_are_no_rows_and_a_total_of_zero(self, payer: Payer) -> None:
        assert CustomerApi(payer).get("usage").body == {
            "data": [],
            "total": {"requests": 0, "quantities": {}, "amount": "0.000000", "cache_savings": "0.000000"},
        }

    def test_rows_are_told_apart_only_by_what_they_are_grouped_by(self, payer: Payer) -> None:
        report(payer, "2026-10-05T10:00:00Z", "2026-10-05T11:00:00Z")
        report(payer, "2026-10-05T10:30:00Z", model=HAIKU)
        api = CustomerApi(payer)
        second = api.send("POST", "api-keys", {"name": "second"}).body["id"]
        report(payer, "2026-10-05T10:30:00Z", api_key_id=second)

        def rows(**query: str) -> list[tuple[Any, Any, int]]:
            body = api.get("usage", **OCTOBER, **query).body
            assert sum(row["requests"] for row in body["data"]) == body["total"]["requests"]
            assert sum(Decimal(row["amount"]) for row in body["data"]) == Decimal(body["total"]["amount"])
            return [(row["model"], row["api_key"], row["requests"]) for row in body["data"]]

        first = payer.key.public_id
        assert rows() == [(None, None, 4)]
        assert rows(group_by="") == [(None, None, 4)]
        assert rows(group_by="model") == [(HAIKU, None, 1), (SONNET, None, 3)]
        assert sorted(rows(group_by="api_key")) == sorted([(None, first, 3), (None, second, 1)])
        assert len(rows(group_by="api_key,model")) == 3
        assert rows(model=HAIKU) == [(None, None, 1)]
        assert rows(model="claude-sonnet-4-0", api_key=second) == [(None, None, 1)]

    def test_buckets_are_utc_unless_a_time_zone_is_named(self, payer: Payer) -> None:
        report(payer, "2026-10-01T03:59:59Z", "2026-10-01T04:00:00Z", "2026-10-31T23:59:59.999Z")
        assert starts(payer, **OCTOBER, bucket="hour") == [
            "2026-10-01T03:00:00Z",
            "2026-10-01T04:00:00Z",
            "2026-10-31T23:00:00Z",
        ]
        assert starts(payer, **OCTOBER) == ["2026-10-01T00:00:00Z", "2026-10-31T00:00:00Z"]
        assert starts(payer, **OCTOBER, timezone="America/New_York") == [
            "2026-09-30T04:00:00Z",
            "2026-10-01T04:00:00Z",
            "2026-10-31T04:00:00Z",
        ]
        assert starts(payer, **OCTOBER, bucket="month") == ["2026-10-01T00:00:00Z"]
        assert starts(payer, **OCTOBER, bucket="month", timezone="America/New_York") == [
            "2026-09-01T04:00:00Z",
            "2026-10-01T04:00:00Z",
        ]

    def test_a_day_on_which_clocks_change_is_one_bucket(self, payer: Payer) -> None:
        # Madrid's 25 October 2026 has 25 hours: from 22:00 UTC the day before until 23:00 UTC.
        report(payer, "2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z")
        body = CustomerApi(payer).get("usage", **OCTOBER, timezone="Europe/Madrid").body
        assert [(row["start"], row["requests"]) for row in body["data"]] == [
            ("2026-10-23T22:00:00Z", 1),
            ("2026-10-24T22:00:00Z", 2),
            ("2026-10-25T23:00:00Z", 1),
        ]

    def test_start_belongs_to_the_answer_and_end_does_not(self, payer: Payer) -> None:
        report(payer, "2026-10-05T10:00:00Z", "2026-10-05T10:59:59.999999Z", "2026-10-05T11:00:00Z")
        body = CustomerApi(payer).get("usage", start="2026-10-05T12:00:00+02:00", end="2026-10-05T11:00:00Z").body
        assert body["total"]["requests"] == 2
        # An unescaped plus sign arrives as a space.
        assert CustomerApi(payer).get("usage", start="2026-10-05T12:00:00 02:00").body["total"]["requests"] == 3

    def test_the_default_is_the_last_thirty_days_with_the_hour_that_has_begun(self, payer: Payer) -> None:
        now = datetime.now(UTC)
        report(payer, now.isoformat(), (now - timedelta(days=29)).isoformat(), (now - timedelta(days=31)).isoformat())
        assert CustomerApi(payer).get("usage").body["total"]["requests"] == 2

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ({"start": "yesterday"}, "start"),
            ({"start": "2026-10-05"}, "start"),
            ({"start": "2026-10-05T10:00:00"}, "start"),
            ({"start": "2026-10-05T10:30:00Z"}, "start"),
            ({"start": "2026-10-05T10:00:00.001Z"}, "start"),
            ({"start": "2026-02-30T10:00:00Z"}, "start"),
            ({"start": "0001-01-01T00:00:00Z"}, "start"),
            ({"end": "9999-12-31T23:00:00-12:00"}, "end"),
            ({"end": "2026-10-05T10:15:00Z"}, "end"),
            ({"end": ""}, "end"),
            ({"start": "2026-10-05T10:00:00Z", "end": "2026-10-05T10:00:00Z"}, "start"),
            ({"start": "2024-10-05T10:00:00Z", "end": "2026-10-05T10:00:00Z"}, "start"),
            ({"start": "2026-09-05T10:00:00Z", "end": "2026-10-07T10:00:00Z", "bucket": "hour"}, "start"),
            ({"bucket": "week"}, "bucket"),
            ({"bucket": ""}, "bucket"),
            ({"group_by": "channel"}, "group_by"),
            ({"group_by": "model,"}, "group_by"),
            ({"timezone": "Mars/Olympus"}, "timezone"),
            ({"timezone": "../../etc/passwd"}, "timezone"),
            ({"timezone": ""}, "timezone"),
            ({"model": ""}, "model"),
            ({"model": "\x00"}, "model"),
            ({"api_key": "x" * 256}, "api_key"),
        ],
    )
    def test_a_bad_parameter_is_named(self, payer: Payer, query: dict[str, str], param: str) -> None:
        answer = CustomerApi(payer).get("usage", **query)
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["param"] == param

    def test_a_month_of_hours_fits_even_when_clocks_change(self, payer: Payer) -> None:
        assert (
            starts(
                payer,
                bucket="hour",
                timezone="Europe/Madrid",
                start="2026-09-30T22:00:00Z",
                end="2026-10-31T23:00:00Z",
            )
            == []
        )
        assert starts(payer, start="2025-11-22T00:00:00Z", end="2026-11-22T00:00:00Z", bucket="month") == []

    @pytest.mark.parametrize("path", ["usage", "usage/events"])
    def test_unknown_models_and_other_customers_keys_are_404(self, payer: Payer, path: str) -> None:
        stranger = CustomerApi(make_payer(name="Eve"))
        assert stranger.get(path, api_key=payer.key.public_id).code == "api_key_not_found"
        assert stranger.get(path, model="nothing-like-it").code == "model_not_found"
        report(payer, "2026-10-05T10:00:00Z")
        assert stranger.get("usage", **OCTOBER).body["total"]["requests"] == 0
        assert stranger.get("usage/events").body["data"] == []

    def test_savings_are_below_zero_when_nothing_was_read_back(self, payer: Payer) -> None:
        written = {**EXAMPLE_USAGE, "cache_read_input_tokens": 0}
        report(payer, "2026-10-05T10:00:00Z", usage=written)
        assert CustomerApi(payer).get("usage", **OCTOBER).body["total"]["cache_savings"] == "-0.006750"

    def test_a_customers_own_prices_decide_what_caching_saved(self) -> None:
        half = Plan.objects.create(name="half", multiplier=Decimal("0.5"))
        bump_version()
        payer = make_payer(plan=half.name)
        report(payer, "2026-10-05T10:00:00Z")
        CustomerPlan.objects.filter(customer=payer.customer).delete()
        report(payer, "2026-10-05T10:00:00Z")
        total = CustomerApi(payer).get("usage", **OCTOBER).body["total"]
        assert (total["amount"], total["cache_savings"]) == ("0.043875", "0.030375")

    def test_a_series_takes_three_statements_and_never_reads_events(self, payer: Payer) -> None:
        report(payer, "2026-10-05T10:00:00Z", "2026-10-06T10:00:00Z")
        report(payer, "2026-10-05T10:00:00Z", model=HAIKU)
        with counted_statements() as statements:
            CustomerApi(payer).get("usage", **OCTOBER, group_by="model,api_key")
        # The token, the sums, their unit prices.
        assert len(statements) == 3
        assert not any("usageevent" in statement for statement in statements)

    def test_a_series_that_is_too_fine_is_refused(self, payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queries, "MOST_ROWS", 1)
        report(payer, "2026-10-05T10:00:00Z", "2026-10-06T10:00:00Z")
        answer = CustomerApi(payer).get("usage", **OCTOBER)
        assert (answer.status, answer.body["error"]["param"]) == (400, "bucket")


class TestEvents:
    def test_an_event_shows_every_meter_with_the_price_it_was_charged_at(self, payer: Payer) -> None:
        relay = Relay()
        authorization = relay.authorize(payer).body["id"]
        event = make_event(payer, authorization=authorization, metadata={"team": "search", "weight": 0.1})
        relay.report(event)

        (shown,) = CustomerApi(payer).get("usage/events").body["data"]

        assert shown.pop("id").startswith("evt_")
        meters = {line.pop("meter"): line for line in shown.pop("meters")}
        assert meters["cache_read"] == {
            "model": SONNET,
            "note": "",
            "quantity": 10000,
            "unit_price": "0.300000",
            "per": 1000000,
            "amount": "0.003000",
        }
        assert {name: line["quantity"] for name, line in meters.items()} == QUANTITIES
        assert sum(Decimal(line["amount"]) for line in meters.values()) == Decimal(shown["amount"])
        moment = datetime.fromisoformat(event["occurred_at"])
        assert shown == {
            "request_id": event["id"],
            "model": SONNET,
            "api_key": payer.key.public_id,
            "status": "completed",
            "waived": None,
            "estimated": False,
            "occurred_at": moment.isoformat().replace("+00:00", "Z"),
            "period": f"{moment:%Y-%m}",
            "authorization": authorization,
            "amount": "0.029250",
            "at_first": None,
            "replaced_by": None,
            "cache_savings": EXAMPLE_SAVINGS,
            "metadata": {"team": "search", "weight": 0.1},
        }

    def test_neither_our_cost_nor_the_channel_is_shown(self, payer: Payer) -> None:
        Relay().report(make_event(payer))
        text = str(CustomerApi(payer).get("usage/events").body)
        assert "cost" not in text
        assert "anthropic" not in text

    def test_events_are_newest_first_in_pages(self, payer: Payer) -> None:
        same = "2026-10-05T10:00:00Z"
        for number, moment in enumerate(["2026-10-06T10:00:00Z", same, same, same, "2026-10-04T10:00:00.5Z"]):
            report(payer, moment, id=f"req_{number}")
        api, seen, query = CustomerApi(payer), [], {"limit": "2"}
        for _ in range(3):
            body = api.get("usage/events", **query).body
            seen += [row["request_id"] for row in body["data"]]
            query["cursor"] = body["next_cursor"]
        assert seen == ["req_0", "req_3", "req_2", "req_1", "req_4"]
        assert (body["has_more"], body["next_cursor"]) == (False, None)

    def test_events_are_found_by_time_model_key_and_id(self, payer: Payer) -> None:
        report(payer, "2026-10-05T10:00:00Z", id="req_a")
        report(payer, "2026-10-05T11:00:00Z", id="req_b", model=HAIKU)
        api = CustomerApi(payer)

        def found(**query: str) -> list[str]:
            return [row["request_id"] for row in api.get("usage/events", **query).body["data"]]

        assert found(start="2026-10-05T11:00:00Z") == ["req_b"]
        assert found(end="2026-10-05T11:00:00Z") == ["req_a"]
        assert found(model=SONNET) == ["req_a"]
        assert found(api_key=payer.key.public_id) == ["req_b", "req_a"]
        assert found(request_id="req_b") == ["req_b"]
        assert found(request_id="req_c") == []
        assert found(request_id="req_b", model=SONNET) == []
        for param, value in (("start", "2026-10-05T11:30:00Z"), ("request_id", "\x00"), ("request_id", "")):
            assert api.get("usage/events", **{param: value}).body["error"]["param"] == param

    def test_a_page_takes_two_statements_however_long_it_is(self, payer: Payer) -> None:
        second = ApiKey.objects.get(
            public_id=CustomerApi(payer).send("POST", "api-keys", {"name": "second"}).body["id"]
        )
        report(payer, "2026-10-05T10:00:00Z", "2026-10-06T10:00:00Z", model=HAIKU)
        report(payer, "2026-10-05T10:00:00Z", api_key_id=second.public_id)
        with counted_statements() as statements:
            assert len(CustomerApi(payer).get("usage/events").body["data"]) == 3
        assert len(statements) == 2
