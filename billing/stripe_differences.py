"""What Stripe's books and ours say differently: each once, with an alarm until it is gone or somebody explains it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import alarms
from billing.models import StripeDifference, StripeTransaction
from relayadmin.db import in_transaction

SOURCE = "stripe"


class CannotExplain(ValueError):
    """Without a note nothing is explained; what is explained or gone needs none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A difference that a run has found; of a transaction of Stripe's, or of an amount of ours in a currency."""

    kind: StripeDifference.Kind
    subject: str
    message: str
    advice: str
    row: StripeTransaction | None = None
    amount: Decimal | None = None
    of: str = ""


def report(found: Sequence[Found], *, at: datetime) -> int:
    """Keep what was found, end what is gone, bring the alarms up to date; how many are open and not explained."""

    def work() -> None:
        for one in sorted(found, key=lambda each: (each.kind, each.subject)):
            told = {
                "message": one.message[:500],
                "advice": one.advice[:500],
                "amount": one.amount if one.row is None else one.row.amount,
                "currency": one.of if one.row is None else one.row.currency,
                "last_seen": at,
                "resolved_at": None,
            }
            StripeDifference.objects.update_or_create(
                kind=one.kind, subject=one.subject, defaults=told, create_defaults={**told, "first_seen": at}
            )
        StripeDifference.objects.filter(resolved_at=None, last_seen__lt=at).update(resolved_at=at)

    in_transaction(work)
    watch(at=at)
    return still_open()


def still_open() -> int:
    """How many differences nobody has explained."""
    return StripeDifference.objects.filter(resolved_at=None, explained_at=None).count()


def explain(*, number: int, note: str, person: str, at: datetime) -> None:
    """Note why a difference is all right. Raises CannotExplain."""
    if not note.strip() or len(note) > 500 or "\x00" in note:
        raise CannotExplain("a note of 1 to 500 characters is needed; it stays with the difference")
    fresh = StripeDifference.objects.filter(pk=number, resolved_at=None, explained_at=None)
    if not fresh.update(note=note, explained_by=person, explained_at=at):
        raise CannotExplain("this difference was explained before, or is gone")
    watch(at=at)


def watch(*, at: datetime) -> alarms.Watched:
    """An alarm for each kind of difference that is open and not explained."""
    rows = StripeDifference.objects.filter(resolved_at=None, explained_at=None).order_by("pk")
    counts = Counter(rows.values_list("kind", flat=True))
    seen = [_sighting(kind, count, rows.filter(kind=kind)[0]) for kind, count in sorted(counts.items())]
    return alarms.report(seen, source=SOURCE, at=at)


def _sighting(kind: str, count: int, first: StripeDifference) -> alarms.Sighting:
    label = StripeDifference.Kind(kind).label
    return alarms.Sighting(
        kind=f"{SOURCE}.{kind}",
        subject="",
        label=label,
        count=count,
        message=first.message if count == 1 else f"{label}: {count:,} differences with Stripe's books.",
        advice=first.advice,
    )
