"""What stands on a month's document: copies, lines that recompute, who paid, and how one balance became the other."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from billing import credits
from billing.models import Grant, Invoice, Notice, OperatorSettings, Wallet
from metering import statements
from metering.models import Price, UsageHour
from metering.price_corrections import correct_price
from relayadmin.money import line_amount, total
from tests.concurrency.racing import assert_books_are_right
from tests.invoicing import add_rate, set_profile
from tests.world import EXAMPLE_CHARGE, SONNET, CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


def close(payer: Payer, period: date = OCTOBER, at: str = "2026-11-02T00:00:00Z") -> Invoice:
    closed = statements.close_invoices(period=period, at=datetime.fromisoformat(at), customer=payer.customer)
    assert (closed.issued, closed.failed) == (1, 0), closed.reasons
    return Invoice.objects.get(customer=payer.customer, period=period)


def report(payer: Payer, at: str, **changes: Any) -> None:
    """An event of the worked example, reported as soon as it happened."""
    with time_machine.travel(at, tick=False):
        assert Relay().report(make_event(payer, occurred_at=at, **changes)).body["accepted"] == 1


def give(payer: Payer, amount: str, kind: str, at: str) -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="",
        reference="T-1",
        key=f"{kind} {amount}",
        at=datetime.fromisoformat(at),
        never_expires=True,
    )


def payer_of_september(credit: str = "0") -> Payer:
    with time_machine.travel("2026-09-10T00:00:00Z", tick=False):
        return make_payer(credit=credit)


class TestWhoPaid:
    def test_paid_and_promotional_credit_and_debt_make_the_exact_total(self) -> None:
        payer = payer_of_september()
        give(payer, "0.02", "promotional", "2026-09-11T00:00:00Z")
        give(payer, "0.03", "paid", "2026-09-12T00:00:00Z")
        report(payer, "2026-10-15T12:00:00Z")
        report(payer, "2026-10-16T12:00:00Z")
        invoice = close(payer)
        assert (invoice.paid_by_promotional, invoice.paid_by_paid) == (Decimal("0.02"), Decimal("0.03"))
        assert invoice.charged_as_debt == 2 * EXAMPLE_CHARGE - Decimal("0.05")
        assert (invoice.total, invoice.paid_by_credit, invoice.amount_due) == (Decimal("0.06"), Decimal("0.06"), 0)

    def test_what_an_estimate_gives_back_is_paid_by_nobody(self) -> None:
        payer = payer_of_september("1")
        with time_machine.travel("2026-10-15T12:00:00Z", tick=False):
            relay, estimate = Relay(), make_event(payer, estimated=True)
            relay.report(estimate)
            relay.report(make_event(payer, replaces=estimate["id"], usage={"input_tokens": 1000, "output_tokens": 0}))
        invoice = close(payer)
        assert invoice.exact_total == invoice.paid_by_promotional == Decimal("0.003")
        assert (invoice.charged_as_debt, invoice.paid_by_paid) == (0, 0)
        assert_books_are_right(payer.customer)


class TestBalances:
    def test_opening_top_ups_others_and_usage_make_the_closing_balance(self) -> None:
        payer = payer_of_september("1")
        report(payer, "2026-09-20T12:00:00Z")
        close(payer, date(2026, 9, 1), "2026-10-02T00:00:00Z")
        give(payer, "20", "paid", "2026-10-05T00:00:00Z")
        give(payer, "3", "promotional", "2026-10-06T00:00:00Z")
        report(payer, "2026-10-15T12:00:00Z")
        give(payer, "7", "paid", "2026-11-01T00:00:00Z")
        invoice = close(payer)
        assert invoice.opening_balance == 1 - EXAMPLE_CHARGE
        assert invoice.closing_balance == 24 - 2 * EXAMPLE_CHARGE
        assert (invoice.topped_up, invoice.other_movements, invoice.charged_elsewhen) == (20, 3, 0)
        assert_books_are_right(payer.customer)

    def test_what_is_reported_after_the_month_moves_the_next_balance(self) -> None:
        payer = payer_of_september("1")
        report(payer, "2026-10-15T12:00:00Z")
        with time_machine.travel("2026-11-01T02:00:00Z", tick=False):
            Relay().report(make_event(payer, occurred_at="2026-10-31T23:59:00Z"))
        october = close(payer)
        assert october.exact_total == 2 * EXAMPLE_CHARGE
        assert (october.opening_balance, october.closing_balance) == (1, 1 - EXAMPLE_CHARGE)
        assert october.charged_elsewhen == october.other_movements == EXAMPLE_CHARGE
        report(payer, "2026-11-15T12:00:00Z")
        november = close(payer, NOVEMBER, "2026-12-02T00:00:00Z")
        assert november.exact_total == EXAMPLE_CHARGE
        assert (november.opening_balance, november.closing_balance) == (1 - EXAMPLE_CHARGE, 1 - 3 * EXAMPLE_CHARGE)
        assert november.charged_elsewhen == november.other_movements == -EXAMPLE_CHARGE
        assert_books_are_right(payer.customer)

    @pytest.mark.parametrize("moment", ["2026-10-24T22:00:00Z", "2026-10-31T22:59:59Z"])
    def test_the_month_of_the_clock_change_ends_at_the_operators_midnight(self, moment: str) -> None:
        OperatorSettings.objects.update(timezone="Europe/Madrid")
        payer = payer_of_september("1")
        report(payer, moment)
        report(payer, "2026-10-31T23:00:00Z")
        invoice = close(payer)
        assert (invoice.period_start, invoice.period_end) == (
            datetime(2026, 9, 30, 22, tzinfo=UTC),
            datetime(2026, 10, 31, 23, tzinfo=UTC),
        )
        assert (invoice.exact_total, invoice.closing_balance) == (EXAMPLE_CHARGE, 1 - EXAMPLE_CHARGE)
        assert invoice.timezone == "Europe/Madrid"


class TestLines:
    def test_every_line_recomputes_and_the_sum_is_what_the_wallet_paid(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        report(payer, "2026-10-16T12:00:00Z", model="claude-3-5-haiku-20241022")
        invoice = close(payer)
        lines = list(invoice.lines.exclude(quantity=None))
        assert len(lines) == 10
        assert all(line.amount == line_amount(line.quantity, line.unit_price, line.per) for line in lines)
        assert total([line.amount for line in lines]) == 5 - payer.balance == invoice.exact_total
        rounding = invoice.lines.get(quantity=None)
        assert invoice.exact_total + rounding.amount == invoice.subtotal

    def test_cache_prices_tell_their_multiple_of_the_input_price(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        found = dict(close(payer).lines.exclude(meter="").values_list("meter", "multiplier"))
        assert found == {
            "input": None,
            "cache_read": Decimal("0.1"),
            "cache_write_5m": Decimal("1.25"),
            "cache_write_1h": Decimal(2),
            "output": None,
        }

    def test_savings_are_the_input_price_of_cached_tokens_less_what_they_cost(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        # 13,000 cached tokens at 3.00 are 0.039; they cost 0.003 + 0.00375 + 0.012.
        assert close(payer).savings == Decimal("0.02025")

    def test_writes_that_nobody_read_cost_more_than_they_saved(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z", format="meters", usage={"cache_write_1h": 1000})
        assert close(payer).savings == Decimal("-0.003")


class TestCopies:
    def test_supplier_and_customer_stand_as_they_were(self) -> None:
        OperatorSettings.objects.update(
            name="Relay Ltd", address="1 Wire Street", tax_number="GB1", email="a@b.example"
        )
        payer = payer_of_september("5")
        set_profile(payer, legal_name="Ada Ltd", address="2 Loom Lane", order_reference="PO 7", language="es")
        report(payer, "2026-10-15T12:00:00Z")
        before = CustomerApi(payer)
        close(payer)
        (shown,) = before.get("invoices").body["data"]
        OperatorSettings.objects.update(name="Other", address="", tax_number="", email="", timezone="Asia/Tokyo")
        set_profile(payer, legal_name="Somebody Else", address="", language="zh-hans")
        assert CustomerApi(payer).get("invoices").body["data"] == [shown]
        assert shown["supplier"] == {
            "name": "Relay Ltd",
            "address": "1 Wire Street",
            "tax_number": "GB1",
            "email": "a@b.example",
        }
        assert (shown["customer"]["name"], shown["customer"]["order_reference"]) == ("Ada Ltd", "PO 7")
        assert (shown["language"], shown["timezone"], shown["terms"]) == ("es", "UTC", "prepaid")

    def test_row_18_a_changed_price_changes_no_closed_total(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        close(payer)
        api = CustomerApi(payer)
        (before,) = api.get("invoices").body["data"]
        price = Price.objects.get(model__public_id=SONNET, kind="charge", meter="output", variant="")
        correct_price(price.pk, Decimal(99), who="olga", reason="typed wrong", at=datetime.now(UTC), is_confirmed=True)
        assert api.get("invoices").body["data"] == [before]
        closed = statements.close_invoices(
            period=OCTOBER, at=datetime(2026, 11, 9, tzinfo=UTC), customer=payer.customer
        )
        assert (closed.issued, closed.skipped) == (0, 1)
        assert api.get("invoices").body["data"] == [before]

    def test_row_34_a_month_is_told_in_detail(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        close(payer)
        (shown,) = CustomerApi(payer).get("invoices").body["data"]
        assert [line["meter"] for line in shown["lines"]][:3] == ["input", "cache_read", "cache_write_5m"]
        assert shown["lines"][1]["multiplier"] == "0.100000"
        assert (shown["opening_balance"], shown["closing_balance"]) == ("5.000000", "4.970750")
        assert (shown["topped_up"], shown["other_movements"]) == ("0.000000", "0.000000")
        assert (shown["paid_by_promotional"], shown["paid_by_paid"]) == ("0.029250", "0.000000")
        assert (shown["cache_savings"], shown["taxes"]) == ("0.020250", [])


class TestTerms:
    def test_a_prepaid_document_has_no_tax_and_posts_nothing(self) -> None:
        add_rate("ES", "0.21")
        payer = payer_of_september("5")
        set_profile(payer, country="ES")
        report(payer, "2026-10-15T12:00:00Z")
        invoice = close(payer)
        assert (invoice.tax, invoice.total, invoice.status) == (0, Decimal("0.03"), "paid")
        assert payer.balance == 5 - EXAMPLE_CHARGE

    def test_on_account_tax_and_rounding_are_posted_and_what_no_credit_paid_is_due(self) -> None:
        add_rate("ES", "0.21")
        payer = payer_of_september()
        set_profile(payer, country="ES", terms="on_account")
        for day in range(10, 20):
            report(payer, f"2026-10-{day}T12:00:00Z")
        invoice = close(payer)
        assert (invoice.exact_total, invoice.subtotal) == (Decimal("0.2925"), Decimal("0.29"))
        assert (invoice.tax, invoice.total, invoice.amount_due) == (Decimal("0.06"), Decimal("0.35"), Decimal("0.35"))
        assert (invoice.status, invoice.due_on) == ("issued", date(2026, 11, 16))
        assert [(tax.rate, tax.base, tax.amount) for tax in invoice.taxes.all()] == [
            (Decimal("0.21"), Decimal("0.29"), Decimal("0.06"))
        ]
        assert payer.balance == Decimal("-0.35")
        assert_books_are_right(payer.customer)


class TestAnotherTimeZone:
    @pytest.mark.parametrize("timezone", ["Asia/Tokyo", "America/New_York"])
    def test_a_document_begins_where_the_one_before_ended(self, timezone: str) -> None:
        payer = payer_of_september("1")
        report(payer, "2026-10-15T12:00:00Z")
        report(payer, "2026-10-31T20:00:00Z")  # in Tokyo, November has begun
        first = close(payer)
        OperatorSettings.objects.update(timezone=timezone)
        report(payer, "2026-11-01T02:00:00Z")  # in New York, it is October still
        report(payer, "2026-11-15T12:00:00Z")
        second = close(payer, NOVEMBER, "2026-12-02T00:00:00Z")
        assert second.period_start == first.period_end == datetime(2026, 11, 1, tzinfo=UTC)
        assert second.opening_balance == first.closing_balance == 1 - 2 * EXAMPLE_CHARGE
        assert second.closing_balance == 1 - 4 * EXAMPLE_CHARGE
        assert (second.other_movements, second.charged_elsewhen) == (0, 0)


def test_the_customer_is_told_once() -> None:
    payer = payer_of_september("5")
    report(payer, "2026-10-15T12:00:00Z")
    invoice = close(payer)
    (notice,) = Notice.objects.filter(customer=payer.customer, kind="invoice_issued")
    assert (notice.key, notice.data["number"], notice.data["total"]) == (invoice.public_id, invoice.number, "0.03")


class TestParked:
    def test_a_price_that_is_missing_parks_the_customer(self) -> None:
        payer = payer_of_september("5")
        report(payer, "2026-10-15T12:00:00Z")
        UsageHour.objects.filter(customer=payer.customer).update(file_search=1)
        closed = statements.close_invoices(
            period=OCTOBER, at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer
        )
        assert "has no price of file_search" in closed.reasons[payer.customer.public_id]
        assert Wallet.objects.get(customer=payer.customer).closed_through is None
        assert Grant.objects.get(customer=payer.customer).remaining == 5 - EXAMPLE_CHARGE
