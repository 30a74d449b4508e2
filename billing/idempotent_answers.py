"""How long the first answer to a write with an `Idempotency-Key` is kept, and so for how long the key holds."""

from datetime import datetime, timedelta

from billing.models import IdempotentAnswer

KEPT = timedelta(days=7)
REMOVED_AT_ONCE = 1_000


def remove_old_answers(*, at: datetime) -> int:
    """Delete up to 1,000 answers given more than seven days ago, the oldest rows first; returns how many."""
    # By id, because that is nearly the order of time: the index leads to the old ones, none of their own is needed.
    old = IdempotentAnswer.objects.filter(created_at__lt=at - KEPT).order_by("pk").values("pk")[:REMOVED_AT_ONCE]
    deleted, _ = IdempotentAnswer.objects.filter(pk__in=old).delete()
    return deleted
