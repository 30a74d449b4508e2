"""Holds: money reserved before a request runs; each is settled, released or expired, exactly once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from django.db import IntegrityError, connection

from billing import ledger, spending
from billing.models import Hold
from relayadmin import ids
from relayadmin.db import in_transaction, number_array, server_cursor, text_array
from relayadmin.money import EXACT, ZERO


class InsufficientBalance(Exception):
    """The amount does not fit: balance − held + credit limit is `available`, in USD."""

    def __init__(self, available: Decimal) -> None:
        super().__init__(f"only {available} is available")
        self.available = available


class LimitReached(Exception):
    """The amount does not fit a spend limit: `available` of its `amount` (USD) a `span` is left to the `scope`."""

    def __init__(self, *, scope: str, span: str, amount: Decimal, available: Decimal) -> None:
        super().__init__(f"only {available} of {amount} a {span} is left to {scope}")
        self.scope = scope
        self.span = span
        self.amount = amount
        self.available = available


class RequestConflict(Exception):
    """This request id was used with another body."""


class HoldResolved(Exception):
    """The hold is no longer open; `status` is settled, released or expired."""

    def __init__(self, status: str) -> None:
        super().__init__(f"the hold is {status}")
        self.status = status


class AlreadySettled(HoldResolved):
    """The hold was settled: there is nothing to give back."""


class UnknownHold(LookupError):
    """There is no such hold."""


@dataclass(frozen=True, slots=True)
class PlacedHold:
    """An open hold; `amount` in USD, `details` as given when it was placed, `is_new` false for a replay.

    `admits_until` of a lease: until when requests may start on it.
    """

    public_id: str
    amount: Decimal
    expires_at: datetime
    details: dict[str, Any]
    is_new: bool
    admits_until: datetime | None = None


# The parameters of the database's function billing_place_hold, in its order.
PARAMETERS = (
    "%s::bigint, %s::text, %s::bytea, %s::numeric, %s::timestamptz, %s::timestamptz, %s::jsonb, %s::text, %s::numeric,"
    " %s::timestamptz"
)


def place(
    *,
    customer_id: int,
    request_id: str,
    digest: bytes,
    amount: Decimal,
    expires_at: datetime,
    details: dict[str, Any],
    at: datetime,
    scope: str = "",
    minimum: Decimal | None = None,
    admits_until: datetime | None = None,
) -> PlacedHold:
    """Reserve an amount (USD, at least 0) for a request, once per request id; one round trip.

    `scope`: whose spend it counts as, beside the customer's. A lease has `admits_until`, and a `minimum` from which on
    it takes what there is. Raises LimitReached, InsufficientBalance, RequestConflict (same id, other digest),
    HoldResolved (replayed after its end), ledger.UnknownCustomer. A refusal leaves no trace.
    """
    assert amount >= 0, "a hold never adds credit"
    assert minimum is None or 0 <= minimum <= amount
    with server_cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM billing_place_hold({PARAMETERS})",
            [
                *(customer_id, request_id, digest, amount, at, expires_at, msgspec.json.encode(details).decode()),
                *(scope, minimum, admits_until),
            ],
        )
        row = cursor.fetchone()
    assert row is not None
    asked = PlacedHold("", amount, expires_at, details, is_new=True, admits_until=admits_until)
    return placed(row, asked=asked, customer_id=customer_id, request_id=request_id)


def find(*, customer_id: int, request_id: str, digest: bytes, at: datetime) -> PlacedHold | None:
    """The open hold that was placed for this request before; None if none ever was. Locks nothing.

    Raises RequestConflict, HoldResolved as `place` does.
    """
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN digest = %s THEN 'replayed' ELSE 'conflict' END, id, amount,"
            " CASE WHEN status = 'open' AND coalesce(admits_until, expires_at) <= %s THEN 'expired' ELSE status END,"
            " expires_at, admits_until, details, NULL, NULL, NULL, NULL"
            " FROM billing_hold WHERE customer_id = %s AND request_id = %s",
            [digest, at, customer_id, request_id],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    asked = PlacedHold("", row[2], row[4], {}, is_new=False)
    return placed(row, asked=asked, customer_id=customer_id, request_id=request_id)


def placed(row: Sequence[Any], *, asked: PlacedHold, customer_id: int, request_id: str) -> PlacedHold:
    """What a row of the database's function billing_place_hold says, without an id yet in what was `asked` of it.

    Raises what `place` raises.
    """
    outcome, number, held, status, until, admits_until, kept, available, *limit = row
    match outcome:
        case "placed":
            return replace(asked, public_id=ids.hot_id("auth", customer_id, number), amount=held)
        case "replayed" if status == Hold.Status.OPEN:
            first = msgspec.json.decode(kept)
            public_id = ids.hot_id("auth", customer_id, number)
            return PlacedHold(public_id, held, until, first, is_new=False, admits_until=admits_until)
        case "replayed":
            raise HoldResolved(status)
        case "conflict":
            raise RequestConflict(f"request id {request_id!r} was used with another body")
        case "limited":
            scope, span, amount = limit
            raise LimitReached(scope=scope, span=span, amount=amount, available=available)
        case "insufficient":
            raise InsufficientBalance(available)
    raise ledger.UnknownCustomer(f"customer number {customer_id} has no wallet")


def release(*, customer_id: int, number: int, at: datetime) -> Hold:
    """Give an open hold back. A hold that was released before or has expired stays as it is.

    Raises AlreadySettled, UnknownHold.
    """

    def work() -> Hold:
        try:
            wallets = ledger.lock_wallets([customer_id])
        except ledger.UnknownCustomer as error:
            raise UnknownHold("there is no such hold") from error
        hold = Hold.objects.filter(customer_id=customer_id, id=number).first()
        if hold is None:
            raise UnknownHold("there is no such hold")
        if hold.status == Hold.Status.SETTLED:
            raise AlreadySettled(hold.status)
        if hold.status == Hold.Status.OPEN:
            overdue = hold.expires_at <= at
            _resolve([hold], Hold.Status.EXPIRED if overdue else Hold.Status.RELEASED, wallets=wallets, at=at)
        return hold

    return in_transaction(work)


def _resolve(
    holds: Sequence[Hold], status: Hold.Status, *, wallets: dict[int, ledger.LockedWallet], at: datetime
) -> None:
    """End open holds of locked wallets and free what they still hold."""
    freed = []
    for hold in holds:
        wallet = wallets[hold.customer_id]
        wallet.held = EXACT.subtract(wallet.held, hold.remaining)
        freed.append(spending.Change(hold.customer_id, hold.scope, hold.created_at, ZERO, -hold.remaining))
        hold.remaining, hold.status, hold.resolved_at = ZERO, status, at
    _write_holds(holds)
    spending.count(freed, wallets=wallets, at=at)
    ledger.save_held(wallets[customer_id] for customer_id in {hold.customer_id for hold in holds})


def _write_holds(holds: Sequence[Hold]) -> None:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_hold h SET remaining = t.remaining, settled = t.settled, status = t.status,"
            "   resolved_at = t.resolved_at::timestamptz"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[], %s::text[], %s::text[])"
            "   AS t (customer_id, id, remaining, settled, status, resolved_at)"
            " WHERE h.customer_id = t.customer_id AND h.id = t.id AND h.status = 'open'",
            [
                number_array([hold.customer_id for hold in holds]),
                number_array([hold.pk for hold in holds]),
                number_array([hold.remaining for hold in holds]),
                number_array([hold.settled for hold in holds]),
                text_array([str(hold.status) for hold in holds]),
                text_array([hold.resolved_at.isoformat() if hold.resolved_at else None for hold in holds]),
            ],
        )
        assert cursor.rowcount == len(holds), "a hold of a locked wallet changed under us"


class HoldsStuck(Exception):
    """The holds of these customers can't be freed, because their figures are wrong; check_ledger says which."""


