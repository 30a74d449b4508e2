"""Usage that was charged is put right: the difference is charged or given back, by transfers of kind "adjustment".

More to pay is charged as usage is. Money back cures debt first. What is left goes back to the grants that had paid, the
other way round than they were used: first what the transfers that charged these very events had used, the newest
first; then, where those were paid as debt, whatever was used last. Each `GrantReturn` names the use that it undoes, so
that no more comes back than was used, and revenue and promotional usage are reversed by what had paid. What a payment
of an invoice has paid, and no grant, becomes paid credit. What neither debt nor their own uses account for, and was
written off since, is taken up again first (billing.write_offs), as is what nothing is left for: nobody had paid it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

import msgspec

from billing import burning, ledger, write_offs
from billing.credits import add_fresh, debts
from billing.models import Account, Grant, Transfer
from relayadmin.db import number_array, server_cursor
from relayadmin.money import EXACT, ZERO

_PAGE = 200


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one charge becomes more or, below zero, less (USD), booked in an open billing period.

    `charged_by`: the transfers that have charged it up to now, the newest first.
    """

    customer_id: int
    period: date
    difference: Decimal
    charged_by: tuple[int, ...] = ()


@dataclass(slots=True)
class Use:
    """What is left of one transfer's use of one grant (USD), that has not been given back."""

    transfer_id: int
    grant_id: int
    kind: str
    left: Decimal


@dataclass(slots=True)
class _Returns:
    """What goes back to one customer's grants by one transfer; `taken` is by (transfer that used, grant), USD.

    `fresh` is what no grant had paid, but payments or credit notes of invoices: it becomes paid credit.
    """

    customer_id: int
    period: date
    amount: Decimal
    cured: Decimal
    taken: dict[tuple[int, int], Decimal] = field(default_factory=dict)
    promotional: Decimal = ZERO
    fresh: Decimal = ZERO


_Key = tuple[int, date]


def adjust_usage(
    changes: Sequence[Change],
    *,
    wallets: Mapping[int, ledger.LockedWallet],
    job: str,
    reason: str,
    at: datetime,
) -> dict[_Key, int]:
    """Move locked wallets by the sum of their changes, one transfer for each customer and billing period.

    Returns the transfers' numbers; a sum of zero makes none. `job` says whose work it is and stands in the transfers'
    keys. Raises ledger.AlreadyPosted if this job was posted before.
    """
    sums: dict[_Key, Decimal] = {}
    for change in changes:
        key = (change.customer_id, change.period)
        sums[key] = EXACT.add(sums.get(key, ZERO), change.difference)
    back = {key: -total for key, total in sorted(sums.items()) if total < 0}
    posted = _give_back(back, changes, wallets=wallets, job=job, reason=reason, at=at) if back else {}
    more = [(*key, total) for key, total in sorted(sums.items()) if total > 0]
    return posted | ledger.charge_usage(
        more, wallets=wallets, settlement=job, kind=Transfer.Kind.ADJUSTMENT.value, reason=reason, at=at
    )


def _give_back(
    amounts: Mapping[_Key, Decimal],
    changes: Sequence[Change],
    *,
    wallets: Mapping[int, ledger.LockedWallet],
    job: str,
    reason: str,
    at: datetime,
) -> dict[_Key, int]:
    lowered = [change for change in changes if change.difference < 0 and (change.customer_id, change.period) in amounts]
    given, unpaid = _plan(amounts, lowered, wallets)
    if unpaid:
        write_offs.take_up(unpaid, wallets=wallets, job=job, at=at)
        given, _ = _plan(amounts, lowered, wallets, is_taken_up=True)
    numbers = ledger.post([_posting(returns, job, reason) for returns in given], wallets=wallets, at=at)
    _save(list(zip(numbers, given, strict=True)))
    for number, returns in zip(numbers, given, strict=True):
        if returns.fresh:
            add_fresh(returns.customer_id, returns.fresh, transfer_id=number, reference=job, reason=reason, at=at)
    return dict(zip(amounts, numbers, strict=True))


