"""check_ledger: the whole of the books, customers a run at a time, each run on one snapshot."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from billing import verification as ledger_checks
from billing.checks import Difference, Scope, fetch, snapshot
from billing.models import Customer
from metering import usage_checks
from metering.movement_checks import check_movements

_CUSTOMERS = 500
_MOVEMENTS = 200_000  # so many of them fit the memory of a sort; a customer with more is checked alone


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

    Whoever is right is remembered: without `full`, the next check begins after what it had up to now.
    """
    result = Verified()
    for scope in _scopes(full=full):
        with snapshot():
            found = ledger_checks.check_accounts(scope) + check_movements(scope)
            counts = ledger_checks.count_rows(scope)
            of_usage, usage_counts = usage_checks.check_usage(scope)
            wallet_marks, usage_marks = ledger_checks.read_marks(scope), usage_checks.read_marks(scope)
        found += of_usage
        for kind, number in (counts | usage_counts).items():
            result.checked[kind] = result.checked.get(kind, 0) + number
        wrong = {difference.customer_id for difference in found}
        names = dict(Customer.objects.filter(pk__in=wrong).values_list("pk", "public_id"))
        result.differences += [(names.get(item.customer_id, f"number {item.customer_id}"), item) for item in found]
        with transaction.atomic():
            ledger_checks.save_marks([mark for mark in wallet_marks if mark.customer_id not in wrong], at=at)
            usage_checks.save_marks([mark for mark in usage_marks if mark.customer_id not in wrong], at=at)
    return result


def _scopes(*, full: bool) -> Iterator[Scope]:
    """All customers in order of number, in runs with not too many movements."""
    last = 0
    while True:
        page = fetch(
            "SELECT c.id, coalesce(w.version, 0) - CASE WHEN %(full)s::boolean THEN 0 ELSE coalesce(v.version, 0) END"
            " FROM billing_customer c LEFT JOIN billing_wallet w ON w.customer_id = c.id"
            " LEFT JOIN billing_verifiedwallet v ON v.customer_id = c.id"
            " WHERE c.id > %(last)s::bigint ORDER BY c.id LIMIT %(limit)s",
            {"full": full, "last": last, "limit": _CUSTOMERS},
        )
        if not page:
            return
        first, movements = page[0][0], 0
        for customer_id, waiting in page:
            movements += waiting
            if movements > _MOVEMENTS and customer_id != first:
                break
            last = customer_id
        yield Scope(first, last, full)