def expire(*, at: datetime, limit: int = 500) -> int:
    """Free open holds whose time is over, at most `limit` in one transaction; returns how many.

    Any number of workers may run it at once: each wallet's holds are looked at again under its lock. A customer whose
    figures don't allow it keeps nobody else's money held: without it, all others are freed first. Raises HoldsStuck
    when only such are left.
    """
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT customer_id FROM ("
            " SELECT customer_id FROM billing_hold WHERE status = 'open' AND expires_at <= %s"
            " ORDER BY expires_at LIMIT %s) overdue",
            [at, limit],
        )
        customer_ids = [row[0] for row in cursor.fetchall()]
    if not customer_ids:
        return 0
    try:
        return in_transaction(lambda: _expire_of(customer_ids, at))
    except IntegrityError:
        return _expire_one_by_one(customer_ids, at)


def _expire_of(customer_ids: list[int], at: datetime) -> int:
    wallets = ledger.lock_wallets(customer_ids)
    overdue = list(Hold.objects.filter(customer_id__in=customer_ids, status=Hold.Status.OPEN, expires_at__lte=at))
    if overdue:
        _resolve(overdue, Hold.Status.EXPIRED, wallets=wallets, at=at)
    return len(overdue)


def _expire_one_by_one(customer_ids: list[int], at: datetime) -> int:
    freed, stuck = 0, []
    for customer_id in sorted(customer_ids):
        try:
            freed += in_transaction(partial(_expire_of, [customer_id], at))
        except IntegrityError as error:
            stuck.append(f"customer number {customer_id}: {str(error).splitlines()[0]}")
    if stuck and not freed:
        raise HoldsStuck("; ".join(stuck[:10]))
    return freed


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What one usage event draws on a hold, in USD; `is_last` frees the rest of the hold, unless it is a lease.

    `scope`: whose spend the usage is.
    """

    customer_id: int
    number: int
    amount: Decimal
    is_last: bool
    scope: str = ""


@dataclass(slots=True)
class Settled:
    """The holds that settlements named, by (customer, number): when each was placed, and which don't exist.

    `of_others`: the settlements that named a lease of another scope; they have drawn nothing.
    """

    placed_at: dict[tuple[int, int], datetime]
    missing: set[tuple[int, int]]
    of_others: list[Settlement]


def settle(settlements: Sequence[Settlement], *, wallets: Mapping[int, ledger.LockedWallet], at: datetime) -> Settled:
    """Draw on holds of locked wallets, in the given order.

    A hold that is no longer open is left as it is: the usage is charged all the same. What goes beyond a hold is
    recorded on it (`settled` above `amount`).
    """
    assert connection.in_atomic_block
    if not settlements:
        return Settled({}, set(), [])
    wanted = {(item.customer_id, item.number) for item in settlements}
    holds = _read_holds(wanted)
    result = Settled({key: hold.created_at for key, hold in holds.items()}, wanted - holds.keys(), [])
    changed: dict[tuple[int, int], Hold] = {}
    freed_of: list[spending.Change] = []
    for item in settlements:
        hold = holds.get((item.customer_id, item.number))
        if hold is not None and hold.admits_until is not None and hold.scope != item.scope:
            result.of_others.append(item)
            continue
        if hold is None or hold.status != Hold.Status.OPEN:
            continue
        changed[item.customer_id, item.number] = hold
        wallet = wallets[item.customer_id]
        is_last = item.is_last and hold.admits_until is None
        freed = hold.remaining if is_last else min(hold.remaining, item.amount)
        wallet.held = EXACT.subtract(wallet.held, freed)
        freed_of.append(spending.Change(item.customer_id, hold.scope, hold.created_at, ZERO, -freed))
        hold.remaining = EXACT.subtract(hold.remaining, freed)
        hold.settled = EXACT.add(hold.settled, item.amount)
        if is_last:
            hold.status, hold.resolved_at = Hold.Status.SETTLED, at
    if changed:
        _write_holds(list(changed.values()))
        ledger.save_held(wallets[customer_id] for customer_id in {customer_id for customer_id, _ in changed})
        spending.count(freed_of, wallets=wallets, at=at)
    return result


def undraw(settlements: Sequence[Settlement], *, wallets: Mapping[int, ledger.LockedWallet], at: datetime) -> None:
    """Have open holds of locked wallets hold again what these settlements have drawn, which count no longer.

    What was charged for them has been given back before. A hold that is no longer open is left as it is.
    """
    assert connection.in_atomic_block
    if not settlements:
        return
    holds = _read_holds({(item.customer_id, item.number) for item in settlements})
    changed: dict[tuple[int, int], Hold] = {}
    held_again: list[spending.Change] = []
    for item in settlements:
        hold = holds.get((item.customer_id, item.number))
        if hold is None or hold.status != Hold.Status.OPEN:
            continue
        changed[item.customer_id, item.number] = hold
        hold.settled = EXACT.subtract(hold.settled, item.amount)
        remaining = max(ZERO, EXACT.subtract(hold.amount, hold.settled))
        more = EXACT.subtract(remaining, hold.remaining)
        hold.remaining = remaining
        wallets[item.customer_id].held = EXACT.add(wallets[item.customer_id].held, more)
        held_again.append(spending.Change(item.customer_id, hold.scope, hold.created_at, ZERO, more))
    if changed:
        _write_holds(list(changed.values()))
        ledger.save_held(wallets[customer_id] for customer_id in {customer_id for customer_id, _ in changed})
        spending.count(held_again, wallets=wallets, at=at)


def _read_holds(wanted: set[tuple[int, int]]) -> dict[tuple[int, int], Hold]:
    ordered = sorted(wanted)
    columns = (
        *("customer_id", "id", "amount", "remaining", "settled", "status", "created_at", "expires_at", "scope"),
        "admits_until",
    )
    with server_cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(f'h.{name}' for name in columns)}"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, id)"
            " JOIN billing_hold h ON h.customer_id = t.customer_id AND h.id = t.id",
            [number_array([customer for customer, _ in ordered]), number_array([number for _, number in ordered])],
            binary=True,
        )
        return {(row[0], row[1]): Hold(**dict(zip(columns, row, strict=True))) for row in cursor.fetchall()}
