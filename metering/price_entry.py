"""Prices that an operator enters: from now or later on, in place of what holds until then.

The past is open only where usage has waited for a price all the time, as it is to an import.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from django.db.models import Q

from metering.models import Channel, Model, Price
from metering.price_changes import Owner, Term, rated_by, was_waited_for
from metering.price_checks import difference_text, second_look
from metering.price_imports import limit_percent
from metering.price_writing import OPERATOR, Written, create_rows, end_rows, record_change, remove_rows, take_lock
from metering.rating import REQUEST
from relayadmin.db import in_transaction


class CannotEnter(Exception):
    """Why a price can't be entered or withdrawn: `field` is what to change, "" if nothing would help."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Look:
    """What a price makes of what such a request paid until it begins, and `why` it needs a second look, "" if none.

    `afterwards` says what holds once it has ended, "" if it has no end or nothing does.
    """

    difference: str
    why: str
    afterwards: str = ""


def enter(owner: Owner, term: Term, *, who: str, at: datetime, is_confirmed: bool) -> Written:
    """Let a price hold from its moment on, or from `at` without one, until the next one announced for the same.

    What holds there ends at that moment, and goes on after a price that ends before. One that needs a second look, as
    it does if usage would wait once it has ended, must be confirmed. Raises CannotEnter.
    """
    if term.unit_price < 0:
        raise CannotEnter("unit_price", "A price is zero or more.")

    def work() -> Written:
        take_lock()
        begins = term.effective_from or at
        rows = _of_owner(owner)
        beside = _of_slot(rows, term)
        until = _until(beside, term, begins)
        _check_moments(replace(term, effective_from=begins), until, rows, at)
        if any(row.effective_from == begins for row in beside):
            raise CannotEnter(
                "effective_from", "Another price begins at that very moment. Withdraw it, or choose another."
            )
        entered = replace(term, effective_from=begins, effective_until=until)
        resumed = _resumed(beside, entered)
        look = _look(rows, entered, [rest for _, rest in resumed])
        if look.why and not is_confirmed:
            said = " ".join(part for part in (look.difference, look.why) if part)
            raise CannotEnter("is_confirmed", f"Look again: {said}{look.afterwards}. Tick this if it is right.")
        ended, _ = end_rows([row.pk for row in beside if _holds(row, begins)], begins)
        created = create_rows([(owner, entered)], source=OPERATOR)
        for source, rest in resumed:
            created += create_rows([(owner, rest)], source=source)
        written = Written(created, ended)
        record_change(who=who, source=OPERATOR, summary=_sentence(owner, term, begins, look), written=written)
        return written

    return in_transaction(work)


def withdraw(price_id: int, *, who: str, at: datetime) -> None:
    """Call an announced price off; what it would have ended goes on. Raises CannotEnter once it has begun."""

    def work() -> None:
        take_lock()
        row = Price.objects.filter(pk=price_id).first()
        if row is None or row.effective_from is None or row.effective_from <= at:
            raise CannotEnter("", "Only a price that has not begun can be withdrawn. Enter another one instead.")
        owner = Owner(row.channel_id, row.model_id)
        term = _term(row)
        corrected = remove_rows([row.pk])
        beside = _of_slot(_of_owner(owner), term)
        resumed = [_go_on(other, beside, row) for other in beside if other.effective_until == row.effective_from]
        what = f"{_subject(owner, term)}, {row.unit_price.normalize():f} from {row.effective_from:%Y-%m-%d %H:%M}"
        also = f", with what it corrected: price {', '.join(map(str, corrected))}" if corrected else ""
        record_change(
            who=who,
            source=OPERATOR,
            summary=f"Withdrawn: price {row.pk}, {what}{also}",
            written=Written(ended=len(resumed), withdrawn=1 + sum(resumed)),
        )

    in_transaction(work)


def _check_moments(term: Term, until: datetime | None, rows: Sequence[Price], at: datetime) -> None:
    """A term that holds from its moment `until` the next one beside the owner's `rows`. Raises CannotEnter."""
    begins = term.effective_from
    assert begins is not None
    if term.effective_until is not None and term.effective_until <= begins:
        raise CannotEnter("effective_until", "It must end after it begins.")
    if begins < at:
        alone = replace(term, effective_until=until)
        if not was_waited_for(alone, [_term(row) for row in rows], until=at):
            raise CannotEnter("effective_from", "It can't begin in the past: usage was priced without it.")


