"""A wrong price of the past is superseded: what is rated from then on finds the right one, what was charged stays."""

from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command

from metering import price_book, pricing, rerating
from metering.models import Price, UsageEvent
from metering.price_corrections import CannotCorrect, correct_price
from metering.rerating_pages import Scope
from metering.verification import verify_books
from tests.world import EXAMPLE_CHARGE, SONNET, CustomerApi, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
EVER = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
DEARER = EXAMPLE_CHARGE + Decimal("0.0025")


def output_price() -> Price:
    return Price.objects.get(model__public_id=SONNET, kind="charge", meter="output", variant="")


def output_line(figures: dict[str, Any]) -> dict[str, Any]:
    return next(line for line in figures["meters"] if line["meter"] == "output")


def correct(price: Price, unit_price: str = "20", *, is_confirmed: bool = True) -> Price:
    return correct_price(
        price.pk, Decimal(unit_price), who="Ada", reason="a typing error", at=AT, is_confirmed=is_confirmed
    )


def test_the_wrong_row_stays_and_the_right_one_has_all_its_time() -> None:
    old = output_price()
    new = correct(old)
    assert output_price() == new
    assert (new.unit_price, new.corrects, new.corrected_why) == (20, old, "Ada: a typing error")
    assert (new.effective_from, new.effective_until, new.per) == (old.effective_from, old.effective_until, old.per)
    kept = Price.with_superseded.get(pk=old.pk)
    assert (kept.unit_price, kept.superseded_at, kept.corrected_by) == (15, AT, new)


def test_twice_the_same_is_once_and_another_price_is_refused() -> None:
    old = output_price()
    new = correct(old)
    assert correct(old) == correct(new) == new
    with pytest.raises(CannotCorrect, match=f"correct {new.pk} instead"):
        correct(old, "21")
    assert correct(new, "21").corrects == new


def test_a_corrected_price_that_was_corrected_again_is_not_taken_for_the_one_that_holds() -> None:
    first = output_price()
    second = correct(first)
    third = correct(second, "15")
    with pytest.raises(CannotCorrect, match=f"correct {third.pk} instead"):
        correct(first, "20")
    assert correct(first, "15") == third == output_price()


@pytest.mark.parametrize("unit_price", ["0", "1.5", "150"])
def test_what_needs_a_second_look_is_confirmed(unit_price: str) -> None:
    price = output_price()
    with pytest.raises(CannotCorrect, match="look again"):
        correct(price, unit_price, is_confirmed=False)
    assert output_price() == price
    assert correct(price, unit_price).unit_price == Decimal(unit_price)
    assert correct(output_price(), "15.01").unit_price == Decimal("15.01")


@pytest.mark.parametrize("unit_price", ["-1", "0.0000000001", "NaN", "100000000000"])
def test_what_is_no_price_is_refused(unit_price: str) -> None:
    with pytest.raises(CannotCorrect):
        correct(output_price(), unit_price)


def test_late_events_and_reratings_find_it_and_a_second_import_leaves_it() -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer))
    correct(output_price())
    assert payer.balance == 50 - EXAMPLE_CHARGE
    relay.report(make_event(payer, occurred_at="2026-10-01T00:00:00Z"))
    assert payer.balance == 50 - EXAMPLE_CHARGE - DEARER
    outcome = rerating.apply(EVER, reason="a typing error", actor="Ada", at=AT)
    assert outcome.customers[payer.customer.pk].events == 1
    assert payer.balance == 50 - 2 * DEARER
    before = Price.with_superseded.count()
    price_book.import_prices(approve=False, dry_run=False, at=AT)
    assert Price.with_superseded.count() == before
    assert pricing.current().charges
    for full in (False, True):
        assert verify_books(full=full, at=AT).ok


def test_the_customer_sees_what_counts_and_what_was_charged_at_first() -> None:
    payer, relay = make_payer(), Relay()
    event = make_event(payer, estimated=True)
    relay.report(event)
    correct(output_price())
    rerating.apply(EVER, reason="a typing error", actor="Ada", at=AT)
    api = CustomerApi(payer)
    (shown,) = api.get("usage/events").body["data"]
    assert (shown["amount"], shown["at_first"]["amount"], shown["replaced_by"]) == ("0.031750", "0.029250", None)
    assert (output_line(shown)["unit_price"], output_line(shown["at_first"])["unit_price"]) == (
        "20.000000",
        "15.000000",
    )
    for figures in (shown, shown["at_first"]):
        assert sum(Decimal(line["amount"]) for line in figures["meters"]) == Decimal(figures["amount"])
    moved = api.get("transfers").body["data"][0]
    assert (moved["kind"], moved["amount"], moved["reason"]) == ("adjustment", "-0.002500", "a typing error")
    relay.report(make_event(payer, replaces=event["id"]))
    after, before = api.get("usage/events").body["data"]
    assert (before["amount"], before["meters"], before["replaced_by"]) == ("0.000000", [], after["id"])
    assert (before["model"], before["cache_savings"], before["at_first"]["amount"]) == (SONNET, "0.000000", "0.029250")
    assert (after["amount"], after["at_first"]) == ("0.031750", None)
    (row,) = api.get("usage", group_by="model").body["data"]
    assert (row["requests"], row["amount"], row["quantities"]["output"]) == (1, "0.031750", 500)
    assert UsageEvent.objects.filter(customer=payer.customer).count() == 2


def test_the_command_answers_with_the_row_that_holds() -> None:
    old, out = output_price(), StringIO()
    call_command("correct_price", str(old.pk), "20", "--reason", "a typing error", "--confirm", stdout=out)
    new = output_price()
    assert msgspec.json.decode(out.getvalue()) == {
        "price": new.pk,
        "corrects": old.pk,
        "unit_price": "20.000000",
        "per": 1_000_000,
    }
    with pytest.raises(CommandError, match="corrected before"):
        call_command("correct_price", str(old.pk), "30", "--reason", "a typing error")
