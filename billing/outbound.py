"""The one client for addresses that customers typed: it reaches the public internet, and nothing else.

The host is resolved once, every address that it has is checked, and the connection goes to a checked one: a name that
answers otherwise a moment later (DNS rebinding) changes nothing. No redirects, no proxies, no cookies; one deadline for
all of it; of the answer no more than a bounded part is read, and nothing but the status kept. No Django, no database.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 5.0
READ_BYTES_MAX = 64 * 1024
URL_LENGTH_MAX = 500

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# A name and a port to addresses; for tests.
Resolver = Callable[[str, int], Sequence[str]]

_NO_CONTROLS = frozenset(map(chr, [*range(0x21), 0x7F, *range(0x80, 0xA1)])) | set('\\"<>^`{|}')
# IPv6 that is given out: https://www.iana.org/assignments/ipv6-address-space. All else is special.
_IPV6_GLOBAL = ipaddress.ip_network("2000::/3")
# Special blocks that lie inside what looks global, or carry an IPv4 address that is somewhere else than it seems.
_REFUSED = [
    ipaddress.ip_network(block)
    for block in (
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


class Refused(Exception):
    """An address that is not reached, with the reason in a sentence."""


class Unreachable(Exception):
    """No answer: no such name, no connection, no valid certificate, or not in time."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What is allowed beside https to the public internet: for development and tests."""

    http: bool = False
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """An address taken apart; `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str


def parse(url: str, allowed: Allowed) -> Target:
    """Take an address apart. Raises Refused for what is never reached, whatever its name resolves to."""
    if not 1 <= len(url) <= URL_LENGTH_MAX:
        raise Refused(f"an address has 1 to {URL_LENGTH_MAX} characters")
    if not url.isascii() or _NO_CONTROLS & set(url):
        raise Refused("an address has printable ASCII characters only; write the rest %-encoded, and names as xn--")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused("this is not an address; write one such as https://example.com/hooks") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and allowed.http):
        raise Refused("the address must begin with https://")
    if "@" in parts.netloc:
        raise Refused("the address must not carry a user or password")
    if not host or parts.fragment or "%" in parts.netloc:
        raise Refused("the address must name a host, and no #fragment")
    port = port if port is not None else 443 if parts.scheme == "https" else 80
    if port not in {80, 443} and port < 1024:
        raise Refused("the port must be 443, or 1024 and above")
    literal = _literal(host)
    if literal is not None:
        check(literal, allowed)
    elif not allowed.loopback and ("." not in host.rstrip(".") or host.rstrip(".").endswith((".localhost", ".local"))):
        raise Refused("the host must be a public name, such as example.com")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check(address: Address, allowed: Allowed) -> None:
    """Raise Refused unless an address lies on the public internet (or on loopback, where that is allowed)."""
    inner = getattr(address, "ipv4_mapped", None)
    if inner is not None:
        check(inner, allowed)
        return
    if allowed.loopback and address.is_loopback:
        return
    is_public = address.is_global and not address.is_multicast and not address.is_reserved
    if isinstance(address, ipaddress.IPv6Address):
        is_public = is_public and address in _IPV6_GLOBAL
    if not is_public or any(address in block for block in _REFUSED if block.version == address.version):
        raise Refused("the host is not on the public internet")


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system's resolver has them; it understands forms such as 0x7f.1, too."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable("the host's name has no address") from error
    return [str(row[4][0]) for row in found]


def pinned(target: Target, allowed: Allowed, resolver: Resolver = resolve) -> str:
    """The address to connect to. Raises Refused if any of the host's is not public, Unreachable if it has none."""
    found = list(dict.fromkeys(resolver(target.host, target.port)))
    if not found:
        raise Unreachable("the host's name has no address")
    for text in found:
        address = _literal(text)
        if address is None or getattr(address, "scope_id", None):
            raise Refused("the host is not on the public internet")
        check(address, allowed)
    return found[0]


def post(
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Allowed,
    resolver: Resolver = resolve,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """POST once, and return the answer's status. Raises Refused, Unreachable."""
    target = parse(url, allowed)
    address = pinned(target, allowed, resolver)
    connection = _Pinned(target, address, timeout_s)
    # A timeout of a socket is for each read; who sends a byte now and then is cut off by this one.
    deadline = threading.Timer(timeout_s, connection.cut)
    deadline.daemon = True
    deadline.start()
    try:
        with closing(connection):
            connection.request("POST", target.path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            if connection.was_cut:  # What looks like the end of its headers may be where they were cut.
                raise TimeoutError
            with suppress(OSError, http.client.HTTPException):
                answer.read(READ_BYTES_MAX)
            return answer.status
    except ssl.SSLCertVerificationError as error:
        raise Unreachable("the certificate is not valid for this host") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.was_cut or isinstance(error, TimeoutError):
            raise Unreachable(f"no answer within {timeout_s:g} s") from error
        raise Unreachable(f"the connection failed ({type(error).__name__})") from error
    finally:
        deadline.cancel()


class _Pinned(http.client.HTTPConnection):
    """A connection to one address that was checked, under the name that certificate and Host header are about."""

    def __init__(self, target: Target, address: str, timeout_s: float) -> None:
        self.default_port = 443 if target.scheme == "https" else 80
        super().__init__(target.host, target.port, timeout=timeout_s)
        self._address, self._is_tls = address, target.scheme == "https"
        self.was_cut = False
        self.sock: Any = None

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._is_tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()
        if self.was_cut:
            raise TimeoutError

    def cut(self) -> None:
        """End it from another thread; whoever reads from it then finds it closed."""
        self.was_cut = True
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
