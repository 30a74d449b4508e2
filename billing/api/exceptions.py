"""Every refusal in the one error shape."""

from typing import Any

from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from billing.api.authentication import CHALLENGE
from relayadmin.errors import ApiError, error_body

_CODES = {
    401: "invalid_access_token",
    404: "not_found",
    405: "method_not_allowed",
    415: "unsupported_media_type",
}


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """The answer to an exception that a view let through; None for what is not a refusal."""
    if isinstance(error, ApiError):
        refusal = error
    elif isinstance(error, exceptions.ValidationError):
        refusal = _invalid(error.detail)
    elif isinstance(error, Http404):
        refusal = ApiError(404, "not_found", "There is nothing at this address.")
    elif isinstance(error, exceptions.APIException):
        refusal = _refusal(error)
    else:
        return None
    body = error_body(refusal.status, refusal.code, refusal.message, refusal.param)
    return Response(body, status=refusal.status, headers=refusal.headers)


def _refusal(error: exceptions.APIException) -> ApiError:
    status = error.status_code
    headers = {"WWW-Authenticate": CHALLENGE} if status == 401 else None
    message = str(error.detail)
    if status == 403 and message.startswith("CSRF"):
        return ApiError(403, "csrf_failed", f"{message} Send the CSRF cookie's value as X-CSRFToken.")
    if status == 415:
        message = "Send the body as application/json."
    default = "invalid_request_error" if status == 400 else str(error.default_code)
    return ApiError(status, _CODES.get(status, default), message, headers=headers)


def _invalid(detail: Any) -> ApiError:
    """400 for the first fault that a serializer found; `param` is its field."""
    param, fault = _located(detail)
    message = _first(fault)
    return ApiError(400, "invalid_request_error", f"{param}: {message}" if param else message, param=param or None)


def _located(detail: Any) -> tuple[str, Any]:
    """Where the first fault is, such as "limits[1].amount", and what it is."""
    if not isinstance(detail, dict) or not detail:
        return "", detail
    field, faults = next(iter(detail.items()))
    name = "" if field == "non_field_errors" else str(field)
    if isinstance(faults, dict) and faults:
        number, fault = next(iter(faults.items()))
        # Of a list of objects; in a list of texts the place is not told.
        if isinstance(number, int) and isinstance(fault, dict):
            inside, fault = _located(fault)
            return f"{name}[{number}]" + (f".{inside}" if inside else ""), fault
    return name, faults


def _first(faults: Any) -> str:
    while isinstance(faults, dict | list) and faults:
        faults = next(iter(faults.values())) if isinstance(faults, dict) else faults[0]
    return str(faults)
