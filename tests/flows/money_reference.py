"""One customer's money as somebody with a notebook keeps it: what the model-based test holds the database against.

Nothing here reads the project's code or its database. Amounts are USD; a day and a month are UTC's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

ZERO = Decimal(0)
COUNTED_DAYS = 62
CUSTOMER = "customer"
NEVER = datetime.max.replace(tzinfo=UTC)
# Where the money of a grant comes from.
SOURCES = {"paid": "cash:manual", "promotional": "promotional_grants", "goodwill": "goodwill"}


@dataclass
class Credit:
    """A grant; `place` is its turn among those asked for. What has ended is looked at again from `back_at` on."""

    kind: str
    left: Decimal
    priority: int
    expires_at: datetime | None
    place: int
    source: str
    is_voided: bool = False
    back_at: datetime | None = None

    @property
    def turn(self) -> tuple[int, datetime, int]:
        """The smallest burns first."""
        return (self.priority, self.expires_at or NEVER, self.place)


@dataclass
class Use:
    """What one movement used of one grant for usage, less what came back."""

    movement: int
    credit: Credit
    left: Decimal


@dataclass
class Reserve:
    """A hold or, with `admits_until`, a lease."""

    request_id: str
    key: str
    amount: Decimal
    left: Decimal
    placed_at: datetime
    expires_at: datetime
    admits_until: datetime | None = None
    settled: Decimal = ZERO
    status: str = "open"

    def seen_at(self, at: datetime) -> str:
        """What a replay is told of it."""
        is_over = (self.admits_until or self.expires_at) <= at
        return "expired" if self.status == "open" and is_over else self.status


@dataclass
class Usage:
    """An event that was charged: `counts_at` is the moment in whose day and month it counts."""

    event_id: str
    key: str
    charge: Decimal
    is_estimated: bool
    month: date
    counts_at: datetime
    movements: tuple[int, ...]
    is_replaced: bool = False
    drawn_on: str | None = None


@dataclass
class Limit:
    amount: Decimal
    counts_from: date


@dataclass(frozen=True)
class Reported:
    """An event as a relay reports it, with what it costs; `hold` is the request id of a hold of this customer."""

    event_id: str
    key: str
    charge: Decimal
    occurred_at: datetime
    hold: str | None = None
    more: bool = False
    is_estimated: bool = False


@dataclass
class Counter:
    spent: Decimal = ZERO
    held: Decimal = ZERO


def window(moment: datetime, span: str) -> date:
    return moment.date() if span == "day" else moment.date().replace(day=1)


@dataclass(frozen=True)
class LimitName:
    """`scope` is a key's name or the customer; who set it is its `owner`."""

    scope: str
    span: str
    owner: str
    is_hard: bool


