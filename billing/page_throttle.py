"""So many a minute, for pages that nobody has to sign in for: counted in Redis, for all processes together.

Nothing is decided by it but how often we look: while Redis is away all pass.
"""

import ipaddress
from datetime import datetime

import redis
from django.core.cache import cache
from django.http import HttpRequest

WINDOW_S = 60
# Of IPv6, whoever has one address has the /64 around it.
_IPV6_PREFIX = 64


def is_too_often(scope: str, *, most: int, at: datetime) -> bool:
    """Count one more in this minute; whether that is above `most`."""
    key = f"throttle:{scope}:{int(at.timestamp()) // WINDOW_S}"
    try:
        cache.add(key, 0, timeout=2 * WINDOW_S)
        return cache.incr(key) > most
    except (redis.RedisError, ValueError):  # ValueError: Redis has just thrown the key out.
        return False


def seconds_left(at: datetime) -> int:
    """Until the minute is over and counting begins anew, at least one."""
    return WINDOW_S - int(at.timestamp()) % WINDOW_S


def caller(request: HttpRequest) -> str:
    """The address that asks; behind a proxy, the one that the proxy saw: it adds it at the end."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    for text in (forwarded, request.META.get("REMOTE_ADDR", "")):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address.packed, _IPV6_PREFIX), strict=False))
        return str(address)
    return "unknown"
