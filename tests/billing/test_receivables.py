"""Customers on account: what issuing posts, what is due, how it is paid, and what comes of not paying."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection

from billing import billing_profiles, credits, ledger, receivables, suspension, write_offs
from billing.checks import Scope
from billing.manual import Person
from billing.models import Customer, Grant, Invoice, Notice, OperatorSettings, TopUp, Transfer
from billing.received import InvalidPayment, RecordedBefore, approve
from billing.verification import check_ledger
from relayadmin.db import in_transaction
from tests.invoicing import entries, issue, now, on_account, record, set_profile, use
from tests.world import Payer

pytestmark = pytest.mark.django_db


def again(invoice: Invoice) -> Invoice:
    return Invoice.objects.get(pk=invoice.pk)


def give(payer: Payer, amount: str, kind: str = "promotional") -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="a gift",
        reference="R-1",
        key=f"gift {amount}",
        at=now(),
    )


def wrong(payer: Payer) -> list[str]:
    scope = Scope(payer.customer.pk, payer.customer.pk, full=True)
    return [one.what for one in check_ledger(scope)]


def billed(exact: str = "10.004", credit: str = "0") -> tuple[Payer, Invoice]:
    """A customer who used so much in October, and the invoice of it."""
    payer = on_account(credit)
    use(payer, exact)
    return payer, issue(payer, exact)


class TestIssuing:
    def test_posts_tax_and_rounding_and_all_of_it_is_due(self) -> None:
        payer, invoice = billed()
        assert (invoice.subtotal, invoice.tax, invoice.total) == (Decimal("10.00"), Decimal("2.10"), Decimal("12.10"))
        assert payer.balance == Decimal("-12.10")
        assert (entries(payer, "tax"), entries(payer, "rounding")) == (Decimal("2.10"), Decimal("-0.004"))
        assert (invoice.status, invoice.amount_due, invoice.paid_by_credit) == ("issued", Decimal("12.10"), 0)
        assert invoice.due_on == date(2026, 11, 15)
        assert wrong(payer) == []

    def test_counts_days_from_issue_by_the_profile(self) -> None:
        payer = on_account()
        set_profile(payer, payment_days=30)
        use(payer, "5")
        assert issue(payer, "5").due_on == date(2026, 12, 1)

    def test_what_credit_paid_is_not_due(self) -> None:
        payer, invoice = billed("10", credit="4.00")
        assert (invoice.amount_due, invoice.paid_by_credit) == (Decimal("8.10"), Decimal("4.00"))
        assert wrong(payer) == []

    def test_what_credit_paid_altogether_is_paid(self) -> None:
        payer, invoice = billed("10", credit="50.00")
        assert (invoice.status, invoice.amount_due, invoice.due_on) == ("paid", 0, None)
        assert payer.balance == Decimal("37.90")
        assert wrong(payer) == []

    def test_rounding_that_gives_back_becomes_credit(self) -> None:
        payer = on_account("50.00", rate="0")
        use(payer, "1.004")
        invoice = issue(payer, "1.004")
        assert (invoice.tax, payer.balance) == (0, Decimal("49.00"))
        assert wrong(payer) == []

    def test_a_fraction_of_a_cent_comes_with_the_next_invoice(self) -> None:
        payer = on_account("1.2345")
        use(payer, "2")
        first = issue(payer, "2")
        assert (first.total, first.amount_due) == (Decimal("2.42"), Decimal("1.18"))
        assert payer.balance == Decimal("-1.1855")
        use(payer, "1.0055", period=date(2026, 11, 1))
        second = issue(payer, "1.0055", period=date(2026, 11, 1))
        assert first.amount_due + second.amount_due + Decimal("0.0055") == -payer.balance
        assert wrong(payer) == []

    def test_usage_of_later_months_and_debts_of_other_kinds_are_not_due_with_it(self) -> None:
        payer = on_account()
        use(payer, "10")
        use(payer, "3", period=date(2026, 11, 1))
        assert issue(payer, "10").amount_due == Decimal("12.10")
        assert issue(payer, "3", period=date(2026, 11, 1)).amount_due == Decimal("3.63")
        assert wrong(payer) == []

    def test_posts_once(self) -> None:
        payer, invoice = billed()
        with pytest.raises(ledger.AlreadyPosted):
            in_transaction(
                lambda: receivables.post_invoice(
                    invoice, ledger.lock_wallets([payer.customer.pk])[payer.customer.pk], at=now()
                )
            )


class TestPaying:
    def test_is_cash_to_the_wallet_and_never_a_grant(self) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        assert (row.status, row.grant_id, row.tax) == ("paid", None, 0)
        assert again(invoice).status == "paid"
        assert again(invoice).paid_at is not None
        assert (payer.balance, entries(payer, "cash:manual")) == (0, Decimal("-12.10"))
        assert not Grant.objects.filter(customer=payer.customer).exists()
        assert Transfer.objects.get(customer=payer.customer, kind="payment").document == invoice.number
        assert wrong(payer) == []

    def test_in_parts(self) -> None:
        payer, invoice = billed()
        record(payer, invoice, "5.00", "T-1")
        assert (again(invoice).status, again(invoice).amount_due) == ("issued", Decimal("7.10"))
        record(payer, invoice, "7.10", "T-2")
        assert again(invoice).status == "paid"
        assert wrong(payer) == []

    def test_more_than_is_due_is_refused_and_so_is_a_reference_again(self) -> None:
        payer, invoice = billed()
        with pytest.raises(InvalidPayment, match=r"12\.10 USD are due"):
            record(payer, invoice, "12.11")
        record(payer, invoice, "2.10")
        with pytest.raises(RecordedBefore):
            record(payer, invoice, "2.10")
        assert again(invoice).amount_due == Decimal("10.00")

    def test_of_another_customers_invoice_is_refused(self) -> None:
        _, invoice = billed()
        with pytest.raises(InvalidPayment, match="no such invoice"):
            record(on_account(), invoice, "1.00")

    def test_a_large_one_waits_for_a_second_person_and_counts_as_if_it_were_paid(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(10))
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        assert (row.status, again(invoice).amount_due) == ("waiting", Decimal("12.10"))
        with pytest.raises(InvalidPayment):
            record(payer, invoice, "1.00", "T-2")
        approve(top_up_id=row.pk, person=Person(None, "otto"), at=now())
        assert again(invoice).status == "paid"
        assert wrong(payer) == []

    def test_what_waited_while_credit_paid_becomes_credit(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(10))
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        give(payer, "12.00")
        assert again(invoice).amount_due == Decimal("0.10")
        approve(top_up_id=row.pk, person=Person(None, "otto"), at=now())
        assert (again(invoice).status, payer.balance) == ("paid", Decimal("12.00"))
        assert Grant.objects.get(customer=payer.customer, kind="paid").reference == row.public_id
        assert wrong(payer) == []

    def test_credit_pays_the_oldest_first(self) -> None:
        payer, first = billed("10")
        use(payer, "1", period=date(2026, 11, 1))
        second = issue(payer, "1", period=date(2026, 11, 1))
        give(payer, "12.50")
        assert (again(first).status, again(first).paid_by_credit) == ("paid", Decimal("12.10"))
        assert again(second).amount_due == Decimal("0.81")
        assert wrong(payer) == []

    def test_what_is_written_off_is_not_due_any_more(self) -> None:
        payer, invoice = billed("10")

        def work() -> None:
            wallet = ledger.lock_wallets([payer.customer.pk])[payer.customer.pk]
            write_offs.write_off(
                wallet, amount=Decimal("2.10"), key="w", reason="lost", document="", actor="olga", at=now()
            )

        in_transaction(work)
        assert (again(invoice).amount_due, again(invoice).paid_by_credit) == (Decimal("10.00"), 0)
        assert wrong(payer) == []


class TestNotPaying:
    DUE = datetime(2026, 11, 15, 12, tzinfo=UTC)

    def chase(self, days: int) -> receivables.Chased:
        return receivables.chase(at=self.DUE + timedelta(days=days))

    def test_is_overdue_from_the_day_after_and_told_on_days_3_10_and_20_once_each(self) -> None:
        _, invoice = billed()
        seen = []
        for day in range(25):
            found = self.chase(day)
            assert self.chase(day) == receivables.Chased()
            if found != receivables.Chased():
                seen.append((day, found.overdue, found.reminded))
        assert seen == [(1, 1, 0), (3, 0, 1), (10, 0, 1), (20, 0, 1)]
        told = Notice.objects.filter(kind="invoice_overdue").order_by("pk")
        assert [notice.data["reminder"] for notice in told] == [1, 2, 3]
        assert told[0].data["amount_due"] == "12.10"
        assert again(invoice).status == "overdue"

    def test_of_reminders_that_were_missed_only_the_newest_is_told(self) -> None:
        billed()
        assert self.chase(12) == receivables.Chased(overdue=1, reminded=1)
        assert [notice.data["reminder"] for notice in Notice.objects.filter(kind="invoice_overdue")] == [2]

    def test_by_the_operators_policy_it_suspends_until_it_is_paid(self) -> None:
        OperatorSettings.objects.update(suspend_overdue_days=7)
        payer, invoice = billed()
        assert self.chase(6).suspended == 0
        assert self.chase(7).suspended == 1
        assert suspension.open_causes(payer.customer.pk) == {"overdue"}
        record(payer, invoice, "12.00", "T-1")
        assert Customer.objects.get(pk=payer.customer.pk).status == "suspended"
        record(payer, invoice, "0.10", "T-2")
        assert Customer.objects.get(pk=payer.customer.pk).status == "active"

    def test_who_was_freed_by_credit_is_resumed_by_the_next_run(self) -> None:
        OperatorSettings.objects.update(suspend_overdue_days=7)
        payer, _ = billed()
        self.chase(7)
        give(payer, "12.10")
        assert self.chase(7) == receivables.Chased(resumed=1)
        assert self.chase(7) == receivables.Chased()
        assert Customer.objects.get(pk=payer.customer.pk).status == "active"

    def test_other_causes_of_a_suspension_stay(self) -> None:
        OperatorSettings.objects.update(suspend_overdue_days=7)
        payer, invoice = billed()
        self.chase(7)
        suspension.suspend(
            customer_id=payer.customer.pk,
            cause=suspension.Cause.OPERATOR,
            reason="asked for",
            actor="olga",
            at=now(),
        )
        record(payer, invoice, "12.10")
        assert suspension.open_causes(payer.customer.pk) == {"operator"}


class TestTheBooks:
    """Negative controls: check_ledger sees each of these figures changed."""

    @pytest.mark.parametrize(
        ("sql", "what"),
        [
            ("UPDATE billing_invoice SET amount_due = amount_due + 1", "due, at most, of"),
            ("UPDATE billing_invoice SET amount_due = amount_due + 1", "due on invoices, at most"),
            ("UPDATE billing_invoice SET tax = tax + 1, total = total + 1", "tax posted of"),
            ("UPDATE billing_invoice SET tax = tax + 1, total = total + 1", "tax"),
            ("UPDATE billing_invoicetax SET amount = amount + 1", "tax by rate of"),
            ("UPDATE billing_invoice SET exact_total = exact_total + 0.001", "rounding posted of"),
            ("UPDATE billing_invoice SET status = 'paid'", "due, if it is open, of"),
            ("UPDATE billing_invoice SET terms = 'prepaid'", "tax posted of"),
        ],
    )
    def test_what_was_changed_is_found(self, sql: str, what: str) -> None:
        payer, invoice = billed()
        assert wrong(payer) == []
        with connection.cursor() as cursor:
            cursor.execute(sql)
        assert any(found == what or found == f"{what} {invoice.number}" for found in wrong(payer))


def test_who_goes_on_account_is_not_taxed_on_top_ups_any_more() -> None:
    payer = on_account()
    assert record(payer, None, "10.00").tax == 0
    set_profile(payer, terms="prepaid")
    row = record(payer, None, "10.00", "T-2")
    assert (row.tax, row.credited) == (Decimal("1.74"), Decimal("8.26"))
    assert billing_profiles.profile_of(payer.customer).terms == "prepaid"
    assert TopUp.objects.filter(customer=payer.customer).count() == 2
    assert wrong(payer) == []
