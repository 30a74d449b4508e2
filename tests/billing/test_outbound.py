"""Addresses that customers typed: what is reached, and all that is not."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from threading import Thread

import pytest

from billing import outbound
from billing.outbound import Allowed, Refused, Unreachable
from tests.webhook_receiver import receiver

PUBLIC = Allowed()
LOCAL = Allowed(http=True, loopback=True)

REFUSED_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # carriers' shared space, and metadata of one cloud (100.100.100.200)
    "100.100.100.200",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254",  # metadata of most clouds
    "169.254.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:127.0.0.1",  # IPv4-mapped
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::1",  # 6to4 of 127.0.0.1
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of one cloud
    "fe80::1",
    "fec0::1",
    "ff02::1",
]

REFUSED_URLS = [
    "",
    "example.com",
    "//example.com/",
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "https://",
    "https:///path",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com/a b",
    "https://example.com/\r\nX: y",
    "https://example.com/\x00",
    "https://exämple.com/",
    "https://example.com:22/",
    "https://example.com:25/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:x/",
    "https://localhost/",
    "https://localhost./",
    "https://a.localhost/",
    "https://printer.local/",
    "https://intranet/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://[fe80::1%25eth0]/",
    "https://[::1",
    "https://example.com/" + "a" * 500,
    *(f"https://{f'[{address}]' if ':' in address else address}/" for address in REFUSED_ADDRESSES),
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_an_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(Refused):
        outbound.parse(url, PUBLIC)


@pytest.mark.parametrize("text", REFUSED_ADDRESSES)
def test_a_name_that_resolves_to_what_is_not_public_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        outbound.check(ip_address(text), PUBLIC)
    target = outbound.parse("https://hooks.example.com/", PUBLIC)
    for found in ([text], ["93.184.216.34", text], [text, "93.184.216.34"]):
        with pytest.raises(Refused):
            outbound.pinned(target, PUBLIC, lambda host, port, found=found: found)


@pytest.mark.parametrize("text", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8"])
def test_public_addresses_are_reached(text: str) -> None:
    outbound.check(ip_address(text), PUBLIC)
    target = outbound.parse("https://hooks.example.com:8443/a?b=c", PUBLIC)
    assert target == outbound.Target("https", "hooks.example.com", 8443, "/a?b=c")
    assert outbound.pinned(target, PUBLIC, lambda host, port: [text]) == text


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "017700000001", "2130706433"])
def test_odd_ways_to_write_loopback_are_refused_once_they_are_resolved(host: str) -> None:
    found = outbound.resolve(host, 443)
    assert found == ["127.0.0.1"]
    with pytest.raises(Refused):
        outbound.pinned(outbound.Target("https", host, 443, "/"), PUBLIC)


def test_a_name_with_a_scope_or_without_an_address_is_not_reached() -> None:
    target = outbound.parse("https://hooks.example.com/", PUBLIC)
    with pytest.raises(Refused):
        outbound.pinned(target, LOCAL, lambda host, port: ["fe80::1%2"])
    with pytest.raises(Unreachable):
        outbound.pinned(target, PUBLIC, lambda host, port: [])


def test_loopback_allowed_for_tests_allows_nothing_else() -> None:
    for text in REFUSED_ADDRESSES:
        address = ip_address(text)
        inner = getattr(address, "ipv4_mapped", None) or address
        if not inner.is_loopback:
            with pytest.raises(Refused):
                outbound.check(address, LOCAL)


def test_the_name_is_resolved_once_and_the_connection_goes_to_what_was_checked() -> None:
    """A name that answers otherwise the second time (DNS rebinding) is never asked a second time."""
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with receiver() as server:
        url = server.url.replace("127.0.0.1", "hooks.example.com")
        assert outbound.post(url, body=b"{}", headers={"X-A": "b"}, allowed=LOCAL, resolver=resolver) == 200
    assert asked == ["hooks.example.com"]
    (request,) = server.received
    assert (request.path, request.body, request.headers["x-a"]) == ("/hooks", b"{}", "b")
    assert request.headers["host"].startswith("hooks.example.com:")


def test_a_redirect_is_an_answer_and_nothing_is_asked_of_where_it_points() -> None:
    with receiver() as target, receiver() as server:
        server.status, server.headers = 302, {"Location": target.url}
        assert outbound.post(server.url, body=b"{}", headers={}, allowed=LOCAL) == 302
    assert target.received == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert outbound.post(server.url, body=b"{}", headers={}, allowed=LOCAL) == 200
    assert (len(server.received), proxy.received) == (1, [])


@contextmanager
def dripping(first: bytes, drop: bytes) -> Iterator[str]:
    """A server that sends a bit of its answer every now and then, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(first)
                for _ in range(200):
                    time.sleep(0.05)
                    connection.sendall(drop)
            except OSError:
                return

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"", b"H"),
    ],
    ids=["headers", "status line"],
)
def test_who_answers_drop_by_drop_is_cut_off_in_time(first: bytes, drop: bytes) -> None:
    with dripping(first, drop) as url:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            outbound.post(url, body=b"{}", headers={}, allowed=LOCAL, timeout_s=0.4)
        assert time.monotonic() - began < 5


def test_a_body_drop_by_drop_is_not_waited_for_longer_once_the_status_is_there() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"a") as url:
        began = time.monotonic()
        assert outbound.post(url, body=b"{}", headers={}, allowed=LOCAL, timeout_s=0.4) == 200
        assert time.monotonic() - began < 5


def test_no_more_than_a_part_of_a_large_answer_is_read() -> None:
    with receiver() as server:
        server.body = b"a" * (4 * outbound.READ_BYTES_MAX)
        assert outbound.post(server.url, body=b"{}", headers={}, allowed=LOCAL) == 200


def test_nobody_listening_and_nonsense_are_told_apart_from_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="connection failed"):
        outbound.post(f"http://127.0.0.1:{port}/", body=b"{}", headers={}, allowed=LOCAL)
    with dripping(b"SSH-2.0-OpenSSH_9.2\r\n", b"") as url, pytest.raises(Unreachable):
        outbound.post(url, body=b"{}", headers={}, allowed=LOCAL, timeout_s=1)


def test_https_wants_a_certificate_that_is_valid() -> None:
    """A server without TLS is no https; what it is told ends with the handshake."""
    with receiver() as server:
        url = server.url.replace("http://", "https://")
        with pytest.raises(Unreachable):
            outbound.post(url, body=b"{}", headers={}, allowed=LOCAL, timeout_s=2)
    assert server.received == []
