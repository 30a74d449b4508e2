"""Imports that wait for an operator: kept as they were shown, approved or rejected as a whole, line by line left out.

Lines that need a second look (`price_checks`) are confirmed by themselves before the import can be approved. Approval
applies what was shown and nothing else: if the prices that it was compared with are no longer the same, it is refused.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from django.db.models import Q

from metering.models import Price, PriceBookSettings, PriceBookVersion, PriceImport, PriceImportLine
from metering.price_changes import Difference, Owner, Term, approved
from metering.price_checks import BELOW_ZERO, percent_change, second_look
from metering.price_writing import Written, create_rows, end_rows, record_change, take_lock
from relayadmin.db import in_transaction

Status, Decision = PriceImport.Status, PriceImportLine.Decision
_SLOT = ("kind", "channel_id", "model_id", "variant", "meter", "above_prompt_tokens", "daily_from")


class CannotDecide(Exception):
    """What an operator asked for can't be done; the message is a sentence that says why and what to do."""


def limit_percent() -> Decimal:
    """From which change on a price needs a second look, as the operator has set it."""
    percent: Decimal = PriceBookSettings.objects.get().second_look_percent
    return percent


def second_looks(differences: Iterable[Difference]) -> int:
    """How many of them need a second look."""
    limit = limit_percent()
    return sum(bool(_why(difference, limit)) for difference in differences)


def keep_pending(differences: Sequence[Difference], *, source: str, at: datetime, who: str) -> None:
    """Keep what differs as the source's one pending import. The same as before stays as it is, with its decisions."""
    limit = limit_percent()
    lines = [_line(difference, limit) for difference in differences]
    book, said = _book_digest({difference.owner for difference in differences}), _lines_digest(lines)
    pending = PriceImport.objects.filter(source=source, status=Status.PENDING)
    if lines and pending.filter(book_digest=book, lines_digest=said).exists():
        return
    pending.update(status=Status.REPLACED, decided_at=at, decided_by=who)
    if lines:
        kept = PriceImport.objects.create(
            source=source,
            created_at=at,
            created_by=who,
            book_version=PriceBookVersion.objects.get().version,
            book_digest=book,
            lines_digest=said,
        )
        for line in lines:
            line.price_import = kept
        PriceImportLine.objects.bulk_create(lines, batch_size=1_000)


def decide(line_ids: Collection[int], decision: str, *, who: str, at: datetime) -> int:
    """Confirm lines, leave them out, or ("") put them back to undecided; how many, with those that hang together.

    The lines of one price in time (now one, from a later day another) are decided together. Raises CannotDecide where
    an import is not pending any more, or a line can only be left out.
    """

    def work() -> int:
        take_lock()
        chosen = PriceImportLine.objects.select_related("price_import").filter(id__in=line_ids)
        together = Q(pk__in=())
        for line in chosen:
            if line.price_import.status != Status.PENDING:
                raise CannotDecide(f"{line.price_import} is {line.price_import.status} already.")
            together |= Q(price_import_id=line.price_import_id, **{name: getattr(line, name) for name in _SLOT})
        lines = PriceImportLine.objects.filter(together)
        if decision == Decision.CONFIRMED and lines.filter(second_look=BELOW_ZERO).exists():
            raise CannotDecide("A price below zero can't be confirmed. Leave it out.")
        told = {"decided_at": at, "decided_by": who} if decision else {"decided_at": None, "decided_by": ""}
        return lines.update(decision=decision, **told)

    return in_transaction(work)


def undecided(price_import: PriceImport) -> int:
    """How many lines still need their second look."""
    return price_import.lines.filter(decision="").exclude(second_look="").count()


def approve(import_id: int, *, who: str, at: datetime) -> Written:
    """Put what was shown into force at `at`, announced and first prices at their own moments. Raises CannotDecide."""

    def work() -> Written:
        take_lock()
        chosen = _pending(import_id)
        lines = list(chosen.lines.exclude(decision=Decision.LEFT_OUT).order_by("id"))
        _check(chosen, lines)
        create, end = approved([_difference(line) for line in lines], at)
        ended, withdrawn = end_rows(end, at)
        written = Written(create_rows(create, source=chosen.source), ended, withdrawn)
        left_out = chosen.lines.filter(decision=Decision.LEFT_OUT).count()
        record_change(
            who=who,
            source=chosen.source,
            summary=f"{chosen} approved: {len(lines):,} lines, {left_out:,} left out",
            written=written,
            price_import=chosen,
        )
        _close(chosen, Status.APPROVED, who=who, at=at)
        return written

    return in_transaction(work)