def _plan(
    amounts: Mapping[_Key, Decimal],
    lowered: Sequence[Change],
    wallets: Mapping[int, ledger.LockedWallet],
    *,
    is_taken_up: bool = False,
) -> tuple[list[_Returns], dict[int, Decimal]]:
    """What goes back to which grants; and by customer, what was written off of it, unless that is taken up (USD)."""
    owed = debts([wallets[customer_id] for customer_id in {customer_id for customer_id, _ in amounts}])
    uses = _uses_of({(change.customer_id, number) for change in lowered for number in change.charged_by})
    given: list[_Returns] = []
    unpaid: dict[int, Decimal] = {}
    for (customer_id, period), amount in amounts.items():
        cured = min(amount, owed[customer_id])
        owed[customer_id] = EXACT.subtract(owed[customer_id], cured)
        returns = _Returns(customer_id, period, amount, cured)
        of_period = [change for change in lowered if (change.customer_id, change.period) == (customer_id, period)]
        rest = _choose_own(returns, of_period, uses)
        if rest and not is_taken_up:
            since = min((number for change in of_period for number in change.charged_by), default=0)
            before = unpaid.get(customer_id, ZERO)
            given_up = min(rest, EXACT.subtract(write_offs.written_off(customer_id, since=since), before))
            if given_up > 0:
                unpaid[customer_id] = EXACT.add(before, given_up)
                rest = EXACT.subtract(rest, given_up)
        if rest:
            rest = _choose_newest(returns, uses, rest)
        if rest:
            rest = _choose_fresh(returns, given, rest)
        if rest:
            # Money back of older usage had cured the debt of this one: what had been written off of that is left over.
            before = unpaid.get(customer_id, ZERO)
            older = ZERO if is_taken_up else EXACT.subtract(write_offs.written_off(customer_id), before)
            assert rest <= older, f"customer number {customer_id} gets back {rest} USD that no grant has paid"
            unpaid[customer_id] = EXACT.add(before, rest)
        given.append(returns)
    return given, unpaid


def _choose_own(returns: _Returns, lowered: Sequence[Change], uses: dict[tuple[int, int], list[Use]]) -> Decimal:
    """Undo these events' own uses for what no debt has swallowed; returns the rest, which was charged as debt."""
    rest = EXACT.subtract(returns.amount, returns.cured)
    # Events that the same transfers charged are one.
    wanted: dict[tuple[int, ...], Decimal] = {}
    for change in lowered:
        wanted[change.charged_by] = EXACT.subtract(wanted.get(change.charged_by, ZERO), change.difference)
    for charged_by in sorted(wanted, reverse=True):
        limit = min(rest, wanted[charged_by])
        for number in charged_by:
            for use in uses.get((returns.customer_id, number), ()):
                part = _take(returns, use, limit)
                limit, rest = EXACT.subtract(limit, part), EXACT.subtract(rest, part)
    return rest


def _choose_newest(returns: _Returns, uses: dict[tuple[int, int], list[Use]], rest: Decimal) -> Decimal:
    """Undo whatever was used last for what was debt once, and was paid; returns what nobody has paid."""
    for use in _newest_uses(returns.customer_id, uses):
        rest = EXACT.subtract(rest, _take(returns, use, rest))
        if not rest:
            break
    return rest


def _choose_fresh(returns: _Returns, given: Sequence[_Returns], rest: Decimal) -> Decimal:
    """Give new credit for what payments of invoices had paid; returns what nobody has paid."""
    with server_cursor() as cursor:
        cursor.execute(_PAID_ON_ACCOUNT, {"customer": returns.customer_id})
        (paid,) = cursor.fetchone() or (ZERO,)
    for other in given:
        if other.customer_id == returns.customer_id:
            paid = EXACT.subtract(paid, other.fresh)
    returns.fresh = min(rest, max(ZERO, Decimal(paid)))
    return EXACT.subtract(rest, returns.fresh)


# What payments and credit notes of invoices have put on a wallet, less what of it became credit as money back.
_PAID_ON_ACCOUNT = """
SELECT coalesce(sum(e.amount), 0) - coalesce((
    SELECT sum(g.amount) FROM billing_grant g JOIN billing_transfer a ON a.customer_id = g.customer_id
        AND a.id = g.transfer_id WHERE g.customer_id = %(customer)s AND a.kind = 'adjustment'
), 0)
FROM billing_transfer t JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16
WHERE t.customer_id = %(customer)s AND t.kind IN ('payment', 'credit_note') AND e.account = 'wallet'"""


