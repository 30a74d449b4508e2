"""Settlement: events are stored and charged in one transaction, for at most 500 customers at a time.

Inside it: lock the wallets in customer order; take the event ids, so that only what is new goes on; rate at the prices
of each event's moment; settle holds; burn down grants and post one transfer per customer and billing period; store the
events; add them to the hourly usage. What can't be rated yet is parked in the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from secrets import token_hex
from zoneinfo import ZoneInfo

import msgspec
from django.db import DataError, IntegrityError, connection

from billing import credits, holds, ledger, spending
from billing.periods import billing_period, month_of
from metering import corrections, event_store, price_sets, pricing, spend
from metering.adjustments import Charged
from metering.ingestion import Event, chunks, event_digest
from metering.plan_terms import KNOWN, PlanTerms
from metering.pricing import Account, Asked, PriceTable
from metering.rating import REQUEST, RateCard, Unrateable, amount_of, rate_in_units, with_request
from metering.spend import key_scope
from metering.variants import is_in_us, variant_of
from relayadmin import ids
from relayadmin.db import in_transaction, number_array, server_cursor, wait_for_disk
from relayadmin.money import ZERO

CUSTOMERS_PER_TRANSACTION = 500
CLOCK_AHEAD = timedelta(minutes=5)


@dataclass(slots=True)
class Result:
    """What became of the events of one or more transactions; `culprits` could not be stored, with the reason."""

    accepted: int = 0
    duplicates: int = 0
    parked: int = 0
    culprits: list[tuple[Event, str]] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.parked += other.parked
        self.culprits += other.culprits


class RatedPart(msgspec.Struct, frozen=True, gc=False):
    """One of several calls inside a response, by its own model's prices; amounts in units of 10⁻¹⁵ USD."""

    kind: str
    model_id: int
    card: RateCard
    quantities: dict[str, int]
    charge_units: int
    cost_units: int


class Rated(msgspec.Struct, gc=False):
    """An event with its price, in units of 10⁻¹⁵ USD, and the billing period it belongs to.

    Where the response held several calls, `parts` adds up to the amounts, and model and card are the first's.
    """

    event: Event
    model_id: int
    channel_id: int
    card: RateCard
    charge_units: int
    cost_units: int
    period: date
    account_id: int | None = None
    parts: tuple[RatedPart, ...] = ()
    hold_number: int | None = None
    transfer_id: int | None = None


def settle(events: Sequence[Event], *, at: datetime) -> Result:
    """Store and charge attributed events, each at most once per (customer, id); commits as it goes.

    All of it is on disk when this returns; the commits on the way don't wait for that one by one. Raises
    django.db.OperationalError if the database fails: what stands then counts as duplicates when the events come again.
    """
    for event in events:
        event.digest = event_digest(event)
    result = Result()
    runs = list(chunks(list(events), CUSTOMERS_PER_TRANSACTION))
    if len(runs) > 1:
        # Nobody waits for a lock while there is other work: customers that are busy now come last.
        busy: list[Event] = []
        for chunk in runs:
            done, left = _settle_free(chunk, at)
            result.add(done)
            busy += left
        runs = list(chunks(busy, CUSTOMERS_PER_TRANSACTION))
    for chunk in runs:
        result.add(_settle_or_bisect(chunk, at))
    wait_for_disk()
    return result


def _settle_free(chunk: list[Event], at: datetime) -> tuple[Result, list[Event]]:
    """One transaction for those customers whose wallet nobody has locked; returns the events of the others too.

    Where a statement fails on data, all of the chunk is left to be tried again.
    """

    def work() -> tuple[Result, list[Event]]:
        wallets = ledger.lock_free_wallets({event.customer_id for event in chunk})
        free = [event for event in chunk if event.customer_id in wallets]
        if not free:
            return Result(), chunk
        return _settle_locked(free, wallets, at), [event for event in chunk if event.customer_id not in wallets]

    try:
        return in_transaction(work, is_on_disk=False)
    except (DataError, IntegrityError):
        return Result(), chunk


