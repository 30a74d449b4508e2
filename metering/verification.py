"""check_ledger: the whole of the books, customers a run at a time, each run on one snapshot."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection, transaction

from billing import verification as ledger_checks
from billing.checks import Difference, Scope, fetch, snapshot
from billing.models import Customer
from metering import usage_checks
from metering.movement_checks import check_movements

_CUSTOMERS = 500
# So many movements at most that what is sorted stays near the processor; a customer with more is checked alone.
_MOVEMENTS = 50_000
_CONNECTIONS = 2


@dataclass(slots=True)
class Verified:
    """How many rows were looked at, by kind, and each (customer's public id, difference)."""

    checked: dict[str, int] = field(default_factory=dict)
    differences: list[tuple[str, Difference]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.differences


def verify_books(*, full: bool, at: datetime) -> Verified:
    """Recompute every customer's figures and compare; right under load, for each snapshot is consistent.

    Whoever is right is remembered: without `full`, the next check begins after what it had up to now. The runs are
    shared out among connections of its own; inside a transaction they are all done there, on what it sees.
    """
    if connection.in_atomic_block:
        done = _verify_runs(_Shared(_scopes(full=full, shares=1)), at=at)
    else:
        scopes = _Shared(_scopes(full=full, shares=_CONNECTIONS))
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="check-ledger") as pool:
            workers = [pool.submit(_verify_on_own_connection, scopes, at=at) for _ in range(_CONNECTIONS)]
        done = {scope: verified for worker in workers for scope, verified in worker.result().items()}
    result = Verified()
    for scope in sorted(done, key=lambda scope: scope.first):
        for kind, number in done[scope].checked.items():
            result.checked[kind] = result.checked.get(kind, 0) + number
        result.differences += done[scope].differences
    return result


class _Shared:
    """Runs for several threads to draw from; none are left once one of them has failed."""

    def __init__(self, scopes: Iterator[Scope]) -> None:
        self._scopes, self._lock, self._is_over = scopes, threading.Lock(), False

    def __iter__(self) -> Iterator[Scope]:
        while True:
            with self._lock:
                scope = None if self._is_over else next(self._scopes, None)
            if scope is None:
                return
            yield scope

    def stop(self) -> None:
        self._is_over = True


def _verify_on_own_connection(scopes: _Shared, *, at: datetime) -> dict[Scope, Verified]:
    done = None
    try:
        done = _verify_runs(scopes, at=at)
        return done
    finally:
        if done is None:
            scopes.stop()
        connection.close()


def _verify_runs(scopes: _Shared, *, at: datetime) -> dict[Scope, Verified]:
    return {scope: _verify_run(scope, at=at) for scope in scopes}


def _verify_run(scope: Scope, *, at: datetime) -> Verified:
    with snapshot():
        found = ledger_checks.check_accounts(scope) + check_movements(scope)
        counts = ledger_checks.count_rows(scope)
        of_usage, usage_counts = usage_checks.check_usage(scope, at=at)
        wallet_marks, usage_marks = ledger_checks.read_marks(scope), usage_checks.read_marks(scope)
    found += of_usage
    wrong = {difference.customer_id for difference in found}
    names = dict(Customer.objects.filter(pk__in=wrong).values_list("pk", "public_id")) if wrong else {}
    with transaction.atomic():
        ledger_checks.save_marks([mark for mark in wallet_marks if mark.customer_id not in wrong], at=at)
        usage_checks.save_marks([mark for mark in usage_marks if mark.customer_id not in wrong], at=at)
    named = [(names.get(item.customer_id, f"number {item.customer_id}"), item) for item in found]
    return Verified(counts | usage_counts, named)


_WAITING = "coalesce(w.version, 0) - CASE WHEN %(full)s::boolean THEN 0 ELSE coalesce(v.version, 0) END"
_CUSTOMERS_WAITING = """billing_customer c LEFT JOIN billing_wallet w ON w.customer_id = c.id
    LEFT JOIN billing_verifiedwallet v ON v.customer_id = c.id"""


def _scopes(*, full: bool, shares: int) -> Iterator[Scope]:
    """All customers in order of number, in runs with not too many movements.

    Runs are even, and so many for each of the shares: whoever works on one of them ends when the others do.
    """
    ((total,),) = fetch(f"SELECT coalesce(sum({_WAITING}), 0) FROM {_CUSTOMERS_WAITING}", {"full": full})
    even = total / shares / max(math.ceil(total / shares / _MOVEMENTS), 1)
    last = 0
    while True:
        page = fetch(
            f"SELECT c.id, {_WAITING} FROM {_CUSTOMERS_WAITING}"
            " WHERE c.id > %(last)s::bigint ORDER BY c.id LIMIT %(limit)s",
            {"full": full, "last": last, "limit": _CUSTOMERS},
        )
        if not page:
            return
        first, movements = page[0][0], 0
        for customer_id, waiting in page:
            if movements and (movements >= even or movements + waiting > _MOVEMENTS):
                break
            movements += waiting
            last = customer_id
        yield Scope(first, last, full)
