"""The one error shape of every HTTP answer: {"error": {"type", "code", "message", "param"}}."""

from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_funds_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A refusal as the caller sees it; raised at the edges only."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return error_body(self.status, self.code, self.message, self.param)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON object of an error answer."""
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"error": {"type": kind, "code": code, "message": message, "param": param}}


def invalid_request(message: str, param: str | None = None) -> ApiError:
    """400 with code `invalid_request_error`, as for anything malformed."""
    return ApiError(400, "invalid_request_error", message, param=param)
