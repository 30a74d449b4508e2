"""CSV: every digit, nothing that a spreadsheet would run, and as long as it is in flat memory."""

import csv
import io
import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client

from billing import credits, documents, exports, queries
from billing.models import CreditNote, Customer, Invoice
from relayadmin.csv import BOM, cell, csv_lines
from tests.documents import ISSUED, make_invoice
from tests.operator import log_in, make_staff, page
from tests.statements import counted_statements
from tests.world import CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


def read(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(BOM), "Excel reads UTF-8 only with a byte order mark"
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def raw(payer: Payer, path: str) -> tuple[int, bytes, dict[str, str]]:
    answer = CustomerApi(payer).client.get(f"/api/v1/{path}")
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer.status_code, content, dict(answer.headers)


def give(payer: Payer, amount: str, reason: str) -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind="goodwill",
        reason=reason,
        reference="",
        key=reason[:40],
        at=datetime.now(UTC),
    )


class TestCells:
    @pytest.mark.parametrize(
        "text", ["=1+1", "+1", "-1+cmd", "@SUM(A1)", "\tx", "\rx", "\n=1", "＝1", "＋1", '=HYPERLINK("http://x")']
    )
    def test_text_that_would_be_a_formula_is_guarded(self, text: str) -> None:
        assert cell(text) == f"'{text}"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (Decimal("-0.030000000000000"), "-0.03"),
            (Decimal("3E+2"), "300"),
            (Decimal(12), "12"),
            (Decimal("0.000000000000001"), "0.000000000000001"),
            (Decimal("15.000000000"), "15.00"),
            (-5, "-5"),
            (None, ""),
            ("a=b", "a=b"),
            (datetime(2026, 11, 2, 10, 0, tzinfo=UTC), "2026-11-02T10:00:00Z"),
        ],
    )
    def test_figures_stay_figures(self, value: object, text: str) -> None:
        assert cell(value) == text

    def test_a_million_rows_take_no_more_memory_than_a_thousand(self) -> None:
        def peak(rows: int) -> int:
            tracemalloc.start()
            for _ in csv_lines(["n", "amount"], ((n, Decimal(n)) for n in range(rows))):
                pass
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        few = peak(2_000)
        assert peak(100_000) < few * 2


def test_an_invoice_s_lines_say_what_the_api_says() -> None:
    payer = make_payer(credit="0")
    made = make_invoice(payer.customer, models=2, earlier=1)
    status, content, headers = raw(payer, f"invoices/{made.public_id}/lines.csv")
    assert status == 200
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert headers["Content-Disposition"] == 'attachment; filename="INV-2026-000001.csv"'
    invoice = CustomerApi(payer).get(f"invoices/{made.public_id}").body
    rows = read(content)
    assert len(rows) == len(invoice["lines"]) == 11
    for row, line in zip(rows, invoice["lines"], strict=True):
        for name in ("description", "model", "meter", "usage_period"):
            assert row[name] == (line[name] or "")
        for name in ("quantity", "unit_price", "per", "amount"):
            assert (Decimal(row[name]) if row[name] else None) == (None if line[name] is None else Decimal(line[name]))
    assert sum(Decimal(row["amount"]) for row in rows) == made.subtotal


def test_names_that_are_formulas_are_guarded() -> None:
    payer = make_payer(credit="0")
    made = make_invoice(payer.customer, names='=HYPERLINK("http://evil.example","x"){:d}')
    rows = read(raw(payer, f"invoices/{made.public_id}/lines.csv")[1])
    assert rows[0]["model"] == '\'=HYPERLINK("http://evil.example","x")0'


