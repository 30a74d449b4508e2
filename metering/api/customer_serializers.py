"""The shapes of keys, usage and prices in the customer API."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field, inline_serializer
from rest_framework import serializers

from billing.api.fields import Amount, AmountFromZero, Moment, Month, NoUnknownFields, Text
from billing.models import SpendLimit
from billing.models.spending import Span
from metering.meters import NAMES
from metering.models import ApiKey, UsageEvent
from metering.spend import Standing

API_KEY_STATUS = (("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked"))
SPEND_LIMIT_TYPE = (("hard", "Hard"), ("soft", "Soft"))
_QUANTITIES = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in NAMES},
    "additionalProperties": {"type": "integer"},
    "example": {"input": 3000, "cache_read": 10000},
    "description": "By meter, zeros left out.",
}


class ApiKeySerializer(serializers.Serializer[Any]):
    id = serializers.CharField(source="public_id", help_text="key_…")
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="The first characters of the secret.")
    last4 = serializers.CharField(help_text="The last four characters of the secret.")
    status = serializers.SerializerMethodField()
    allowed_models = serializers.ListField(child=serializers.CharField(), help_text="Empty: every model.")
    allowed_networks = serializers.ListField(child=serializers.CharField(), help_text="Empty: from anywhere.")
    expires_at = Moment(allow_null=True)
    revoked_at = Moment(allow_null=True)
    created_at = Moment()

    @extend_schema_field(serializers.ChoiceField(API_KEY_STATUS))
    def get_status(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "active"


class NewApiKeySerializer(ApiKeySerializer):
    key = serializers.CharField(
        allow_null=True, help_text="The secret, `sk-…`: shown now and never again; null when the answer is replayed."
    )


class _OptionalList(serializers.ListField):
    """A list of strings; null is an empty one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=Text(max_length=255), required=False, allow_null=True, max_length=200, **kwargs)


class ApiKeyBody(NoUnknownFields):
    name = Text(max_length=100)
    expires_at = Moment(required=False, allow_null=True, help_text="null: never.")
    allowed_models = _OptionalList(help_text="Model ids or aliases; empty or null: every model.")
    allowed_networks = _OptionalList(help_text='Such as "203.0.113.0/24"; empty or null: from anywhere.')

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("allowed_models", "allowed_networks"):
            if name in attrs and attrs[name] is None:
                attrs[name] = []
        return attrs


class SpendLimitSerializer(serializers.Serializer[Any]):
    """Amounts are those of the running day or month; left = amount − spent − held."""

    api_key = serializers.SerializerMethodField()
    span = serializers.ChoiceField(Span.choices, source="limit.span", help_text="In the operator's time zone.")
    type = serializers.SerializerMethodField()
    amount = Amount(source="limit.amount")
    set_by = serializers.ChoiceField(
        SpendLimit.Owner.choices, source="limit.owner", help_text="You can set only your own."
    )
    spent = Amount()
    held = Amount(help_text="Reserved for requests that run now.")
    left = Amount(help_text="Below zero where usage cost more than was reserved for it.")
    resets_at = Moment(help_text="When it begins anew.")

    @extend_schema_field({"type": "string", "nullable": True, "example": "key_7Hq2"})
    def get_api_key(self, standing: Standing) -> str | None:
        """The key that it limits; null: all you spend."""
        key = self.context["keys"].get(standing.limit.scope)
        return None if key is None else str(key.public_id)

    @extend_schema_field(serializers.ChoiceField(SPEND_LIMIT_TYPE))
    def get_type(self, standing: Standing) -> str:
        """Whether what goes beyond it is refused (hard) or not (soft). Both tell when 80 % and 100 % are spent."""
        return "hard" if standing.limit.is_hard else "soft"


class SpendLimitBody(NoUnknownFields):
    span = serializers.ChoiceField(Span.choices)
    amount = AmountFromZero(help_text="0 refuses whatever costs anything.")
    type = serializers.ChoiceField(
        SPEND_LIMIT_TYPE, help_text="hard refuses what goes beyond; soft only tells when 80 % and 100 % are spent."
    )


