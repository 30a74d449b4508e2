"""Grants that begin later: posted to the wallet when their moment has come, once, or cancelled before."""

from datetime import datetime

from billing import credits, ledger
from billing.models import ScheduledGrant
from relayadmin.db import in_transaction


class UnknownGrant(LookupError):
    """There is no such scheduled grant."""


class AlreadyPosted(Exception):
    """The grant has begun: it is in the wallet, and can be voided there."""


def post_due(*, at: datetime, limit: int = 500) -> int:
    """Post the grants whose moment has come, the longest due first, each in a transaction of its own; returns how many.

    Any number of workers may run it at once: each grant is looked at again under its wallet's lock. A grant that has
    come to its end meanwhile is posted all the same, for the expiry sweep to expire.
    """
    due = ScheduledGrant.objects.filter(posted_at=None, cancelled_at=None, effective_at__lte=at)
    return sum(
        _post(customer_id, number, at)
        for customer_id, number in due.order_by("effective_at").values_list("customer_id", "pk")[:limit]
    )


def _post(customer_id: int, number: int, at: datetime) -> bool:
    def work() -> bool:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        waiting = ScheduledGrant.objects.filter(customer_id=customer_id, pk=number, posted_at=None, cancelled_at=None)
        asked = waiting.first()
        if asked is None:
            return False
        credits.post(asked, wallet=wallet, at=at)
        waiting.update(posted_at=at)
        return True

    return in_transaction(work)


def cancel(*, customer_id: int, number: int, reason: str, actor: str, at: datetime) -> bool:
    """Keep a grant from beginning; False if it was cancelled before. Raises UnknownGrant, AlreadyPosted."""

    def work() -> bool:
        try:
            ledger.lock_wallets([customer_id])
        except ledger.UnknownCustomer as error:
            raise UnknownGrant("there is no such grant") from error
        row = ScheduledGrant.objects.filter(customer_id=customer_id, pk=number).first()
        if row is None:
            raise UnknownGrant("there is no such grant")
        if row.posted_at is not None:
            raise AlreadyPosted("the grant has begun; void it")
        if row.cancelled_at is not None:
            return False
        ScheduledGrant.objects.filter(customer_id=customer_id, pk=number).update(
            cancelled_at=at, cancelled_by=actor, cancelled_because=reason
        )
        return True

    return in_transaction(work)
