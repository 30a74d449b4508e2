"""Invoices in the admin: their files, lines taken back by a form, and the second person who decides on a large one."""

from decimal import Decimal

import pytest
from django.test import Client

from billing.models import CreditNote, CreditNoteRequest, Invoice, OperatorSettings
from tests.billing.test_receivables import again, billed
from tests.documents import make_invoice
from tests.operator import hidden_value, log_in, make_staff, page, text_of
from tests.world import make_payer

pytestmark = pytest.mark.django_db
MAY_CREDIT = [
    "billing.view_invoice",
    "billing.view_creditnote",
    "billing.view_creditnoterequest",
    "billing.credit_invoice",
]


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(permissions=MAY_CREDIT))


def take_back(operator: Client, invoice: Invoice, what: str = "credit", **told: str) -> str:
    """Open the form, fill it in and send it; what the page after it says."""
    url = page(Invoice, what, invoice.pk)
    key = hidden_value(operator.get(url).content.decode(), "key")
    return text_of(operator.post(url, {"reason": "an outage", "key": key, **told}, follow=True))


def buttons(operator: Client, invoice: Invoice) -> set[str]:
    text = operator.get(page(Invoice, "change", invoice.pk)).content.decode()
    names = ("open_pdf", "lines_csv", "record_payment", "credit", "void")
    return {name for name in names if page(Invoice, name, invoice.pk) in text}


class TestFiles:
    def test_a_usage_statement_has_its_files_and_nothing_to_take_back(self, operator: Client) -> None:
        invoice = make_invoice(make_payer().customer)
        assert buttons(operator, invoice) == {"open_pdf", "lines_csv"}
        pdf = operator.get(page(Invoice, "open_pdf", invoice.pk))
        assert pdf.headers["Content-Type"] == "application/pdf"
        csv = b"".join(operator.get(page(Invoice, "lines_csv", invoice.pk)).streaming_content)  # type: ignore[attr-defined]
        assert csv.count(b"\r\n") == 1 + invoice.lines.count()

    def test_an_invoice_on_account_can_be_credited_until_it_is_void(self, operator: Client) -> None:
        _, invoice = billed("10.00")
        assert buttons(operator, invoice) == {"open_pdf", "lines_csv", "credit", "void"}
        take_back(operator, invoice, "void")
        assert buttons(operator, invoice) == {"open_pdf", "lines_csv"}

    def test_the_list_shows_whole_cents_and_months(self, operator: Client) -> None:
        billed("10.00")
        listed = text_of(operator.get(page(Invoice, "changelist")))
        assert " 2026-10 " in listed
        assert " 12.10 " in listed
        assert "12.100000" not in listed


class TestCredit:
    def test_the_form_shows_what_is_left_and_takes_back_a_part(self, operator: Client) -> None:
        _, invoice = billed("10.004")
        said = take_back(operator, invoice, lines="1 2.00")
        assert "CN-2026-000001 takes back 2.42 USD of" in said
        assert again(invoice).amount_due == Decimal("9.68")
        shown = text_of(operator.get(page(Invoice, "credit", invoice.pk)))
        assert "10.004000 8.004000" in shown
        assert "9.68 USD are left to take back" in shown
        note = CreditNote.objects.get()
        assert "an outage" in text_of(operator.get(page(CreditNote, "change", note.pk)))
        assert operator.get(page(CreditNote, "open_pdf", note.pk)).content.startswith(b"%PDF")

    def test_sent_twice_it_takes_back_once(self, operator: Client) -> None:
        _, invoice = billed("10.00")
        key = "k" * 24
        for _ in range(2):
            take_back(operator, invoice, lines="1 2.00", key=key)
        said = take_back(operator, invoice, lines="1 3.00", key=key)
        assert "This form has done something else before" in said
        assert CreditNote.objects.count() == 1

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            ("1 10.01", "10.000000 USD are left"),
            ("7", "7 is no line of it"),
            ("1 2\n1 3", "stands here twice"),
            ("9" * 5_000, "is no line of it"),
            ("² 1", "is no line of it"),
            ("1 NaN", "Line 1:"),
            ("1 -2", "above zero"),
            ("1 0.001", "a cent at least"),
        ],
    )
    def test_what_can_not_be_taken_back_is_said_at_the_field(self, operator: Client, lines: str, why: str) -> None:
        _, invoice = billed("10.00")
        assert why in take_back(operator, invoice, lines=lines)
        assert not CreditNote.objects.exists()

    def test_is_not_for_everybody(self) -> None:
        _, invoice = billed("10.00")
        reader = log_in(make_staff(permissions=["billing.view_invoice"]))
        assert buttons(reader, invoice) == {"open_pdf", "lines_csv"}
        for what in ("credit", "void"):
            assert reader.post(page(Invoice, what, invoice.pk), {"reason": "r", "key": "k" * 24}).status_code == 403
        assert again(invoice).status == "issued"


class TestSecondPerson:
    @pytest.fixture(autouse=True)
    def _limit(self, db: None) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(5))

    def test_finds_it_on_the_home_page_and_approves(self, operator: Client) -> None:
        _, invoice = billed("10.00")
        assert "12.10 USD waits for a second person" in take_back(operator, invoice, "void")
        row = CreditNoteRequest.objects.get()
        asked = operator.get(page(CreditNoteRequest, "change", row.pk)).content.decode()
        assert page(CreditNoteRequest, "approve", row.pk) not in asked
        answer = operator.post(page(CreditNoteRequest, "approve", row.pk), follow=True)
        assert "a second person has to approve it" in text_of(answer).lower()

        other = log_in(make_staff(permissions=MAY_CREDIT))
        home = other.get("/admin/").context["home"]
        figures = {figure.label: figure for group in home["groups"] for figure in group.figures}
        assert figures["Credit notes"].value == "1"
        assert "All that is left" in text_of(other.get(page(CreditNoteRequest, "change", row.pk)))
        assert "Approve 12.10 USD of" in text_of(other.get(page(CreditNoteRequest, "approve", row.pk)))
        answer = other.post(page(CreditNoteRequest, "approve", row.pk), follow=True)
        assert "CN-2026-000001 takes back 12.10 USD" in text_of(answer)
        assert again(invoice).status == "void"
        answer = other.post(page(CreditNoteRequest, "reject", row.pk), follow=True)
        assert "Somebody has decided on it before" in text_of(answer)

    def test_rejects_what_became_pointless(self, operator: Client) -> None:
        _, invoice = billed("10.00")
        take_back(operator, invoice, lines="1 9.00")
        OperatorSettings.objects.update(second_person_above=None)
        take_back(operator, invoice, "void")
        row = CreditNoteRequest.objects.get(status="pending")
        answer = operator.post(page(CreditNoteRequest, "reject", row.pk), follow=True)
        assert "Nothing is taken back" in text_of(answer)
        assert not CreditNoteRequest.objects.filter(status="pending").exists()