def _until(beside: Sequence[Price], term: Term, begins: datetime) -> datetime | None:
    """When the entered price ends: when the next one begins, or before that."""
    later = [row.effective_from for row in beside if row.effective_from is not None and row.effective_from > begins]
    ends = [*later, *([term.effective_until] if term.effective_until else [])]
    return min(ends, default=None)


def _resumed(beside: Sequence[Price], entered: Term) -> list[tuple[str, Term]]:
    """What goes on after an entered price that ends by itself: (source, term) of what it ends where it begins."""
    begins, until = entered.effective_from, entered.effective_until
    assert begins is not None
    if until is None or any(row.effective_from == until for row in beside):
        return []
    return [
        (row.source, replace(_term(row), effective_from=until, effective_until=_until(beside, _term(row), until)))
        for row in beside
        if _holds(row, begins) and (row.effective_until is None or until < row.effective_until)
    ]


def _go_on(row: Price, beside: Sequence[Price], withdrawn: Price) -> int:
    """Let a row hold in the time of the withdrawn one too; how many rows went with that.

    What goes on after it, being no other price, becomes one with it again.
    """
    same = replace(_term(row), effective_from=withdrawn.effective_until)
    rests = [
        other
        for other in beside
        if withdrawn.effective_until is not None
        and other.corrects_id is None
        and other.source == row.source
        and replace(_term(other), effective_until=same.effective_until) == same
    ]
    remove_rows([other.pk for other in rests])
    until = rests[0].effective_until if rests else withdrawn.effective_until
    Price.objects.filter(pk=row.pk).update(effective_until=until)
    return len(rests)


def _look(rows: Sequence[Price], entered: Term, resumed: Sequence[Term]) -> Look:
    """How an entered price looks beside its owner's rows, and what there is once it has ended."""
    begins, until = entered.effective_from, entered.effective_until
    assert begins is not None
    before = rated_by(entered, [_term(row) for row in rows], begins)
    old = None if before is None else before.unit_price
    why = second_look(old, entered.unit_price, limit_percent=limit_percent())
    afterwards = ""
    if until is not None:
        ended = {row.pk for row in _of_slot(rows, entered) if _holds(row, begins)}
        kept = [_term(row) for row in rows if row.pk not in ended]
        after = rated_by(entered, [*kept, *resumed], until)
        moment = f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if after is not None:
            afterwards = f", and {after.unit_price.normalize():f} from {moment} on"
        elif entered.meter != REQUEST:
            gap = f"ends at {moment} with no price after it: from then on usage waits and authorizations are refused"
            why = f"{why}, and {gap}" if why else gap
    return Look(difference_text(old, entered.unit_price), why, afterwards)


def _of_owner(owner: Owner) -> list[Price]:
    """All rows that a channel, or the list, has for a model."""
    whose = Q(channel_id=owner.channel_id) if owner.channel_id else Q(channel_id=None)
    return list(Price.objects.filter(whose, model_id=owner.model_id))


def _of_slot(rows: Sequence[Price], term: Term) -> list[Price]:
    """The rows of the same price at all times."""
    return [row for row in rows if _term(row).slot == term.slot]


def _holds(row: Price, at: datetime) -> bool:
    return _term(row).holds(at)


def _term(row: Price) -> Term:
    return Term(*(getattr(row, name) for name in Term.__dataclass_fields__))


def _subject(owner: Owner, term: Term) -> str:
    model = Model.objects.get(pk=owner.model_id).public_id
    where = "list" if owner.channel_id is None else f"cost at {Channel.objects.get(pk=owner.channel_id).name}"
    tier = f" above {term.above_prompt_tokens:,}" if term.above_prompt_tokens else ""
    return " ".join(part for part in (model, where, term.variant, term.meter) if part) + tier


def _sentence(owner: Owner, term: Term, begins: datetime, look: Look) -> str:
    since = f"{begins.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{_subject(owner, term)}: {look.difference} from {since}{look.afterwards}"
