"""Saved cards: list them, save another one, choose the default one, remove one."""

from datetime import UTC, datetime
from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import saved_methods
from billing.api.base import CustomerView, not_found
from billing.api.fields import Moment
from billing.api.idempotency import Answer, key_of, once
from billing.api.openapi import IDEMPOTENCY, answers, page_of
from billing.api.provider import provider_errors


class PaymentMethodSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(source="public_id", help_text="pmt_…")
    type = serializers.CharField(help_text="card")
    brand = serializers.CharField(help_text="Such as visa; empty if it is not known.")
    last4 = serializers.CharField()
    exp_month = serializers.IntegerField(allow_null=True)
    exp_year = serializers.IntegerField(allow_null=True)
    is_default = serializers.BooleanField()
    created_at = Moment()


class SetupSerializer(serializers.Serializer[Any]):
    checkout_url = serializers.CharField(help_text="Send the customer's browser there; nothing is paid.")


class PaymentMethodsView(CustomerView):
    @extend_schema(
        operation_id="listPaymentMethods", tags=["payments"], responses=answers(page_of(PaymentMethodSerializer))
    )
    def get(self, request: Request) -> Response:
        """Your saved cards, the default one first; there is no second page."""
        found = saved_methods.saved(self.customer.pk)
        data = PaymentMethodSerializer(found, many=True).data
        return Response({"data": data, "has_more": False, "next_cursor": None})


class SetupView(CustomerView):
    http_method_names = ["post"]
    write_scope = "pay"

    @extend_schema(
        operation_id="savePaymentMethod",
        tags=["payments"],
        parameters=[IDEMPOTENCY],
        request=None,
        responses=answers(SetupSerializer, 400, 502, 503, status=201),
    )
    def post(self, request: Request) -> Response:
        """Open a page of the payment provider's on which a card is saved; it is listed here a moment later."""
        back = request.build_absolute_uri(reverse("payments-card"))
        with provider_errors():
            url = saved_methods.start_setup(
                customer_id=self.customer.pk,
                key=key_of(request),
                success_url=f"{back}?saved",
                cancel_url=back,
                at=datetime.now(UTC),
            )
        return Response({"checkout_url": url}, status=201)


class DefaultView(CustomerView):
    http_method_names = ["post"]
    write_scope = "pay"

    @extend_schema(
        operation_id="setDefaultPaymentMethod",
        tags=["payments"],
        parameters=[IDEMPOTENCY],
        request=None,
        responses=answers(PaymentMethodSerializer, 400, 404, 409),
    )
    def post(self, request: Request, method_id: str) -> Response:
        """Make it the card that is proposed. What is recharged automatically keeps its own card."""

        def work() -> Answer:
            try:
                method = saved_methods.set_default(customer_id=self.customer.pk, public_id=method_id)
            except saved_methods.UnknownMethod as error:
                raise not_found("payment method", method_id) from error
            return Answer(PaymentMethodSerializer(method).data)

        return once(request, work)


class PaymentMethodView(CustomerView):
    http_method_names = ["delete"]
    write_scope = "pay"
    stays_open = ("DELETE",)

    @extend_schema(
        operation_id="removePaymentMethod", tags=["payments"], responses=answers(None, 404, 502, 503, status=204)
    )
    def delete(self, request: Request, method_id: str) -> Response:
        """Remove a saved card, here and at the payment provider. An automatic recharge that used it is off."""
        with provider_errors():
            try:
                saved_methods.remove(customer_id=self.customer.pk, public_id=method_id, at=datetime.now(UTC))
            except saved_methods.UnknownMethod as error:
                raise not_found("payment method", method_id) from error
        return Response(status=204)
