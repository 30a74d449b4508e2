"""The customer's automatic recharge: read it, set it."""

from datetime import UTC, datetime
from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import recharge_rules
from billing.api.base import CustomerView
from billing.api.fields import Amount, AmountFromZero, Moment, NoUnknownFields, Text
from billing.api.idempotency import Answer, once
from billing.api.openapi import IDEMPOTENCY, answers
from billing.models import Recharge
from relayadmin.errors import ApiError, invalid_request

OFF_BECAUSE = Recharge.Off.choices


class RechargeSerializer(serializers.Serializer[Any]):
    enabled = serializers.BooleanField(source="is_on")
    threshold = Amount(allow_null=True, help_text="A balance below this is recharged.")
    amount = Amount(allow_null=True, help_text="What is charged to the card each time, tax included.")
    monthly_cap = Amount(allow_null=True, help_text="At most so much in a calendar month; null: no cap.")
    payment_method = serializers.CharField(allow_null=True, help_text="pmt_…: the card that is charged.")
    failures = serializers.IntegerField(help_text="Declines in a row; after the third it is off.")
    next_try_at = Moment(allow_null=True, help_text="Nothing is charged before, after a decline or at the cap.")
    waits_for_you = serializers.BooleanField(
        help_text="The bank wants you to confirm: nothing is charged until you have topped up yourself."
    )
    off_because = serializers.ChoiceField(OFF_BECAUSE, allow_null=True)
    off_message = serializers.CharField(allow_null=True, help_text="Why it is off, if it was not you.")
    currency = serializers.CharField()


class RechargeBody(NoUnknownFields):
    enabled = serializers.BooleanField()
    threshold = AmountFromZero()
    amount = AmountFromZero()
    monthly_cap = AmountFromZero(required=False, allow_null=True, default=None)
    payment_method = Text(
        required=False, allow_null=True, default=None, help_text="pmt_…; absent: the one it has, or the default one."
    )


class RechargeView(CustomerView):
    http_method_names = ["get", "head", "put"]
    write_scope = "pay"

    @extend_schema(operation_id="getRecharge", tags=["payments"], responses=answers(RechargeSerializer))
    def get(self, request: Request) -> Response:
        """The automatic recharge, and how it is doing."""
        rule = Recharge.objects.select_related("method").filter(customer=self.customer).first()
        return Response(_shown(rule))

    @extend_schema(
        operation_id="setRecharge",
        tags=["payments"],
        parameters=[IDEMPOTENCY],
        request=RechargeBody,
        responses=answers(RechargeSerializer, 400, 409, 413, 415),
    )
    def put(self, request: Request) -> Response:
        """Set the automatic recharge. It looks within a minute, also if the balance is below the threshold now."""
        body = RechargeBody(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = recharge_rules.Wanted(
            is_on=body.validated_data["enabled"],
            threshold=body.validated_data["threshold"],
            amount=body.validated_data["amount"],
            monthly_cap=body.validated_data["monthly_cap"],
            method=body.validated_data["payment_method"],
            return_url=request.build_absolute_uri(reverse("payments-return")),
        )

        def work() -> Answer:
            try:
                rule = recharge_rules.set_rule(customer_id=self.customer.pk, wanted=wanted, at=datetime.now(UTC))
            except recharge_rules.InvalidRule as error:
                raise invalid_request(f"{error}.", error.field) from error
            except recharge_rules.NotOffered as error:
                raise ApiError(409, "recharge_not_offered", f"{error}.") from error
            return Answer(_shown(rule))

        return once(request, work)


def _shown(rule: Recharge | None) -> dict[str, Any]:
    """A rule as the API shows it; before the first one is set it is off and empty."""
    row: dict[str, Any] = {
        "is_on": False,
        "threshold": None,
        "amount": None,
        "monthly_cap": None,
        "payment_method": None,
        "failures": 0,
        "next_try_at": None,
        "waits_for_you": False,
        "off_because": None,
        "off_message": None,
        "currency": recharge_rules.CURRENCY,
    }
    if rule is not None:
        row |= {name: getattr(rule, name) for name in ("is_on", "threshold", "amount", "monthly_cap", "failures")}
        row["payment_method"] = rule.method.public_id if rule.method else None
        row["next_try_at"] = rule.next_try_at
        row["waits_for_you"] = rule.waits_for_id is not None
        row["off_because"], row["off_message"] = rule.off_because or None, rule.off_message or None
    return dict(RechargeSerializer(row).data)
