"""The HTTP server: loopback only, for this machine's names only, one thread per connection."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sandbox import checkout, control, pages
from sandbox.errors import Json, Refused
from sandbox.service import Cut, Service, request_id

HOST = "127.0.0.1"
BODY_MAX = 1_000_000
NEAR = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?", re.IGNORECASE)
CONTROL = "/sandbox/control/"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, service: Service) -> None:
        super().__init__((HOST, port), Handler)
        self.service = service


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "StripeSandbox"
    sys_version = ""
    wbufsize = -1  # headers and body leave together
    timeout = 60  # of a connection that says nothing

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the addresses hold ids, and the supervisor shows what is printed."""

    def _answer(self, method: str) -> None:
        try:
            body = self._body()
            if body is None:
                return
            url = urlsplit(self.path)
            # A page of somebody else may have its name point here; it can't change the Host it asks for.
            if not NEAR.fullmatch(self.headers.get("Host", "")):
                self._send_json(HTTPStatus.FORBIDDEN, {"error": {"message": "Only as 127.0.0.1 or localhost."}}, {})
            elif url.path.startswith("/v1/"):
                self._api(method, url.path, url.query, body)
            elif url.path.startswith(CONTROL):
                self._control(method, url.path.removeprefix(CONTROL), body)
            else:
                self._page(method, url.path, body)
        except (Cut, ConnectionError, TimeoutError):
            self.close_connection = True

    def _body(self) -> str | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > BODY_MAX:
            self._send_json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": {"message": "Too large"}}, {})
            self.close_connection = True
            return None
        return self.rfile.read(int(length)).decode(errors="replace")

    def _api(self, method: str, path: str, query: str, body: str) -> None:
        self._keep_time()
        status, answer, headers = self.server.service.answer(method, path, query, body, dict(self.headers.items()))
        self._send_json(status, answer, {"Request-Id": request_id(), **headers})

    def _control(self, method: str, path: str, body: str) -> None:
        self._keep_time()
        try:
            # Another site's form can't send this type.
            if method == "POST" and self.headers.get_content_type() != "application/json":
                raise Refused("Send application/json", status=415)
            given = json.loads(body or "{}") if method == "POST" else {}
            self._send_json(200, control.answer(self.server.service, method, path, given), {})
        except Refused as refused:
            self._send_json(refused.status, refused.body, {})
        except (ValueError, KeyError, TypeError) as error:
            self._send_json(400, {"error": {"message": f"{type(error).__name__}: {error}"}}, {})

    def _page(self, method: str, path: str, body: str) -> None:
        self._keep_time()
        form = {name: values[-1] for name, values in parse_qs(body).items()}
        page = pages.answer(self.server.service.world, method, [unquote(step) for step in path.split("/")[1:]], form)
        headers = {
            "Content-Security-Policy": pages.POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        if page.location:
            headers["Location"] = page.location
        self._send(page.status, page.html.encode(), "text/html; charset=utf-8", headers)

    def _keep_time(self) -> None:
        world = self.server.service.world
        with world.store.transaction():
            checkout.expire_due(world)

    def _send_json(self, status: int, body: Json, headers: dict[str, str]) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
