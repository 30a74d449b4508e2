"""The shapes of money in the customer API."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.api.fields import Amount, Cents, Moment, Month, NoUnknownFields, Text
from billing.models import BillingProfile, Grant, Invoice, Transfer

# Drafts are not shown.
INVOICE_STATUS = [choice for choice in Invoice.Status.choices if choice[0] != Invoice.Status.DRAFT]


class GrantSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="gr_…")
    kind = serializers.ChoiceField(Grant.Kind.choices)
    amount = Amount()
    remaining = Amount(help_text="What is left of it.")
    priority = serializers.IntegerField(help_text="Credit of the lowest is used first, then what expires first.")
    is_refundable = serializers.BooleanField()
    effective_at = Moment(help_text="From then on it can be used.")
    expires_at = Moment(allow_null=True)
    created_at = Moment()


class ScheduledGrantSerializer(serializers.Serializer[Any]):
    """Credit that is not in the balance yet."""

    id = serializers.CharField(help_text="gr_…")
    kind = serializers.ChoiceField(Grant.Kind.choices)
    amount = Amount()
    priority = serializers.IntegerField()
    is_refundable = serializers.BooleanField()
    effective_at = Moment(help_text="From then on it can be used.")
    expires_at = Moment(allow_null=True)
    created_at = Moment()


class BalanceSerializer(serializers.Serializer[Any]):
    balance = Amount(help_text="Credit less usage; below zero is debt.")
    held = Amount(help_text="Reserved for requests that run now.")
    available = Amount(help_text="balance − held + credit_limit: what new requests may reserve.")
    credit_limit = Amount(help_text="How far below zero the balance may go.")
    debt = Amount(help_text="Usage and charges that no credit has paid yet; the next payment pays them first.")
    currency = serializers.SerializerMethodField()
    grants = GrantSerializer(many=True, help_text="Credit that is left, in the order in which it is used.")
    scheduled_grants = ScheduledGrantSerializer(many=True, help_text="Credit that begins later, the next first.")

    @extend_schema_field({"type": "string", "enum": ["USD"]})
    def get_currency(self, balance: Any) -> str:
        return "USD"


class RedemptionSerializer(NoUnknownFields):
    code = Text(min_length=1, max_length=100, help_text="As it was given to you; capitals and hyphens don't matter.")


class TransferSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="tr_…")
    kind = serializers.ChoiceField(Transfer.Kind.choices)
    amount = Amount(help_text="Above zero: credit; below zero: a charge.")
    balance_after = Amount()
    period = Month(allow_null=True, help_text="The billing month of usage.")
    reason = serializers.CharField()
    document = serializers.CharField(help_text="The reference of what is behind it, such as a bank transfer's number.")
    grant = serializers.CharField(allow_null=True, help_text="gr_…: the credit that it brought.")
    invoice = serializers.CharField(allow_null=True, help_text="inv_…: the invoice that its usage stands on.")
    created_at = Moment()


@extend_schema_field({"type": "string", "pattern": r"^\d+$", "example": "3000"})
class Quantity(serializers.Field):
    """A line's quantity: a whole number, as a string."""

    def to_representation(self, value: Any) -> str:
        return format(value, "f")


class _OrNull(serializers.CharField):
    """Text that is null when there is none."""

    def to_representation(self, value: str) -> Any:
        return value or None


class InvoiceLineSerializer(serializers.Serializer[Any]):
    """quantity × unit_price ÷ per = amount. The rounding line has no quantity, unit_price and per."""

    description = serializers.CharField()
    model = _OrNull(allow_null=True)
    meter = _OrNull(allow_null=True)
    usage_period = Month(allow_null=True, help_text="The month in which the usage happened.")
    quantity = Quantity(allow_null=True)
    unit_price = Amount(allow_null=True)
    per = serializers.IntegerField(allow_null=True)
    note = serializers.CharField(help_text="Why its price is another one than usual, such as `batch`; or empty.")
    multiplier = Amount(allow_null=True, help_text="Of a meter of caching: its price as a multiple of input's.")
    amount = Amount()


class _SupplierSerializer(serializers.Serializer[Any]):
    """Who issued it, as it was then."""

    name = serializers.CharField(source="supplier_name")
    address = serializers.CharField(source="supplier_address")
    tax_number = serializers.CharField(source="supplier_tax_number")
    email = serializers.CharField(source="supplier_email")


class _InvoicedSerializer(serializers.Serializer[Any]):
    """Whom it was issued to, as they were then."""

    name = serializers.CharField(source="customer_name")
    address = serializers.CharField(source="customer_address")
    country = serializers.CharField(source="customer_country")
    tax_number = serializers.CharField(source="customer_tax_number")
    email = serializers.CharField(source="customer_email")
    order_reference = serializers.CharField()


class InvoiceTaxSerializer(serializers.Serializer[Any]):
    """base × rate = amount, half up to the cent."""

    name = serializers.CharField()
    rate = serializers.CharField(help_text="A share: 0.21000 is 21 %.")
    base = Cents()
    amount = Cents()
    is_reverse_charge = serializers.BooleanField()
    note = serializers.CharField()


class InvoiceSerializer(serializers.Serializer[Any]):
    """Lines add up to the subtotal; subtotal + tax = total.

    opening_balance + topped_up + other_movements − the lines without rounding = closing_balance.
    """

    id = serializers.CharField(source="public_id", help_text="inv_…")
    number = serializers.CharField()
    status = serializers.ChoiceField(INVOICE_STATUS)
    period = Month()
    period_start = Moment()
    period_end = Moment(help_text="Does not belong to the period.")
    issued_at = Moment()
    lines = InvoiceLineSerializer(many=True)
    subtotal = Cents()
    tax = Cents()
    total = Cents()
    paid_by_credit = Cents()
    amount_due = Cents()
    currency = serializers.CharField()
    terms = serializers.ChoiceField(BillingProfile.Terms.choices)
    is_sandbox = serializers.BooleanField(help_text="Paid with test payments: no real money.")
    due_on = serializers.DateField(allow_null=True, help_text="Null: nothing is due.")
    supplier = _SupplierSerializer(source="*")
    customer = _InvoicedSerializer(source="*")
    language = serializers.CharField()
    timezone = serializers.CharField(help_text="It bounds the period.")
    taxes = InvoiceTaxSerializer(many=True)
    cache_savings = Amount(
        source="savings", help_text="What cached tokens would have cost as input, less what they did cost."
    )
    paid_by_paid = Amount(help_text="The part of the lines that paid credit paid for.")
    paid_by_promotional = Amount(help_text="The part that promotional and goodwill credit paid for.")
    charged_as_debt = Amount(help_text="The part for which there was no credit when it was used.")
    opening_balance = Amount(help_text="The wallet's, when the period began.")
    topped_up = Amount(help_text="Paid credit that came in the period.")
    other_movements = Amount(help_text="What else makes the one balance the other; charged_elsewhen included.")
    charged_elsewhen = Amount(help_text="Usage on it charged outside the period, less usage of others charged inside.")
    closing_balance = Amount(help_text="The wallet's, when the period ended.")
