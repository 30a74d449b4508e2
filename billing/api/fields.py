"""How values look in JSON: amounts, moments, months; and query parameters, read strictly."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from relayadmin.errors import invalid_request
from relayadmin.money import InvalidAmount, amount_text, cents_text, parse_amount

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d(?:\.\d{1,9})?)([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_AMOUNT_SCHEMA = {
    "type": "string",
    "pattern": r"^-?\d+\.\d{6,15}$",
    "description": "USD, a plain decimal with 6 to 15 places.",
    "example": "0.029250",
}
_LIMIT_SCHEMA = {
    "type": "string",
    "pattern": r"^\d{1,18}(\.\d{1,15})?$",
    "description": "USD, a plain decimal of 0 or more.",
    "example": "50.00",
}
_CENTS_SCHEMA = {
    "type": "string",
    "pattern": r"^-?\d+\.\d{2}$",
    "description": "USD, whole cents.",
    "example": "12.50",
}
_MONTH_SCHEMA = {"type": "string", "pattern": r"^\d{4}-\d{2}$", "example": "2026-11"}


def moment_text(at: datetime) -> str:
    """RFC 3339 in UTC: "2026-11-22T10:00:00.123Z"."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def month_text(month: date) -> str:
    """A billing period as the API names it: "2026-11"."""
    return f"{month.year:04d}-{month.month:02d}"


def parse_moment(text: str) -> datetime:
    """Read RFC 3339 with an offset, into UTC. Raises ValueError with a message for the caller."""
    found = _MOMENT.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        day, clock, offset = found.groups()
        clock = clock[:15] if "." in clock else clock
        return datetime.fromisoformat(f"{day}T{clock}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError('must be a moment with an offset, such as "2026-11-22T10:00:00Z"') from error


@extend_schema_field(_AMOUNT_SCHEMA)
class Amount(serializers.Field):
    """A USD amount with 6 to 15 decimals; for answers."""

    def to_representation(self, value: Decimal) -> str:
        return amount_text(value)


@extend_schema_field(_LIMIT_SCHEMA)
class AmountFromZero(serializers.Field):
    """A USD amount of 0 or more, for bodies; a JSON number is refused."""

    def to_internal_value(self, data: Any) -> Decimal:
        try:
            amount = parse_amount(data)
        except InvalidAmount as error:
            raise serializers.ValidationError(f"{error}") from error
        if amount < 0:
            raise serializers.ValidationError("an amount here must be 0 or more")
        return amount


@extend_schema_field(_CENTS_SCHEMA)
class Cents(serializers.Field):
    """An invoice's total with 2 decimals; for answers."""

    def to_representation(self, value: Decimal) -> str:
        return cents_text(value)


@extend_schema_field(_MONTH_SCHEMA)
class Month(serializers.Field):
    """A billing period; for answers."""

    def to_representation(self, value: date) -> str:
        return month_text(value)


@extend_schema_field({"type": "string", "format": "date-time", "example": "2026-11-22T10:00:00Z"})
class Moment(serializers.Field):
    """A moment, RFC 3339, in UTC in answers."""

    def to_representation(self, value: datetime) -> str:
        return moment_text(value)

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str):
            raise serializers.ValidationError('must be a string such as "2026-11-22T10:00:00Z"')
        try:
            return parse_moment(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error


class Text(serializers.CharField):
    """A string that must come as a JSON string; numbers are not turned into text."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("must be a string")
        return str(super().to_internal_value(data))


class NoUnknownFields(serializers.Serializer[Any]):
    """A body in which a misspelled field is refused, not ignored."""

    def to_internal_value(self, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in self.fields:
                raise serializers.ValidationError({name: f"is not a field here; there are {', '.join(self.fields)}"})
        return super().to_internal_value(data)


def text_param(request: Request, name: str) -> str | None:
    """A query parameter of 1 to 255 characters; None if it is absent."""
    text = request.query_params.get(name)
    if text is not None and (not 1 <= len(text) <= 255 or "\x00" in text):
        raise invalid_request(f"{name} must have 1 to 255 characters, none of them NUL.", name)
    return text


def choice_param(request: Request, name: str, choices: tuple[str, ...], default: str) -> str:
    """A query parameter that is one of a few words."""
    text = request.query_params.get(name, default)
    if text not in choices:
        raise invalid_request(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}.", name)
    return text


def hour_param(request: Request, name: str) -> datetime | None:
    """A query parameter that is a full hour; None if it is absent."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        # An unescaped "+" of an offset arrives as a space.
        at = parse_moment(text.replace(" ", "+"))
    except ValueError as error:
        raise invalid_request(f"{name} {error}.", name) from error
    if (at.minute, at.second, at.microsecond) != (0, 0, 0):
        raise invalid_request(f"{name} must be a full hour, such as 2026-11-22T10:00:00Z.", name)
    if not 1900 <= at.year <= 9000:
        raise invalid_request(f"{name} must lie between the years 1900 and 9000.", name)
    return at
