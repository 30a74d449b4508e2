"""The shapes of payments in the customer API."""

from decimal import Decimal
from typing import Any

from django.core.validators import RegexValidator
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.api.fields import Amount, AmountFromZero, Moment, NoUnknownFields, Text
from billing.exchange import USD
from billing.models import Grant, TopUp
from relayadmin import ids
from relayadmin.money import currency_text

_PAY_AMOUNT = {
    "type": "string",
    "pattern": r"^\d+(\.\d{2,3})?$",
    "description": "In `currency`, with that currency's decimals.",
    "example": "73.44",
}
_RATE = {"type": "string", "pattern": r"^\d+(\.\d+)?$", "example": "7.344", "description": "Of `currency` for 1 USD."}


class NewTopUpSerializer(NoUnknownFields):
    amount = AmountFromZero(help_text="Credit in USD, whole cents.")
    currency = Text(
        default=USD,
        validators=[RegexValidator(r"\A[A-Z]{3}\Z", 'must be a code such as "USD"')],
        help_text="What it is paid in; see GET /top-ups/options.",
    )
    save_card = serializers.BooleanField(default=False, help_text="Keep the card, if it is paid by card.")

    def validate_amount(self, amount: Decimal) -> Decimal:
        if not amount:
            raise serializers.ValidationError("a top-up must be above zero")
        return amount


class TopUpSerializer(serializers.Serializer[Any]):
    """A payment: `amount` is credited in USD, `pay_amount` is paid in `currency`."""

    id = serializers.CharField(source="public_id", help_text="top_…")
    status = serializers.ChoiceField(TopUp.Status.choices)
    amount = Amount(help_text="Credited once it is paid, USD.")
    currency = serializers.CharField(help_text="What it is paid in.")
    checkout_url = serializers.SerializerMethodField(help_text="The page to pay on, while it can be paid.")
    pay_amount = serializers.SerializerMethodField()
    rate = serializers.SerializerMethodField()
    origin = serializers.ChoiceField(TopUp.Origin.choices)
    method = serializers.SerializerMethodField(help_text="What it was paid with: card, alipay, wechat_pay.")
    method_detail = serializers.SerializerMethodField(help_text="Such as: visa •••• 4242.")
    reference = serializers.SerializerMethodField(help_text="Of a bank transfer or cash.")
    refunded = serializers.SerializerMethodField(help_text="What of it went back, or is on its way back.")
    grant = serializers.SerializerMethodField(help_text="gr_…: the credit that it became.")
    error_code = serializers.SerializerMethodField(help_text="Why it was not paid, or the last try was not.")
    error_message = serializers.SerializerMethodField()
    sandbox = serializers.BooleanField(source="is_sandbox", help_text="A trial: no real money.")
    created_at = Moment()
    expires_at = Moment(allow_null=True, help_text="Until then it can be paid.")
    paid_at = Moment(allow_null=True)

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_checkout_url(self, row: TopUp) -> str | None:
        return row.checkout_url if row.checkout_url and row.status == TopUp.Status.PENDING else None

    @extend_schema_field(_PAY_AMOUNT)
    def get_pay_amount(self, row: TopUp) -> str:
        return currency_text(row.pay_amount, row.currency)

    @extend_schema_field(_RATE)
    def get_rate(self, row: TopUp) -> str:
        return plain(row.rate)

    @extend_schema_field({"type": "string", "nullable": True})
    def get_method(self, row: TopUp) -> str | None:
        return row.method or None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_method_detail(self, row: TopUp) -> str | None:
        return row.method_detail or None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_reference(self, row: TopUp) -> str | None:
        return row.reference or None

    @extend_schema_field(Amount)
    def get_refunded(self, row: TopUp) -> str:
        return Amount().to_representation(getattr(row, "refunded", None) or Decimal(0))

    @extend_schema_field({"type": "string", "nullable": True})
    def get_grant(self, row: TopUp) -> str | None:
        return None if row.grant_id is None else ids.hot_id(Grant.PREFIX, row.customer_id, row.grant_id)

    @extend_schema_field({"type": "string", "nullable": True})
    def get_error_code(self, row: TopUp) -> str | None:
        return row.error_code or None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_error_message(self, row: TopUp) -> str | None:
        return row.error_message or None


class OfferedSerializer(serializers.Serializer[Any]):
    currency = serializers.CharField()
    methods = serializers.ListField(child=serializers.CharField(), help_text="card, alipay, wechat_pay.")
    rate = serializers.SerializerMethodField()
    decimals = serializers.IntegerField(help_text="Of its smallest unit.")

    @extend_schema_field(_RATE)
    def get_rate(self, offered: Any) -> str:
        return plain(offered.rate)


class TopUpOptionsSerializer(serializers.Serializer[Any]):
    """What can be paid in, and how."""

    available = serializers.BooleanField(help_text="Whether payments are taken here at all.")
    sandbox = serializers.BooleanField(help_text="A trial: no real money.")
    minimum = Amount()
    maximum = Amount()
    presets = serializers.ListField(child=Amount(), help_text="Amounts to choose from; others can be paid too.")
    currencies = OfferedSerializer(many=True)


def plain(number: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
