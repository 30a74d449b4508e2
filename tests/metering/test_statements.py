"""Closing months: lines that recompute, numbers without gaps, each month once."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.core.management import call_command

from billing import jobs, period_closing
from billing.models import Alarm, CustomerClosing, Invoice, OperatorSettings, PeriodClosing
from billing.periods import bounds
from metering import statements
from metering.models import UsageHour
from metering.tasks import close_last_month
from relayadmin.commands import os_user
from tests.world import SONNET, Payer, Relay, make_event, make_payer

OCTOBER = date(2026, 10, 1)
SEPTEMBER = date(2026, 9, 1)
NOVEMBER_2 = datetime(2026, 11, 2, tzinfo=UTC)


def close(payer: Payer, period: date = OCTOBER, at: datetime = NOVEMBER_2) -> statements.Closed:
    return statements.close_invoices(period=period, at=at, customer=payer.customer)


@pytest.mark.django_db
class TestInvoice:
    def test_the_example_stands_line_by_line(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        closed = close(payer)
        assert (closed.issued, closed.skipped, closed.failed) == (1, 0, 0)
        invoice = Invoice.objects.get(customer=payer.customer)
        lines = [
            (line.model, line.meter, line.quantity, line.unit_price, line.per, line.amount)
            for line in invoice.lines.all()
        ]
        assert lines == [
            (SONNET, "input", 1000, Decimal(3), 1_000_000, Decimal("0.003")),
            (SONNET, "cache_read", 10000, Decimal("0.3"), 1_000_000, Decimal("0.003")),
            (SONNET, "cache_write_5m", 1000, Decimal("3.75"), 1_000_000, Decimal("0.00375")),
            (SONNET, "cache_write_1h", 2000, Decimal(6), 1_000_000, Decimal("0.012")),
            (SONNET, "output", 500, Decimal(15), 1_000_000, Decimal("0.0075")),
            ("", "", None, None, None, Decimal("0.00075")),
        ]
        assert (invoice.exact_total, invoice.subtotal, invoice.total) == (
            Decimal("0.02925"),
            Decimal("0.03"),
            Decimal("0.03"),
        )
        assert (invoice.paid_by_credit, invoice.amount_due, invoice.status) == (Decimal("0.03"), 0, "paid")
        assert payer.wallet.closed_through == OCTOBER
        assert payer.balance == Decimal("49.97075"), "rounding is shown, not charged"

    def test_closing_twice_issues_once(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        close(payer)
        again = close(payer)
        assert (again.issued, again.skipped, again.failed) == (0, 1, 0)
        assert Invoice.objects.filter(customer=payer.customer).count() == 1

    def test_a_month_without_usage_has_no_invoice(self) -> None:
        payer = make_payer()
        assert close(payer).skipped == 1
        assert not Invoice.objects.filter(customer=payer.customer).exists()

    def test_a_month_that_is_not_over_is_refused(self) -> None:
        with pytest.raises(statements.PeriodNotOver):
            close(make_payer(), at=datetime(2026, 10, 31, 23, 59, tzinfo=UTC))

    def test_late_usage_stands_on_the_next_invoice_under_its_own_month(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at="2026-09-30T23:00:00Z"))
        close(payer, SEPTEMBER)
        before = payer.balance
        relay.report(
            make_event(payer, occurred_at="2026-09-30T22:00:00Z"), make_event(payer, occurred_at="2026-10-01T00:00:00Z")
        )
        assert payer.balance == before - 2 * Decimal("0.02925"), "charged at once"
        close(payer, OCTOBER)
        first, second = Invoice.objects.filter(customer=payer.customer).order_by("period")
        assert first.lines.count() == 6
        late = [line for line in second.lines.all() if line.usage_period == SEPTEMBER]
        own = [line for line in second.lines.all() if line.usage_period == OCTOBER]
        assert len(late) == len(own) == 5
        assert all("used in September 2026" in line.description for line in late)
        assert [line.position for line in own] == [1, 2, 3, 4, 5]
        assert second.exact_total == 2 * Decimal("0.02925")

    def test_skipped_months_are_billed_together(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at="2026-08-31T23:59:59Z"))
        relay.report(make_event(payer, occurred_at="2026-10-05T00:00:00Z"))
        close(payer, OCTOBER)
        invoice = Invoice.objects.get(customer=payer.customer)
        assert {line.usage_period for line in invoice.lines.exclude(meter="")} == {date(2026, 8, 1), OCTOBER}

    def test_the_month_ends_at_the_operators_midnight(self) -> None:
        OperatorSettings.objects.update(timezone="Asia/Kolkata")
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at="2026-10-31T18:29:59Z"))
        relay.report(make_event(payer, occurred_at="2026-10-31T18:30:00Z"))
        periods = UsageHour.objects.filter(customer=payer.customer).order_by("period").values_list("period", flat=True)
        assert list(periods) == [OCTOBER, date(2026, 11, 1)]
        close(payer, OCTOBER)
        close(payer, date(2026, 11, 1), datetime(2026, 12, 2, tzinfo=UTC))
        for invoice in Invoice.objects.filter(customer=payer.customer):
            assert {line.usage_period for line in invoice.lines.exclude(meter="")} == {invoice.period}

    def test_figures_that_do_not_agree_are_not_issued(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.03"))
        closed = close(payer)
        assert (closed.issued, closed.failed) == (0, 1)
        assert "0.029250" in closed.reasons[payer.customer.public_id]
        assert payer.wallet.closed_through is None


def test_bounds_of_a_month_follow_daylight_saving() -> None:
    start, end = bounds(date(2026, 3, 1), ZoneInfo("Europe/Madrid"))
    assert start == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert end == datetime(2026, 3, 31, 22, tzinfo=UTC)


@pytest.mark.django_db
class TestSchedule:
    @pytest.mark.parametrize(
        ("at", "is_due"),
        [
            ("2026-11-01T05:59:59Z", False),
            ("2026-11-01T06:00:00Z", True),
            ("2026-11-02T05:59:59Z", True),
            ("2026-11-02T06:00:00Z", False),
            ("2026-11-30T23:00:00Z", False),
        ],
    )
    def test_a_month_is_begun_in_the_day_after_its_grace_period(self, at: str, is_due: bool) -> None:
        make_used_october()
        closing = statements.begin_due(at=datetime.fromisoformat(at))
        assert (closing is not None) == is_due
        assert closing is None or closing.period == OCTOBER

    def test_the_grace_period_ends_by_the_operators_clock(self) -> None:
        OperatorSettings.objects.update(timezone="America/New_York", closing_grace_hours=2)
        make_used_october()
        assert statements.begin_due(at=datetime(2026, 11, 1, 5, 59, tzinfo=UTC)) is None
        assert statements.begin_due(at=datetime(2026, 11, 1, 6, 0, tzinfo=UTC)) is not None

    def test_a_closed_month_is_left_alone(self) -> None:
        payer = make_used_october()
        at = datetime(2026, 11, 1, 7, tzinfo=UTC)
        assert statements.begin_due(at=at) is not None
        close(payer, at=at)
        assert statements.begin_due(at=at) is None


@pytest.mark.django_db
class TestWhoBegan:
    """A closing names who began it: the command's caller, whoever pressed Run now, or nobody but the timetable."""

    def test_the_command_names_its_caller(self) -> None:
        make_used_october()
        call_command("close_invoices", period="2026-10", stdout=StringIO())
        assert PeriodClosing.objects.get(period=OCTOBER).begun_by == f"{os_user()} (command line)"

    @pytest.mark.parametrize("by", ["grace", ""])
    def test_a_job_names_who_asked_for_it(self, by: str) -> None:
        make_used_october()
        with time_machine.travel("2026-11-01T06:07:00Z", tick=False):
            close_last_month.apply(headers={jobs.BEGUN_BY: by} if by else {})
        assert PeriodClosing.objects.get(period=OCTOBER).begun_by == by

    def test_one_customer_by_hand_does_not_pass_for_the_whole_month(self) -> None:
        payer = make_used_october()
        make_used_october()
        at = datetime(2026, 11, 1, 5, tzinfo=UTC)
        statements.close_invoices(period=OCTOBER, at=at, customer=payer.customer, actor="olga")
        statements.begin_due(at=datetime(2026, 11, 1, 7, tzinfo=UTC))
        closing = PeriodClosing.objects.get(period=OCTOBER)
        assert (closing.begun_by, closing.begun_at.hour) == ("", 7)


