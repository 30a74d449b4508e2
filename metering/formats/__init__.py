"""Provider usage formats → disjoint meters. Pure: no Django, no clock, no settings.

`read(format, usage)` turns a provider's own usage object into a `Usage`. Each format is a module that says whether its
input count includes cached tokens.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from metering.formats import (
    anthropic_messages,
    bedrock_converse,
    bedrock_invoke,
    gemini_generate,
    litellm,
    meters,
    openai_chat,
    openai_responses,
)
from metering.formats.base import InvalidUsage, Part, Usage

FORMATS: dict[str, Callable[[dict[str, Any]], Usage]] = {
    "anthropic.messages": anthropic_messages.read,
    "openai.chat": openai_chat.read,
    "openai.responses": openai_responses.read,
    "bedrock.converse": bedrock_converse.read,
    "bedrock.invoke": bedrock_invoke.read,
    "gemini.generate": gemini_generate.read,
    "litellm": litellm.read,
    "meters": meters.read,
}

# By reader: what nearly every event is, read without a look at each field by itself. None says that it is not that.
_USUAL: dict[Callable[[dict[str, Any]], Usage], Callable[[bytes | msgspec.Raw], Usage | None]] = {
    anthropic_messages.read: anthropic_messages.read_one_call,
}

__all__ = ["FORMATS", "InvalidUsage", "Part", "Usage", "read", "read_json"]

_any = msgspec.json.Decoder()


def read_json(name: str, usage: bytes | msgspec.Raw) -> Usage:
    """Read a usage object as it came. Raises InvalidUsage, KeyError for an unknown format."""
    usual = _USUAL.get(FORMATS[name])
    if usual is not None and (found := usual(usage)) is not None:
        return found
    try:
        decoded = _any.decode(usage)
    except msgspec.ValidationError as error:
        raise InvalidUsage(f"usage does not fit: {error}") from error
    return read(name, decoded)


def read(name: str, usage: object) -> Usage:
    """Read a decoded usage object. Raises InvalidUsage, KeyError for an unknown format."""
    parse = FORMATS[name]
    if not isinstance(usage, dict):
        raise InvalidUsage("usage must be an object")
    return parse(usage)
