"""Documents as PDF: what the API says, in three languages, whole at any length, and never read as source."""

import json
import os
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from pypdf import PdfReader

from billing import documents, typesetting
from billing.document_texts import LANGUAGES, TEXTS
from billing.models import CreditNote, CreditNoteLine, Customer, Invoice, InvoiceTax
from billing.words import words
from metering.meters import NAMES
from tests.documents import ISSUED, OCTOBER, make_invoice, pages_of, text_of_pdf
from tests.world import CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer() -> Payer:
    return make_payer(credit="0")


@pytest.fixture
def customer(payer: Payer) -> Customer:
    return payer.customer


def plain(text: str) -> str:
    """A text without any space: the layout puts some between Chinese and other letters."""
    return "".join(text.split())


def shown(text: str, language: str) -> str:
    """An amount of the API as the document writes it."""
    say, exact = words(language), Decimal(text)
    return say.number(exact, at_least=len(text.partition(".")[2]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pdf_says_what_the_api_says(payer: Payer, language: str) -> None:
    made = make_invoice(payer.customer, models=3, earlier=1, rate="0.21", terms="on_account", language=language)
    invoice = CustomerApi(payer).get(f"invoices/{made.public_id}").body
    text = plain(text_of_pdf(documents.invoice_pdf(made)))
    say = words(language)
    for total in ("subtotal", "tax", "total", "paid_by_credit", "amount_due"):
        assert f"{shown(invoice[total], language)}{invoice['currency']}" in text, total
    *lines, rounding = invoice["lines"]
    assert plain(f"{say.text('rounding')} {shown(rounding['amount'], language)} USD") in text
    assert len(lines) == 15
    multipliers = {"cache_read": Decimal("0.1"), "cache_write_5m": Decimal("1.25")}
    at = 0
    for line in lines:
        row = [
            say.text(f"meter.{line['meter']}"),
            say.text("priced_per", per=say.number(1000)) if line["per"] == 1000 else "",
            shown(line["quantity"], language),
            say.number(Decimal(line["unit_price"]), at_least=2),
            say.number(multipliers[line["meter"]]) if line["meter"] in multipliers else "",
            shown(line["amount"], language),
        ]
        assert plain("".join(row)) in text[at:], row
        at = text.index(plain("".join(row)), at) + 1
    for party in ("Relay GmbH", "Musterstraße 5", "DE136695976", "Northwind S.L.", "28013 Madrid", "ESB58378431"):
        assert plain(party) in text, party
    assert plain(say.country("ES")) in text
    assert text.count(plain(say.text("used_earlier", month=say.month(OCTOBER)))) == 1
    assert plain(say.day(date(2026, 12, 15))) in text
    assert invoice["number"] in text


def test_what_was_prepaid_is_a_usage_statement_and_what_is_on_account_an_invoice(customer: Customer) -> None:
    prepaid = make_invoice(customer, paid_by_promotional=Decimal("0.5"))
    text = text_of_pdf(documents.invoice_pdf(prepaid))
    assert text.startswith("Relay GmbH")
    assert "Usage statement INV-2026-000001" in text
    assert "nothing is due" in text
    assert "Please pay" not in text
    assert f"Promotional credit {words('en').number(Decimal('0.5'), at_least=6)} USD" in text
    for said in ("Opening balance 120.500000 USD", "Top-ups 250.000000 USD", "Other movements -0.250000 USD"):
        assert said in text
    assert "the input price 1.234567 USD" in text
    on_account = make_invoice(customer, terms="on_account", number=2, period=OCTOBER, rate="0", status="issued")
    InvoiceTax.objects.update(is_reverse_charge=True)
    text = text_of_pdf(documents.invoice_pdf(on_account))
    amount = words("en").number(on_account.amount_due, at_least=2)
    assert "Invoice INV-2026-000002" in text
    assert f"Please pay {amount} USD by December 15, 2026, with the reference INV-2026-000002." in text
    assert "Reverse charge: the recipient owes the tax." in text
    assert "nothing is due" not in text


def test_a_statement_of_a_wallet_in_debt_says_what_stays_on_the_balance(customer: Customer) -> None:
    text = text_of_pdf(documents.invoice_pdf(make_invoice(customer, charged_as_debt=Decimal("0.25"))))
    assert "the 0.250000 USD for which there was no credit stay on your balance" in text
    assert "Paid from prepaid credit" not in text


def test_what_was_paid_since_stands_between_total_and_amount_due(customer: Customer) -> None:
    invoice = make_invoice(customer, terms="on_account")
    Invoice.objects.filter(pk=invoice.pk).update(amount_due=0, status="paid", paid_at=datetime(2026, 12, 9, tzinfo=UTC))
    text = text_of_pdf(documents.invoice_pdf(Invoice.objects.get(pk=invoice.pk)))
    assert f"Paid or credited since {words('en').number(invoice.total, at_least=2)} USD Amount due 0.00 USD" in text
    assert "Paid on December 9, 2026." in text
    assert "Please pay" not in text


def test_days_are_those_of_the_operator_s_time_zone(customer: Customer) -> None:
    invoice = make_invoice(
        customer,
        timezone="Asia/Shanghai",
        period_start="2026-10-31T16:00Z",
        period_end="2026-11-30T16:00Z",
        issued_at=datetime(2026, 11, 30, 16, 0, tzinfo=UTC),
    )
    text = text_of_pdf(documents.invoice_pdf(invoice))
    assert "Issued on December 1, 2026" in text
    assert "November 1, 2026 – November 30, 2026" in text
    assert "time zone Asia/Shanghai" in text


@pytest.mark.parametrize("paper", [("a4", 595, 842), ("us-letter", 612, 792)])
def test_four_hundred_lines_have_heads_and_numbers_on_each_page(
    customer: Customer, paper: tuple[str, int, int]
) -> None:
    name, width, height = paper
    pdf = documents.invoice_pdf(make_invoice(customer, models=80, earlier=30, paper=name))
    pages = pages_of(pdf)
    assert len(pages) > 5
    for number, page in enumerate(pages, start=1):
        assert f"{number} / {len(pages)}" in page
        assert ("USD per million" in page) or number == len(pages)
    text = " ".join(pages)
    assert all(f"claude-sonnet-4-{model:03d}" in text for model in range(80))
    assert text.count("Output tokens") == 80
    box = PdfReader(BytesIO(pdf)).pages[0].mediabox
    assert (round(float(box.width)), round(float(box.height))) == (width, height)


def test_one_line_is_one_page(customer: Customer) -> None:
    pages = pages_of(documents.invoice_pdf(make_invoice(customer, meters=1)))
    assert len(pages) == 1
    assert "1 / 1" in pages[0]


NASTY = '#read("/etc/passwd") *bold* _it_ $x^2$ <label> @ref \\ [a] // c `raw` = h "quoted"'


def test_names_are_set_as_they_are_and_never_read_as_source(customer: Customer) -> None:
    invoice = make_invoice(
        customer,
        customer_name=NASTY,
        customer_address=NASTY,
        supplier_name=NASTY,
        order_reference=NASTY,
        names=NASTY.replace("{", "") + "{:d}",
        status="void",
        voided_at=ISSUED,
        voided_because=NASTY,
    )
    text = text_of_pdf(documents.invoice_pdf(invoice)).replace(" ", "")
    assert text.count(NASTY.replace(" ", "")) >= 6


def test_characters_that_turn_the_direction_or_have_no_width_are_left_out(customer: Customer) -> None:
    made: list[dict[str, Any]] = []
    invoice = make_invoice(customer, customer_name="Acme\u202e 00.1\u2066\u200f\u200b\x07 Ltd", names="m\u202e{:d}")
    with pytest.MonkeyPatch.context() as spied:
        spied.setattr(typesetting, "_compiler", lambda template: _Spy(made))
        documents.invoice_pdf(invoice)
    text = json.dumps(made, ensure_ascii=False)
    assert "Acme 00.1 Ltd" in text
    assert '"m0"' in text
    assert not re.search("[\u200b\u200f\u202a-\u202e\u2066-\u2069\x07]", text)


class _Spy:
    """Takes the template's data instead of setting it."""

    def __init__(self, made: list[dict[str, Any]]) -> None:
        self.made = made

    def compile(self, *, sys_inputs: dict[str, str] | None = None, **options: Any) -> bytes:
        if sys_inputs is not None:
            self.made.append(json.loads(sys_inputs["document"]))
        return b""


def test_long_names_and_addresses_stay_on_the_page(customer: Customer) -> None:
    invoice = make_invoice(
        customer,
        models=2,
        names="w" * 250 + "{:d}",
        customer_name="M" * 200,
        customer_address="\n".join(["Ö" * 60] * 8),
        supplier_address="\n".join(["Straße " * 12] * 5),
        supplier_name="W" * 200,
    )
    pdf = documents.invoice_pdf(invoice)
    text = text_of_pdf(pdf).replace(" ", "")
    assert "w" * 250 + "1" in text
    assert "M" * 200 in text
    right_edge = 595
    seen: list[float] = []
    for page in PdfReader(BytesIO(pdf)).pages:
        page.extract_text(visitor_text=lambda text, cm, tm, font, size: seen.append(tm[4] if text.strip() else 0))
    assert max(seen) < right_edge


def test_void_draft_and_test_documents_say_so(customer: Customer) -> None:
    fine = make_invoice(customer)
    for changes, said in (
        ({}, set()),
        ({"is_sandbox": True}, {"NO REAL MONEY", "no real money. Not a proof"}),
        ({"status": "draft"}, {"DRAFT", "without effect"}),
        (
            {"status": "void", "voided_at": ISSUED, "voided_because": "Wrong customer", "is_sandbox": True},
            {"VOID", "Void since December 1, 2026: Wrong customer", "no real money"},
        ),
    ):
        for name, value in changes.items():
            setattr(fine, name, value)
        text = text_of_pdf(documents.invoice_pdf(fine))
        for words_said in {"NO REAL MONEY", "DRAFT", "VOID", "no real money. Not a proof", *said}:
            expected = words_said in said or (words_said.startswith("no real") and bool(said) and fine.is_sandbox)
            assert (words_said in text) == expected, (changes, words_said)
        fine = Invoice.objects.get(pk=fine.pk)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("moves", [True, False])
def test_a_credit_note_names_its_invoice_its_reason_and_its_lines(
    customer: Customer, language: str, moves: bool
) -> None:
    invoice = make_invoice(customer, models=1, rate="0.21", terms="on_account", language=language)
    line = invoice.lines.get(meter="output")
    note = CreditNote.objects.create(
        customer=customer,
        invoice=invoice,
        series="CN",
        year=2026,
        sequence=1,
        number="CN-2026-000001",
        key="k",
        reason="Charged twice *bold*",
        issued_at=ISSUED,
        subtotal=Decimal("7.50"),
        tax=Decimal("1.58"),
        total=Decimal("9.08"),
        transfer_id=7 if moves else None,
    )
    CreditNoteLine.objects.create(
        credit_note=note,
        position=1,
        invoice_line=line,
        description="x",
        quantity=500_000,
        unit_price=15,
        per=1_000_000,
        amount=Decimal("7.5"),
    )
    part = CreditNoteLine.objects.create(
        credit_note=note,
        position=2,
        invoice_line=invoice.lines.get(meter="input"),
        description="x",
        amount=Decimal("0.012345"),
    )
    say = words(language)
    text = plain(text_of_pdf(documents.credit_note_pdf(note)))
    assert plain(f"{say.text('credit_note')} CN-2026-000001") in text
    assert plain(f"INV-2026-000001, {say.day(ISSUED.date())}") in text
    assert plain("Charged twice *bold*") in text
    assert plain(f"{say.text('meter.output')} {say.number(500_000)} {say.number(15, at_least=2)}") in text
    assert plain(f"{say.text('meter.input')} {say.text('in_part')} {say.number(part.amount)}") in text
    assert plain(f"{say.text('total_credited')} {say.money(Decimal('9.08'), 'USD')}") in text
    assert plain(f"IVA {say.percent(Decimal('0.21'))} {say.money(Decimal('1.58'), 'USD')}") in text
    assert (plain(say.text("lowers_due", number=invoice.number)) in text) == moves
    assert (plain(say.text("put_back")) in text) != moves


def test_the_same_document_is_the_same_pdf(customer: Customer) -> None:
    invoice = make_invoice(customer, models=2)
    first = documents.invoice_pdf(invoice)
    assert documents.invoice_pdf(Invoice.objects.get(pk=invoice.pk)) == first


def test_long_documents_leave_no_memory_behind(customer: Customer) -> None:
    invoice = make_invoice(customer, models=80)

    def resident_mb() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    documents.invoice_pdf(invoice)
    begun = resident_mb()
    for number in range(8):
        invoice.order_reference = f"{number}"
        documents.invoice_pdf(invoice)
    assert resident_mb() - begun < 80, "without forgetting it grows by some 30 MB for each"


def test_an_unknown_line_is_shown_by_its_description(customer: Customer) -> None:
    invoice = make_invoice(customer, meters=2)
    invoice.lines.filter(meter="input").update(meter="telepathy", description="Thoughts read", note="batch, odd")
    text = text_of_pdf(documents.invoice_pdf(Invoice.objects.get(pk=invoice.pk)))
    assert "Thoughts read batch, odd 12,345" in text


class TestWords:
    def test_every_text_has_all_languages_and_the_same_blanks(self) -> None:
        for name, texts in TEXTS.items():
            blanks = [{blank for _, blank, *_ in Formatter().parse(text) if blank} for text in texts]
            assert all(texts), name
            assert blanks[0] == blanks[1] == blanks[2], name

    def test_every_meter_has_a_name(self) -> None:
        assert [name for name in NAMES if f"meter.{name}" not in TEXTS] == []

    @pytest.mark.parametrize(
        ("language", "number", "rate", "day"),
        [
            ("en", "1,234,567.891", "5.5%", "November 2, 2026"),
            ("es", "1.234.567,891", "5,5 %", "2 de noviembre de 2026"),
            ("zh-hans", "1,234,567.891", "5.5%", "2026年11月2日"),
        ],
    )
    def test_each_language_writes_its_own_way(self, language: str, number: str, rate: str, day: str) -> None:
        say = words(language)
        assert say.number(Decimal("1234567.891")) == number
        assert plain(say.percent(Decimal("0.05500"))) == plain(rate)
        assert say.day(date(2026, 11, 2)) == day

    def test_no_digit_is_lost(self) -> None:
        exact = Decimal("123456789012345678.123456789012345")
        assert words("en").number(exact) == "123,456,789,012,345,678.123456789012345"
        assert words("en").number(Decimal("1E+2")) == "100"
        assert words("en").number(Decimal("-0.000000000000001"), at_least=6) == "-0.000000000000001"

    def test_a_document_in_a_language_that_is_gone_is_in_english(self, customer: Customer) -> None:
        invoice = make_invoice(customer, language="eo")
        assert "Usage statement" in text_of_pdf(documents.invoice_pdf(invoice))


def test_a_layout_s_fields_are_all_used_by_the_template() -> None:
    source = (typesetting.TEMPLATES / "document.typ").read_text()
    assert [name for name in typesetting.Document.__dataclass_fields__ if f"doc.{name}" not in source] == ["at"]
