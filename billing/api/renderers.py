"""JSON answers, encoded by msgspec; always JSON, whatever the request says it accepts."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class MsgspecJSONRenderer(BaseRenderer):
    """Writes msgspec.Raw as it stands, so that JSON kept in the database is passed on digit by digit."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data)


class AlwaysFirst(DefaultContentNegotiation):
    """The first renderer for everybody: there is one shape of answers and errors."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type
