"""Who the customer is on its documents: read it, change it."""

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import billing_profiles
from billing.accounts import InvalidChange
from billing.api.base import CustomerView
from billing.api.fields import Moment, NoUnknownFields, Text
from billing.api.idempotency import Answer, once
from billing.api.openapi import IDEMPOTENCY, answers
from billing.models import BillingProfile
from relayadmin.errors import invalid_request


class BillingProfileSerializer(serializers.Serializer[Any]):
    terms = serializers.ChoiceField(BillingProfile.Terms.choices, help_text="The operator's to change.")
    payment_days = serializers.IntegerField(help_text="Days from issue until an invoice on account is due.")
    legal_name = serializers.CharField(help_text="Empty: the customer's name stands on documents.")
    address = serializers.CharField(help_text="Line by line, without the country.")
    country = serializers.CharField(help_text="ISO 3166, such as ES; empty if it is not known.")
    tax_number = serializers.CharField(help_text="VAT number or the like; empty if there is none.")
    tax_number_checked_at = Moment(
        allow_null=True, help_text="When its form and check digits were found right; null where nobody knows these."
    )
    order_reference = serializers.CharField(help_text="Your own order number.")
    language = serializers.ChoiceField(BillingProfile.Language.choices)
    paper = serializers.ChoiceField(BillingProfile.Paper.choices)


class BillingProfileBody(NoUnknownFields):
    """What is not named stays as it is."""

    legal_name = Text(required=False, allow_blank=True, max_length=200)
    address = Text(required=False, allow_blank=True, max_length=500, help_text="Line by line, without the country.")
    country = Text(required=False, allow_blank=True, max_length=2, help_text="ISO 3166, such as ES.")
    tax_number = Text(required=False, allow_blank=True, max_length=30, help_text="Checked with the country.")
    order_reference = Text(required=False, allow_blank=True, max_length=100)
    language = serializers.ChoiceField(BillingProfile.Language.choices, required=False)
    paper = serializers.ChoiceField(BillingProfile.Paper.choices, required=False)


class BillingProfileView(CustomerView):
    http_method_names = ["get", "head", "put"]
    write_scope = "pay"
    stays_open = ("PUT",)

    @extend_schema(operation_id="getBillingProfile", tags=["invoices"], responses=answers(BillingProfileSerializer))
    def get(self, request: Request) -> Response:
        """Who you are on invoices and receipts, and how you pay."""
        return Response(_shown(billing_profiles.profile_of(self.customer)))

    @extend_schema(
        operation_id="setBillingProfile",
        tags=["invoices"],
        parameters=[IDEMPOTENCY],
        request=BillingProfileBody,
        responses=answers(BillingProfileSerializer, 400, 409, 413, 415),
    )
    def put(self, request: Request) -> Response:
        """Change what is named. Documents that are issued already stay as they are."""
        body = BillingProfileBody(data=request.data)
        body.is_valid(raise_exception=True)

        def work() -> Answer:
            try:
                row = billing_profiles.update(
                    customer_id=self.customer.pk,
                    changes=body.validated_data,
                    actor="the customer",
                    at=datetime.now(UTC),
                )
            except InvalidChange as error:
                raise invalid_request(f"{error}.", error.field) from error
            return Answer(_shown(row))

        return once(request, work)


def _shown(row: BillingProfile) -> dict[str, Any]:
    return dict(BillingProfileSerializer(row).data)
