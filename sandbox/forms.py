"""Form-encoded parameters: `a[b][0]=c` into nested values, checked against what an endpoint takes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sandbox.errors import Json, Refused

TEXT, INTEGER, FLAG, ADDRESS, METADATA, RANGE = "text", "integer", "flag", "address", "metadata", "range"
EITHER = "flag or text"  # off_session
Spec = dict[str, Any]

METADATA_KEYS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX = 50, 40, 500
TEXT_MAX = 5000


def decode(encoded: str) -> Json:
    """The nested form of a query string or body; leaves are text, lists dicts by index until they are checked."""
    params: Json = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        head, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        place, steps = params, [head, *inner]
        for step in steps[:-1]:
            following = place.setdefault(step, {})
            if not isinstance(following, dict):
                raise Refused(f"Invalid object: {name}", param=name)
            place = following
        place[steps[-1] or str(len(place))] = value  # a[]=x appends
    return params


def checked(params: Json, spec: Spec, path: str = "") -> Json:
    """The parameters with their types; refuses what the endpoint does not know, as Stripe does."""
    result: Json = {}
    for name, value in params.items():
        place = f"{path}[{name}]" if path else name
        if name not in spec:
            raise Refused(f"Received unknown parameter: {place}", code="parameter_unknown", param=place)
        result[name] = _value(value, spec[name], place)
    return result


def _value(value: Any, spec: Any, place: str) -> Any:
    if isinstance(spec, dict):
        if not isinstance(value, dict):
            raise Refused(f"Invalid object: {place}", param=place)
        return checked(value, spec, place)
    if isinstance(spec, list):
        if not isinstance(value, dict) or not all(key.isdigit() for key in value):
            raise Refused(f"Invalid array: {place}", param=place)
        return [_value(value[key], spec[0], f"{place}[{key}]") for key in sorted(value, key=int)]
    if spec == METADATA:
        return _metadata(value, place)
    if spec == RANGE and isinstance(value, dict):
        return checked(value, dict.fromkeys(("gt", "gte", "lt", "lte"), INTEGER), place)
    if not isinstance(value, str):
        raise Refused(f"Invalid string: {place}", param=place)
    if value == "":
        raise Refused(
            f"You passed an empty string for '{place}'. We assume empty values are an attempt to unset a parameter; "
            f"however '{place}' cannot be unset.",
            code="parameter_invalid_empty",
            param=place,
        )
    return _leaf(value, spec, place)


def _leaf(value: str, spec: Any, place: str) -> Any:
    if spec in (INTEGER, RANGE):
        if not re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            raise Refused(f"Invalid integer: {value}", code="parameter_invalid_integer", param=place)
        return int(value)
    if spec == FLAG or (spec == EITHER and value in {"true", "false"}):
        if value not in {"true", "false"}:
            raise Refused(f"Invalid boolean: {value}", param=place)
        return value == "true"
    if spec == ADDRESS and (urlsplit(value).scheme not in {"http", "https"} or not urlsplit(value).hostname):
        raise Refused("Not a valid URL", code="url_invalid", param=place)
    if isinstance(spec, tuple) and value not in spec:
        wanted = ", ".join(spec)
        raise Refused(f"Invalid {place}: must be one of {wanted}", param=place)
    if len(value) > TEXT_MAX:
        raise Refused(f"Invalid string: {place} is longer than {TEXT_MAX} characters", param=place)
    return value


def _metadata(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise Refused("Invalid metadata: it must be a map of text to text", param=place)
    if len(value) > METADATA_KEYS_MAX:
        raise Refused(f"Metadata can have at most {METADATA_KEYS_MAX} keys", param=place)
    for key, text in value.items():
        if len(key) > METADATA_KEY_MAX:
            raise Refused(f"Metadata keys can be at most {METADATA_KEY_MAX} characters long", param=place)
        if len(text) > METADATA_VALUE_MAX:
            raise Refused(
                f"Metadata values can have up to {METADATA_VALUE_MAX} characters, but you passed in a value that is "
                f"{len(text)} characters.",
                param=f"{place}[{key}]",
            )
    return {key: text for key, text in value.items() if text != ""}
