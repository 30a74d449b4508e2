"""Events rated again: at the prices that the book has by now for each event's own moment.

First a preview, which changes nothing; then the same again with the wallets locked, in transactions of a page each.
What an event counts for afterwards is what it would have been charged, had the book been right when it came. So a scope
can be rated again any number of times: where nothing differs, nothing happens.

An event keeps its model, channel and account. Without `is_reparse` it keeps its quantities too: one whose usage today's
parser reads differently is left alone and counted, as is one that has no price now.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from secrets import token_hex
from typing import Any

import msgspec
from django.db.models import F

from billing import ledger
from metering import adjustments, formats, price_sets
from metering.adjustments import CHARGED, Charged, Figures, charged_now, read_charged
from metering.formats import InvalidUsage, Usage
from metering.formats.base import Part
from metering.models import Rerating, UsageAdjustment
from metering.pricing import Asked
from metering.rating import REQUEST, RateCard, Unrateable, amount_of, rate_in_units, with_request
from metering.settlement import RatedPart, Terms, charged_by, terms_of
from metering.variants import is_in_us, variant_of
from relayadmin.db import in_transaction, number_array, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text

PAGE = 2_000
CUSTOMERS_PER_PAGE = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events: those whose call ended in [start, end), of a model or a customer if one is named (row numbers)."""

    start: datetime
    end: datetime
    model_id: int | None = None
    customer_id: int | None = None
    is_reparse: bool = False


@dataclass(slots=True)
class Sums:
    """Events that differ, and what they are charged and cost before and after; USD."""

    events: int = 0
    old_charge: Decimal = ZERO
    new_charge: Decimal = ZERO
    old_cost: Decimal = ZERO
    new_cost: Decimal = ZERO

    def add(self, old: Figures, new: "Fresh") -> None:
        self.events += 1
        self.old_charge = EXACT.add(self.old_charge, amount_of(old.charge))
        self.new_charge = EXACT.add(self.new_charge, amount_of(new.charge))
        self.old_cost = EXACT.add(self.old_cost, amount_of(old.cost))
        self.new_cost = EXACT.add(self.new_cost, amount_of(new.cost))


@dataclass(slots=True)
class Outcome:
    """How many events were looked at, the differing ones by customer number, and why others were left as they are."""

    events: int = 0
    customers: dict[int, Sums] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    rerating: Rerating | None = None


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """What an event would be rated at now; amounts in units of 10⁻¹⁵ USD."""

    model_id: int
    channel_id: int
    card: RateCard
    quantities: dict[str, int]
    charge: int
    cost: int
    parts: tuple[RatedPart, ...] = ()


_Prices = dict[str, tuple[Decimal, Decimal, int]]


def preview(scope: Scope) -> Outcome:
    """What rating the scope again would change. Writes nothing."""
    outcome, known = Outcome(), _PriceSets()
    for page in _pages(scope, after_customer=0):
        for event, fresh in _differing(page, scope, outcome, known):
            assert event.figures is not None
            outcome.customers.setdefault(event.customer_id, Sums()).add(event.figures, fresh)
    return outcome


def apply(scope: Scope, *, reason: str, actor: str, at: datetime) -> Outcome:
    """Rate the scope again and put right what differs; goes on with an interrupted job of the same scope.

    It looks at everything again, for the book may have changed since; what was put right then differs no more. Commits
    page by page. The outcome names the job, None if nothing differed.
    """
    outcome, known = Outcome(rerating=_unfinished(scope)), _PriceSets()
    for page in _pages(scope, after_customer=0):
        found = [event for event, _ in _differing(page, scope, outcome, known)]
        if not found:
            continue
        if outcome.rerating is None:
            outcome.rerating = _begin(scope, reason=reason, actor=actor, at=at)
        for customer_id, sums in _put_right(found, scope, outcome.rerating, known, at).items():
            _add_up(outcome.customers.setdefault(customer_id, Sums()), sums)
        # Whoever comes before the page's last customer is done.
        Rerating.objects.filter(pk=outcome.rerating.pk).update(reached_customer=page[-1].customer_id - 1)
    if outcome.rerating is not None:
        Rerating.objects.filter(pk=outcome.rerating.pk).update(finished_at=at)
        outcome.rerating.refresh_from_db()
    return outcome


def _add_up(total: Sums, part: Sums) -> None:
    total.events += part.events
    for name in ("old_charge", "new_charge", "old_cost", "new_cost"):
        setattr(total, name, EXACT.add(getattr(total, name), getattr(part, name)))