def test_the_statement_is_the_whole_one_and_filters_as_the_list_does() -> None:
    payer = make_payer(credit="50.00")
    Relay().report(make_event(payer))
    give(payer, "1", '@sorry, "twice"\nover')
    listed = CustomerApi(payer).get("transfers").body["data"]
    rows = read(raw(payer, "transfers.csv")[1])
    assert [row["id"] for row in rows] == [row["id"] for row in listed]
    for row, shown in zip(rows, listed, strict=True):
        assert Decimal(row["amount"]) == Decimal(shown["amount"])
        assert Decimal(row["balance_after"]) == Decimal(shown["balance_after"])
        assert (row["kind"], row["created_at"]) == (shown["kind"], shown["created_at"])
    assert rows[0]["reason"] == '\'@sorry, "twice"\nover'
    assert "actor" not in rows[0]
    assert {row["kind"] for row in read(raw(payer, "transfers.csv?kind=usage")[1])} == {"usage"}
    assert raw(payer, "transfers.csv?kind=theft")[0] == 400


def test_a_long_statement_is_read_in_pages_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    payer = make_payer(credit="0")
    for number in range(23):
        give(payer, "1", f"gift {number}")
    versions = [row.version for row in queries.whole_statement(customer_id=payer.customer.pk, page=5)]
    assert versions == list(range(23, 0, -1))
    only = queries.StatementFilter(kind="grant")
    with counted_statements() as seen:
        assert len(list(queries.whole_statement(customer_id=payer.customer.pk, only=only, page=10))) == 23
    assert len(seen) == 5, "one to find the range, three pages, one that is empty"


def test_another_customer_s_files_are_not_there() -> None:
    payer, stranger = make_payer(credit="0"), make_payer(credit="0", name="Eve")
    invoice = make_invoice(payer.customer)
    note = CreditNote.objects.create(
        customer=payer.customer,
        invoice=invoice,
        series="CN",
        year=2026,
        sequence=1,
        number="CN-2026-000001",
        key="k",
        reason="r",
        issued_at=ISSUED,
        subtotal=0,
        tax=0,
        total=0,
    )
    for path in (
        f"invoices/{invoice.public_id}/pdf",
        f"invoices/{invoice.public_id}/lines.csv",
        f"credit-notes/{note.public_id}/pdf",
    ):
        assert raw(payer, path)[0] == 200
        assert raw(stranger, path)[0] == 404
        assert Client().get(f"/api/v1/{path}").status_code == 401
    Invoice.objects.update(status="draft")
    assert raw(payer, f"invoices/{invoice.public_id}/pdf")[0] == 404


def test_the_api_s_pdf_is_the_document() -> None:
    payer = make_payer(credit="0")
    invoice = make_invoice(payer.customer)
    status, content, headers = raw(payer, f"invoices/{invoice.public_id}/pdf")
    assert (status, headers["Content-Type"]) == (200, "application/pdf")
    assert headers["Content-Disposition"] == 'inline; filename="INV-2026-000001.pdf"'
    assert content == documents.invoice_pdf(invoice)


def test_the_operator_takes_the_same_files_and_only_who_may() -> None:
    payer = make_payer(credit="5")
    invoice = make_invoice(payer.customer)
    viewer = log_in(make_staff(permissions=["billing.view_invoice"]))
    assert viewer.get(page(Invoice, "open_pdf", invoice.pk)).content == documents.invoice_pdf(invoice)
    lines: Iterable[bytes] = viewer.get(page(Invoice, "lines_csv", invoice.pk)).streaming_content
    assert b"".join(lines) == b"".join(exports.invoice_lines(invoice))
    nobody = log_in(make_staff(permissions=["billing.view_customer"]))
    for action in ("open_pdf", "lines_csv"):
        assert nobody.get(page(Invoice, action, invoice.pk)).status_code == 403
    operator = log_in(make_staff(is_superuser=True))
    answer = operator.get(page(Customer, "statement", payer.customer.pk), {"as": "csv", "kind": "grant"})
    rows = read(b"".join(answer.streaming_content))
    assert [(row["kind"], Decimal(row["amount"])) for row in rows] == [("grant", Decimal(5))]
    assert "actor" in rows[0]


def test_nothing_is_held_open_between_pages() -> None:
    payer = make_payer(credit="0")
    for number in range(4):
        give(payer, "1", f"gift {number}")
    rows = queries.whole_statement(customer_id=payer.customer.pk, page=2)
    next(rows)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE is_holdable")
        assert cursor.fetchone() == (0,)
    rows.close()
