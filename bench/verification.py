"""How fast the books are checked: a full check over all that the other benchmarks stored, beside no traffic."""

import time
from datetime import UTC, datetime

from metering.verification import verify_books
from relayadmin.db import server_cursor


def measure() -> float:
    """Usage events a second, each with all that hangs on it; one process, as the command does."""
    with server_cursor() as cursor:
        # By the time of the weekly check autovacuum has been at all but the newest rows, and what is measured is not
        # what the server still writes of the load before.
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    begun = time.perf_counter()
    verified = verify_books(full=True, at=datetime.now(UTC))
    seconds = time.perf_counter() - begun
    assert verified.ok, verified.differences[:3]
    return round(verified.checked["events"] / seconds)
