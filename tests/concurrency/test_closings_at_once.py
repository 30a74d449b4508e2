"""Four closings of the same month at once: each invoice once, one gapless series, whoever is first."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.db import connection

from billing import invoicing
from billing.models import CustomerClosing, Invoice, InvoiceSeries
from metering import statements
from relayadmin.db import server_cursor
from tests.concurrency.racing import assert_books_are_right, at_once
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")
AT = datetime(2026, 11, 20, tzinfo=UTC)
CUSTOMERS = 24


_months = iter([date(2011, month, 1) for month in range(1, 13)])


@pytest.fixture
def period(committed: None) -> Iterator[date]:
    """A month that no other test closes, each later than the one before."""
    yield next(_months)
    connection.close()


def used(period: date) -> list[Payer]:
    payers, relay = [make_payer(name=f"P{number}") for number in range(CUSTOMERS)], Relay()
    relay.report(*[make_event(payer, occurred_at=f"{period:%Y-%m}-15T12:00:00Z") for payer in payers])
    return payers


def last_number() -> int:
    row = InvoiceSeries.objects.filter(series="INV", year=2026).first()
    return row.last_number if row else 0


def close(period: date) -> statements.Closed:
    return statements.close_invoices(period=period, at=AT)


def test_four_closings_at_once_issue_each_once_in_one_gapless_series_and_a_fifth_issues_nothing(period: date) -> None:
    payers, before = used(period), last_number()

    results = at_once([lambda: close(period)] * 4)

    assert all(isinstance(result, statements.Closed) for result in results), results
    counts = [(result.issued, result.skipped, result.failed) for result in results]  # type: ignore[union-attr]
    assert sum(issued for issued, _, _ in counts) == CUSTOMERS
    assert len({issued + skipped for issued, skipped, _ in counts}) == 1, "what another issued counts as skipped"
    invoices = Invoice.objects.filter(customer__in=[payer.customer for payer in payers])
    assert sorted(invoices.values_list("sequence", flat=True)) == list(range(before + 1, before + CUSTOMERS + 1))
    fifth = close(period)
    assert (fifth.issued, fifth.failed, last_number()) == (0, 0, before + CUSTOMERS)
    rows = CustomerClosing.objects.filter(customer__in=[payer.customer for payer in payers])
    assert set(rows.values_list("status", flat=True)) == {"issued"}
    for payer in payers[:3]:
        assert_books_are_right(payer.customer)


def read_then_add(series: str, year: int) -> int:
    """The next number with the lock taken out: read, and written afterwards."""
    row = InvoiceSeries.objects.get(series=series, year=year)
    with server_cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05)")
    InvoiceSeries.objects.filter(pk=row.pk).update(last_number=row.last_number + 1)
    return row.last_number + 1


def test_without_the_lock_two_closings_take_the_same_number(period: date, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    used(period)
    InvoiceSeries.objects.get_or_create(series="INV", year=2026)
    before = last_number()
    with monkeypatch.context() as patch:
        patch.setattr(invoicing, "next_number", read_then_add)
        results: list[Any] = at_once([lambda: close(period)] * 4)
    assert any("invoice_numbers_are_unique" in str(result) or "number" in str(result) for result in results), results
    close(period)
    assert last_number() == before + CUSTOMERS, "what was refused was rolled back, and the rest closes"


def test_a_customer_whose_usage_is_being_charged_is_closed_with_all_of_it_or_without(period: date) -> None:
    payers, relay = used(period), Relay()
    late = [make_event(payer, occurred_at=f"{period:%Y-%m}-16T12:00:00Z") for payer in payers]

    results: list[Any] = at_once(
        [lambda: close(period), lambda: close(period), *[lambda event=event: relay.report(event) for event in late[:6]]]
    )

    assert sum(result.issued for result in results[:2]) == CUSTOMERS
    assert [result.failed for result in results[:2]] == [0, 0]
    for payer in payers[:6]:
        assert_books_are_right(payer.customer)
