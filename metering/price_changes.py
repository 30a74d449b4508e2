"""What a price source would change in the book from a moment on. Pure.

Prices are compared as they stand from that moment on: what is over, or was settled under another price before, is
nobody's business any more. How a price was derived is remembered but is no difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from decimal import Decimal


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


@dataclass(slots=True)
class Changes:
    """Rows to create, ids to end at the moment, and ids to remove: announced for later, taken back, never in force.

    `pending` counts what would be written if it were approved.
    """

    create: list[tuple[Owner, Term]] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    withdraw: list[int] = field(default_factory=list)
    unchanged: int = 0
    pending: int = 0

    @property
    def is_any(self) -> bool:
        return bool(self.create or self.end or self.withdraw)


def compare(
    wanted: Iterable[tuple[Owner, Sequence[Term]]],
    stored: Mapping[Owner, Sequence[Held]],
    *,
    approve: bool,
    at: datetime,
) -> Changes:
    """The difference. An owner without any price takes all at once, from the beginning of time.

    Elsewhere a difference needs `approve` and begins at `at`. A variant's meter that an operator has priced is left
    alone. An owner that the source no longer has keeps its prices.
    """
    changes = Changes()
    for owner, terms in wanted:
        held = stored.get(owner)
        if held is None:
            changes.create += [(owner, term) for term in terms]
        else:
            _compare_owner(changes, owner, terms, held, approve=approve, at=at)
    return changes


def _compare_owner(
    changes: Changes,
    owner: Owner,
    terms: Sequence[Term],
    held: Sequence[Held],
    *,
    approve: bool,
    at: datetime,
) -> None:
    in_force = [(row, rest) for row in held if (rest := row.term.remaining(at)) is not None]
    by_hand = {(rest.variant, rest.meter) for row, rest in in_force if not row.is_ours}
    unmatched = {rest: row for row, rest in in_force if row.is_ours and (rest.variant, rest.meter) not in by_hand}
    new: list[Term] = []
    for term in terms:
        rest = term.remaining(at)
        if rest is None or (rest.variant, rest.meter) in by_hand or unmatched.pop(rest, None) is not None:
            changes.unchanged += 1
        else:
            new.append(replace(rest, effective_from=rest.effective_from or at))
    if approve:
        changes.create += [(owner, term) for term in new]
        for row in unmatched.values():
            is_ahead = row.term.effective_from is not None and row.term.effective_from >= at
            (changes.withdraw if is_ahead else changes.end).append(row.id)
    else:
        replaced = {term.slot for term in new}
        changes.pending += len(new) + sum(rest.slot not in replaced for rest in unmatched)
