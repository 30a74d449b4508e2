"""Credit notes: what was taken back of invoices."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.base import CustomerView, not_found
from billing.api.fields import Amount, Cents, Moment
from billing.api.openapi import PAGING, answers, page_of
from billing.api.pagination import ById, read_page
from billing.api.serializers import Quantity
from billing.models import CreditNote


class CreditNoteLineSerializer(serializers.Serializer[Any]):
    description = serializers.CharField()
    invoice_line = serializers.IntegerField(source="invoice_line.position", help_text="Its place on the invoice.")
    quantity = Quantity(allow_null=True, help_text="Null: a part of the line. Below zero: as it was rated again.")
    unit_price = Amount(allow_null=True)
    per = serializers.IntegerField(allow_null=True)
    amount = Amount(help_text="What is taken back of the line; below zero, what it costs as it was rated again.")


class CreditNoteSerializer(serializers.Serializer[Any]):
    """Takes back a part of an invoice, or all of it; the lines add up to the subtotal, to the cent."""

    id = serializers.CharField(source="public_id", help_text="cn_…")
    number = serializers.CharField()
    invoice = serializers.CharField(source="invoice.public_id", help_text="inv_…")
    invoice_number = serializers.CharField(source="invoice.number")
    reason = serializers.CharField()
    issued_at = Moment()
    lines = CreditNoteLineSerializer(many=True)
    subtotal = Cents()
    tax = Cents()
    total = Cents()
    currency = serializers.CharField(source="invoice.currency")


class CreditNotesView(CustomerView):
    @extend_schema(
        operation_id="listCreditNotes",
        tags=["invoices"],
        parameters=PAGING,
        responses=answers(page_of(CreditNoteSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """Credit notes with their lines, newest first."""
        page = read_page(request, ById)
        found = _of(self.customer.pk)
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda note: ById(note.pk),
                show=lambda shown: CreditNoteSerializer(shown, many=True).data,
            )
        )


class CreditNoteView(CustomerView):
    @extend_schema(operation_id="getCreditNote", tags=["invoices"], responses=answers(CreditNoteSerializer, 404))
    def get(self, request: Request, credit_note_id: str) -> Response:
        """One credit note with its lines."""
        note = _of(self.customer.pk).filter(public_id=credit_note_id).first()
        if note is None:
            raise not_found("credit note", credit_note_id)
        return Response(CreditNoteSerializer(note).data)


def _of(customer_id: int) -> QuerySet[CreditNote]:
    rows = CreditNote.objects.filter(customer_id=customer_id).select_related("invoice")
    return rows.prefetch_related("lines__invoice_line").order_by("-pk")