def _unfinished(scope: Scope) -> Rerating | None:
    return Rerating.objects.filter(**_columns(scope), finished_at=None).first()


def _begin(scope: Scope, *, reason: str, actor: str, at: datetime) -> Rerating:
    return Rerating.objects.create(**_columns(scope), reason=reason, actor=actor, created_at=at)


def _columns(scope: Scope) -> dict[str, Any]:
    return {name: getattr(scope, name) for name in Scope.__dataclass_fields__}


def _put_right(
    events: Sequence[Charged], scope: Scope, rerating: Rerating, known: "_PriceSets", at: datetime
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
    events: Sequence[Charged], scope: Scope, outcome: Outcome, known: "_PriceSets"
) -> list[tuple[Charged, Fresh]]:
    """Those events that would be rated otherwise now, and how; counts all of them."""
    terms = terms_of(sorted({event.customer_id for event in events}))
    known.load({number for event in events for number in _set_numbers(event.figures)})
    found = []
    for event in events:
        outcome.events += 1
        try:
            fresh = None if event.figures is None else rate_again(event, terms, is_reparse=scope.is_reparse)
        except Unrateable as why:
            outcome.left[why.reason] = outcome.left.get(why.reason, 0) + 1
            continue
        if fresh is not None and event.figures is not None and not known.is_same(event.figures, fresh):
            found.append((event, fresh))
    return found


def _set_numbers(figures: Figures | None) -> tuple[int, ...]:
    if figures is None:
        return ()
    return tuple(call.price_set_id for call in figures.parts) or (figures.price_set_id,)


def rate_again(event: Charged, terms: Terms, *, is_reparse: bool) -> Fresh:
    """Rate an event that was not taken back at the prices of its own moment, as the book has them now.

    Raises Unrateable: also `unreadable` if today's parser refuses its usage, and `reads_differently`.
    """
    old = event.figures
    assert old is not None
    usage = _read(event)
    if not is_reparse and not _reads_the_same(old, usage):
        raise Unrateable("reads_differently", "today's parser reads other quantities; --reparse takes them over")
    if usage.unknown:
        raise Unrateable("unknown_counter", f"usage.{usage.unknown} is above zero and not known to {event.format}")
    plan = terms.plan(event.customer_id, event.occurred_at)
    asked = Asked(
        old.model_id,
        old.channel_id,
        variant_of(usage.service_tier, usage.speed),
        is_in_us(usage.inference_geo),
        event.account_id,
        *charged_by(plan, event),
    )

    def card_of(model_id: int, prompt_tokens: int) -> RateCard:
        own = asked._replace(model_id=model_id)
        return terms.table.card(own, plan=plan, at=event.occurred_at, prompt_tokens=prompt_tokens)

    if not usage.parts:
        card = card_of(old.model_id, usage.prompt_tokens)
        quantities = with_request(usage, card).quantities
        return Fresh(old.model_id, old.channel_id, card, quantities, *rate_in_units(quantities, card))
    parts = []
    for place, part in enumerate(usage.parts):
        model_id = _model_of(part, place, usage, old, terms, is_reparse=is_reparse)
        card = card_of(model_id, part.prompt_tokens)
        quantities = part.quantities
        if place == 0 and REQUEST in card.per_one:  # The response is one request, its first call's.
            quantities = {**quantities, REQUEST: 1}
        parts.append(RatedPart(part.kind, model_id, card, quantities, *rate_in_units(quantities, card)))
    return Fresh(
        parts[0].model_id,
        old.channel_id,
        parts[0].card,
        with_request(usage, parts[0].card).quantities,
        sum(part.charge_units for part in parts),
        sum(part.cost_units for part in parts),
        tuple(parts),
    )


def _read(event: Charged) -> Usage:
    try:
        return formats.read(event.format, msgspec.json.decode(event.usage_json))
    except (InvalidUsage, KeyError) as error:
        raise Unrateable("unreadable", f"today's {event.format} refuses its usage: {error}") from error


def _reads_the_same(old: Figures, usage: Usage) -> bool:
    was = [old.quantities, *(call.quantities for call in old.parts)]
    now = [usage.quantities, *(part.quantities for part in usage.parts)]
    return [_reported(quantities) for quantities in was] == [_reported(quantities) for quantities in now]


def _reported(quantities: dict[str, int]) -> dict[str, int]:
    """Without the request itself, which prices count and no usage object does."""
    return {meter: quantity for meter, quantity in quantities.items() if meter != REQUEST}