def _settle_or_bisect(chunk: list[Event], at: datetime) -> Result:
    """One transaction; where a statement fails on data, parts of it, until the culprit is alone."""
    try:
        return in_transaction(lambda: _settle_chunk(chunk, at), is_on_disk=False)
    except (DataError, IntegrityError) as error:
        if len(chunk) == 1:
            return Result(culprits=[(chunk[0], str(error).splitlines()[0])])
    cut = _middle(chunk)
    result = _settle_or_bisect(chunk[:cut], at)
    result.add(_settle_or_bisect(chunk[cut:], at))
    return result


def _middle(chunk: list[Event]) -> int:
    """Where to cut: between customers while there are several, so that one's bad event splits nobody else's charge."""
    half = len(chunk) // 2
    middle = chunk[half].customer_id
    if chunk[0].customer_id != middle:
        return next(place for place, event in enumerate(chunk) if event.customer_id == middle)
    return next((place for place, event in enumerate(chunk) if event.customer_id != middle), half)


def _settle_chunk(chunk: list[Event], at: datetime) -> Result:
    return _settle_locked(chunk, ledger.lock_wallets({event.customer_id for event in chunk}), at)


def _settle_locked(chunk: list[Event], wallets: dict[int, ledger.LockedWallet], at: datetime) -> Result:
    new, repeated = event_store.take_ids(chunk)
    event_store.record_conflicts(repeated, at=at)
    result = _charge(new, wallets=wallets, at=at)
    result.duplicates += len(repeated)
    return result


def rateable(events: Sequence[Event], *, at: datetime) -> tuple[list[Event], list[tuple[Event, Unrateable]]]:
    """Those waiting events that could be rated now, and what the others wait for; judged cheaply, without a lock."""
    if not events:
        return [], []
    terms = terms_of(sorted({event.customer_id for event in events}))
    ready: list[Event] = []
    waiting: list[tuple[Event, Unrateable]] = []
    for event in events:
        try:
            _rate_one(event, terms, None, at)
            ready.append(event)
        except Unrateable as reason:
            waiting.append((event, reason))
    follow = corrections.still_waiting([event for event in ready if event.replaces is not None])
    if follow:
        waiting += [(event, follow[event.number]) for event in ready if event.number in follow]
        ready = [event for event in ready if event.number not in follow]
    return ready, waiting


def settle_parked(parked: Sequence[Event], *, at: datetime) -> set[int]:
    """Try events again whose ids were taken when they were parked; returns the numbers of those now charged.

    The caller holds no lock; each event must still be parked, which is judged under the wallet's lock.
    """

    def work() -> set[int]:
        wallets = ledger.lock_wallets({event.customer_id for event in parked})
        waiting = event_store.still_parked(parked)
        before = [event for event in parked if (event.customer_id, event.number) in waiting]
        rated, _ = _rate_all(before, wallets=wallets, at=at)
        stored, refused, _ = _store_and_correct(rated, wallets=wallets, at=at)
        for events, resolution in (
            ([item.event for item in stored], "settled"),
            ([item[0] for item in refused], "refused"),
        ):
            event_store.resolve_parked(
                [(event.customer_id, event.number) for event in events], at=at, resolution=resolution
            )
        return {item.event.number for item in stored}

    return in_transaction(work)


def charge_parked(parked: Sequence[Event], *, wallets: dict[int, ledger.LockedWallet], at: datetime) -> list[Event]:
    """Charge waiting events of locked wallets, whatever they replace; returns those that have a price."""
    rated, _ = _rate_all(list(parked), wallets=wallets, at=at)
    _store(rated, wallets=wallets, at=at)
    return [item.event for item in rated]


def _charge(events: list[Event], *, wallets: dict[int, ledger.LockedWallet], at: datetime) -> Result:
    rated, parked = _rate_all(events, wallets=wallets, at=at)
    # Before corrections are judged: what they name may be among these.
    event_store.park(parked, at=at)
    stored, refused, waiting = _store_and_correct(rated, wallets=wallets, at=at)
    event_store.park(waiting, at=at)
    event_store.park(refused, at=at, resolution="refused")
    return Result(accepted=len(stored), parked=len(parked) + len(waiting), duplicates=len(refused))


