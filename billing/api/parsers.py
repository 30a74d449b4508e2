"""JSON bodies, read strictly: what two readers could understand differently is refused."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.parsers import BaseParser

from relayadmin.errors import ApiError, invalid_request

MAX_BODY_BYTES = 64 * 1024


class StrictJSONParser(BaseParser):
    """One JSON object of at most 64 KiB; no duplicate names, NaN, NUL characters or lone surrogates."""

    media_type = "application/json"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        raw = stream.read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise ApiError(413, "body_too_large", "The body is larger than 64 KiB.")
        return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises ApiError 400, with the name of the field at fault where there is one."""
    try:
        body = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise invalid_request('The body must be a JSON object such as {"name": "…"}.')
    for name, value in body.items():
        _check_text(name, name)
        _check_text(value, name)
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name, value in pairs:
        if name in body:
            raise invalid_request(f"The body names {_printable(name)!r} twice.", _printable(name))
        body[name] = value
    return body


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_text(value: Any, param: str) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise invalid_request(f"{_printable(param)} holds a NUL character.", _printable(param))
        if _printable(value) != value:
            raise invalid_request(f"{_printable(param)} holds half of a surrogate pair.", _printable(param))
    elif isinstance(value, list):
        for item in value:
            _check_text(item, param)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, param)
            _check_text(item, param)


def _printable(text: str) -> str:
    """The text with what UTF-8 can't write replaced."""
    return text.encode(errors="replace").decode()