def _model_of(part: Part, place: int, usage: Usage, old: Figures, terms: Terms, *, is_reparse: bool) -> int:
    """The model of a call inside the response: as it was, or as its name says where it was read anew."""
    is_alike = len(usage.parts) == len(old.parts)
    if is_alike and (part.model is None or not is_reparse):
        return old.parts[place].model_id
    if part.model is None:
        return old.model_id
    model_id = terms.table.catalog.resolve(part.model)
    if model_id is None:
        raise Unrateable("unknown_model", f"no model or alias is called {part.model!r}")
    return model_id


class _PriceSets:
    """The unit prices of price sets that events were rated at: (charge, cost, per) by meter."""

    def __init__(self) -> None:
        self._known: dict[int, _Prices] = {}

    def load(self, numbers: set[int]) -> None:
        """Read those that are not known yet."""
        missing = sorted(numbers - self._known.keys())
        if not missing:
            return
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT id, content -> 'meters' FROM metering_priceset WHERE id = ANY (%s::bigint[])",
                [number_array(missing)],
            )
            for number, meters in cursor.fetchall():
                self._known[number] = {
                    meter: (Decimal(price["charge"]), Decimal(price["cost"]), price["per"])
                    for meter, price in msgspec.json.decode(meters).items()
                }

    def is_same(self, old: Figures, fresh: Fresh) -> bool:
        """Whether nothing that is counted, charged or shown on a line would change."""
        was = [(call.model_id, call.quantities, call.price_set_id) for call in old.parts] or [
            (old.model_id, old.quantities, old.price_set_id)
        ]
        now = [(part.model_id, part.quantities, part.card) for part in fresh.parts] or [
            (fresh.model_id, fresh.quantities, fresh.card)
        ]
        return len(was) == len(now) and all(
            before[:2] == after[:2] and self._has_prices(before[2], after[2], before[1])
            for before, after in zip(was, now, strict=True)
        )

    def _has_prices(self, number: int, card: RateCard, quantities: dict[str, int]) -> bool:
        known = self._known[number]
        return all(
            known.get(meter) == (card.meters[meter].charge, card.meters[meter].cost, card.meters[meter].per)
            for meter in quantities
        )


def _pages(scope: Scope, *, after_customer: int) -> Iterator[list[Charged]]:
    """The scope's events as they count now, in the order of customers, in pages; read without a lock."""
    page: list[Charged] = []
    customers: set[int] = set()
    for event in _events(scope, after_customer):
        if len(page) >= PAGE or (event.customer_id not in customers and len(customers) >= CUSTOMERS_PER_PAGE):
            yield page
            page, customers = [], set()
        page.append(event)
        customers.add(event.customer_id)
    if page:
        yield page


def _events(scope: Scope, after_customer: int) -> Iterator[Charged]:
    for customer_id in _customers(scope, after_customer):
        place: tuple[datetime, int] | None = None
        while True:
            found = _events_after(scope, customer_id, place)
            yield from found
            if len(found) < PAGE:
                break
            place = (found[-1].occurred_at, found[-1].number)


def _customers(scope: Scope, after: int) -> Iterator[int]:
    """Customers with usage in the scope's hours, in order."""
    if scope.customer_id is not None:
        if scope.customer_id > after:
            yield scope.customer_id
        return
    while True:
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT w.customer_id FROM billing_wallet w WHERE w.customer_id > %s AND EXISTS ("
                "   SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id"
                "     AND h.hour > %s::timestamptz - interval '1 hour' AND h.hour < %s"
                " ) ORDER BY w.customer_id LIMIT %s",
                [after, scope.start, scope.end, CUSTOMERS_PER_PAGE],
            )
            page = [row[0] for row in cursor.fetchall()]
        if not page:
            return
        yield from page
        after = page[-1]


def _events_after(scope: Scope, customer_id: int, place: tuple[datetime, int] | None) -> list[Charged]:
    where = "e.customer_id = %s AND e.occurred_at >= %s AND e.occurred_at < %s"
    params: list[object] = [customer_id, scope.start, scope.end]
    if scope.model_id is not None:
        where += " AND (e.model_id = %s OR e.parts @> %s::jsonb)"
        params += [scope.model_id, f'[{{"model_id": {scope.model_id}}}]']
    if place is not None:
        where += " AND (e.occurred_at, e.id) > (%s, %s)"
        params += place
    chosen = f"(SELECT * FROM metering_usageevent e WHERE {where} ORDER BY e.occurred_at, e.id LIMIT {PAGE}) e"
    with server_cursor() as cursor:
        cursor.execute(f"{CHARGED.format(source=chosen)} ORDER BY e.occurred_at, e.id", params)
        return [read_charged(row) for row in cursor.fetchall()]
