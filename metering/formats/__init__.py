"""Provider usage formats → disjoint meters. Pure: no Django, no clock, no settings.

`read(format, usage)` turns a provider's own usage object into a `Usage`. Each format is a module that says whether its
input count includes cached tokens.
"""

from collections.abc import Callable
from typing import Any

from metering.formats import anthropic_messages, meters, openai_chat
from metering.formats.base import InvalidUsage, Usage

FORMATS: dict[str, Callable[[dict[str, Any]], Usage]] = {
    "anthropic.messages": anthropic_messages.read,
    "openai.chat": openai_chat.read,
    "meters": meters.read,
}

__all__ = ["FORMATS", "InvalidUsage", "Usage", "read"]


def read(name: str, usage: object) -> Usage:
    """Read a decoded usage object. Raises InvalidUsage, KeyError for an unknown format."""
    parse = FORMATS[name]
    if not isinstance(usage, dict):
        raise InvalidUsage("usage must be an object")
    return parse(usage)
