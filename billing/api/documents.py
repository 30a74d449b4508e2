"""Documents to file: PDF of invoices and credit notes, CSV of lines and of the wallet's statement."""

from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from billing import documents, exports, queries
from billing.api.base import CustomerView, not_found
from billing.api.openapi import HOURS, answers, query
from billing.api.views import statement_filter
from billing.models import CreditNote, Invoice, Transfer
from relayadmin.files import csv_response, pdf_response


def _file_of(media_type: str, description: str, *errors: int) -> dict[Any, Any]:
    """The responses of an operation that answers with a file."""
    responses: dict[Any, Any] = answers(None, *errors)
    del responses[200]
    return {(200, media_type): OpenApiResponse(OpenApiTypes.BINARY, description=description), **responses}


class _OfInvoice(CustomerView):
    http_method_names = ["get", "head"]

    def invoice(self, invoice_id: str) -> Invoice:
        found = queries.invoices(customer_id=self.customer.pk).filter(public_id=invoice_id).first()
        if found is None:
            raise not_found("invoice", invoice_id)
        return found


class InvoicePdfView(_OfInvoice):
    @extend_schema(
        operation_id="getInvoicePdf",
        tags=["invoices"],
        responses=_file_of("application/pdf", "The invoice or usage statement.", 404),
    )
    def get(self, request: Request, invoice_id: str) -> HttpResponse:
        """An invoice as PDF, in the language and on the paper that it was issued for."""
        invoice = self.invoice(invoice_id)
        return pdf_response(documents.invoice_pdf(invoice), invoice.number)


class InvoiceLinesView(_OfInvoice):
    @extend_schema(
        operation_id="getInvoiceLinesCsv",
        tags=["invoices"],
        responses=_file_of("text/csv", "The lines, UTF-8 with a byte order mark.", 404),
    )
    def get(self, request: Request, invoice_id: str) -> StreamingHttpResponse:
        """An invoice's lines as CSV, with every digit."""
        invoice = self.invoice(invoice_id)
        return csv_response(exports.invoice_lines(invoice), invoice.number)


class CreditNotePdfView(CustomerView):
    http_method_names = ["get", "head"]

    @extend_schema(
        operation_id="getCreditNotePdf",
        tags=["invoices"],
        responses=_file_of("application/pdf", "The credit note.", 404),
    )
    def get(self, request: Request, note_id: str) -> HttpResponse:
        """A credit note as PDF, in the language of its invoice."""
        note = CreditNote.objects.filter(customer=self.customer, public_id=note_id).first()
        if note is None:
            raise not_found("credit note", note_id)
        return pdf_response(documents.credit_note_pdf(note), note.number)


class StatementView(CustomerView):
    http_method_names = ["get", "head"]

    @extend_schema(
        operation_id="getStatementCsv",
        tags=["money"],
        parameters=[*HOURS, query("kind", "Only transfers of this kind.", enum=Transfer.Kind.values)],
        responses=_file_of("text/csv", "The statement, UTF-8 with a byte order mark.", 400),
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """The wallet's whole statement as CSV, newest first, with every digit."""
        pieces = exports.statement(customer_id=self.customer.pk, only=statement_filter(request))
        return csv_response(pieces, f"statement-{self.customer.public_id}")
