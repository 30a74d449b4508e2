"""Writing to the price book: rows that begin or end at a moment, and a record of who made which version of it.

Rows of the past are never touched. Everything here belongs into the caller's transaction.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from metering.models import Price, PriceBookChange, PriceBookVersion, PriceImport
from metering.price_changes import Owner, Term
from metering.pricing import bump_version
from relayadmin.db import copy_rows, copy_text, server_cursor

LOCK = 7_246_011_907
OPERATOR = "operator"
_COPIED = (
    "kind, channel_id, model_id, variant, meter, above_prompt_tokens, unit_price, per,"
    " effective_from, effective_until, daily_from, daily_until, derived, source, created_at"
)


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were added, ended at a moment, and removed because they had not begun."""

    created: int = 0
    ended: int = 0
    withdrawn: int = 0

    @property
    def is_any(self) -> bool:
        return bool(self.created or self.ended or self.withdrawn)


def take_lock() -> None:
    """Wait for others who change prices to commit; held until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def create_rows(rows: Sequence[tuple[Owner, Term]], *, source: str) -> int:
    """Add price rows; how many."""
    if rows:
        created_at = timezone.now()
        with server_cursor() as cursor:
            lines = [_line(owner, term, source, created_at) for owner, term in rows]
            copy_rows(cursor, Price._meta.db_table, _COPIED, lines)
    return len(rows)


def end_rows(price_ids: Collection[int], at: datetime) -> tuple[int, int]:
    """End rows at a moment; those that would begin then or later go. How many ended, and how many went."""
    chosen = Price.objects.filter(id__in=price_ids)
    not_begun = list(chosen.filter(effective_from__gte=at).values_list("id", flat=True))
    remove_rows(not_begun)
    ended = chosen.filter(Q(effective_until=None) | Q(effective_until__gt=at)).update(effective_until=at)
    return ended, len(not_begun)


def remove_rows(price_ids: Collection[int]) -> list[int]:
    """Remove rows that have not begun, with those that they correct; the numbers of the corrected ones.

    What was corrected is nobody's price any more: left behind, it would be a correction without a price.
    """
    corrected: list[int] = []
    numbers = set(price_ids)
    while numbers:
        rows = Price.with_superseded.filter(pk__in=numbers)
        numbers = set(rows.exclude(corrects=None).values_list("corrects_id", flat=True))
        rows.delete()
        corrected += sorted(numbers)
    return corrected


def record_change(
    *, who: str, source: str, summary: str, written: Written = Written(), price_import: PriceImport | None = None
) -> int:
    """Give the book a new version, which every process sees, and say who made it; its number."""
    bump_version()
    version = PriceBookVersion.objects.get().version
    PriceBookChange.objects.create(
        version=version,
        changed_at=timezone.now(),
        who=who,
        source=source,
        summary=summary[:500],
        created=written.created,
        ended=written.ended,
        withdrawn=written.withdrawn,
        price_import=price_import,
    )
    return version


def _line(owner: Owner, term: Term, source: str, created_at: datetime) -> str:
    kind = Price.Kind.CHARGE if owner.channel_id is None else Price.Kind.COST
    fields = (
        kind.value,
        owner.channel_id,
        owner.model_id,
        term.variant,
        term.meter,
        term.above_prompt_tokens,
        term.unit_price,
        term.per,
        term.effective_from,
        term.effective_until,
        term.daily_from,
        term.daily_until,
        copy_text(term.derived),
        copy_text(source),
        created_at,
    )
    return "\t".join("\\N" if value is None else str(value) for value in fields)
