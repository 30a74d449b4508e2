"""Events rated again: at the prices that the book has by now for each event's own moment.

First a preview, which changes nothing; then the same again with the wallets locked, in transactions of a page each.
What an event counts for afterwards is what it would have been charged, had the book been right when it came. So a scope
can be rated again any number of times: where nothing differs, nothing happens.

An event keeps its model, channel and account. Without `is_reparse` it is rated by what it was rated by: one of which
today's parser reads something else that decides a price is left alone and counted, as is one that has no price now, and
one whose invoice is void: all of that was credited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from secrets import token_hex
from typing import Any

from django.db.models import F

from billing import ledger
from billing.models import CreditNote
from metering import adjustments, price_sets, rerating_notes
from metering.adjustments import Charged, Figures, charged_now
from metering.models import Rerating, UsageAdjustment
from metering.rating import RateCard, Unrateable, amount_of
from metering.rating_again import Fresh, PriceSets, rate_again, set_numbers
from metering.rerating_pages import Scope, pages
from metering.settlement import terms_of
from relayadmin.db import in_transaction, one_at_a_time
from relayadmin.money import EXACT, ZERO, amount_text

LONGEST_REASON = 500


class CannotRerate(ValueError):
    """Why events can't be rated again, as a sentence for the operator."""


@dataclass(slots=True)
class Sums:
    """Events that differ, and what they are charged and cost before and after; USD."""

    events: int = 0
    old_charge: Decimal = ZERO
    new_charge: Decimal = ZERO
    old_cost: Decimal = ZERO
    new_cost: Decimal = ZERO

    def add(self, old: Figures, new: Fresh) -> None:
        self.events += 1
        self.old_charge = EXACT.add(self.old_charge, amount_of(old.charge))
        self.new_charge = EXACT.add(self.new_charge, amount_of(new.charge))
        self.old_cost = EXACT.add(self.old_cost, amount_of(old.cost))
        self.new_cost = EXACT.add(self.new_cost, amount_of(new.cost))


@dataclass(slots=True)
class Outcome:
    """How many events were looked at, the differing ones by customer number, and why others were left as they are.

    A preview says by customer how it would end; what was applied, which credit notes were issued.
    """

    events: int = 0
    customers: dict[int, Sums] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    rerating: Rerating | None = None
    endings: dict[int, list[rerating_notes.Ending]] = field(default_factory=dict)
    notes: list[CreditNote] = field(default_factory=list)


def preview(scope: Scope, *, by_credit_note: bool = False) -> Outcome:
    """What rating the scope again would change, and where that would stand. Writes nothing."""
    outcome, known = Outcome(), PriceSets()
    differences: dict[int, dict[date, Decimal]] = {}
    for page in pages(scope, is_waiting=False):
        for event, fresh in _differing(page, scope, outcome, known):
            assert event.figures is not None
            outcome.customers.setdefault(event.customer_id, Sums()).add(event.figures, fresh)
            of = differences.setdefault(event.customer_id, {})
            more = amount_of(fresh.charge - event.figures.charge)
            of[event.period] = EXACT.add(of.get(event.period, ZERO), more)
    for customer_id, by_period in differences.items():
        outcome.endings[customer_id] = rerating_notes.foresee(customer_id, by_period, by_credit_note=by_credit_note)
    return outcome


def apply(scope: Scope, *, reason: str, actor: str, at: datetime, by_credit_note: bool = False) -> Outcome:
    """Rate the scope again and put right what differs; goes on with an interrupted job of the same scope.

    It looks at everything again, for the book may have changed since; what was put right then differs no more. What is
    being settled at earlier prices is waited for. Commits page by page. The outcome names the job, None if nothing
    differed. `reason` stands on the transfers that customers see. With `by_credit_note`, what got cheaper of issued
    invoices is documented by credit notes in the end. Raises CannotRerate without a reason.
    """
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise CannotRerate(f"say in at most {LONGEST_REASON} characters why the events are rated again")
    columns = {**_columns(scope), "by_credit_note": by_credit_note}
    outcome, known = Outcome(rerating=_unfinished(columns)), PriceSets()
    for page in pages(scope, is_waiting=True):
        found = [event for event, _ in _differing(page, scope, outcome, known)]
        if not found:
            continue
        if outcome.rerating is None:
            outcome.rerating = _begin(columns, reason=reason, actor=actor, at=at)
        for customer_id, sums in _put_right(found, scope, outcome.rerating, known, at).items():
            _add_up(outcome.customers.setdefault(customer_id, Sums()), sums)
        # Whoever comes before the page's last customer is done.
        Rerating.objects.filter(pk=outcome.rerating.pk).update(reached_customer=page[-1].customer_id - 1)
    if outcome.rerating is not None:
        if by_credit_note:
            outcome.notes = rerating_notes.issue(outcome.rerating, at=at)
        Rerating.objects.filter(pk=outcome.rerating.pk).update(finished_at=at)
        outcome.rerating.refresh_from_db()
    return outcome