def _rate_all(
    events: list[Event], *, wallets: dict[int, ledger.LockedWallet], at: datetime
) -> tuple[list[Rated], list[tuple[Event, Unrateable]]]:
    if not events:
        return [], []
    terms = terms_of(sorted({event.customer_id for event in events}))
    rated: list[Rated] = []
    parked: list[tuple[Event, Unrateable]] = []
    for event in events:
        try:
            rated.append(_rate_one(event, terms, wallets[event.customer_id].closed_through, at))
        except Unrateable as reason:
            parked.append((event, reason))
    return rated, parked


@dataclass(frozen=True, slots=True)
class Terms:
    """What a transaction rates by: prices, the operator's time zone, and customers' plans in the order of time."""

    table: PriceTable
    zone: ZoneInfo
    plans: dict[int, list[tuple[datetime | None, int]]]

    def plan(self, customer_id: int, at: datetime) -> PlanTerms:
        """The plan that a customer was on at a moment."""
        if not self.plans:
            return self.table.list_plan
        number = None
        for begins, plan_id in self.plans.get(customer_id, ()):
            if begins is None or begins <= at:
                number = plan_id
        return self.table.plan(number)


def terms_of(customer_ids: list[int]) -> Terms:
    """The terms of these customers as they are now."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT v.version, s.timezone, p.customer_id, p.effective_from, p.plan_id"
            " FROM (SELECT 1) AS one"
            " LEFT JOIN metering_pricebookversion v ON v.id = 1"
            " LEFT JOIN billing_operatorsettings s ON s.id = 1"
            " LEFT JOIN metering_customerplan p ON p.customer_id = ANY (%s::bigint[])"
            " ORDER BY p.effective_from NULLS FIRST",
            [number_array(customer_ids)],
            binary=True,
        )
        rows = cursor.fetchall()
    version, zone = rows[0][:2]
    plans: dict[int, list[tuple[datetime | None, int]]] = {}
    for _, _, customer_id, begins, plan_id in rows:
        if customer_id is not None:
            plans.setdefault(customer_id, []).append((begins, plan_id))
    return Terms(pricing.at_version(version), ZoneInfo(zone), plans)


def _rate_one(event: Event, terms: Terms, closed_through: date | None, at: datetime) -> Rated:
    """Price one event at its own moment. Raises Unrateable with the reason to park it."""
    table, usage = terms.table, event.usage
    words = (
        event.model,
        event.channel,
        event.upstream_account,
        usage.service_tier,
        usage.speed,
        usage.inference_geo,
    )
    asked = table.asked.get(words)
    if asked is None:
        model_id, channel_id, account_id = _names_of(event, table)
    if event.occurred_at - at > CLOCK_AHEAD:
        raise Unrateable("clock_ahead", f"occurred_at is more than five minutes ahead of our clock, {at.isoformat()}")
    if usage.unknown:
        raise Unrateable("unknown_counter", f"usage.{usage.unknown} is above zero and not known to {event.format}")
    if asked is None:
        variant, in_us = variant_of(usage.service_tier, usage.speed), is_in_us(usage.inference_geo)
        asked = Asked(model_id, channel_id, variant, in_us, account_id)
        table.remember(words, asked)
    plan = terms.plan(event.customer_id, event.occurred_at)
    if event.status != "completed":
        charged, status = charged_by(plan, event)
        asked = asked._replace(charged=charged, status=status)
    period = billing_period(month_of(event.occurred_at, terms.zone, event.epoch_s), closed_through)
    if usage.parts:
        return _rate_parts(event, table, plan, asked, period)
    card = table.card(asked, plan=plan, at=event.occurred_at, prompt_tokens=usage.prompt_tokens)
    if REQUEST in card.per_one:
        event.count_as(with_request(usage, card))
    charge, cost = rate_in_units(event.usage.quantities, card)
    return Rated(event, asked.model_id, asked.channel_id, card, charge, cost, period, asked.account_id)


def _names_of(event: Event, table: PriceTable) -> tuple[int, int, int | None]:
    """(model, channel, upstream account) that an event names. Raises Unrateable."""
    model_id = _model(table, event.model)
    account = _account(table, event)
    account_id = None if account is None else account.id
    if event.channel is None:
        channel_id = table.catalog.models[model_id].maker_channel_id if account is None else account.channel_id
        return model_id, channel_id, account_id
    named = table.catalog.channels.get(event.channel)
    if named is None:
        raise Unrateable("unknown_channel", f"no channel is called {event.channel!r}")
    if account is not None and account.channel_id != named:
        raise Unrateable(
            "unknown_upstream_account", f"the account {account.name!r} is not at channel {event.channel!r}"
        )
    return model_id, named, account_id


def _rate_parts(event: Event, table: PriceTable, plan: PlanTerms, asked: Asked, period: date) -> Rated:
    """Price a response that holds several calls: each by its own model, in the tier of its own prompt."""
    parts = []
    for place, part in enumerate(event.usage.parts):
        model_id = asked.model_id if part.model is None else _model(table, part.model)
        own = asked._replace(model_id=model_id)
        card = table.card(own, plan=plan, at=event.occurred_at, prompt_tokens=part.prompt_tokens)
        quantities = part.quantities
        if place == 0 and REQUEST in card.per_one:  # The response is one request, its first call's.
            quantities = {**quantities, REQUEST: 1}
            event.count_as(with_request(event.usage, card))
        parts.append(RatedPart(part.kind, model_id, card, quantities, *rate_in_units(quantities, card)))
    return Rated(
        event,
        parts[0].model_id,
        asked.channel_id,
        parts[0].card,
        sum(part.charge_units for part in parts),
        sum(part.cost_units for part in parts),
        period,
        asked.account_id,
        tuple(parts),
    )


def _model(table: PriceTable, name: str) -> int:
    model_id = table.catalog.resolve(name)
    if model_id is None:
        raise Unrateable("unknown_model", f"no model or alias is called {name!r}")
    return model_id


def _account(table: PriceTable, event: Event) -> Account | None:
    if event.upstream_account is None:
        return None
    account = table.account(event.upstream_account)
    if account is None:
        raise Unrateable("unknown_upstream_account", f"no upstream account is called {event.upstream_account!r}")
    return account


def charged_by(plan: PlanTerms, event: Event | Charged) -> tuple[str, str]:
    """What of the event its customer pays for, and the status that is the reason where it is not all."""
    charged = plan.charged_for(event.status, event.occurred_at)
    return (KNOWN, "completed") if charged == KNOWN else (charged, event.status)


def _store_and_correct(
    rated: list[Rated], *, wallets: dict[int, ledger.LockedWallet], at: datetime
) -> tuple[list[Rated], list[corrections.Verdict], list[corrections.Verdict]]:
    """Charge rated events, corrections after all others; returns those charged, those refused and those that wait."""
    stored = [item for item in rated if item.event.replaces is None]
    _store(stored, wallets=wallets, at=at)
    refused: list[corrections.Verdict] = []
    waiting: list[tuple[Rated, Unrateable]] = []
    left: list[Rated] = []
    if len(stored) < len(rated):
        left = sorted((item for item in rated if item.event.replaces is not None), key=_index)
    for _ in range(corrections.WAVES):
        if not left:
            break
        judged = corrections.judge(left)
        _replace(judged, wallets=wallets, at=at)
        stored += judged.ready
        refused += judged.refused
        waiting, left = judged.waiting, [item for item, _ in judged.waiting] if judged.ready else []
    event_store.record_refused(refused, at=at)
    return stored, refused, [(item.event, why) for item, why in waiting]


def _replace(judged: corrections.Judged, *, wallets: dict[int, ledger.LockedWallet], at: datetime) -> None:
    """Take back what corrections replace, and charge them."""
    if not judged.ready:
        return
    corrections.take_back(judged.charged, wallets=wallets, settlement=token_hex(8), at=at)
    parked = [(customer_id, number) for (customer_id, _), number in judged.parked.items()]
    event_store.resolve_parked(parked, at=at, resolution="replaced")
    event_store.record_own_corrections(judged.own, at=at)
    event_store.record_first_of_rings(judged.firsts, at=at)
    _store(judged.ready, wallets=wallets, at=at)


def _store(rated: list[Rated], *, wallets: dict[int, ledger.LockedWallet], at: datetime) -> None:
    """Charge rated events of locked wallets and write them everywhere they count."""
    assert connection.in_atomic_block
    if not rated:
        return
    charges: dict[tuple[int, date], int] = {}
    for item in rated:
        key = (item.event.customer_id, item.period)
        charges[key] = charges.get(key, 0) + item.charge_units
    numbers = credits.charge_usage(
        [credits.Charge(customer_id, period, amount_of(units)) for (customer_id, period), units in charges.items()],
        wallets=wallets,
        settlement=token_hex(8),
        at=at,
    )
    transfers = dict(zip(charges, numbers, strict=True))
    for item in rated:
        item.transfer_id = transfers[item.event.customer_id, item.period]
    _settle_holds(rated, wallets=wallets, at=at)
    cards = {item.card.digest: item.card for item in rated}
    cards.update({part.card.digest: part.card for item in rated for part in item.parts})
    sets = price_sets.numbers_of(cards)
    event_store.store(rated, sets, at=at)
    event_store.add_to_hours(rated, sets)


def _settle_holds(rated: list[Rated], *, wallets: dict[int, ledger.LockedWallet], at: datetime) -> None:
    settlements, strangers = [], []
    named: dict[tuple[int, int], list[Event]] = {}
    # In the order they were reported in, for the first without "more" settles the hold.
    for item in sorted((item for item in rated if item.event.authorization is not None), key=_index):
        event = item.event
        parsed = ids.parse_hot_id("auth", event.authorization or "")
        if parsed is None or parsed[0] != event.customer_id:
            strangers.append(event)
            continue
        item.hold_number = parsed[1]
        scope = key_scope(event.api_key_pk)
        settlements.append(holds.Settlement(parsed[0], parsed[1], amount_of(item.charge_units), not event.more, scope))
        named.setdefault(parsed, []).append(event)
    settled = holds.settle(settlements, wallets=wallets, at=at)
    of_others = {(item.customer_id, item.number, item.scope) for item in settled.of_others}
    borrowed = []
    for item in rated:
        if item.hold_number is None:
            continue
        key = (item.event.customer_id, item.hold_number)
        if key in settled.missing:
            item.hold_number = None
        elif (*key, key_scope(item.event.api_key_pk)) in of_others:
            item.hold_number = None
            borrowed.append(item.event)
    strangers += [event for key in sorted(settled.missing) for event in named[key]]
    event_store.record_unknown_authorizations(strangers, at=at)
    event_store.record_leases_of_other_keys(borrowed, at=at)
    _count_spend(rated, settled, wallets=wallets, at=at)


def _count_spend(
    rated: list[Rated], settled: holds.Settled, *, wallets: dict[int, ledger.LockedWallet], at: datetime
) -> None:
    """Add usage to the counters of spend, in the day and month in which its hold was placed."""
    if not any(wallet.counts_spend for wallet in wallets.values()):
        return
    changes = []
    for item in rated:
        event = item.event
        if wallets[event.customer_id].counts_spend and item.charge_units:
            placed_at = settled.placed_at.get((event.customer_id, item.hold_number or 0))
            moment = spend.moment_of(event.occurred_at, placed_at)
            scope = key_scope(event.api_key_pk)
            changes.append(spending.Change(event.customer_id, scope, moment, amount_of(item.charge_units), ZERO))
    spending.count(changes, wallets=wallets, at=at)


def _index(item: Rated) -> int:
    return item.event.index
