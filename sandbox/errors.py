"""Stripe's error answers."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class Refused(Exception):
    """An error answer. What was changed before it is rolled back, unless `keeps`: a decline leaves its traces."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keeps: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.keeps = keeps
        error = {"code": code, "message": message, "param": param, "type": kind, **more}
        self.body: Json = {"error": {name: value for name, value in error.items() if value is not None}}


def missing(kind: str, id: str, param: str = "id") -> Refused:
    status = 404 if param == "id" else 400
    return Refused(f"No such {kind}: '{id}'", status=status, code="resource_missing", param=param)
