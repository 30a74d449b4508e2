"""Events are found by the model that they count as now, also after a mended parser has found another one in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.db import connection

from metering import event_queries, formats, pricing, rerating
from metering.formats import Usage
from metering.models import Model, Price
from metering.rerating_pages import Scope
from tests.concurrency.racing import assert_books_are_right
from tests.world import EXAMPLE_USAGE, SONNET, CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
ADVISOR, OTHER = "claude-opus-4-20250514", "claude-haiku-5-5"
FORMAT = "anthropic.messages"


@contextmanager
def parser_that_takes_the_second_call_for(model: str | None, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the parser mistake the model of a response's second call, or overlook that there were two (None)."""
    read = formats.FORMATS[FORMAT]

    def misread(usage: dict[str, Any]) -> Usage:
        found = read(usage)
        if model is None:
            return msgspec.structs.replace(found, parts=())
        first, second = found.parts
        return msgspec.structs.replace(found, parts=(first, msgspec.structs.replace(second, model=model)))

    with patch.context() as patched:
        patched.setitem(formats.FORMATS, FORMAT, misread)
        yield


def report(payer: Payer) -> str:
    """A call that asked another model in between; its public id."""
    advisor = {"type": "advisor_message", "model": ADVISOR, "input_tokens": 1000, "output_tokens": 100}
    usage = {**EXAMPLE_USAGE, "iterations": [{"type": "message", **EXAMPLE_USAGE}, advisor]}
    event = make_event(payer, usage=usage)
    assert Relay().report(event).body["accepted"] == 1
    return str(event["id"])


def scope(model: str, *, is_reparse: bool = False) -> Scope:
    return Scope(START, END, model_id=Model.objects.get(public_id=model).pk, is_reparse=is_reparse)


def reparse(model: str = SONNET) -> rerating.Outcome:
    return rerating.apply(scope(model, is_reparse=True), reason="a wrong price", actor="tests", at=AT)


def listed(payer: Payer, model: str) -> list[str]:
    answer = CustomerApi(payer).get("usage/events", model=model)
    assert answer.status == 200
    return [row["request_id"] for row in answer.body["data"]]


class TestAModelThatAMendedParserFound:
    def test_is_what_the_customer_finds_the_event_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        with parser_that_takes_the_second_call_for(None, monkeypatch):
            event = report(payer)
        assert (listed(payer, SONNET), listed(payer, ADVISOR)) == ([event], [])
        reparse()
        assert (listed(payer, SONNET), listed(payer, ADVISOR)) == ([event], [event])

    def test_stands_in_the_event_s_lines_with_its_own_unit_prices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        with parser_that_takes_the_second_call_for(None, monkeypatch):
            report(payer)
        reparse()
        (event,) = CustomerApi(payer).get("usage/events").body["data"]
        assert [line["model"] for line in event["meters"] if line["meter"] == "output"] == [SONNET, ADVISOR]
        assert {line["model"] for line in event["at_first"]["meters"]} == {SONNET}
        for figures in (event, event["at_first"]):
            assert sum(Decimal(line["amount"]) for line in figures["meters"]) == Decimal(figures["amount"])

    def test_is_what_a_rerating_finds_the_event_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        with parser_that_takes_the_second_call_for(None, monkeypatch):
            report(payer)
        reparse()
        Price.objects.filter(model__public_id=ADVISOR).update(unit_price=0)
        pricing.bump_version()
        outcome = rerating.apply(scope(ADVISOR), reason="a wrong price", actor="tests", at=AT)
        assert outcome.customers[payer.customer.pk].events == 1
        assert_books_are_right(payer.customer)


class TestAModelThatAnEventCountedAsBefore:
    def test_is_not_what_the_customer_finds_it_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        with parser_that_takes_the_second_call_for(OTHER, monkeypatch):
            event = report(payer)
        assert (listed(payer, OTHER), listed(payer, ADVISOR)) == ([event], [])
        reparse()
        assert (listed(payer, OTHER), listed(payer, ADVISOR)) == ([], [event])

    def test_is_what_a_rerating_still_finds_it_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that the same scope asked for again looks at the same events."""
        payer = make_payer()
        with parser_that_takes_the_second_call_for(OTHER, monkeypatch):
            report(payer)
        assert reparse(OTHER).customers[payer.customer.pk].events == 1
        again = reparse(OTHER)
        assert (again.events, again.customers) == (1, {})
        with parser_that_takes_the_second_call_for(SONNET, monkeypatch):
            reparse(ADVISOR)
        assert rerating.preview(scope(ADVISOR)).events == 1, "nor is it lost by the model it had in between"


def test_an_estimate_that_was_taken_back_is_found_by_the_model_it_had_last(monkeypatch: pytest.MonkeyPatch) -> None:
    payer, relay = make_payer(), Relay()
    old = make_event(payer, estimated=True)
    relay.report(old, make_event(payer, replaces=old["id"], model="gpt-4o", channel="openai"))
    assert listed(payer, SONNET) == [old["id"]]


def test_a_rare_model_is_looked_for_in_the_customer_s_order_of_time_and_nowhere_else() -> None:
    """Of the events that are passed over no other table is asked, however many of them were put right."""
    payer = make_payer()
    report(payer)
    Price.objects.filter(model__public_id=SONNET).update(unit_price=1)
    pricing.bump_version()
    assert rerating.apply(scope(SONNET), reason="a wrong price", actor="tests", at=AT).rerating is not None
    model = Model.objects.get(public_id=OTHER).pk
    sql, params = event_queries._events_sql(customer_id=payer.customer.pk, limit=51, model_id=model)
    with connection.cursor() as cursor:
        _copy_events(cursor, payer, 20_000)
        cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}", params)
        lines = [row[0] for row in cursor.fetchall()]
    scans = [line.strip(" ->") for line in lines if "Scan" in line and "(never executed)" not in line]
    assert scans[0].startswith("Index Scan Backward using usage_event_by_time on metering_usageevent e"), lines
    assert [scan.split(" (")[0] for scan in scans[1:]] == [
        "Index Only Scan using adjustment_to_other_model on metering_usageadjustment"
    ], lines
    assert any("hashed SubPlan" in line for line in lines), "asked once"


def _copy_events(cursor: Any, payer: Payer, times: int) -> None:
    """The customer's event and its adjustment, straight into the tables as often as no test could report it."""
    for table, number, moment in (
        ("metering_usageevent", "id", "occurred_at"),
        ("metering_usageadjustment", "event_number", "created_at"),
    ):
        cursor.execute(
            "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
            " WHERE table_name = %s AND column_name NOT IN (%s, %s) AND is_identity = 'NO'",
            [table, number, moment],
        )
        columns = cursor.fetchone()[0]
        cursor.execute(
            f"INSERT INTO {table} ({number}, {moment}, {columns})"
            f" SELECT 10^9 + i, {moment} - i * interval '1 second', {columns}"
            f" FROM {table}, generate_series(1, %s) i WHERE customer_id = %s",
            [times, payer.customer.pk],
        )
    # All that the statement asks, so that the plan doesn't hang on what autovacuum saw in the tests before this one.
    cursor.execute(
        "ANALYZE metering_usageevent, metering_usageadjustment, metering_model, metering_apikey, metering_priceset"
    )
