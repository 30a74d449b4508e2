"""Prices that an operator enters: from a moment on, never in the past, each a version of the book with its maker."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from metering import price_entry, pricing
from metering.models import Channel, Model, ModelAlias, Price, PriceBookChange
from metering.price_changes import Owner, Term
from metering.price_corrections import CannotCorrect, correct_price
from metering.price_entry import CannotEnter
from metering.price_writing import end_rows
from tests.operator import log_in, make_staff, page, text_of
from tests.price_source import NOW, Source, new_source, plain, row

LATER = NOW + timedelta(days=1)
MUCH_LATER = NOW + timedelta(days=30)
pytestmark = pytest.mark.django_db


@pytest.fixture
def source() -> Source:
    """Of a model that the book has: input 3, output 15."""
    made = new_source()
    made.bring_in()
    return made


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def enter(
    source: Source, price: str, begins: datetime | None = LATER, *, channel: str | None = None, **more: Any
) -> Any:
    owner = Owner(
        None if channel is None else Channel.objects.get(name=channel).pk,
        Model.objects.get(public_id=source.public_id).pk,
    )
    is_confirmed = more.pop("is_confirmed", True)
    fields = {"variant": "", "meter": "input", "above_prompt_tokens": 0, "per": 1_000_000} | more
    term = Term(
        unit_price=Decimal(price),
        effective_from=begins,
        daily_from=None,
        daily_until=None,
        derived="",
        **{"effective_until": None, **fields},
    )
    return price_entry.enter(owner, term, who="Olga", at=NOW, is_confirmed=is_confirmed)


def inputs(source: Source) -> list[tuple[object, ...]]:
    """(unit price, from, until) of the input price in the list, in time."""
    rows = [line[2:] for line in source.stored() if line[0] == "input"]
    return sorted(rows, key=lambda line: (line[1] is not None, line[1]))


def version() -> int:
    return pricing.current().version


def test_a_first_price_may_reach_back_for_all_usage_has_waited_for_it(source: Source) -> None:
    long_ago = NOW - timedelta(days=90)
    assert enter(source, "1", long_ago, meter="video_output").created == 1
    assert enter(source, "1.5", long_ago, variant="flex").created == 1


@pytest.mark.parametrize(
    "more",
    [
        {"meter": "output"},
        {"meter": "input", "above_prompt_tokens": 200_000},
        {"meter": "request", "per": 1_000},
    ],
)
def test_a_price_that_usage_was_priced_without_does_not(source: Source, more: dict[str, Any]) -> None:
    with pytest.raises(CannotEnter, match="can't begin in the past"):
        enter(source, "1", NOW - timedelta(days=90), **more)


def test_a_variant_s_second_meter_does_not_either(source: Source) -> None:
    enter(source, "1.5", NOW - timedelta(days=90), variant="flex")
    with pytest.raises(CannotEnter, match="can't begin in the past"):
        enter(source, "7", NOW - timedelta(days=90), variant="flex", meter="output")


def test_a_price_entered_for_now_leaves_the_time_before_it_open(source: Source) -> None:
    long_ago = NOW - timedelta(days=90)
    enter(source, "2", None, meter="video_output")

    enter(source, "1", long_ago, meter="video_output")

    rows = [line[2:] for line in source.stored() if line[0] == "video_output"]
    assert rows == [("1", long_ago, NOW), ("2", NOW, None)]


def test_an_entered_price_holds_from_its_moment_and_what_held_ends_there(source: Source) -> None:
    before = version()

    written = enter(source, "3.5")

    assert (written.created, written.ended) == (1, 1)
    assert inputs(source) == [("3", None, LATER), ("3.5", LATER, None)]
    assert source.stored("cost", "anthropic")[0] == ("input", 0, "3", None, None), "the cost is another price"
    table = pricing.current()
    assert table.version == before + 1
    told = PriceBookChange.objects.get(version=table.version)
    assert (told.who, told.source, told.created, told.ended) == ("Olga", "operator", 1, 1)
    assert told.summary == f"{source.public_id} list input: 3 → 3.5 (+16.7 %) from 2026-11-23 12:00 UTC"


def test_without_a_moment_it_holds_from_now_on(source: Source) -> None:
    enter(source, "3.5", None, channel="anthropic")
    rows = [line[2:] for line in source.stored("cost", "anthropic") if line[0] == "input"]
    assert set(rows) == {("3", None, NOW), ("3.5", NOW, None)}


def test_the_past_is_refused_and_nothing_is_written(source: Source) -> None:
    before = version()
    with pytest.raises(CannotEnter, match="can't begin in the past") as refused:
        enter(source, "3.5", NOW - timedelta(microseconds=1))
    assert refused.value.field == "effective_from"
    with pytest.raises(CannotEnter, match="must end after it begins"):
        enter(source, "3.5", LATER, effective_until=LATER)
    assert inputs(source) == [("3", None, None)]
    assert version() == before


def test_what_is_announced_already_stays_announced(source: Source) -> None:
    enter(source, "3.6", MUCH_LATER)
    enter(source, "3.5", LATER)
    assert inputs(source) == [("3", None, LATER), ("3.5", LATER, MUCH_LATER), ("3.6", MUCH_LATER, None)]
    with pytest.raises(CannotEnter, match="begins at that very moment"):
        enter(source, "3.7", LATER)


def test_tiers_variants_and_meters_are_prices_of_their_own(source: Source) -> None:
    for more in ({"above_prompt_tokens": 200_000}, {"variant": "batch"}, {"meter": "web_search", "per": 1000}):
        assert enter(source, "2", **more).ended == 0
    assert inputs(source)[0] == ("3", None, None)


@pytest.mark.parametrize(
    ("price", "why"), [("9", r"3 → 9 \(\+200.0 %\) changes by more than 25 %"), ("0", "would be free")]
)
def test_a_price_that_changes_much_or_is_free_needs_a_second_look(source: Source, price: str, why: str) -> None:
    with pytest.raises(CannotEnter, match=why):
        enter(source, price, is_confirmed=False)
    assert enter(source, price).created == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"meter": "output", "above_prompt_tokens": 1}, "15 → 15000"),
        ({"meter": "output", "above_prompt_tokens": 1, "variant": "flex"}, "15 → 15000"),
        ({"meter": "output", "variant": "flex"}, "15 → 15000"),
        ({"meter": "input", "variant": "flex", "above_prompt_tokens": 1}, "2 → 15000"),
    ],
    ids=["a tier", "a tier of a variant without one of its own", "a variant's second meter", "a variant's tier"],
)
def test_a_price_where_another_row_has_rated_is_compared_with_that(
    source: Source, more: dict[str, Any], said: str
) -> None:
    enter(source, "2", variant="flex")
    with pytest.raises(CannotEnter, match=f"{said} .*changes by more than 25 %"):
        enter(source, "15000", MUCH_LATER, **more, is_confirmed=False)
    assert enter(source, "15000", MUCH_LATER, **more).created == 1


def test_a_price_of_what_waits_is_compared_with_nothing(source: Source) -> None:
    assert enter(source, "15000", variant="flex", is_confirmed=False).created == 1
    assert enter(source, "15000", meter="video_output", above_prompt_tokens=1, is_confirmed=False).created == 1


def test_a_price_below_zero_is_refused(source: Source) -> None:
    with pytest.raises(CannotEnter, match="zero or more"):
        enter(source, "-1")


def test_what_held_before_goes_on_after_a_price_that_ends(source: Source) -> None:
    written = enter(source, "3.5", effective_until=MUCH_LATER)

    assert (written.created, written.ended) == (2, 1)
    assert inputs(source) == [("3", None, LATER), ("3.5", LATER, MUCH_LATER), ("3", MUCH_LATER, None)]
    assert PriceBookChange.objects.latest("version").summary.endswith(
        "3 → 3.5 (+16.7 %) from 2026-11-23 12:00 UTC, and 3 from 2026-12-22 12:00 UTC on"
    )
    resumed = Price.objects.get(model__public_id=source.public_id, effective_from=MUCH_LATER)
    assert resumed.source == "genai-prices"
    source.rows = (row(price="3.1"), row("output", "15"))
    source.bring_in(at=MUCH_LATER + timedelta(days=1), approve=True)
    assert inputs(source)[-1][0] == "3.1", "it is the source's price again"


def test_what_is_announced_next_goes_on_instead(source: Source) -> None:
    enter(source, "3.6", MUCH_LATER)
    for until in (MUCH_LATER, MUCH_LATER + timedelta(days=1)):
        assert enter(source, "3.5", until - timedelta(days=20), effective_until=until).created == 1
    assert len(inputs(source)) == 4
    enter(source, "3.4", LATER, effective_until=LATER + timedelta(days=1))
    again = LATER + timedelta(days=1)
    assert inputs(source)[:3] == [
        ("3", None, LATER),
        ("3.4", LATER, again),
        ("3", again, MUCH_LATER - timedelta(days=20)),
    ]


def test_a_price_after_which_there_is_none_is_confirmed(source: Source) -> None:
    for more in ({"meter": "video_output"}, {"variant": "flex"}):
        gap = "nothing → 3.5 ends at 2026-12-22 12:00 UTC with no price after it: from then on usage waits"
        with pytest.raises(CannotEnter, match=gap):
            enter(source, "3.5", effective_until=MUCH_LATER, is_confirmed=False, **more)
        assert enter(source, "3.5", effective_until=MUCH_LATER, **more).created == 1
    tier = enter(source, "3.5", effective_until=MUCH_LATER, above_prompt_tokens=200_000, is_confirmed=False)
    assert tier.created == 1, "the standard goes on"
    assert enter(source, "1", effective_until=MUCH_LATER, meter="request", per=1_000, is_confirmed=False).created == 1


def test_a_withdrawn_price_that_would_have_ended_leaves_one_row_that_goes_on(source: Source) -> None:
    enter(source, "3.5", effective_until=MUCH_LATER)
    price_entry.withdraw(Price.objects.get(effective_from=LATER).pk, who="Olga", at=NOW)
    assert inputs(source) == [("3", None, None)]
    assert PriceBookChange.objects.latest("version").withdrawn == 2
    assert source.bring_in() == (0, 4, 0)


def test_a_withdrawn_price_goes_with_what_it_corrected(source: Source) -> None:
    enter(source, "3.5")
    first = Price.objects.get(effective_from=LATER)
    told = {"who": "Ada", "reason": "typed 35", "at": NOW, "is_confirmed": True}
    second = correct_price(first.pk, Decimal("3.6"), **told)
    third = correct_price(second.pk, Decimal("3.7"), **told)

    price_entry.withdraw(third.pk, who="Olga", at=NOW)

    assert inputs(source) == [("3", None, None)]
    assert not Price.with_superseded.filter(pk__in=[first.pk, second.pk, third.pk]).exists()
    for number in (first.pk, second.pk, third.pk):
        with pytest.raises(CannotCorrect, match="there is no price with the number"):
            correct_price(number, Decimal("3.8"), **told)
    corrected, withdrawn = PriceBookChange.objects.order_by("-version")[1], PriceBookChange.objects.latest("version")
    assert (corrected.who, withdrawn.who) == ("Ada", "Olga")
    assert f"price {second.pk}, 3.6 → 3.7: typed 35" in corrected.summary
    assert f"Withdrawn: price {third.pk}, " in withdrawn.summary
    assert withdrawn.summary.endswith(f"with what it corrected: price {second.pk}, {first.pk}")


def test_rows_that_end_before_they_begin_go_with_what_they_corrected(source: Source) -> None:
    enter(source, "3.5")
    first = Price.objects.get(effective_from=LATER)
    second = correct_price(first.pk, Decimal("3.6"), who="Ada", reason="a typing error", at=NOW)
    assert end_rows([second.pk], NOW) == (0, 1)
    assert not Price.with_superseded.filter(pk__in=[first.pk, second.pk]).exists()


def test_a_correction_whose_successor_is_gone_is_refused(source: Source) -> None:
    orphan = Price.objects.get(model__public_id=source.public_id, kind="charge", meter="output")
    Price.objects.filter(pk=orphan.pk).update(superseded_at=NOW)
    with pytest.raises(CannotCorrect, match=f"price {orphan.pk} was corrected, and the correction has been withdrawn"):
        correct_price(orphan.pk, Decimal(16), who="Ada", reason="a typing error", at=NOW)


def test_an_announced_price_is_withdrawn_and_the_one_before_goes_on(source: Source) -> None:
    enter(source, "3.6", MUCH_LATER)
    enter(source, "3.5", LATER)
    before = version()

    price_entry.withdraw(Price.objects.get(effective_from=LATER).pk, who="Olga", at=NOW)

    assert inputs(source) == [("3", None, MUCH_LATER), ("3.6", MUCH_LATER, None)]
    assert version() == before + 1
    assert "Withdrawn" in PriceBookChange.objects.latest("version").summary
    begun = Price.objects.get(model__public_id=source.public_id, kind="charge", meter="output")
    with pytest.raises(CannotEnter, match="has not begun"):
        price_entry.withdraw(begun.pk, who="Olga", at=NOW)


def test_an_import_leaves_the_entered_price_alone(source: Source) -> None:
    enter(source, "3.5", LATER)
    source.rows = (row(price="4"), row("output", "15"))
    source.bring_in(at=MUCH_LATER, approve=True)
    assert inputs(source) == [("3", None, LATER), ("3.5", LATER, None)]


# --- in the admin


def form(**changes: str) -> dict[str, str]:
    return {"unit_price": "3.5", "effective_from": "", "effective_until": "", **changes}


def test_an_operator_replaces_a_price(operator: Client, source: Source) -> None:
    old = Price.objects.get(model__public_id=source.public_id, kind="charge", meter="input")
    address = page(Price, "replace_price", old.pk)
    assert source.public_id in text_of(operator.get(address))
    assert "changes by more than 25 %" in text_of(operator.post(address, form(unit_price="9")))
    assert "can't begin in the past" in text_of(operator.post(address, form(effective_from="2026-01-01T00:00")))
    for wrong, said in (("-1", "zero or more"), ("1.0000000001", "at most 9 decimals"), ("1e5", "plain decimal")):
        assert said in text_of(operator.post(address, form(unit_price=wrong)))
    soon = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    entered = form(unit_price="9", is_confirmed="on", effective_from=f"{soon:%Y-%m-%dT%H:%M:%S}")
    assert "end where it begins: 1" in text_of(operator.post(address, entered, follow=True))
    assert inputs(source) == [("3", None, soon), ("9", soon, None)]

    announced = Price.objects.get(effective_from=soon)
    withdrawal = page(Price, "withdraw_price", announced.pk)
    assert "never comes into force" in text_of(operator.get(withdrawal))
    assert "goes on" in text_of(operator.post(withdrawal, follow=True))
    assert "has not begun" in text_of(operator.post(page(Price, "withdraw_price", old.pk), follow=True))
    assert inputs(source) == [("3", None, None)]


def test_an_operator_enters_a_price_that_the_book_has_not(operator: Client, source: Source) -> None:
    address = page(Price, "enter_price")
    new = form(model=f"{source.public_id}-alias", sold="list", variant="flex", meter="input", above_prompt_tokens="0")
    assert "no such model" in text_of(operator.post(address, {**new, "model": "nothing-like-it"}))
    assert operator.get(address).status_code == 200

    assert operator.post(address, new).status_code == 302

    found = Price.objects.get(model__public_id=source.public_id, variant="flex")
    assert (plain(found.unit_price), found.source, found.kind, found.per) == ("3.5", "operator", "charge", 1_000_000)


def test_only_who_may_change_prices_enters_and_withdraws(source: Source) -> None:
    viewer = log_in(make_staff(permissions=["metering.view_price"]))
    old = Price.objects.get(model__public_id=source.public_id, kind="charge", meter="input")
    assert viewer.post(page(Price, "enter_price"), form()).status_code == 403
    for name in ("replace_price", "withdraw_price"):
        assert viewer.post(page(Price, name, old.pk), form()).status_code == 403
    assert inputs(source) == [("3", None, None)]


def test_each_cache_price_is_shown_as_a_multiple_of_its_own_input_price(operator: Client) -> None:
    model = Model.objects.get(public_id="claude-haiku-5-5")
    answer = operator.get(page(Price, "changelist"), {"model__id__exact": model.pk, "kind__exact": "charge"})
    shown = {
        (price.variant, price.meter, price.above_prompt_tokens): plain(price.unit_price / price.input_price)
        for price in answer.context["cl"].result_list
        if price.meter.startswith("cache_") and price.effective_until is None
    }
    for variant in ("", "batch"):
        for above in (0, 100_000):
            for meter, multiple in (("cache_write_5m", "1.25"), ("cache_write_1h", "2"), ("cache_read", "0.1")):
                assert shown[variant, meter, above] == multiple
    text = text_of(answer)
    assert "0.125000 per 1,000,000 1.25 ×" in text
    assert "0.125000 per 1,000,000 1.25 ×" in text_of(operator.get(page(Model, "change", model.pk)))


def test_a_cache_price_of_sound_or_images_is_a_multiple_of_its_own_kind_of_input(operator: Client) -> None:
    model = Model.objects.get(public_id="gemini-2.5-flash")
    answer = operator.get(page(Price, "changelist"), {"model__id__exact": model.pk, "kind__exact": "charge"})
    text = text_of(answer)
    assert "Audio cache reads – 0.100000 per 1,000,000 0.1 × audio input always" in text
    assert "Image cache reads – 0.030000 per 1,000,000 0.1 × image input always" in text
    assert "Cache reads – 0.030000 per 1,000,000 0.1 × always" in text
    assert "0.1 × audio input" in text_of(operator.get(page(Model, "change", model.pk)))


def test_a_saved_name_is_a_version_of_the_book_with_its_maker(operator: Client, source: Source) -> None:
    before = version()
    model = Model.objects.get(public_id=source.public_id)
    operator.post(page(ModelAlias, "add"), {"name": f"{source.public_id}-other", "model": model.pk})
    told = PriceBookChange.objects.get(version=before + 1)
    assert told.summary == f"Added: model alias {source.public_id}-other"
    assert told.who.startswith("staff-")