def make_used_october() -> Payer:
    payer = make_payer()
    Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
    return payer


def open_alarms() -> dict[str, str]:
    """By kind, the month it is about."""
    rows = Alarm.objects.filter(kind__startswith="closing.", resolved_at=None)
    return dict(rows.values_list("kind", "subject"))


@pytest.mark.django_db
class TestWatch:
    def test_a_month_that_nobody_closed_raises_an_alarm_until_a_person_starts_it(self) -> None:
        make_used_october()
        statements.watch(at=datetime(2026, 11, 1, 7, tzinfo=UTC))
        assert open_alarms() == {}, "the schedule still has time"
        statements.watch(at=datetime(2026, 11, 3, tzinfo=UTC))
        assert open_alarms() == {"closing.missed": "2026-10"}
        at = datetime(2026, 11, 3, 1, tzinfo=UTC)
        assert statements.close_invoices(period=OCTOBER, at=at, actor="olga").issued == 1
        statements.watch(at=at)
        assert open_alarms() == {}
        closing = PeriodClosing.objects.get(period=OCTOBER)
        assert closing.begun_by == "olga"
        assert closing.ended_at is not None

    def test_usage_that_comes_after_the_closing_is_no_missed_month(self) -> None:
        statements.close_invoices(period=OCTOBER, at=NOVEMBER_2)
        make_used_october()
        statements.watch(at=datetime(2026, 11, 3, tzinfo=UTC))
        assert open_alarms() == {}

    def test_a_closing_that_nobody_works_off_stands_still(self) -> None:
        make_used_october()
        statements.begin(period=OCTOBER, at=NOVEMBER_2)
        statements.watch(at=NOVEMBER_2 + timedelta(minutes=14))
        assert open_alarms() == {}
        statements.watch(at=NOVEMBER_2 + timedelta(minutes=16))
        assert open_alarms() == {"closing.stalled": "2026-10"}

    def test_parked_customers_are_told_and_closed_once_their_figures_agree(self) -> None:
        payer, other = make_used_october(), make_used_october()
        UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.03"))
        closed = statements.close_invoices(period=OCTOBER, at=NOVEMBER_2)
        assert (closed.issued, closed.failed) == (1, 1)
        row = CustomerClosing.objects.get(customer=payer.customer)
        assert (row.status, "0.029250 USD, but 0.030000 USD" in row.difference) == ("parked", True)
        statements.watch(at=NOVEMBER_2)
        assert open_alarms() == {"closing.parked": "2026-10"}

        again = statements.close_invoices(period=OCTOBER, at=NOVEMBER_2)
        assert (again.issued, again.failed) == (0, 1), "nothing is issued as long as they differ"
        UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.02925"))
        mended = statements.close_invoices(period=OCTOBER, at=NOVEMBER_2)
        assert (mended.issued, mended.failed) == (1, 0)
        statements.watch(at=NOVEMBER_2 + timedelta(minutes=1))
        assert open_alarms() == {}
        row.refresh_from_db()
        assert (row.status, row.difference) == ("issued", "")
        assert Invoice.objects.filter(customer__in=[payer.customer, other.customer]).count() == 2

    def test_a_parked_month_that_a_later_one_took_along_waits_for_nobody(self) -> None:
        payer = make_used_october()
        UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.03"))
        assert statements.close_invoices(period=OCTOBER, at=NOVEMBER_2).failed == 1
        UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.02925"))
        later = datetime(2026, 12, 2, tzinfo=UTC)
        assert statements.close_invoices(period=date(2026, 11, 1), at=later).issued == 1
        statements.watch(at=later)
        closing = PeriodClosing.objects.get(period=OCTOBER)
        found = period_closing.progress_of([closing], at=later)[closing.pk]
        assert (found.parked, found.nothing) == (0, 1)

    def test_progress_counts_every_customer_once(self) -> None:
        make_used_october(), make_used_october()
        parked = make_used_october()
        UsageHour.objects.filter(customer=parked.customer).update(charge=Decimal("0.03"))
        closing = statements.begin(period=OCTOBER, at=NOVEMBER_2)
        found = period_closing.progress_of([closing], at=NOVEMBER_2)[closing.pk]
        assert (found.issued, found.parked, found.waiting, found.customers) == (0, 0, 3, 3)
        statements.work_off(closing, at=NOVEMBER_2)
        found = period_closing.progress_of([closing], at=datetime.now(UTC))[closing.pk]
        assert (found.issued, found.parked, found.waiting, found.customers) == (2, 1, 0, 3)
        assert found.ends_at is None


@pytest.mark.django_db
class TestOddities:
    def test_usage_of_the_first_hour_of_time_does_not_stop_a_closing(self) -> None:
        OperatorSettings.objects.update(timezone="America/New_York")
        payer, other = make_payer(), make_payer()
        Relay().report(
            make_event(payer, occurred_at="0001-01-01T00:00:00Z"),
            make_event(other, occurred_at="2026-10-15T12:00:00Z"),
        )
        assert close(payer).issued == 1
        assert close(other).issued == 1