def reject(import_id: int, *, who: str, at: datetime) -> None:
    """Leave the book as it is; the next import shows the difference again. Raises CannotDecide."""

    def work() -> None:
        take_lock()
        _close(_pending(import_id), Status.REJECTED, who=who, at=at)

    in_transaction(work)


def _pending(import_id: int) -> PriceImport:
    chosen = PriceImport.objects.filter(pk=import_id).first()
    if chosen is None or chosen.status != Status.PENDING:
        raise CannotDecide(f"Price import {import_id} is {chosen.status if chosen else 'gone'} already.")
    return chosen


def _check(chosen: PriceImport, lines: Sequence[PriceImportLine]) -> None:
    if not lines:
        raise CannotDecide("Every line is left out: there is nothing to approve. Reject it instead.")
    waiting = undecided(chosen)
    if waiting:
        raise CannotDecide(
            f"Lines that still need a second look: {waiting:,}. Confirm or leave out each of them first."
        )
    owners = {Owner(*pair) for pair in chosen.lines.values_list("channel_id", "model_id")}
    if _book_digest(owners) != chosen.book_digest:
        raise CannotDecide(
            "Prices have changed since this difference was shown, so it is not what would happen. Run"
            " “python manage.py import_prices” again and look at the new difference."
        )


def _close(chosen: PriceImport, status: str, *, who: str, at: datetime) -> None:
    chosen.status, chosen.decided_by, chosen.decided_at = status, who, at
    chosen.save(update_fields=["status", "decided_by", "decided_at"])


def _why(difference: Difference, limit: Decimal) -> str:
    old = difference.old.term.unit_price if difference.old else None
    return second_look(old, difference.new.unit_price if difference.new else None, limit_percent=limit)


def _line(difference: Difference, limit: Decimal) -> PriceImportLine:
    term = difference.new or (difference.old.term if difference.old else None)
    assert term is not None
    old = difference.old.term.unit_price if difference.old else None
    new = difference.new.unit_price if difference.new else None
    return PriceImportLine(
        kind=Price.Kind.CHARGE if difference.owner.channel_id is None else Price.Kind.COST,
        channel_id=difference.owner.channel_id,
        model_id=difference.owner.model_id,
        variant=term.variant,
        meter=term.meter,
        above_prompt_tokens=term.above_prompt_tokens,
        per=term.per,
        daily_from=term.daily_from,
        daily_until=term.daily_until,
        old_price_id=difference.old.id if difference.old else None,
        old_unit_price=old,
        unit_price=new,
        percent=percent_change(old, new),
        effective_from=term.effective_from if difference.new else None,
        effective_until=term.effective_until if difference.new else None,
        derived=term.derived,
        ends=list(difference.ends),
        is_first=difference.is_first,
        second_look=_why(difference, limit),
    )


def _difference(line: PriceImportLine) -> Difference:
    """What a line says, to be applied; the old price is of no account there."""
    term = Term(
        variant=line.variant,
        meter=line.meter,
        above_prompt_tokens=line.above_prompt_tokens,
        unit_price=line.unit_price,
        per=line.per,
        effective_from=line.effective_from,
        effective_until=line.effective_until,
        daily_from=line.daily_from,
        daily_until=line.daily_until,
        derived=line.derived,
    )
    new = None if line.unit_price is None else term
    return Difference(Owner(line.channel_id, line.model_id), None, new, tuple(line.ends), line.is_first)


def _lines_digest(lines: Iterable[PriceImportLine]) -> str:
    fields = PriceImportLine._meta.concrete_fields
    names = [field.attname for field in fields if field.name not in {"id", "price_import"}]
    said = sorted(repr([_plain(getattr(line, name)) for name in names]) for line in lines)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _book_digest(owners: Collection[Owner]) -> str:
    """Names the price rows of these owners, as they are now."""
    columns = ("id", "channel_id", "model_id", "unit_price", "effective_from", "effective_until")
    rows = Price.objects.filter(model_id__in={owner.model_id for owner in owners}).order_by("id").values_list(*columns)
    said = (repr([_plain(value) for value in row]) for row in rows if Owner(row[1], row[2]) in owners)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _plain(value: object) -> object:
    """The same text for the same value, however many zeros or which offset it came with."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
