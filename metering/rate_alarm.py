"""The alarm over requests that pass uncounted because Redis is away.

The scheduled watch can't be the one to open it: its jobs come through the same Redis. So the process that misses Redis
tells of it, beside the request and not on its way, at most once in a while.
"""

import logging
import threading
import time
from datetime import UTC, datetime

from django.db import Error, connection

from billing import alarms

logger = logging.getLogger(__name__)
SOURCE = "rates"
TELL_EVERY_S = 30
# So long nobody must have missed Redis until the alarm is over: each process tells anew well before.
QUIET_S = 120

_lock = threading.Lock()
_told_at: int | None = None


def report(error: str, *, at: datetime) -> alarms.Watched:
    """Open the alarm, or bring it up to date; `error` says how Redis failed, without its address."""
    seen = alarms.Sighting(
        kind=f"{SOURCE}.redis_away",
        subject="",
        label="Redis",
        count=1,
        message=f"Redis does not answer ({error}): requests pass without being held to requests and tokens per minute.",
        advice="See that it runs and that REDIS_URL is right. Balances, holds and spend are guarded as ever.",
    )
    return alarms.report([seen], source=SOURCE, at=at)


def tell(error: str) -> None:
    """Have the operator told in the background, unless this process did so a moment ago."""
    global _told_at
    with _lock:
        now = time.monotonic_ns()
        if _told_at is not None and now - _told_at < TELL_EVERY_S * 10**9:
            return
        _told_at = now
    threading.Thread(target=_tell, args=(error,), name="rate-alarm", daemon=True).start()


def _tell(error: str) -> None:
    at = datetime.now(UTC)
    try:
        report(error, at=at)
        alarms.mail_new(at=at)
    except Error as failure:
        logger.warning("rate alarm not written error=%s", type(failure).__name__)
    finally:
        connection.close()


def forget() -> None:
    """Tell at once again; for tests."""
    global _told_at
    _told_at = None
