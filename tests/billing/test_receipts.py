"""Receipts: one for each paid top-up, frozen, numbered without gaps; the PDF says what the API says."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from django.db import Error as DatabaseError
from django.db import IntegrityError, connection
from pypdf import PdfReader

from billing import receipt_pdf, receipts, received
from billing.manual import Person
from billing.models import Customer, OperatorSettings, PayCurrency, Receipt, TopUp
from tests.documents import text_of_pdf
from tests.operator import make_staff
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 12, 31, 15, 0, tzinfo=UTC)


def pay(payer: Payer, amount: str = "10.00", *, at: datetime = NOW, **changes: Any) -> TopUp:
    """A paid top-up: a bank transfer in USD, unless changed."""
    PayCurrency.objects.get_or_create(code="CNY")
    staff = make_staff()
    payment = received.Payment(
        **{
            "kind": "bank_transfer",
            "pay_amount": Decimal(amount),
            "currency": "USD",
            "reference": f"REF-{TopUp.objects.count() + 1}",
            "received_on": date(2026, 12, 1),
            **changes,
        }
    )
    person = Person(staff.pk, staff.get_username())
    return received.record(customer_id=payer.customer.pk, payment=payment, person=person, at=at)


def test_each_paid_top_up_gets_one_and_no_other() -> None:
    payer = make_payer()
    paid = [pay(payer) for _ in range(3)]
    TopUp.objects.create(
        customer=payer.customer, origin="checkout", amount=1, currency="USD", pay_amount=1, created_at=NOW
    )
    assert receipts.issue_missing(at=NOW) == 3
    assert receipts.issue_missing(at=NOW) == 0
    made = Receipt.objects.filter(customer=payer.customer).order_by("pk")
    assert [receipt.top_up_id for receipt in made] == [top_up.pk for top_up in paid]
    assert [receipt.number for receipt in made] == [f"RCP-2026-{number:06d}" for number in (1, 2, 3)]


def test_the_year_is_the_operator_s_and_begins_at_one() -> None:
    OperatorSettings.objects.update(timezone="Asia/Shanghai")
    payer = make_payer()
    numbers = [receipts.of(pay(payer), at=NOW + timedelta(hours=hours)).number for hours in (0, 1, 2)]
    assert numbers == ["RCP-2026-000001", "RCP-2027-000001", "RCP-2027-000002"]


def test_test_payments_take_no_number_of_those_that_count() -> None:
    payer = make_payer()
    rows = [pay(payer) for _ in range(4)]
    TopUp.objects.filter(pk__in=[rows[1].pk, rows[2].pk]).update(is_sandbox=True)
    receipts.issue_missing(at=NOW)
    assert sorted(Receipt.objects.values_list("number", flat=True)) == [
        "RCP-2026-000001",
        "RCP-2026-000002",
        "TEST-2026-000001",
        "TEST-2026-000002",
    ]


def test_a_receipt_that_fails_leaves_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    payer = make_payer()
    first = pay(payer)
    receipts.of(first, at=NOW)
    pay(payer)
    with monkeypatch.context() as broken:
        broken.setattr(receipts, "_receipt", lambda *args: Receipt(top_up=first, customer=payer.customer))
        with pytest.raises(IntegrityError):
            receipts.issue_missing(at=NOW)
    receipts.issue_missing(at=NOW)
    assert sorted(Receipt.objects.values_list("sequence", flat=True)) == [1, 2]


def test_only_recent_payments_are_looked_through_by_the_frequent_job() -> None:
    payer = make_payer()
    pay(payer, at=NOW - timedelta(days=3))
    assert receipts.issue_missing(at=NOW, since=NOW - receipts.RECENT) == 0
    assert receipts.issue_missing(at=NOW) == 1


def test_it_stays_as_it_was_whatever_changes_later() -> None:
    OperatorSettings.objects.update(name="Relay GmbH", address="Musterstr. 5\nBerlin", tax_number="DE1", email="a@b.de")
    payer = make_payer(name="Ada")
    top_up = pay(payer)
    before = receipts.figures(receipts.of(top_up, at=NOW))
    OperatorSettings.objects.update(name="Other", address="", tax_number="", email="")
    Customer.objects.filter(pk=payer.customer.pk).update(name="Eve")
    assert receipts.figures(receipts.of(top_up, at=NOW + timedelta(days=1))) == before
    assert (before.supplier.name, before.supplier.tax_number, before.customer.name) == ("Relay GmbH", "DE1", "Ada")


@pytest.mark.parametrize("statement", ["UPDATE billing_receipt SET amount = 0", "DELETE FROM billing_receipt"])
def test_the_database_refuses_to_change_one(statement: str) -> None:
    receipts.of(pay(make_payer()), at=NOW)
    with pytest.raises(DatabaseError, match="append-only"), connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("status", [status for status in TopUp.Status.values if status != "paid"])
def test_there_is_none_for_what_is_not_paid(status: str) -> None:
    row = TopUp(public_id="top_1", status=status)
    with pytest.raises(receipts.NotPaid, match=f"top_1 is {status}"):
        receipts.of(row, at=NOW)


def test_the_pdf_says_what_the_api_says() -> None:
    OperatorSettings.objects.update(
        name="云桥 Relay GmbH", address="Musterstr. 5\n10115 Berlin", tax_number="DE123", email="pay@relay.example"
    )
    payer = make_payer(name="深圳市云桥科技有限公司 张伟 Łódź")
    top_up = pay(payer, "73.44", currency="CNY", rate=Decimal("7.344"))
    figures = receipts.figures(receipts.of(top_up, at=NOW))
    assert (figures.paid, figures.credited, figures.rate) == ("73.44", "10.00", "7.344")
    text = text_of_pdf(receipt_pdf.render(figures))
    for shown in (
        figures.number,
        figures.supplier.name,
        "Musterstr. 5",
        "10115 Berlin",
        f"Tax number: {figures.supplier.tax_number}",
        figures.supplier.email,
        figures.customer.name,
        figures.customer.id,
        "Paid on December 31, 2026",
        "Issued on December 31, 2026",
        f"Paid with {figures.paid_with}",
        f"Reference {figures.reference}",
        f"Top-up {figures.top_up}",
        f"{figures.credited} USD",
        figures.rate,
        f"Paid {figures.paid} {figures.currency}",
    ):
        assert shown in text, shown
    assert "NO REAL MONEY" not in text
    assert "tax" not in text.lower().replace("tax number", "")


def test_a_taxed_top_up_s_receipt_is_an_invoice_in_the_customer_s_language_and_on_its_paper() -> None:
    receipt = receipts.of(pay(make_payer()), at=NOW)
    receipt.amount, receipt.tax, receipt.pay_amount = Decimal("1000.00"), Decimal("210.00"), Decimal("1210.00")
    receipt.tax_name, receipt.tax_rate, receipt.tax_note = "IVA", Decimal("0.21"), "Operación sujeta a IVA."
    receipt.language, receipt.paper, receipt.timezone = "es", "us-letter", "Asia/Shanghai"
    pdf = receipt_pdf.render(receipts.figures(receipt))
    text = text_of_pdf(pdf)
    for said in (
        "Factura RCP-2026-000001",
        "Pagado el 31 de diciembre de 2026",
        "Base imponible 1.000,00 USD",
        "IVA 21 % 210,00 USD",
        "Total 1.210,00 USD",
        "Pagado 1.210,00 USD",
        "Operación sujeta a IVA.",
    ):
        assert said in text, said
    assert round(float(PdfReader(BytesIO(pdf)).pages[0].mediabox.width)) == 612


def test_a_test_payment_s_receipt_says_so() -> None:
    row = pay(make_payer())
    TopUp.objects.filter(pk=row.pk).update(is_sandbox=True)
    row.refresh_from_db()
    text = text_of_pdf(receipt_pdf.render(receipts.figures(receipts.of(row, at=NOW))))
    assert "NO REAL MONEY" in text
    assert "no real money. This is not a proof of payment" in text


def test_names_are_set_as_they_are_and_never_read_as_source() -> None:
    name = '#read("/etc/passwd") *bold* $x$ <label> @ref \\ [a] "'
    text = text_of_pdf(receipt_pdf.render(receipts.figures(receipts.of(pay(make_payer(name=name)), at=NOW))))
    assert name.replace(" ", "") in text.replace(" ", "").replace("\n", "")


def test_the_same_receipt_is_the_same_pdf_and_a_long_one_is_whole() -> None:
    figures = receipts.figures(receipts.of(pay(make_payer(name="W" * 200)), at=NOW))
    assert receipt_pdf.render(figures) == receipt_pdf.render(figures)
    assert "W" * 200 in text_of_pdf(receipt_pdf.render(figures)).replace(" ", "")


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("72.5", "CNY", "72.50"),
        ("1500", "JPY", "1500"),
        ("1.23", "KWD", "1.230"),
        ("10", "USD", "10.00"),
        ("0.1234", "USD", "0.1234"),
    ],
)
def test_amounts_have_their_currency_s_decimals(amount: str, currency: str, text: str) -> None:
    assert receipts._text(Decimal(amount), currency) == text
