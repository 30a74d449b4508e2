"""What a price source would change in the book from a moment on. Pure.

Prices are compared as they stand from that moment on: what is over, or was settled under another price before, is
nobody's business any more. How a price was derived is remembered but is no difference. Only a first price reaches
back, to usage that nothing priced (`was_waited_for`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from decimal import Decimal

from metering.rating import REQUEST


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose prices: a channel's cost of a model, or (no channel) the model's list price."""

    channel_id: int | None
    model_id: int


@dataclass(frozen=True, slots=True)
class Term:
    """A price row. `unit_price` in USD per `per`; moments are aware datetimes, None without a bound."""

    variant: str
    meter: str
    above_prompt_tokens: int
    unit_price: Decimal
    per: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None
    derived: str = field(compare=False)

    def remaining(self, at: datetime) -> "Term | None":
        """What of it lies at or after `at`, begun ones without a beginning; None if it is over."""
        if self.effective_until is not None and self.effective_until <= at:
            return None
        if self.effective_from is None or self.effective_from > at:
            return self
        return replace(self, effective_from=None)

    def holds(self, at: datetime) -> bool:
        """Whether it is in force at a moment, the time of the day aside."""
        begun = self.effective_from is None or self.effective_from <= at
        return begun and (self.effective_until is None or at < self.effective_until)

    def overlaps(self, begin: datetime | None, end: datetime | None) -> bool:
        """Whether it is in force at any moment from `begin` to before `end`, the time of the day aside."""
        begun = end is None or self.effective_from is None or self.effective_from < end
        return begun and (begin is None or self.effective_until is None or begin < self.effective_until)

    @property
    def slot(self) -> tuple[str, str, int, time | None]:
        """What a price that changes has in common with the one before it."""
        return self.variant, self.meter, self.above_prompt_tokens, self.daily_from


