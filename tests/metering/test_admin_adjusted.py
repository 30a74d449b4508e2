"""After a re-rating or a correction the admin says what an event counts for now and did at first, by which prices."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing.models import Customer
from metering import formats, pricing, rerating
from metering.formats import Usage
from metering.models import Plan, PlanRule, Price, UsageAdjustment, UsageEvent
from metering.price_corrections import correct_price
from metering.rerating_pages import Scope
from tests.operator import log_in, make_staff, page, text_of
from tests.world import EXAMPLE_USAGE, SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
EVER = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
ADVISOR = "claude-opus-4-20250514"


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def list_price(*, model: str = SONNET, meter: str = "output") -> Price:
    return Price.objects.get(model__public_id=model, kind="charge", meter=meter, variant="")


def rate_again(unit_price: str, **of: str) -> None:
    """Correct the list price of a meter and rate all events again."""
    row = list_price(**of)
    correct_price(row.pk, Decimal(unit_price), who="Ada", reason="a typing error", at=AT, is_confirmed=True)
    rerating.apply(EVER, reason="a typing error", actor="Ada", at=AT)


def event_of(payer: Payer) -> UsageEvent:
    return UsageEvent.objects.filter(customer=payer.customer).earliest("id")


def steps_of(payer: Payer) -> list[UsageAdjustment]:
    return list(UsageAdjustment.objects.filter(customer=payer.customer).order_by("step"))


def open_page(client: Client, row: Any) -> Any:
    answer = client.get(page(type(row), "change", row.public_id))
    assert answer.status_code == 200
    return answer


def figures(answer: Any) -> dict[str, str]:
    return {figure.label: figure.value for figure in answer.context["figures"]}


def sums(answer: Any) -> dict[str, str]:
    """The charge in the last row of each table of meters or calls, by the table's title."""
    tables = {panel.title: panel for panel in answer.context["panels"] if panel.total}
    return {title: str(panel.total[panel.headers.index("Charge")]) for title, panel in tables.items()}


def with_advisor() -> dict[str, Any]:
    """A call that asked another model in between."""
    advisor = {"type": "advisor_message", "model": ADVISOR, "input_tokens": 1000, "output_tokens": 100}
    return {**EXAMPLE_USAGE, "iterations": [{"type": "message", **EXAMPLE_USAGE}, advisor]}


