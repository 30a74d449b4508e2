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
    amount = AmountFromZero(help_text="What to pay in USD, tax included, whole cents.")
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
    """A payment: `amount` is paid, of which `tax` is tax, and `credited` is credited; `pay_amount` in `currency`."""

    id = serializers.CharField(source="public_id", help_text="top_…")
    status = serializers.ChoiceField(TopUp.Status.choices)
    amount = Amount(help_text="What is paid, in USD, tax included.")
    tax = Amount(help_text="The tax in it, USD.")
    tax_name = serializers.SerializerMethodField(help_text="Such as IVA; null: not taxed.")
    tax_rate = serializers.SerializerMethodField(help_text='"0.21" is 21 %; null: not taxed.')
    tax_note = serializers.SerializerMethodField(help_text="What the law wants said of it.")
    credited = serializers.SerializerMethodField(help_text="Credited once it is paid, USD; 0 if it pays an invoice.")
    invoice = serializers.SerializerMethodField(help_text="inv_…: the invoice that it pays.")
    currency = serializers.CharField(help_text="What it is paid in.")
    checkout_url = serializers.SerializerMethodField(help_text="The page to pay on, while it can be paid.")
    pay_amount = serializers.SerializerMethodField()
    rate = serializers.SerializerMethodField()
    origin = serializers.ChoiceField(TopUp.Origin.choices)
    method = serializers.SerializerMethodField(help_text="What it was paid with: card, alipay, wechat_pay.")
    method_detail = serializers.SerializerMethodField(help_text="Such as: visa •••• 4242.")
    reference = serializers.SerializerMethodField(help_text="Of a bank transfer or cash.")
    refunded = serializers.SerializerMethodField(help_text="What went back or is on its way, USD, with tax.")
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

    @extend_schema_field({"type": "string", "nullable": True})
    def get_tax_name(self, row: TopUp) -> str | None:
        return row.tax_name or None

    @extend_schema_field({"type": "string", "nullable": True, "pattern": r"^0(\.\d+)?$"})
    def get_tax_rate(self, row: TopUp) -> str | None:
        return plain(row.tax_rate) if row.tax_name else None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_tax_note(self, row: TopUp) -> str | None:
        return row.tax_note or None

    @extend_schema_field(Amount)
    def get_credited(self, row: TopUp) -> str:
        return Amount().to_representation(row.credited if row.invoice_id is None else Decimal(0))

    @extend_schema_field({"type": "string", "nullable": True})
    def get_invoice(self, row: TopUp) -> str | None:
        return row.invoice.public_id if row.invoice_id is not None else None

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


class TaxSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Such as IVA.")
    rate = serializers.SerializerMethodField(help_text='"0.21" is 21 %.')
    reverse_charge = serializers.BooleanField(source="is_reverse_charge")
    note = serializers.CharField(help_text="What the law wants said of it, or empty.")

    @extend_schema_field({"type": "string", "pattern": r"^0(\.\d+)?$", "example": "0.21"})
    def get_rate(self, tax: Any) -> str:
        return plain(tax.rate)


class TopUpOptionsSerializer(serializers.Serializer[Any]):
    """What can be paid in, and how."""

    available = serializers.BooleanField(help_text="Whether payments are taken here at all.")
    sandbox = serializers.BooleanField(help_text="A trial: no real money.")
    minimum = Amount()
    maximum = Amount()
    tax = TaxSerializer(allow_null=True, help_text="The tax in what is paid; null: none.")
    presets = serializers.ListField(child=Amount(), help_text="Amounts to choose from; others can be paid too.")
    currencies = OfferedSerializer(many=True)


def plain(number: Decimal) -> str:
    """A number without an exponent and without zeros at its end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