@dataclass
class Notebook:
    """All that is kept of one customer. `by_hand` is the part of the debt that is no usage, paid last."""

    credit_limit: Decimal = ZERO
    debt: Decimal = ZERO
    by_hand: Decimal = ZERO
    version: int = 0
    places: int = 0
    accounts: dict[str, Decimal] = field(default_factory=dict)
    credits: list[Credit] = field(default_factory=list)
    write_offs: list[tuple[int, Decimal]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    reserves: dict[str, Reserve] = field(default_factory=dict)
    usages: dict[str, Usage] = field(default_factory=dict)
    limits: dict[LimitName, Limit] = field(default_factory=dict)
    counters: dict[tuple[str, str, date], Counter] = field(default_factory=dict)

    @property
    def balance(self) -> Decimal:
        return sum((credit.left for credit in self.credits), ZERO) - self.debt

    @property
    def open(self) -> list[Reserve]:
        return [reserve for reserve in self.reserves.values() if reserve.status == "open"]

    @property
    def held(self) -> Decimal:
        return sum((reserve.left for reserve in self.open), ZERO)

    # --- credit ---

    def give(
        self, kind: str, amount: Decimal, priority: int, expires_at: datetime | None, *, source: str | None = None
    ) -> Credit:
        credit = self.new_credit(kind, amount, priority, expires_at, source)
        self.put(credit)
        return credit

    def new_credit(
        self, kind: str, amount: Decimal, priority: int, expires_at: datetime | None, source: str | None = None
    ) -> Credit:
        self.places += 1
        return Credit(kind, amount, priority, expires_at, self.places, source or SOURCES[kind])

    def put(self, credit: Credit) -> None:
        """Debt first; where credit that nobody paid for covers usage, that is no longer revenue."""
        self.version += 1
        self.credits.append(credit)
        self.book(credit.source, -credit.left)
        covered = min(self.debt, credit.left)
        used = min(covered, self.debt - self.by_hand)
        credit.left -= covered
        self.cure(covered)
        if covered:
            self.uses.append(Use(self.version, credit, covered))
        if credit.kind != "paid":
            self.book("revenue", -used)
            self.book("promotional_usage", used)

    def book(self, account: str, amount: Decimal) -> None:
        self.accounts[account] = self.accounts.get(account, ZERO) + amount

    def cure(self, amount: Decimal) -> None:
        """Less debt: its usage first."""
        self.debt -= amount
        self.by_hand = min(self.by_hand, self.debt)

    def burn(self, amount: Decimal) -> list[Use]:
        """Take grants down in their order; what they don't cover becomes debt."""
        parts: list[Use] = []
        for credit in sorted(self.credits, key=lambda credit: credit.turn):
            part = min(credit.left, amount)
            if part:
                amount -= part
                credit.left -= part
                parts.append(Use(self.version, credit, part))
        self.debt += amount
        return parts

    def _take(self, amount: Decimal) -> tuple[int, ...]:
        """Burn grants down for usage; returns the movement, none for nothing."""
        if not amount:
            return ()
        self.version += 1
        parts = self.burn(amount)
        for part in parts:
            self._book_usage(part.credit.kind, part.left)
        self.book("revenue", amount - sum((part.left for part in parts), ZERO))
        self.uses += parts
        return (self.version,)

    def write_off(self, amount: Decimal) -> None:
        self.book("write_offs", -amount)
        self.write_offs.append((self.version, amount))

    def written_off(self, *, since: int) -> Decimal:
        """Less what was taken up again; at most what was since a movement."""
        lately = sum((amount for movement, amount in self.write_offs if movement > since and amount > 0), ZERO)
        return min(lately, sum((amount for _, amount in self.write_offs), ZERO))

    def _take_up(self, amount: Decimal) -> None:
        """A write-off is smaller: that part of it is debt again, unless there is credit now to pay it."""
        self.version += 1
        self.write_off(-amount)
        parts = self.burn(amount)
        for part in parts:
            if part.credit.kind != "paid":
                self.book("revenue", -part.left)
                self.book("promotional_usage", part.left)
        self.uses += parts

    def _give_back(self, usage: Usage) -> tuple[int, ...]:
        """Debt first, then the grants that had paid for this very usage, then those that paid last; backwards.

        What neither debt nor this usage's own grants account for, and was written off since, nobody had paid; nor
        what is left when all that was ever paid has come back.
        """
        rest = usage.charge
        if not rest:
            return ()
        own_left = sum((use.left for use in self.uses if use.movement in usage.movements), ZERO)
        paid = sum((use.left for use in self.uses), ZERO)
        unpaid = min(rest - self.debt - own_left, self.written_off(since=min(usage.movements)))
        unpaid = max(unpaid, rest - self.debt - paid)
        if unpaid > 0:
            self._take_up(unpaid)
        self.version += 1
        cured = min(self.debt, rest)
        self.cure(cured)
        self.book("revenue", -cured)
        rest -= cured
        latest_first = sorted(self.uses, key=lambda use: (use.movement, use.credit.turn), reverse=True)
        own = [use for use in latest_first if use.movement in usage.movements]
        for use in own + latest_first:
            part = min(use.left, rest)
            use.left -= part
            use.credit.left += part
            rest -= part
            self._book_usage(use.credit.kind, -part)
        assert not rest, "more would come back than was ever taken"
        return (self.version,)

    def _book_usage(self, kind: str, amount: Decimal) -> None:
        self.book("revenue" if kind == "paid" else "promotional_usage", amount)

    # --- holds ---

    def place(self, reserve: Reserve, *, minimum: Decimal, at: datetime) -> str:
        """What a relay is told: "placed", or why not. `reserve.amount` becomes what is held."""
        room = self.balance - self.held + self.credit_limit
        rooms = [
            limit.amount - counter.spent - counter.held
            for name, limit in self.limits.items()
            if name.is_hard and name.scope in (CUSTOMER, reserve.key)
            for counter in [self.counter(name.scope, name.span, at)]
        ]
        if rooms and min(rooms) < minimum:
            return "spend_limit_reached"
        if room < minimum:
            return "insufficient_balance"
        reserve.amount = reserve.left = min([reserve.amount, room, *rooms])
        self.reserves[reserve.request_id] = reserve
        self._count(reserve.key, reserve.placed_at, held=reserve.left, at=at)
        return "placed"

    def release(self, request_id: str, *, at: datetime) -> str:
        reserve = self.reserves[request_id]
        if reserve.status == "open":
            self._end(reserve, "expired" if reserve.expires_at <= at else "released", at=at)
        return reserve.status

    def expire(self, *, at: datetime) -> None:
        for reserve in self.open:
            if reserve.expires_at <= at:
                self._end(reserve, "expired", at=at)

    def _end(self, reserve: Reserve, status: str, *, at: datetime) -> None:
        self._free(reserve, reserve.left, at=at)
        reserve.status = status

    def _free(self, reserve: Reserve, amount: Decimal, *, at: datetime) -> None:
        reserve.left -= amount
        self._count(reserve.key, reserve.placed_at, held=-amount, at=at)

    def _draw(self, event: Reported, *, at: datetime) -> None:
        reserve = self.reserves.get(event.hold or "")
        if reserve is None or reserve.status != "open" or self._is_borrowed(reserve, event):
            return
        is_last = not event.more and reserve.admits_until is None
        self._free(reserve, reserve.left if is_last else min(reserve.left, event.charge), at=at)
        reserve.settled += event.charge
        self.usages[event.event_id].drawn_on = reserve.request_id
        if is_last:
            reserve.status = "settled"

    def _undraw(self, usage: Usage, *, at: datetime) -> None:
        """Hold again what an estimate had drawn on a hold that is still open."""
        reserve = self.reserves.get(usage.drawn_on or "")
        if reserve is not None and reserve.status == "open":
            reserve.settled -= usage.charge
            self._free(reserve, reserve.left - max(ZERO, reserve.amount - reserve.settled), at=at)

    @staticmethod
    def _is_borrowed(reserve: Reserve, event: Reported) -> bool:
        """A lease is its key's alone."""
        return reserve.admits_until is not None and reserve.key != event.key

    # --- usage ---

    def report(self, events: Iterable[Reported], *, at: datetime) -> int:
        """Charge what is new, one movement for each month; returns how many are."""
        new: dict[str, Reported] = {}
        for event in events:
            if event.event_id not in self.usages:
                new.setdefault(event.event_id, event)
        months = sorted({window(event.occurred_at, "month") for event in new.values()})
        for month in months:
            charged = [event for event in new.values() if window(event.occurred_at, "month") == month]
            movements = self._take(sum((event.charge for event in charged), ZERO))
            for event in charged:
                moment = self._counts_at(event)
                self.usages[event.event_id] = Usage(
                    event.event_id, event.key, event.charge, event.is_estimated, month, moment, movements
                )
        for event in new.values():
            self._draw(event, at=at)
            self._count(event.key, self._counts_at(event), spent=event.charge, at=at)
        return len(new)

    def _counts_at(self, event: Reported) -> datetime:
        reserve = self.reserves.get(event.hold or "")
        if reserve is None or self._is_borrowed(reserve, event):
            return event.occurred_at
        return event.occurred_at if event.occurred_at < reserve.placed_at - timedelta(days=1) else reserve.placed_at

    def replace(self, old: str, event: Reported, *, at: datetime) -> bool:
        """Take an estimate back and charge the event in its place; false if the estimate stands."""
        usage = self.usages[old]
        if usage.is_replaced or not usage.is_estimated:
            return False
        usage.movements = (*self._give_back(usage), *usage.movements)
        self._count(usage.key, usage.counts_at, spent=-usage.charge, at=at)
        self._undraw(usage, at=at)
        usage.is_replaced, usage.charge = True, ZERO
        self.report([event], at=at)
        return True

    # --- limits ---

    def set_limit(self, name: LimitName, amount: Decimal, *, at: datetime) -> None:
        scope, span = name.scope, name.span
        beside = [limit for other, limit in self.limits.items() if (other.scope, other.span) == (scope, span)]
        starts_on = min((limit.counts_from for limit in beside), default=window(at, span))
        if not beside:
            self.counters[scope, span, starts_on] = Counter(
                sum((u.charge for u in self.usages.values() if self._is_in(u.key, u.counts_at, scope, span, at)), ZERO),
                sum((r.left for r in self.open if self._is_in(r.key, r.placed_at, scope, span, at)), ZERO),
            )
        self.limits[name] = Limit(amount, starts_on)

    def remove_limits(self, scope: str, owner: str) -> None:
        self.limits = {name: it for name, it in self.limits.items() if (name.scope, name.owner) != (scope, owner)}
        counted = {(name.scope, name.span) for name in self.limits}
        self.counters = {where: counter for where, counter in self.counters.items() if where[:2] in counted}

    @staticmethod
    def _is_in(key: str, moment: datetime, scope: str, span: str, at: datetime) -> bool:
        return scope in (CUSTOMER, key) and window(moment, span) == window(at, span)

    def counter(self, scope: str, span: str, moment: datetime) -> Counter:
        return self.counters.setdefault((scope, span, window(moment, span)), Counter())

    def _count(self, key: str, moment: datetime, *, spent: Decimal = ZERO, held: Decimal = ZERO, at: datetime) -> None:
        if moment.date() <= at.date() - timedelta(days=COUNTED_DAYS):
            return
        starts = {(name.scope, name.span): limit.counts_from for name, limit in self.limits.items()}
        for (scope, span), counts_from in starts.items():
            if scope in (CUSTOMER, key) and window(moment, span) >= counts_from:
                counter = self.counter(scope, span, moment)
                counter.spent += spent
                counter.held += held
