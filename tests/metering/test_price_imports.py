"""Changed prices wait for an operator: shown first, looked at twice where they change much, approved or rejected."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from metering import parking, price_imports, pricing, rerating
from metering.models import Price, PriceBookChange, PriceBookSettings, PriceImport, PriceImportLine, UsageEvent
from metering.price_checks import percent_change, second_look
from metering.price_imports import CannotDecide
from tests.operator import log_in, make_staff, page, text_of
from tests.price_source import NOW, Source, new_source, plain, row
from tests.world import SONNET, Relay, make_event, make_payer

LATER = NOW + timedelta(days=1)
APPROVAL = NOW + timedelta(days=2)
LEFT_OUT, CONFIRMED = PriceImportLine.Decision.LEFT_OUT, PriceImportLine.Decision.CONFIRMED
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


def change(source: Source, *rows: Any, at: datetime = LATER) -> PriceImport:
    """The pending import of a source that has these prices now."""
    source.rows = rows
    source.bring_in(at=at)
    return PriceImport.objects.get(status="pending")


def lines(pending: PriceImport, kind: str = "charge") -> list[tuple[object, ...]]:
    """(meter, old, new, per cent, from) of each line."""
    return [
        (
            line.meter,
            line.old_unit_price and plain(line.old_unit_price),
            line.unit_price and plain(line.unit_price),
            None if line.percent is None else plain(line.percent),
            line.effective_from,
        )
        for line in pending.lines.filter(kind=kind)
    ]


def approve(pending: PriceImport, at: datetime = APPROVAL) -> Any:
    return price_imports.approve(pending.pk, who="Olga", at=at)


def decide(pending: PriceImport, decision: str, **which: Any) -> int:
    chosen = list(pending.lines.filter(**which).values_list("pk", flat=True))
    return price_imports.decide(chosen, decision, who="Olga", at=LATER)


def version() -> int:
    return pricing.current().version


# --- what is shown


def test_an_import_shows_what_is_new_changed_and_gone_and_by_how_much(source: Source) -> None:
    before = version()

    pending = change(source, row(price="3.3"), row("web_search", "10"))

    assert lines(pending) == lines(pending, "cost")
    assert lines(pending) == [
        ("input", "3", "3.3", "10", None),
        ("web_search", None, "10", None, None),
        ("output", "15", None, "-100", None),
    ]
    assert (pending.source, pending.created_at, pending.created_by) == ("genai-prices", LATER, "command line")
    assert pending.book_version == version() == before, "nothing has changed"


def test_an_announced_change_is_compared_with_what_holds_until_then(source: Source) -> None:
    rise = date(2026, 12, 24)
    pending = change(source, row(effective_until=rise), row(price="3.6", effective_from=rise), row("output", "15"))

    begins = datetime(2026, 12, 24, tzinfo=UTC)
    assert lines(pending) == [("input", "3", "3", "0", None), ("input", "3", "3.6", "20", begins)]


def test_the_same_difference_again_is_the_same_import_with_its_decisions(source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15"))
    decide(pending, CONFIRMED)

    assert change(source, *source.rows, at=APPROVAL) == pending
    assert set(pending.lines.values_list("decision", flat=True)) == {CONFIRMED}


def test_another_difference_replaces_the_import_and_none_leaves_none(source: Source) -> None:
    first = change(source, row(price="3.1"), row("output", "15"))
    second = change(source, row(price="3.2"), row("output", "15"))
    assert PriceImport.objects.get(pk=first.pk).status == "replaced"

    source.rows = (row(), row("output", "15"))
    assert source.bring_in(at=APPROVAL) == (0, 4, 0)
    assert PriceImport.objects.get(pk=second.pk).status == "replaced"


def test_a_dry_run_leaves_nothing_to_approve_and_approving_at_once_neither(source: Source) -> None:
    source.rows = (row(price="3.1"), row("output", "15"))

    assert source.bring_in(at=LATER, dry_run=True) == (0, 2, 2)
    assert not PriceImport.objects.exists()
    source.bring_in(at=LATER)
    assert source.bring_in(at=LATER, approve=True) == (2, 2, 0)
    assert PriceImport.objects.get().status == "replaced"


# --- approving


def test_approval_applies_what_was_shown_from_its_own_moment_on(source: Source) -> None:
    pending, before = change(source, row(price="3.3"), row("output", "15"), row("web_search", "10")), version()

    written = approve(pending)

    assert (written.created, written.ended, written.withdrawn) == (4, 2, 0)
    assert set(source.stored()) == set(source.stored("cost", "anthropic"))
    assert set(source.stored()) == {
        ("input", 0, "3", None, APPROVAL),
        ("input", 0, "3.3", APPROVAL, None),
        ("output", 0, "15", None, None),
        ("web_search", 0, "10", None, None),
    }
    assert version() == before + 1
    told = PriceBookChange.objects.get(version=before + 1)
    assert (told.who, told.source, told.created, told.ended) == ("Olga", "genai-prices", 4, 2)
    assert told.price_import == pending
    assert PriceImport.objects.get(pk=pending.pk).status == "approved"
    assert source.bring_in(at=APPROVAL + timedelta(days=1)) == (0, 6, 0)


def test_announced_prices_keep_their_day_and_what_is_over_at_approval_is_left_away(source: Source) -> None:
    rise, fall = date(2026, 12, 24), date(2027, 1, 1)
    dates = {"effective_from": rise, "effective_until": fall}
    new = row(effective_until=rise), row(price="3.6", **dates), row(price="2.9", effective_from=fall)
    pending = change(source, *new, row("output", "15"))

    approve(pending, at=datetime(2026, 12, 26, tzinfo=UTC))

    assert [line for line in source.stored() if line[0] == "input"] == [
        ("input", 0, "3.6", datetime(2026, 12, 26, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("input", 0, "2.9", datetime(2027, 1, 1, tzinfo=UTC), None),
        ("input", 0, "3", None, datetime(2026, 12, 26, tzinfo=UTC)),
    ]


def test_approval_is_refused_once_the_prices_are_others_than_those_compared_with(source: Source) -> None:
    pending = change(source, row(price="3.3"), row("output", "15"))
    Price.objects.filter(model__public_id=source.public_id, meter="output").update(unit_price=16)

    with pytest.raises(CannotDecide, match="Prices have changed since this difference was shown"):
        approve(pending)

    assert ("input", 0, "3", None, None) in source.stored()
    assert PriceImport.objects.get(pk=pending.pk).status == "pending"
    Price.objects.filter(model__public_id=source.public_id, meter="output").update(unit_price=15)
    Price.objects.filter(model__public_id=SONNET, meter="output").update(unit_price=16)
    assert approve(pending).created == 2, "another model's prices are no matter"


def test_what_is_decided_is_decided(source: Source) -> None:
    pending = change(source, row(price="3.3"), row("output", "15"))
    before = version()
    price_imports.reject(pending.pk, who="Olga", at=APPROVAL)

    for again in (approve, lambda chosen: price_imports.reject(chosen.pk, who="Olga", at=APPROVAL)):
        with pytest.raises(CannotDecide, match=f"Price import {pending.pk} is rejected already"):
            again(pending)
    with pytest.raises(CannotDecide, match="rejected already"):
        decide(pending, LEFT_OUT)
    assert version() == before
    assert change(source, *source.rows, at=APPROVAL) != pending, "the next import shows it again"


# --- first prices


def test_a_first_price_of_a_kind_of_request_reaches_back_to_the_usage_that_waits_for_it(source: Source) -> None:
    payer, relay = make_payer(), Relay()
    moment = {"model": source.public_id, "occurred_at": (NOW - timedelta(days=30)).isoformat()}
    tokens = {"input_tokens": 1_000_000, "output_tokens": 0}
    relay.report(make_event(payer, usage=tokens, **moment))
    waits = make_event(payer, usage={**tokens, "service_tier": "batch"}, **moment)
    assert relay.report(waits).body["parked"] == 1
    pending = change(source, *source.rows, row(price="1.5", variant="batch"))
    assert set(pending.lines.values_list("is_first", flat=True)) == {True}

    approve(pending)

    assert parking.sweep(at=APPROVAL).settled == 1
    charges = UsageEvent.objects.filter(customer=payer.customer).order_by("pk").values_list("charge", flat=True)
    assert [plain(charge) for charge in charges] == ["3", "1.5"]
    scope = rerating.Scope(NOW - timedelta(days=60), APPROVAL, customer_id=payer.customer.pk)
    assert rerating.preview(scope).customers == {}, "no charge is another"
    assert source.bring_in(at=APPROVAL) == (0, 6, 0)


def test_first_prices_hold_in_their_own_time_also_where_that_is_over(source: Source) -> None:
    rise, end = date(2026, 6, 1), date(2026, 9, 1)
    early = row(price="1", variant="batch", effective_until=rise)
    late = row(price="1.5", variant="batch", effective_from=rise, effective_until=end)

    approve(change(source, *source.rows, early, late))

    batches = Price.objects.filter(model__public_id=source.public_id, kind="charge", variant="batch")
    first, last = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC)
    assert list(batches.order_by("unit_price").values_list("effective_from", "effective_until")) == [
        (None, first),
        (first, last),
    ]


@pytest.mark.parametrize(
    ("before", "later"),
    [
        (row("cache_read", "3", derived="input price"), row("cache_read", "2.9")),
        (row(price="1.5", variant="batch", derived="half of the standard price"), row("output", "7", variant="batch")),
        (row(price="6", above=200_000), row("input", "7", above=400_000)),
        (row("output", "15"), row("request", "1")),
    ],
    ids=["a derived price", "the standard price in a variant", "another tier", "no fee"],
)
def test_a_price_in_whose_place_another_row_has_rated_begins_at_its_approval(before: Any, later: Any) -> None:
    source = new_source()
    source.rows = (row(), before)
    source.bring_in()
    kept = (row(),) if before.meter == later.meter == "cache_read" else (row(), before)

    approve(change(source, *kept, later))

    begun = Price.objects.filter(model__public_id=source.public_id, kind="charge", effective_from=APPROVAL)
    assert [(one.meter, plain(one.unit_price)) for one in begun] == [(later.meter, plain(later.unit_price))]


def test_a_price_announced_first_holds_from_its_day_however_late_it_is_approved(source: Source) -> None:
    pending = change(source, *source.rows, row(price="1.5", variant="flex", effective_from=date(2026, 12, 24)))

    approve(pending, at=datetime(2026, 12, 26, tzinfo=UTC))

    assert Price.objects.filter(variant="flex", effective_from=datetime(2026, 12, 24, tzinfo=UTC)).count() == 2


# --- second looks


@pytest.mark.parametrize(
    ("old", "new", "percent", "why"),
    [
        ("4", "5", "25.0", ""),
        ("4", "5.000000001", "25.0", "changes by more than 25 %"),
        ("4", "3", "-25.0", ""),
        ("4", "2.999999999", "-25.0", "changes by more than 25 %"),
        ("3", "0", "-100.0", "would be free"),
        ("0", "0", "0", ""),
        ("0", "1", None, "has been free until now"),
        (None, "0", None, "would be free"),
        (None, "1", None, ""),
        ("3", None, "-100", "ends, and nothing takes its place"),
        ("3", "-1", "-133.3", "below zero: it can't be approved, only left out"),
        ("0.000000001", "99999999999", "9999999999899999999900.0", "changes by more than 25 %"),
    ],
)
def test_what_needs_a_second_look(old: str | None, new: str | None, percent: str | None, why: str) -> None:
    before, after = (None if text is None else Decimal(text) for text in (old, new))

    assert percent_change(before, after) == (None if percent is None else Decimal(percent))
    assert second_look(before, after, limit_percent=Decimal("25.00")) == why


def test_much_dearer_prices_are_confirmed_by_themselves(source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15.1"))

    with pytest.raises(CannotDecide, match="need a second look: 2"):
        approve(pending)
    assert decide(pending, CONFIRMED, meter="input", kind="cost") == 1
    with pytest.raises(CannotDecide, match="need a second look: 1"):
        approve(pending)
    assert decide(pending, LEFT_OUT, meter="input", kind="charge") == 1

    assert approve(pending).created == 3
    assert ("input", 0, "3", None, None) in source.stored()
    assert ("input", 0, "9", APPROVAL, None) in source.stored("cost", "anthropic")
    assert "3 lines, 1 left out" in PriceBookChange.objects.latest("version").summary


def test_the_operator_sets_from_where_on_a_second_look_is_needed(source: Source) -> None:
    PriceBookSettings.objects.update(second_look_percent=Decimal("200.00"))
    assert not change(source, row(price="9"), row("output", "15")).lines.exclude(second_look="").exists()
    PriceBookSettings.objects.update(second_look_percent=Decimal(0))
    pending = change(source, row(price="3.000000001"), row("output", "15"))
    assert pending.lines.filter(second_look="changes by more than 0 %").count() == 2


def test_the_prices_of_one_meter_in_time_are_decided_together(source: Source) -> None:
    rise = date(2026, 12, 24)
    pending = change(source, row(effective_until=rise), row(price="9", effective_from=rise), row("output", "15.1"))

    assert decide(pending, LEFT_OUT, effective_from__isnull=False, kind="charge") == 2
    assert decide(pending, LEFT_OUT, effective_from__isnull=False, kind="cost") == 2
    approve(pending)

    assert ("input", 0, "3", None, None) in source.stored()
    assert decide_all_out(source) == "Every line is left out"


def decide_all_out(source: Source) -> str:
    pending = change(source, row(price="4"), row("output", "15.1"), at=APPROVAL)
    decide(pending, LEFT_OUT)
    with pytest.raises(CannotDecide, match="Reject it instead") as refused:
        approve(pending)
    return str(refused.value).partition(":")[0]


def test_a_price_below_zero_can_only_be_left_out(source: Source) -> None:
    pending = change(source, row(price="-1"), row("output", "15.1"))

    with pytest.raises(CannotDecide, match="below zero can't be confirmed"):
        decide(pending, CONFIRMED)
    decide(pending, LEFT_OUT, meter="input")

    assert approve(pending).created == 2
    assert not Price.objects.filter(unit_price__lt=0).exists()


@pytest.mark.parametrize(
    ("new", "percent"),
    [
        (row("output", "15000", above=1), "99900"),
        (row("output", "7", variant="batch"), "-53.3"),
        (row("input", "9", variant="batch", above=200_000), "500"),
    ],
    ids=["a tier", "a kind of request's second meter", "its tier"],
)
def test_a_new_price_is_compared_with_what_such_a_request_pays_now(new: Any, percent: str) -> None:
    source = new_source()
    source.rows = (*source.rows, row(price="1.5", variant="batch"))
    source.bring_in()

    pending = change(source, *source.rows, new)

    assert {(plain(line.percent or 0), line.second_look) for line in pending.lines.all()} == {
        (percent, "changes by more than 25 %")
    }
    with pytest.raises(CannotDecide, match="need a second look: 2"):
        approve(pending)


def test_a_first_price_of_a_kind_of_request_is_compared_with_nothing(source: Source) -> None:
    pending = change(source, *source.rows, row(price="1.5", variant="batch"), row("output", "1", variant="batch"))
    assert set(pending.lines.values_list("old_unit_price", "second_look")) == {(None, "")}


def test_a_decision_is_taken_back(source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15"))
    decide(pending, CONFIRMED)
    assert price_imports.undecided(pending) == 0
    decide(pending, "")
    assert price_imports.undecided(pending) == 2


# --- in the admin


def test_an_operator_sees_confirms_and_approves_in_the_admin(operator: Client, source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15"), at=datetime.now(UTC))
    shown = text_of(operator.get(page(PriceImport, "change", pending.pk)))
    assert "3.000000 9.000000 +200.0 %" in shown
    assert "changes by more than 25 %" in shown

    approval = page(PriceImport, "approve_import", pending.pk)
    assert "hold from now on" in text_of(operator.get(approval))
    assert "need a second look: 2" in text_of(operator.post(approval, follow=True))
    chosen = list(pending.lines.values_list("pk", flat=True))
    listed = page(PriceImportLine, "changelist")
    answer = operator.post(listed, {"action": "confirm_lines", "_selected_action": chosen}, follow=True)
    assert "Lines that are confirmed: 2" in text_of(answer)
    answer = operator.post(approval, follow=True)
    assert "hold from now on or are announced: 2; that ended: 2" in text_of(answer)

    assert "9" in {line[2] for line in source.stored()}
    assert "approved: 2 lines, 0 left out" in text_of(operator.get(page(PriceBookChange, "changelist")))
    assert "is approved already" in text_of(operator.post(approval, follow=True))


def test_an_operator_sees_that_a_first_price_holds_always_and_a_changed_one_from_the_approval(
    operator: Client, source: Source
) -> None:
    pending = change(source, row(price="3.1"), row("output", "15"), row("web_search", "10"), at=datetime.now(UTC))
    shown = text_of(operator.get(page(PriceImport, "change", pending.pk)))
    assert "3.000000 3.100000 +3.3 % approval" in shown
    assert "10.000000 – always" in shown


def test_an_operator_rejects_an_import_and_leaves_lines_out(operator: Client, source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15"), at=datetime.now(UTC))
    listed, chosen = page(PriceImportLine, "changelist"), list(pending.lines.values_list("pk", flat=True))
    for action, said in (
        ("leave_out_lines", "Lines that are left out: 2"),
        ("put_back_lines", "Lines that are undecided again: 2"),
    ):
        answer = operator.post(listed, {"action": action, "_selected_action": chosen}, follow=True)
        assert said in text_of(answer)
    for query in ({"what": "changed"}, {"what": "new"}, {"what": "gone"}, {"look": "open"}, {"look": "none"}):
        assert operator.get(listed, query).status_code == 200

    rejection = page(PriceImport, "reject_import", pending.pk)
    assert "All prices stay as they are" in text_of(operator.get(rejection))
    assert "Rejected" in text_of(operator.post(rejection, follow=True))
    answer = operator.post(listed, {"action": "confirm_lines", "_selected_action": chosen}, follow=True)
    assert "is rejected already" in text_of(answer)
    assert source.stored() == [("input", 0, "3", None, None), ("output", 0, "15", None, None)]


def test_only_who_may_change_imports_decides(source: Source) -> None:
    pending = change(source, row(price="9"), row("output", "15"), at=datetime.now(UTC))
    viewer = log_in(make_staff(permissions=["metering.view_priceimport", "metering.view_priceimportline"]))
    for name in ("approve_import", "reject_import"):
        assert viewer.post(page(PriceImport, name, pending.pk)).status_code == 403
    chosen = list(pending.lines.values_list("pk", flat=True))
    viewer.post(page(PriceImportLine, "changelist"), {"action": "confirm_lines", "_selected_action": chosen})
    assert PriceImport.objects.get(pk=pending.pk).status == "pending"
    assert set(pending.lines.values_list("decision", flat=True)) == {""}


def test_the_home_page_says_that_an_import_waits(operator: Client, source: Source) -> None:
    change(source, row(price="9"), row("output", "15"), at=datetime.now(UTC))
    groups = operator.get("/admin/").context["home"]["groups"]
    figures = {figure.label: (figure.value, figure.tone) for group in groups for figure in group.figures}
    assert figures["Price imports"] == ("1", "warning")
