"""Payments of invoices: their receipts, and what becomes of an invoice whose payment goes back."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from billing import credit_notes, disputes, receipt_pdf, receipts, receivables, refunds, top_ups
from billing.manual import Person
from billing.models import Grant, Invoice, InvoiceReopening, Notice, OperatorSettings, Receipt, TopUp
from billing.received import approve
from billing.refunds import note_returned
from tests.billing.test_receivables import billed, give, wrong
from tests.documents import text_of_pdf
from tests.invoicing import OLGA, entries, issue, now, record, set_profile, use
from tests.paying import add_currency
from tests.payments import RETURN_URL, assert_right, charge_of, receive, top_up
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

pytestmark = pytest.mark.django_db

# Long before it is due, and long after.
EARLY, LATE = datetime(2026, 11, 5, 12, tzinfo=UTC), datetime(2026, 11, 26, 12, tzinfo=UTC)


def again(invoice: Invoice) -> Invoice:
    return Invoice.objects.get(pk=invoice.pk)


def state(invoice: Invoice) -> tuple[str, Decimal, Decimal]:
    """Status, what is due, what credit has paid."""
    row = again(invoice)
    return row.status, row.amount_due, row.paid_by_credit


def pay_by_link(stripe: StripeSandbox, payer: Payer, invoice: Invoice, currency: str = "USD") -> TopUp:
    """The customer pays all that is due on the page of the link."""
    row = top_ups.start_payment(
        customer_id=payer.customer.pk,
        invoice=invoice.public_id,
        currency=currency,
        return_url=RETURN_URL,
        asked_by="ada",
        at=now(),
    )
    row = top_ups.open_checkout(top_up_id=row.pk, at=now())
    assert row.session_id is not None
    stripe.pay(row.session_id)
    receive(stripe.deliveries())
    row.refresh_from_db()
    assert row.status == "paid"
    return row


def dispute(stripe: StripeSandbox, row: TopUp, **how: Any) -> str:
    made = stripe.dispute(charge_of(row), **how)
    receive(stripe.deliveries())
    return str(made["id"])


def paid_by_link(stripe: StripeSandbox, credit: str = "0") -> tuple[Payer, Invoice, TopUp]:
    payer, invoice = billed(credit=credit)
    return payer, invoice, pay_by_link(stripe, payer, invoice)


def overpaid() -> tuple[Payer, Invoice, TopUp]:
    """12.10 that waited for a second person while a gift paid all but 0.10 of the invoice."""
    OperatorSettings.objects.update(second_person_above=Decimal(10))
    payer, invoice = billed()
    row = record(payer, invoice, "12.10")
    give(payer, "12.00")
    return payer, invoice, approve(top_up_id=row.pk, person=Person(None, "otto"), at=now())


class TestReceipts:
    def test_a_payment_s_receipt_names_the_invoice_and_has_no_tax(self) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        assert receipts.issue_missing(at=now()) == 1
        assert receipts.issue_missing(at=now()) == 0
        receipt = Receipt.objects.get(top_up=row)
        assert receipt.number.startswith("RCP-")
        figures = receipts.figures(receipts.of(row, at=now()))
        assert (figures.title, figures.tax_name, figures.tax) == ("Receipt", "", "0.00")
        assert (figures.invoice_number, figures.invoice_paid, figures.credited) == (invoice.number, "12.10", "0.00")
        text = text_of_pdf(receipt_pdf.render(figures))
        assert f"Payment of invoice {invoice.number} 12.10 USD" in text
        assert f"not a tax invoice: that is {invoice.number}" in text
        assert "credit" not in text.lower()

    def test_what_was_paid_beyond_the_invoice_is_said(self) -> None:
        _, invoice, row = overpaid()
        figures = receipts.figures(receipts.of(row, at=now()))
        assert (figures.invoice_paid, figures.credited, figures.paid_usd) == ("0.10", "12.00", "12.10")
        text = text_of_pdf(receipt_pdf.render(figures))
        assert f"Payment of invoice {invoice.number} 0.10 USD" in text
        assert "12.00 USD of credit" in text

    @pytest.mark.parametrize("language", ["es", "zh-hans"])
    def test_in_the_customer_s_language(self, language: str) -> None:
        payer, invoice = billed()
        set_profile(payer, language=language)
        figures = receipts.figures(receipts.of(record(payer, invoice, "12.10"), at=now()))
        assert invoice.number in text_of_pdf(receipt_pdf.render(figures))


class TestDisputes:
    def test_a_dispute_makes_it_due_again_and_funds_that_return_pay_it(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        assert state(invoice) == ("paid", 0, 0)
        made = dispute(stripe_sandbox, row)
        assert state(invoice) == ("overdue" if again(invoice).due_on < now().date() else "issued", Decimal("12.10"), 0)
        assert again(invoice).paid_at is None
        assert payer.balance == Decimal("-12.10")
        assert_right(payer)
        (told,) = Notice.objects.filter(customer=payer.customer, kind="invoice_due_again")
        assert (told.data["number"], told.data["amount_due"], told.data["because"]) == (
            invoice.number,
            "12.10",
            "dispute",
        )
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert state(invoice) == ("paid", 0, 0)
        assert (payer.balance, entries(payer, "disputes")) == (0, 0)
        assert not Grant.objects.filter(customer=payer.customer).exists()
        assert_right(payer)

    def test_the_same_event_twice_has_no_second_effect(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        made = dispute(stripe_sandbox, row)
        for _ in range(2):
            disputes.sync(made, at=now())
        assert state(invoice)[1:] == (Decimal("12.10"), 0)
        stripe_sandbox.win(made)
        for _ in range(3):
            disputes.sync(made, at=now())
        assert state(invoice) == ("paid", 0, 0)
        assert Notice.objects.filter(kind="invoice_due_again").count() == 1
        assert InvoiceReopening.objects.count() == 1
        assert_right(payer)

    def test_what_credit_covers_is_paid_by_credit_and_the_rest_is_due(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        give(payer, "5.00")
        made = dispute(stripe_sandbox, row)
        assert state(invoice)[1:] == (Decimal("7.10"), Decimal("5.00"))
        assert_right(payer)
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert state(invoice) == ("paid", 0, 0)
        assert payer.balance == Decimal("5.00"), "what credit had paid is credit again"
        assert_right(payer)

    def test_who_paid_it_otherwise_meanwhile_has_credit_when_funds_return(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        made = dispute(stripe_sandbox, row)
        record(payer, invoice, "12.10")
        assert state(invoice)[0] == "paid"
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert (state(invoice), payer.balance) == (("paid", 0, 0), Decimal("12.10"))
        assert Grant.objects.get(customer=payer.customer).kind == "paid"
        assert_right(payer)

    def test_a_part_is_due_in_part(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        dispute(stripe_sandbox, row, amount=300)
        assert state(invoice)[1:] == (Decimal("3.00"), 0)
        assert_right(payer)

    def test_a_part_of_another_currency_is_due_in_whole_cents_and_returns_altogether(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        add_currency("CNY", "7.2")
        payer, invoice = billed()
        row = pay_by_link(stripe_sandbox, payer, invoice, "CNY")
        made = dispute(stripe_sandbox, row, amount=3000)
        assert (state(invoice)[1], payer.balance) == (Decimal("4.16"), Decimal("-4.166667"))
        assert_right(payer)
        stripe_sandbox.win(made)
        receive(stripe_sandbox.deliveries())
        assert (state(invoice), payer.balance) == (("paid", 0, 0), 0)
        assert_right(payer)

    def test_a_credited_invoice_is_due_for_what_is_left_of_it(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        line = invoice.lines.get(position=1)
        credit_notes.ask(
            invoice_id=invoice.pk, parts={line.pk: Decimal("5.00")}, reason="outage", key="k", person=OLGA, at=now()
        )
        assert payer.balance == Decimal("6.05")
        dispute(stripe_sandbox, row)
        assert (state(invoice)[1:], payer.balance) == ((Decimal("6.05"), 0), Decimal("-6.05"))
        assert_right(payer)

    def test_a_void_invoice_stays_void(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        credit_notes.ask(invoice_id=invoice.pk, parts=None, reason="wrong", key="k", person=OLGA, at=now())
        dispute(stripe_sandbox, row)
        assert (state(invoice)[:2], payer.balance) == (("void", 0), 0)
        assert not Notice.objects.filter(kind="invoice_due_again").exists()
        assert_right(payer)

    def test_the_next_invoice_has_only_its_own_due(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        dispute(stripe_sandbox, row)
        period = datetime(2026, 11, 1).date()
        use(payer, "3", period=period)
        second = issue(payer, "3", period=period)
        assert (again(second).amount_due, again(invoice).amount_due) == (Decimal("3.63"), Decimal("12.10"))
        assert_right(payer)

    def test_one_refunded_at_the_provider_is_due_again(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice, row = paid_by_link(stripe_sandbox)
        stripe_sandbox.refund(charge_of(row))
        receive(stripe_sandbox.deliveries())
        assert state(invoice)[1:] == (Decimal("12.10"), 0)
        assert Notice.objects.get(kind="invoice_due_again").data["because"] == "refund"
        assert_right(payer)


class TestReturned:
    def back(self, row: TopUp, at: datetime, person: str = "otto") -> None:
        note_returned(top_up_id=row.pk, reason="no funds", reference="R-9", person=person, at=at)

    def test_is_issued_again_before_it_is_due_and_overdue_after(self) -> None:
        for at, status in ((EARLY, "issued"), (LATE, "overdue")):
            payer, invoice = billed()
            row = record(payer, invoice, "12.10", f"T-{status}")
            self.back(row, at)
            assert state(invoice) == (status, Decimal("12.10"), 0)
            assert (payer.balance, entries(payer, "cash:manual")) == (Decimal("-12.10"), 0)
            assert_right(payer)

    def test_reminders_go_on_and_a_new_payment_ends_them(self) -> None:
        payer, invoice = billed()
        due = again(invoice).due_on
        noon = datetime(due.year, due.month, due.day, 12, tzinfo=UTC)
        assert receivables.chase(at=noon + timedelta(days=4)).reminded == 1
        row = record(payer, invoice, "12.10")
        assert receivables.chase(at=noon + timedelta(days=10)).reminded == 0
        self.back(row, noon + timedelta(days=11))
        assert receivables.chase(at=noon + timedelta(days=11)).reminded == 1
        assert [one.data["reminder"] for one in Notice.objects.filter(kind="invoice_overdue").order_by("pk")] == [1, 2]
        record(payer, invoice, "12.10", "T-2")
        assert state(invoice)[0] == "paid"
        assert_right(payer)

    def test_once_and_only_of_an_invoice_s_payment_by_hand(self, stripe_sandbox: StripeSandbox) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        self.back(row, now())
        with pytest.raises(refunds.InvalidRefund, match="gone back before"):
            self.back(row, now())
        with pytest.raises(refunds.NotByHand):
            self.back(record(payer, None, "1.00", "T-2"), now())
        _, _, linked = paid_by_link(stripe_sandbox)
        with pytest.raises(refunds.NotByHand):
            self.back(linked, now())
        assert_right(payer)

    def test_a_large_one_needs_another_person_than_who_recorded_it(self) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        OperatorSettings.objects.update(second_person_above=Decimal(10))
        with pytest.raises(refunds.SamePerson):
            self.back(row, now(), person="olga")
        self.back(row, now())
        assert state(invoice)[1] == Decimal("12.10")

    def test_what_it_had_paid_beyond_the_invoice_goes_first(self) -> None:
        payer, invoice, row = overpaid()
        self.back(row, LATE)
        assert state(invoice) == ("overdue", Decimal("0.10"), Decimal("12.00"))
        assert payer.balance == Decimal("-0.10")
        assert_right(payer)


def test_the_books_see_more_due_than_what_went_back() -> None:
    payer, invoice = billed()
    row = record(payer, invoice, "12.10")
    note_returned(top_up_id=row.pk, reason="no", reference="R", person="otto", at=now())
    assert wrong(payer) == []
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_invoicereopening SET returned = amount")
    assert wrong(payer) == [f"due, at most, of {invoice.number}"]


def test_a_dispute_of_a_top_up_reopens_nothing(stripe_sandbox: StripeSandbox) -> None:
    payer, invoice, _ = paid_by_link(stripe_sandbox)
    dispute(stripe_sandbox, top_up(stripe_sandbox, payer))
    assert payer.balance == 0
    assert not InvoiceReopening.objects.exists()
    assert state(invoice)[0] == "paid"
    assert_right(payer)