@dataclass(frozen=True, slots=True)
class Held:
    """A row of the book; `is_ours` if it came from the source that is compared with."""

    id: int
    term: Term
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One price that the source has otherwise.

    `old` is what such a request pays where `new` begins (`rated_by`), None where it waits; `new` is None where the
    source has no price any more. A `new` without a beginning begins when it is approved, unless it `is_first`: then it
    holds all its own time, from the beginning. `ends` are ids of rows that end where it is approved.
    """

    owner: Owner
    old: Held | None
    new: Term | None
    ends: tuple[int, ...]
    is_first: bool = False


@dataclass(slots=True)
class Changes:
    """Rows to create at once, from the beginning of time, those left out of them, and differences that wait."""

    create: list[tuple[Owner, Term]] = field(default_factory=list)
    left_out: list[tuple[Owner, Term]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    unchanged: int = 0


def compare(
    wanted: Iterable[tuple[Owner, Sequence[Term]]], stored: Mapping[Owner, Sequence[Held]], *, at: datetime
) -> Changes:
    """What differs from `at` on. An owner without any price takes all at once, from the beginning of time.

    A variant's meter that an operator has priced is left alone. An owner that the source no longer has keeps its
    prices.
    """
    changes = Changes()
    for owner, terms in wanted:
        held = stored.get(owner)
        if held is None:
            unfit = _unfit(terms)
            changes.create += [(owner, term) for term in terms if term not in unfit]
            changes.left_out += [(owner, term) for term in terms if term in unfit]
        else:
            _compare_owner(changes, owner, terms, held, at=at)
    return changes


def approved(differences: Iterable[Difference], at: datetime) -> tuple[list[tuple[Owner, Term]], list[int]]:
    """Rows to create, none but first prices before `at`, and ids of rows to end there; without the `unfit` ones."""
    differences = list(differences)
    left_out = set(unfit(differences))
    create: list[tuple[Owner, Term]] = []
    end: list[int] = []
    for difference in differences:
        if difference in left_out:
            continue
        end += difference.ends
        if difference.new is not None and difference.is_first:
            create.append((difference.owner, difference.new))
            continue
        rest = None if difference.new is None else difference.new.remaining(at)
        if rest is not None:
            create.append((difference.owner, replace(rest, effective_from=rest.effective_from or at)))
    return create, end


def unfit(differences: Sequence[Difference]) -> list[Difference]:
    """Those that can't be approved: below zero, and what belongs together with such a one.

    The terms of one price in time hang together, for half of them would leave a gap; of first prices those that would
    rate what ought to wait (`_unfit`).
    """
    new = [(difference.owner, difference.new) for difference in differences if difference.new is not None]
    slots = {(owner, term.slot) for owner, term in new if term.unit_price < 0}
    first: dict[Owner, list[Term]] = {}
    for difference in differences:
        if difference.is_first and difference.new is not None:
            first.setdefault(difference.owner, []).append(difference.new)
    unfit_first = {owner: _unfit(terms) for owner, terms in first.items()}
    return [
        difference
        for difference in differences
        if (term := difference.new) is not None
        and ((difference.owner, term.slot) in slots or (difference.is_first and term in unfit_first[difference.owner]))
    ]


def _unfit(terms: Sequence[Term]) -> set[Term]:
    """Of an owner's first terms those below zero, and those that would stand in for one of them.

    A long prompt or a time of the day without a price is rated at the meter's other prices, a kind of request that has
    any price at the standard ones. So the meter, or the kind, goes with it, and its usage waits.
    """
    below_zero = [term for term in terms if term.unit_price < 0]
    kinds = {term.variant for term in below_zero if term.variant}
    meters = {(term.variant, term.meter) for term in below_zero if term.above_prompt_tokens or term.daily_from}
    return {
        term for term in terms if term.unit_price < 0 or term.variant in kinds or (term.variant, term.meter) in meters
    }


def was_waited_for(term: Term, held: Iterable[Term], *, until: datetime | None = None) -> bool:
    """Whether all usage that a price would rate in its time (before `until`) waits for it, so that it may reach back.

    `held` are all rows that its owner ever had. Usage of a variant waits until the variant has a row of any meter: the
    standard prices stand in for the others. Standard usage of a meter waits until that meter has one, a derived one
    too. The fee for a request is nothing that usage waits for.
    """
    end = min((moment for moment in (term.effective_until, until) if moment is not None), default=None)
    return term.meter != REQUEST and not any(
        other.variant == term.variant
        and (term.variant or other.meter == term.meter)
        and other.overlaps(term.effective_from, end)
        for other in held
    )


def rated_by(term: Term, held: Iterable[Term], at: datetime) -> Term | None:
    """By which of its owner's terms such a request is priced at a moment as long as there is no `term`.

    That of the next lower tier, of the rest of the day, or of the standard where a kind of request has any price; None
    if usage waits.
    """
    in_force = [other for other in held if other.holds(at)]
    if not any(other.variant == term.variant for other in in_force):
        return None
    standing_in = [
        other
        for other in in_force
        if other.meter == term.meter
        and other.variant in {"", term.variant}
        and other.above_prompt_tokens <= term.above_prompt_tokens
        and other.daily_from in {None, term.daily_from}
    ]
    return max(
        standing_in,
        key=lambda other: (bool(other.variant), other.daily_from is not None, other.above_prompt_tokens),
        default=None,
    )


def _compare_owner(
    changes: Changes, owner: Owner, terms: Sequence[Term], held: Sequence[Held], *, at: datetime
) -> None:
    in_force = [(row, rest) for row in held if (rest := row.term.remaining(at)) is not None]
    by_hand = {(rest.variant, rest.meter) for row, rest in in_force if not row.is_ours}
    unmatched = {rest: row for row, rest in in_force if row.is_ours and (rest.variant, rest.meter) not in by_hand}
    ever_held = [row.term for row in held]
    new: list[tuple[Term, bool]] = []
    for term in terms:
        rest = term.remaining(at)
        if (term.variant, term.meter) in by_hand:
            changes.unchanged += 1
        elif was_waited_for(term, ever_held):
            new.append((term, True))
        elif rest is None or unmatched.pop(rest, None) is not None:
            changes.unchanged += 1
        else:
            new.append((rest, False))
    changes.differences += _differences(owner, new, list(unmatched.items()), in_force, at)


def _differences(
    owner: Owner,
    new: Sequence[tuple[Term, bool]],
    unmatched: Sequence[tuple[Term, Held]],
    in_force: Sequence[tuple[Held, Term]],
    at: datetime,
) -> Iterator[Difference]:
    """One for each new (term, is it a first price), the first of a slot ending the old rows there, and one for each row
    that has no successor.
    """
    ending: dict[object, list[int]] = {}
    for rest, row in unmatched:
        ending.setdefault(rest.slot, []).append(row.id)
    for term, is_first in new:
        before = rated_by(term, [row.term for row, _ in in_force], term.effective_from or at)
        old = next((row for row, _ in in_force if row.term is before), None)
        yield Difference(owner, old, term, tuple(ending.pop(term.slot, ())), is_first)
    replaced = {term.slot for term, _ in new}
    for rest, row in unmatched:
        if rest.slot not in replaced:
            yield Difference(owner, row, None, (row.id,))