class SpendLimitsBody(NoUnknownFields):
    api_key = Text(allow_null=True, max_length=255, help_text="key_…; null: all you spend.")
    limits = SpendLimitBody(many=True, help_text="At most one of each span and type; an empty list removes all.")

    def validate_limits(self, limits: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kinds = [(limit["span"], limit["type"]) for limit in limits]
        if len(set(kinds)) < len(kinds):
            raise serializers.ValidationError("there can be one limit of each span and type")
        return limits


class UsageRowSerializer(serializers.Serializer[Any]):
    start = Moment(help_text="When the bucket begins.")
    model = serializers.CharField(allow_null=True, help_text="null unless grouped by model.")
    api_key = serializers.CharField(allow_null=True, help_text="key_…; null unless grouped by api_key.")
    requests = serializers.IntegerField()
    quantities = extend_schema_field(_QUANTITIES)(serializers.JSONField)()
    amount = Amount()
    cache_savings = Amount(help_text="What cached reads would have cost as plain input, less what caching cost.")


class UsageTotalSerializer(serializers.Serializer[Any]):
    requests = serializers.IntegerField()
    quantities = extend_schema_field(_QUANTITIES)(serializers.JSONField)()
    amount = Amount()
    cache_savings = Amount()


# Put together from its parts, because `data` is a name that serializers use themselves.
UsageSerializer = inline_serializer(
    "Usage",
    {
        "data": UsageRowSerializer(many=True, help_text="Oldest first; buckets without usage are left out."),
        "total": UsageTotalSerializer(),
    },
)


class MeterLineSerializer(serializers.Serializer[Any]):
    """quantity × unit_price ÷ per = amount."""

    model = serializers.CharField(help_text="A response can hold calls of several models.")
    meter = serializers.ChoiceField(NAMES)
    note = serializers.CharField(help_text='Why the unit price is not the usual one, such as "batch"; or empty.')
    quantity = serializers.IntegerField()
    unit_price = Amount()
    per = serializers.IntegerField()
    amount = Amount()


@extend_schema_field(OpenApiTypes.OBJECT)
class JsonText(serializers.Field):
    """JSON kept as text, passed on as it stands."""

    def to_representation(self, value: str) -> msgspec.Raw:
        return msgspec.Raw(value.encode())


class CountedSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    waived = serializers.CharField(allow_null=True, help_text="Why not all of it is charged, if so.")
    meters = MeterLineSerializer(many=True, help_text="Their amounts add up to the event's.")
    amount = Amount()
    cache_savings = Amount()


class UsageEventSerializer(serializers.Serializer[Any]):
    """An event as it counts now; one that was replaced counts for nothing, and keeps its model to be found by."""

    id = serializers.CharField(help_text="evt_…")
    request_id = serializers.CharField(help_text="The id under which the relay reported it.")
    model = serializers.CharField(source="now.model")
    api_key = serializers.CharField(help_text="key_…")
    status = serializers.ChoiceField(UsageEvent.Status.choices)
    waived = serializers.CharField(
        source="now.waived", allow_null=True, help_text="Why not all of it is charged, if so."
    )
    estimated = serializers.BooleanField(help_text="The quantities were counted by the relay, not by the provider.")
    occurred_at = Moment()
    period = Month(help_text="The billing month it was charged in at first.")
    authorization = serializers.CharField(allow_null=True, help_text="auth_…, if it settled one.")
    meters = MeterLineSerializer(source="now.meters", many=True, help_text="Their amounts add up to the event's.")
    amount = Amount(source="now.amount", help_text="What is paid for it; 0 for an estimate that was replaced.")
    cache_savings = Amount(source="now.cache_savings")
    at_first = CountedSerializer(
        allow_null=True, help_text="What it was charged before it was put right or replaced; null if it never was."
    )
    replaced_by = serializers.CharField(allow_null=True, help_text="evt_…, the correction of this estimate.")
    metadata = JsonText(allow_null=True)


class PriceSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    variant = serializers.SerializerMethodField()
    meter = serializers.ChoiceField(NAMES)
    unit_price = Amount()
    per = serializers.IntegerField(help_text="The price is for so many tokens or calls.")
    above_prompt_tokens = serializers.IntegerField(help_text="Holds for prompts of more tokens than this.")
    effective_from = Moment(allow_null=True)
    effective_until = Moment(allow_null=True)
    daily_from = serializers.TimeField(allow_null=True, help_text="A window of the day, UTC.")
    daily_until = serializers.TimeField(allow_null=True)
    multiplier_of_input = serializers.SerializerMethodField()

    @extend_schema_field(serializers.ChoiceField(["standard", "batch", "flex", "priority", "fast"]))
    def get_variant(self, price: Any) -> str:
        """Batch, flex, priority and fast requests have prices of their own."""
        return price.variant or "standard"

    @extend_schema_field({"type": "string", "nullable": True, "example": "1.25"})
    def get_multiplier_of_input(self, price: Any) -> str | None:
        """This price as a multiple of the model's input price beside it."""
        return None if price.multiplier_of_input is None else format(price.multiplier_of_input, "f")