class TestAnEventThatWasRatedAgain:
    def test_is_headed_by_what_counts_with_the_first_figures_beside(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        rate_again("18")
        rate_again("12")
        answer = open_page(operator, event_of(payer))
        assert figures(answer) == {
            "Charge now": "0.027750",
            "Cost now": "0.029250",
            "Margin now": "-0.001500",
            "Charge at first": "0.029250",
            "Cost at first": "0.029250",
            "Margin at first": "0.000000",
        }
        steps = steps_of(payer)
        assert [step.new_charge for step in steps] == [Decimal("0.03075"), Decimal("0.02775")]
        shown = answer.content.decode()
        assert all(page(UsageAdjustment, "change", step.public_id) in shown for step in steps)

    def test_shows_the_prices_that_count_and_those_it_came_with(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        first = list_price()
        rate_again("18")
        second = list_price()
        event, (step,) = event_of(payer), steps_of(payer)
        answer = open_page(operator, event)
        assert [panel.title for panel in answer.context["panels"]][:5] == [
            "Put right since",
            f"Now · {SONNET}",
            "Now · how the prices came about",
            f"At first · {SONNET}",
            "At first · how the prices came about",
        ]
        now, before = answer.content.decode().split(f"At first · {SONNET}")
        for part, row in ((now, second), (before, first)):
            assert page(Price, "change", row.pk) in part
        assert "18.000000 per 1,000,000" in now
        assert "18.000000 per 1,000,000" not in before
        assert f"price set {step.new_price_set_id} at first price set {event.price_set_id}" in text_of(answer)

    def test_is_listed_with_what_it_counts_for(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        rate_again("18")
        for address in (page(UsageEvent, "changelist"), page(Customer, "change", payer.customer.pk)):
            assert "0.030750 at first 0.029250" in text_of(operator.get(address)), address
        assert "0.029250 0.001500" in text_of(operator.get(page(UsageEvent, "changelist"))), "cost and margin"

    def test_is_found_by_the_model_it_counts_as_and_by_the_one_it_came_as(
        self, operator: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payer, read = make_payer(), formats.FORMATS["anthropic.messages"]
        Relay().report(make_event(payer, usage=with_advisor()))

        def reads_the_advisor_only(usage: dict[str, Any]) -> Usage:
            found = read(usage)
            return msgspec.structs.replace(found, parts=found.parts[1:])

        monkeypatch.setitem(formats.FORMATS, "anthropic.messages", reads_the_advisor_only)
        scope = Scope(EVER.start, EVER.end, is_reparse=True)
        rerating.apply(scope, reason="the parser left calls out", actor="Ada", at=AT)
        for part in ("opus-4", "sonnet-4"):
            answer = operator.get(page(UsageEvent, "changelist"), {"model": part})
            assert f"{ADVISOR} at first {SONNET}" in text_of(answer)
        assert len(operator.get(page(UsageEvent, "changelist"), {"model": "gemini"}).context["cl"].result_list) == 0


class TestAnEstimateThatWasTakenBack:
    def test_counts_for_nothing_and_names_what_stands_in_its_place(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        estimate = make_event(payer, estimated=True)
        relay.report(estimate)
        relay.report(make_event(payer, replaces=estimate["id"], usage={"input_tokens": 1, "output_tokens": 1}))
        old, new = UsageEvent.objects.filter(customer=payer.customer).order_by("id")
        answer = open_page(operator, old)
        shown = figures(answer)
        assert (shown["Charge now"], shown["Margin now"], shown["Charge at first"]) == (
            "0.000000",
            "0.000000",
            "0.029250",
        )
        assert "nothing: it was taken back" in text_of(answer)
        assert page(UsageEvent, "change", new.public_id) in answer.content.decode()
        assert list(sums(answer)) == [f"At first · {SONNET}"], "no prices hold for it now"
        assert "0.000000 taken back at first 0.029250" in text_of(operator.get(page(UsageEvent, "changelist")))
        correction = open_page(operator, new)
        assert "It corrects an estimate" in text_of(correction)
        assert page(UsageEvent, "change", old.public_id) in correction.content.decode()

    def test_is_told_as_such_on_the_adjustment_s_page(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        estimate = make_event(payer, estimated=True)
        relay.report(estimate, make_event(payer, replaces=estimate["id"]))
        (step,) = steps_of(payer)
        answer = open_page(operator, step)
        assert figures(answer)["Charge after"] == "0.000000"
        assert "Nothing: it was taken back" in text_of(answer)
        assert "0.029250" in sums(answer)[f"Before · {SONNET}"]


class TestAnAdjustment:
    def test_shows_margins_and_the_price_row_and_rule_of_both_sides(self, operator: Client) -> None:
        plan = Plan.objects.create(name="resale", multiplier=Decimal("1.2"))
        pricing.bump_version()
        payer, relay = make_payer(plan="resale"), Relay()
        relay.report(make_event(payer))
        rule = PlanRule.objects.create(plan=plan, meter="output", multiplier=Decimal("1.5"))
        pricing.bump_version()
        rerating.apply(EVER, reason="a forgotten rule", actor="Ada", at=AT)
        (step,) = steps_of(payer)
        answer = open_page(operator, step)
        assert list(figures(answer).items()) == [
            ("Charge before", "0.035100"),
            ("Cost before", "0.029250"),
            ("Margin before", "0.005850"),
            ("Charge after", "0.037350"),
            ("Cost after", "0.029250"),
            ("Margin after", "0.008100"),
        ]
        before, after = text_of(answer).split(f"After · {SONNET}")
        assert "Output tokens 15.000000 per 1,000,000 resale: × 1.2 18.000000 per 1,000,000" in before
        assert f"15.000000 per 1,000,000 resale, rule {rule.pk}: × 1.5 22.500000 per 1,000,000" in after
        shown = answer.content.decode()
        for row in (list_price(), rule):
            assert page(type(row), "change", row.pk) in shown

    def test_of_a_response_of_several_calls_shows_each_at_its_own_prices(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, usage=with_advisor()))
        rate_again("80", model=ADVISOR)
        (step,) = steps_of(payer)
        assert (step.old_charge, step.new_charge) == (Decimal("0.05175"), Decimal("0.05225"))
        expected = {
            "message: " + SONNET: ("0.029250", "0.029250"),
            "advisor_message: " + ADVISOR: ("0.022500", "0.023000"),
        }
        for row, sides in ((step, ("Before", "After")), (event_of(payer), ("At first", "Now"))):
            shown = sums(open_page(operator, row))
            for place, (side, total) in enumerate(zip(sides, ("0.051750", "0.052250"), strict=True)):
                assert total in shown[f"{side} · calls in this response"]
                for call, amounts in expected.items():
                    assert amounts[place] in shown[f"{side} · {call}"], (side, call)


def test_a_list_of_events_put_right_takes_one_query_more(operator: Client) -> None:
    payers, relay = [make_payer() for _ in range(4)], Relay()
    relay.report(*[make_event(payer) for payer in payers for _ in range(5)])
    address = page(UsageEvent, "changelist")
    counts = []
    for unit_price in ("15", "18", "12"):
        if unit_price != "15":
            rate_again(unit_price)
        with CaptureQueriesContext(connection) as queries:
            assert len(operator.get(address).context["cl"].result_list) == 20
        counts.append(len(queries))
    assert len(set(counts)) == 1, "however many were put right, and how often"
