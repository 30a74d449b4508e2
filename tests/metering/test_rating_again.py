"""An event is rated again by what it was rated by: its variant, place and prompt size, not by what is read by now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from metering import formats, pricing, rerating
from metering.formats import Usage
from metering.models import Price, PriceSet, UsageAdjustment, UsageEvent
from metering.rerating_pages import Scope
from tests.concurrency.racing import assert_books_are_right
from tests.world import EXAMPLE_USAGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
EVER = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
FORMAT = "anthropic.messages"
OPUS, HAIKU, FLAT = "claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-20250514"

# What a mended parser reads of a usage object and the parser before it overlooked, on a model where it counts.
OVERLOOKED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "service tier": (FLAT, {"service_tier": "batch"}, {"service_tier": "standard"}),
    "speed": (OPUS, {"speed": "fast"}, {"speed": "standard"}),
    "place": (HAIKU, {"inference_geo": "us"}, {"inference_geo": ""}),
    "prompt size": (HAIKU, {"cache_read_input_tokens": 99_001}, {"prompt_tokens": 1000}),
}
readings = pytest.mark.parametrize("what", OVERLOOKED)


@contextmanager
def parser(patch: pytest.MonkeyPatch, **overlooked: Any) -> Iterator[None]:
    """Let the parser overlook something, until it is mended."""
    read: Callable[[dict[str, Any]], Usage] = formats.FORMATS[FORMAT]
    with patch.context() as patched:
        patched.setitem(formats.FORMATS, FORMAT, lambda usage: msgspec.structs.replace(read(usage), **overlooked))
        yield


def report(payer: Payer, model: str = FLAT, **usage: Any) -> UsageEvent:
    event = make_event(payer, model=model, usage={**EXAMPLE_USAGE, **usage})
    answer = Relay().report(event).body
    assert answer["accepted"] == 1, answer
    return UsageEvent.objects.get(customer=payer.customer, event_id=event["id"])


def all_prices(model: str, times: int) -> None:
    """Let every price of a model have been so many times what it was."""
    for row in Price.objects.filter(model__public_id=model):
        Price.objects.filter(pk=row.pk).update(unit_price=row.unit_price * times)
    pricing.bump_version()


def apply(scope: Scope = EVER) -> rerating.Outcome:
    return rerating.apply(scope, reason="a wrong price", actor="tests", at=AT)


@readings
class TestWhatIsReadDifferently:
    def test_changes_no_charge_unasked_and_is_counted(self, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        payer, (model, usage, before) = make_payer(), OVERLOOKED[what]
        with parser(monkeypatch, **before):
            report(payer, model, **usage)
        balance = payer.balance
        outcome = apply()
        assert (outcome.customers, outcome.left) == ({}, {"reads_differently": 1})
        all_prices(model, 2)
        assert apply().left == {"reads_differently": 1}
        assert payer.balance == balance

    def test_is_taken_over_when_asked(self, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        payer, right, (model, usage, before) = make_payer(), make_payer(), OVERLOOKED[what]
        with parser(monkeypatch, **before):
            report(payer, model, **usage)
        report(right, model, **usage)
        assert payer.balance != right.balance, "what was overlooked decides the price"
        apply(Scope(EVER.start, EVER.end, is_reparse=True))
        assert payer.balance == right.balance
        assert UsageAdjustment.objects.get().kind == "reparse"
        all_prices(model, 2)
        assert apply().left == {}, "it is read as it was rated by then"
        assert payer.balance == right.balance
        assert_books_are_right(payer.customer, right.customer)

    def test_is_left_alone_the_other_way_round_too(self, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        payer, (model, usage, now) = make_payer(), OVERLOOKED[what]
        report(payer, model, **usage)
        balance = payer.balance
        with parser(monkeypatch, **now):
            assert apply().left == {"reads_differently": 1}
        assert payer.balance == balance


@readings
def test_an_event_that_is_read_as_ever_is_rated_by_its_own_variant_place_and_size(what: str) -> None:
    payer, (model, usage, _) = make_payer(), OVERLOOKED[what]
    charge = report(payer, model, **usage).charge
    all_prices(model, 2)
    assert apply().left == {}
    assert payer.balance == 50 - 2 * charge
    assert_books_are_right(payer.customer)


def test_a_place_that_does_not_decide_the_price_keeps_nobody_from_being_rated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payer = make_payer()
    with parser(monkeypatch, inference_geo=""):
        charge = report(payer, FLAT, inference_geo="us").charge
    all_prices(FLAT, 2)
    assert apply().left == {}
    assert payer.balance == 50 - 2 * charge


def test_a_prompt_that_is_read_larger_within_its_tier_is_rated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    payer = make_payer()
    with parser(monkeypatch, prompt_tokens=1):
        charge = report(payer, HAIKU).charge
    all_prices(HAIKU, 2)
    assert apply().left == {}
    assert payer.balance == 50 - 2 * charge


def test_a_tier_that_the_book_has_gained_since_holds_for_what_was_read_all_along() -> None:
    payer = make_payer()
    short, long = report(payer), report(payer, cache_read_input_tokens=200_000)
    for row in Price.objects.filter(model__public_id=FLAT, variant="", meter="output"):
        row.pk, row.above_prompt_tokens, row.unit_price = None, 100_000, row.unit_price + 10
        row.save()
    pricing.bump_version()
    outcome = apply()
    assert (outcome.left, outcome.customers[payer.customer.pk].events) == ({}, 1)
    assert payer.balance == 50 - short.charge - long.charge - Decimal("0.005")
    assert UsageAdjustment.objects.get().event_number == long.pk


def test_a_price_set_says_between_which_prompt_sizes_it_holds_only_where_the_size_decides() -> None:
    payer = make_payer()

    def size(event: UsageEvent) -> Any:
        return PriceSet.objects.get(pk=event.price_set_id).content.get("prompt")

    assert size(report(payer)) is None
    assert size(report(payer, HAIKU)) == {"up_to": 100_000}
    assert size(report(payer, HAIKU, cache_read_input_tokens=96_000)) == {"up_to": 100_000}
    assert size(report(payer, HAIKU, cache_read_input_tokens=96_001)) == {"above": 100_000}
    assert PriceSet.objects.filter(content__prompt__isnull=False).count() == 2


class TestSeveralCallsInOneResponse:
    def report(self, payer: Payer) -> UsageEvent:
        second = {"type": "advisor_message", "model": HAIKU, "input_tokens": 100_001, "output_tokens": 100}
        return report(payer, HAIKU, iterations=[{"type": "message", **EXAMPLE_USAGE}, second])

    def test_are_each_rated_by_the_size_of_their_own_prompt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        charge = self.report(payer).charge
        read = formats.FORMATS[FORMAT]

        def shrink(usage: dict[str, Any]) -> Usage:
            found = read(usage)
            parts = tuple(msgspec.structs.replace(part, prompt_tokens=1) for part in found.parts)
            return msgspec.structs.replace(found, parts=parts)

        with monkeypatch.context() as patch:
            patch.setitem(formats.FORMATS, FORMAT, shrink)
            assert apply().left == {"reads_differently": 1}
        assert payer.balance == 50 - charge
        all_prices(HAIKU, 2)
        assert apply().left == {}
        assert payer.balance == 50 - 2 * charge
        assert_books_are_right(payer.customer)
