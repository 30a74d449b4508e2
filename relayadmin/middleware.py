"""Django's middleware for people's pages only; requests of programs pass it by at the cost of one comparison."""

from collections.abc import Callable
from typing import Any

import msgspec
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.common import CommonMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware

from relayadmin.errors import ApiError, error_body

GetResponse = Callable[[HttpRequest], HttpResponse]
# Programs talk to these paths with tokens: they pay for no session, no CSRF check and no messages.
MACHINE_PREFIXES = ("/relay/", "/v1/", "/webhooks/", "/healthz", "/readyz", "/metrics")
JSON_PREFIXES = ("/api/", "/relay/", "/v1/", "/webhooks/", "/healthz", "/readyz", "/metrics")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> HttpResponse:
    """A JSON answer, encoded by msgspec."""
    return HttpResponse(msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")


def errors_as_json(get_response: GetResponse) -> GetResponse:
    """Give every error below a program's path the one error shape, whatever raised it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.status_code >= 400 and request.path.startswith(JSON_PREFIXES):
            response = _with_error_body(request, response)
        if not response.streaming and "Content-Length" not in response.headers:
            response.headers["Content-Length"] = str(len(response.content))
        return response

    def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, ApiError):
            return json_response(exception.body(), exception.status, exception.headers)
        if isinstance(exception, OperationalError | InterfaceError) and request.path.startswith(JSON_PREFIXES):
            return json_response(
                error_body(503, "database_unavailable", "The database did not answer. Send the same request again."),
                503,
                {"Retry-After": "1"},
            )
        return None

    middleware.process_exception = process_exception  # type: ignore[attr-defined]
    return middleware


_BY_STATUS = {
    400: ("invalid_request_error", "The request could not be read."),
    404: ("not_found", "There is nothing at this address. Paths have no trailing slash."),
    405: ("method_not_allowed", "This address does not take this method."),
    500: ("internal_error", "Something broke on our side. Send the same request again."),
}


def _with_error_body(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    if response.headers.get("Content-Type", "").startswith("application/json") or response.streaming:
        return response
    code, message = _BY_STATUS.get(response.status_code, ("error", response.reason_phrase))
    headers = {"Allow": response.headers["Allow"]} if "Allow" in response.headers else None
    return json_response(error_body(response.status_code, code, message), response.status_code, headers)


class PagesOnly:
    """Mixed into Django's own middleware classes: lets requests of programs pass by."""

    get_response: Any

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith(MACHINE_PREFIXES):
            return self.get_response(request)  # type: ignore[no-any-return]
        return super().__call__(request)  # type: ignore[misc, no-any-return]


class Security(PagesOnly, SecurityMiddleware):
    pass


class Static(PagesOnly, WhiteNoiseMiddleware):
    pass


class Session(PagesOnly, SessionMiddleware):
    pass


class Common(PagesOnly, CommonMiddleware):
    pass


class Csrf(PagesOnly, CsrfViewMiddleware):
    def process_view(
        self,
        request: HttpRequest,
        callback: Callable[..., HttpResponseBase],
        callback_args: tuple[Any, ...],
        callback_kwargs: dict[str, Any],
    ) -> HttpResponseForbidden | None:
        if request.path_info.startswith(MACHINE_PREFIXES):
            return None
        return super().process_view(request, callback, callback_args, callback_kwargs)


class Authentication(PagesOnly, AuthenticationMiddleware):
    pass


class Messages(PagesOnly, MessageMiddleware):
    pass


class Frame(PagesOnly, XFrameOptionsMiddleware):
    pass