def _take(returns: _Returns, use: Use, limit: Decimal) -> Decimal:
    part = min(use.left, limit)
    if part:
        use.left = EXACT.subtract(use.left, part)
        key = (use.transfer_id, use.grant_id)
        returns.taken[key] = EXACT.add(returns.taken.get(key, ZERO), part)
        if use.kind != Grant.Kind.PAID:
            returns.promotional = EXACT.add(returns.promotional, part)
    return part


# What is left of uses, as `Use` has it after the customer; a query goes on with what it reads them from.
USES_LEFT = """
SELECT u.customer_id, u.transfer_id, u.grant_id, g.kind, u.amount - coalesce((
    SELECT sum(r.amount) FROM billing_grantreturn r
    WHERE r.customer_id = u.customer_id AND r.used_by_id = u.transfer_id AND r.grant_id = u.grant_id
), 0)"""
# Other transfers use grants too, but not for usage: debits by hand, closings.
_FOR_USAGE = "{usage,adjustment,grant,write_off,credit_note}"
LAST_BURNT_FIRST = "u.transfer_id DESC, g.priority DESC, g.expires_at DESC NULLS FIRST, g.id DESC"


def _uses_of(transfers: set[tuple[int, int]]) -> dict[tuple[int, int], list[Use]]:
    """By (customer, transfer), what is left of its uses of grants, the last burnt first."""
    customers, numbers = zip(*sorted(transfers), strict=True) if transfers else ((), ())
    with server_cursor() as cursor:
        cursor.execute(
            f"{USES_LEFT} FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, transfer_id)"
            " JOIN billing_grantuse u ON u.customer_id = t.customer_id AND u.transfer_id = t.transfer_id"
            " JOIN billing_grant g ON g.customer_id = u.customer_id AND g.id = u.grant_id"
            f" ORDER BY u.customer_id, {LAST_BURNT_FIRST}",
            [number_array(customers), number_array(numbers)],
            binary=True,
        )
        uses: dict[tuple[int, int], list[Use]] = {}
        for customer_id, *use in cursor.fetchall():
            uses.setdefault((customer_id, use[0]), []).append(Use(*use))
    return uses


def _newest_uses(customer_id: int, known: dict[tuple[int, int], list[Use]]) -> Iterator[Use]:
    """All of a customer's uses of grants for usage, newest first, in pages; those looked at before as they stand."""
    before = 2**63 - 1
    while True:
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT DISTINCT u.transfer_id FROM billing_grantuse u"
                " JOIN billing_transfer t ON t.customer_id = u.customer_id AND t.id = u.transfer_id"
                " WHERE u.customer_id = %s AND u.transfer_id < %s AND t.kind = ANY (%s::text[])"
                " ORDER BY u.transfer_id DESC LIMIT %s",
                [customer_id, before, _FOR_USAGE, _PAGE],
                binary=True,
            )
            page = [row[0] for row in cursor.fetchall()]
        if not page:
            return
        known.update(_uses_of({(customer_id, number) for number in page if (customer_id, number) not in known}))
        for number in page:
            yield from known[customer_id, number]
        before = page[-1]


def _posting(returns: _Returns, job: str, reason: str) -> ledger.Posting:
    revenue = EXACT.subtract(returns.amount, returns.promotional)
    sides = (
        (Account.WALLET.value, returns.amount),
        (Account.PROMOTIONAL_USAGE.value, -returns.promotional),
        (Account.REVENUE.value, -revenue),
    )
    return ledger.Posting(
        returns.customer_id,
        Transfer.Kind.ADJUSTMENT.value,
        f"{job}:{returns.period}",
        [(account, amount) for account, amount in sides if amount],
        period=returns.period,
        reason=reason,
    )


def _save(given: Sequence[tuple[int, _Returns]]) -> None:
    """Write what goes back, and add it to what is left of the grants."""
    burning.put_back(
        burning.Return(returns.customer_id, used_by, grant_id, number, amount)
        for number, returns in given
        for (used_by, grant_id), amount in sorted(returns.taken.items())
    )
