"""Receipts of paid top-ups and of payments of invoices: as PDF, and the same figures as JSON."""

from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import receipt_pdf, receipts
from billing.api.base import CustomerView, not_found
from billing.api.fields import Moment
from billing.api.openapi import answers
from billing.models import TopUp
from relayadmin.errors import ApiError
from relayadmin.files import pdf_response


class SupplierSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    address = serializers.CharField(help_text="Lines, or empty.")
    tax_number = serializers.CharField()
    email = serializers.CharField()


class PayerSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="cus_…")
    name = serializers.CharField()
    email = serializers.CharField()
    address = serializers.CharField(help_text="Lines, or empty.")
    country = serializers.CharField(help_text="Its name, or empty.")
    tax_number = serializers.CharField()


class ReceiptSerializer(serializers.Serializer[Any]):
    """Supplier and customer as they were when it was made; what was paid back later is not part of it."""

    id = serializers.CharField(help_text="rcp_…")
    number = serializers.CharField()
    top_up = serializers.CharField(help_text="top_…")
    issued_at = Moment()
    paid_at = Moment()
    issued_on = serializers.CharField(help_text="The day in `timezone`.")
    paid_on = serializers.CharField(help_text="The day in `timezone`.")
    timezone = serializers.CharField()
    supplier = SupplierSerializer()
    customer = PayerSerializer()
    paid_with = serializers.CharField()
    reference = serializers.CharField(help_text="Of a bank transfer; else empty.")
    currency = serializers.CharField()
    paid = serializers.CharField(help_text="What was paid, in `currency`, with its decimals.")
    credited = serializers.CharField(help_text="What was credited, in USD.")
    invoice_number = serializers.CharField(help_text="Of the invoice that it paid; empty: it was a top-up.")
    invoice_paid = serializers.CharField(help_text="What of it paid that invoice, in USD.")
    title = serializers.CharField(help_text="Invoice where tax was charged or reversed, else Receipt.")
    tax_name = serializers.CharField(help_text="Such as IVA; empty: not taxed.")
    tax_rate = serializers.CharField(help_text="Such as 21 %; empty: not taxed.")
    tax = serializers.CharField(help_text="The tax on what was credited, in USD.")
    tax_note = serializers.CharField(help_text="What the law wants said of it, or empty.")
    paid_usd = serializers.CharField(help_text="What was credited and the tax, in USD.")
    rate = serializers.CharField(help_text="Units of `currency` for 1 USD.")
    is_sandbox = serializers.BooleanField(help_text="A test payment: no real money.")


PDF: dict[Any, Any] = {
    **answers(None, 404),
    (200, "application/pdf"): OpenApiResponse(OpenApiTypes.BINARY, description="The receipt."),
}
del PDF[200]


class _OfTopUp(CustomerView):
    http_method_names = ["get", "head"]

    def figures(self, top_up_id: str) -> receipts.Figures:
        top_up = TopUp.objects.filter(customer=self.customer, public_id=top_up_id).first()
        if top_up is None:
            raise not_found("top-up", top_up_id)
        try:
            return receipts.figures(receipts.of(top_up, at=datetime.now(UTC)))
        except receipts.NotPaid as error:
            raise ApiError(404, "receipt_not_found", f"{error}.", param="id") from error


class ReceiptPdfView(_OfTopUp):
    @extend_schema(
        operation_id="getReceiptPdf",
        tags=["payments"],
        responses=PDF,
    )
    def get(self, request: Request, top_up_id: str) -> HttpResponse:
        """The receipt of a paid top-up, or of an invoice's payment, as PDF."""
        figures = self.figures(top_up_id)
        return pdf_response(receipt_pdf.render(figures), figures.number)


class ReceiptView(_OfTopUp):
    @extend_schema(operation_id="getReceipt", tags=["payments"], responses=answers(ReceiptSerializer, 404))
    def get(self, request: Request, top_up_id: str) -> Response:
        """The figures of a paid top-up's receipt, or of that of an invoice's payment."""
        return Response(ReceiptSerializer(self.figures(top_up_id)).data)