def _add_up(total: Sums, part: Sums) -> None:
    total.events += part.events
    for name in ("old_charge", "new_charge", "old_cost", "new_cost"):
        setattr(total, name, EXACT.add(getattr(total, name), getattr(part, name)))


def _unfinished(columns: Mapping[str, Any]) -> Rerating | None:
    return Rerating.objects.filter(**columns, finished_at=None).first()


def _begin(columns: Mapping[str, Any], *, reason: str, actor: str, at: datetime) -> Rerating:
    """The job of a scope: who asks for the same at once shares one, so that there is one credit note of it."""
    with one_at_a_time("rerating"):
        known = _unfinished(columns)
        return known or Rerating.objects.create(**columns, reason=reason, actor=actor, created_at=at)


def _columns(scope: Scope) -> dict[str, Any]:
    return {name: getattr(scope, name) for name in Scope.__dataclass_fields__}


def _put_right(
    events: Sequence[Charged], scope: Scope, rerating: Rerating, known: PriceSets, at: datetime
) -> dict[int, Sums]:
    """One transaction: lock, look again, rate, and put right what still differs."""
    kind = UsageAdjustment.Kind.REPARSE if scope.is_reparse else UsageAdjustment.Kind.RERATING

    def work() -> dict[int, Sums]:
        wallets = ledger.lock_wallets({event.customer_id for event in events})
        now = charged_now([(event.customer_id, event.number) for event in events])
        differing = _differing([now[key] for key in sorted(now)], scope, Outcome(), known)
        cards = {card.digest: card for _, fresh in differing for card in _cards(fresh)}
        sets = price_sets.numbers_of(cards)
        changes = [
            adjustments.Change(event, _figures(fresh, sets), kind, rerating_id=rerating.pk)
            for event, fresh in differing
        ]
        job = f"rerating:{rerating.pk}:{token_hex(4)}"
        adjustments.adjust(changes, wallets=wallets, job=job, reason=rerating.reason, at=at)
        by_customer: dict[int, Sums] = {}
        total = Sums()
        for event, fresh in differing:
            assert event.figures is not None
            for sums in (by_customer.setdefault(event.customer_id, Sums()), total):
                sums.add(event.figures, fresh)
        names = Sums.__dataclass_fields__
        Rerating.objects.filter(pk=rerating.pk).update(**{name: F(name) + getattr(total, name) for name in names})
        return by_customer

    return in_transaction(work)


def _cards(fresh: Fresh) -> tuple[RateCard, ...]:
    return tuple(part.card for part in fresh.parts) or (fresh.card,)


def _figures(fresh: Fresh, sets: dict[bytes, int]) -> Figures:
    parts = tuple(
        adjustments.Call(
            part.kind,
            part.model_id,
            sets[part.card.digest],
            part.quantities,
            amount_text(amount_of(part.charge_units)),
            amount_text(amount_of(part.cost_units)),
        )
        for part in fresh.parts
    )
    return Figures(
        fresh.model_id,
        fresh.channel_id,
        sets[fresh.card.digest],
        fresh.quantities,
        fresh.charge,
        fresh.cost,
        parts,
    )


def _differing(
    events: Sequence[Charged], scope: Scope, outcome: Outcome, known: PriceSets
) -> list[tuple[Charged, Fresh]]:
    """Those events that would be rated otherwise now, and how; counts all of them."""
    terms = terms_of(sorted({event.customer_id for event in events}))
    void = rerating_notes.void_periods({event.customer_id for event in events})
    known.load({number for event in events for number in set_numbers(event.figures)})
    found = []
    for event in events:
        outcome.events += 1
        if any(after < event.period <= through for after, through in void.get(event.customer_id, ())):
            outcome.left["invoice_void"] = outcome.left.get("invoice_void", 0) + 1
            continue
        try:
            fresh = None if event.figures is None else rate_again(event, terms, known, is_reparse=scope.is_reparse)
        except Unrateable as why:
            outcome.left[why.reason] = outcome.left.get(why.reason, 0) + 1
            continue
        if fresh is not None and event.figures is not None and not known.is_same(event.figures, fresh):
            found.append((event, fresh))
    return found
