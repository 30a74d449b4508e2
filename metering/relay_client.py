"""A relay node's side of the relay API, for what plays a relay: one kept-alive connection per client."""

import http.client
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import msgspec

_TRIES = 4
_PAUSE_S = 0.25


class RelayCallFailed(Exception):
    """The server did not answer as a relay expects; `status` is 0 when it did not answer at all."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidAddress(ValueError):
    """An address that is not one of a web server."""


class RelayClient:
    """Calls the relay API at an address such as http://127.0.0.1:8000; for one thread. Raises InvalidAddress."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 60.0) -> None:
        parts = _parse(url)
        assert parts.hostname is not None
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._base = parts.path.rstrip("/") + "/relay/v1/"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._url = url

    def authorize(self, body: Mapping[str, Any]) -> str:
        """Ask whether a request may run; returns the authorization's id. Raises RelayCallFailed."""
        return str(self._post("authorizations", body)["id"])

    def report(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Report usage; returns the answer's counts. Raises RelayCallFailed."""
        return self._post("usage", {"events": events})

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        """Both calls may be repeated safely, so a dropped connection and a 5xx are tried again."""
        raw = msgspec.json.encode(body)
        for attempt in range(_TRIES):
            try:
                status, answer = self._send(path, raw)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                fault = RelayCallFailed(0, f"{self._url} does not answer: {error}")
            else:
                if status < 300:
                    return dict(msgspec.json.decode(answer))
                fault = RelayCallFailed(status, f"{self._url} answered {status}: {_sentence(answer)}")
                if status < 500:
                    raise fault
            if attempt:  # The first failure may be no more than an idle connection that the server had closed.
                time.sleep(_PAUSE_S * 2**attempt)
        raise fault

    def _send(self, path: str, raw: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", self._base + path, body=raw, headers=self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def _parse(url: str) -> SplitResult:
    fault = InvalidAddress(f"{url!r} is not an address such as http://127.0.0.1:8000")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise fault from error
    if not is_good:
        raise fault
    return parts


def _sentence(answer: bytes) -> str:
    """The message of an error body, or the beginning of what else came."""
    try:
        error = msgspec.json.decode(answer)["error"]
        return f"{error['code']}: {error['message']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")
