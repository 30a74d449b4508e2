"""Credit grants: given, now or from a later moment on, and used up by charges in a fixed order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec

from billing import accounts, debt_parts, ledger, open_invoices
from billing.models import Account, Grant, GrantUse, OperatorSettings, ScheduledGrant, Transfer
from relayadmin import ids
from relayadmin.db import in_transaction, number_array, server_cursor
from relayadmin.money import EXACT, ZERO

_SOURCES = {
    Grant.Kind.PAID: Account.CASH_MANUAL,
    Grant.Kind.PROMOTIONAL: Account.PROMOTIONAL_GRANTS,
    Grant.Kind.GOODWILL: Account.GOODWILL,
}
LARGEST_GRANT = Decimal(10) ** 12
LARGEST_PRIORITY = 1_000
# How many days before its end the customer is told that credit expires.
ANNOUNCED_DAYS = (30, 7)
_FARTHEST_BEGINNING = timedelta(days=3_653)
_LAST_YEAR = 9_000
_SAME = ("amount", "kind", "reference", "expiry_asked", "effective_at", "priority", "is_refundable")


class InvalidGrant(ValueError):
    """A grant that can't be made; `field` names what is wrong, the message says what to write instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class GrantKeyConflict(Exception):
    """The idempotency key was used for another grant."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant's public id, and the wallet's balance after it (USD), which a grant that begins later leaves alone."""

    grant: str
    balance: Decimal


def grant(
    *,
    customer_id: int,
    amount: Decimal,
    kind: str,
    reason: str,
    reference: str,
    key: str,
    at: datetime,
    actor: str = "",
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    source: Account | None = None,
    tax: Decimal = ZERO,
    never_expires: bool = False,
    priority: int = 0,
    is_refundable: bool | None = None,
) -> Granted:
    """Put money in a wallet, once per key; debt is filled first. Amount in USD.

    From a later `effective_at` on: it is kept, and posted by a job at that moment. Without an expiry, paid credit gets
    the operator's, counted from when it begins, and other credit none. Paid credit is refundable unless said otherwise.
    It comes from the account of its kind unless `source` names another, which only credit that begins now may; `tax`
    that was paid with it comes from there too, beside the amount.

    A closed account gets no gifts; payments, which may come late, it does. Raises InvalidGrant, GrantKeyConflict (same
    key, other grant), accounts.AccountClosed, ledger.UnknownCustomer.
    """
    asked = ScheduledGrant(
        customer_id=customer_id,
        key=key,
        amount=amount,
        kind=kind,
        reason=reason,
        reference=reference,
        expires_at=expires_at,
        expiry_asked="never" if never_expires else _moment_text(expires_at),
        priority=priority,
        is_refundable=kind == Grant.Kind.PAID if is_refundable is None else is_refundable,
        actor=actor,
        created_at=at,
    )
    asked.effective_at = effective_at
    _check(asked)
    _check_texts(asked)

    def work() -> Granted:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        known = _of_key(customer_id, key)
        if known is not None:
            if any(getattr(known, name) != getattr(asked, name) for name in _SAME):
                raise GrantKeyConflict(f"the key {key!r} was used for another grant; choose another key")
            return Granted(grant=known.public_id, balance=wallet.balance)
        if kind != Grant.Kind.PAID:
            accounts.check_open(customer_id)
        begins = at if effective_at is None else max(at, effective_at)
        if not asked.expiry_asked and kind == Grant.Kind.PAID:
            asked.expires_at = _default_expiry(begins)
        if asked.expires_at is not None and asked.expires_at <= begins:
            when = "in the future" if begins == at else "after the grant begins"
            raise InvalidGrant("expires_at", f"expires_at must be {when}")
        made: Grant | ScheduledGrant = asked
        if begins > at:
            assert source is None
            assert not tax
            asked.pk = _next_number()
            asked.save(force_insert=True)
        else:
            made = post(asked, wallet=wallet, at=at, source=source, tax=tax)
        return Granted(grant=made.public_id, balance=wallet.balance)

    return in_transaction(work)


def find(public_id: str) -> Grant:
    """A grant by the public id that `grant` returned, if it has begun."""
    customer_id, number = ids.parse_hot_id(Grant.PREFIX, public_id) or (0, 0)
    return Grant.objects.get(customer_id=customer_id, pk=number)


def post(
    asked: ScheduledGrant,
    *,
    wallet: ledger.LockedWallet,
    at: datetime,
    source: Account | None = None,
    tax: Decimal = ZERO,
) -> Grant:
    """Post what was asked for to a locked wallet; debt is filled first. Raises ledger.AlreadyPosted."""
    customer_id, amount, kind = wallet.customer_id, asked.amount, asked.kind
    debt = debts([wallet])[customer_id]
    covered = min(amount, debt)
    entries = [
        (Account.WALLET.value, amount),
        ((source or _SOURCES[Grant.Kind(kind)]).value, -EXACT.add(amount, tax)),
    ]
    if tax:
        entries.append((Account.TAX.value, tax))
    if covered and kind != Grant.Kind.PAID:
        # Usage that stood as debt was posted as revenue; now promotional credit has paid for it.
        used = min(covered, debt_parts.of_usage(wallet, debt))
        if used:
            entries += [(Account.REVENUE.value, -used), (Account.PROMOTIONAL_USAGE.value, used)]
    posting = ledger.Posting(
        customer_id,
        Transfer.Kind.GRANT.value,
        asked.key,
        entries,
        reason=asked.reason,
        document=asked.reference,
        actor=asked.actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={customer_id: wallet}, at=at)
    row = Grant.objects.create(
        id=asked.pk,
        customer_id=customer_id,
        kind=kind,
        amount=amount,
        remaining=EXACT.subtract(amount, covered),
        priority=asked.priority,
        effective_at=asked.effective_at,
        expires_at=asked.expires_at,
        expiry_asked=asked.expiry_asked,
        is_refundable=asked.is_refundable,
        look_at=next_look(asked.expires_at, after=at),
        reference=asked.reference,
        reason=asked.reason,
        transfer_id=transfer_id,
        created_at=at,
    )
    if covered:
        GrantUse.objects.create(customer_id=customer_id, grant_id=row.pk, transfer_id=transfer_id, amount=covered)
        open_invoices.lower(wallet, covered, at=at, by_credit=True)
    return row


def add_fresh(
    customer_id: int, amount: Decimal, *, transfer_id: int, reference: str, reason: str, at: datetime
) -> Grant:
    """Make paid credit (USD) of what a posted transfer has put on a locked wallet beyond its debt.

    It is money that had paid for something and comes back; it is used, not refunded, and expires as paid credit does.
    """
    expires_at = _default_expiry(at)
    return Grant.objects.create(
        customer_id=customer_id,
        kind=Grant.Kind.PAID,
        amount=amount,
        remaining=amount,
        expires_at=expires_at,
        look_at=next_look(expires_at, after=at),
        reference=reference,
        reason=reason,
        transfer_id=transfer_id,
        created_at=at,
    )


def next_look(expires_at: datetime | None, *, after: datetime) -> datetime | None:
    """The next moment at which a grant with this expiry is to be announced or expired; None if it never expires."""
    if expires_at is None:
        return None
    moments = [expires_at - timedelta(days=days) for days in ANNOUNCED_DAYS]
    return next((moment for moment in moments if moment > after), expires_at)


def _moment_text(moment: datetime | None) -> str:
    if moment is None:
        return ""
    if moment.year >= _LAST_YEAR:
        raise InvalidGrant("expires_at", f"expires_at must lie before the year {_LAST_YEAR}")
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _default_expiry(begins: datetime) -> datetime | None:
    days = OperatorSettings.objects.values_list("paid_credit_days", flat=True).get(pk=1)
    return begins + timedelta(days=days) if days else None


def _next_number() -> int:
    with server_cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('billing_grant', 'id'))")
        (number,) = cursor.fetchone() or (0,)
    return int(number)


def _of_key(customer_id: int, key: str) -> Grant | ScheduledGrant | None:
    """What was granted, or scheduled, under this key."""
    transfer = Transfer.objects.filter(customer_id=customer_id, kind=Transfer.Kind.GRANT, key=key).first()
    if transfer is not None:
        return Grant.objects.filter(customer_id=customer_id, transfer_id=transfer.pk).first()
    return ScheduledGrant.objects.filter(customer_id=customer_id, key=key).first()


def _check(asked: ScheduledGrant) -> None:
    amount, kind = asked.amount, asked.kind
    if kind not in _SOURCES:
        raise InvalidGrant("kind", f"kind must be paid, promotional or goodwill, not {kind!r}")
    if not amount.is_finite() or amount <= 0:
        raise InvalidGrant("amount", f"amount must be above zero, not {amount}")
    if amount > LARGEST_GRANT:
        raise InvalidGrant("amount", f"amount must be at most {LARGEST_GRANT:f}")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -15:
        raise InvalidGrant("amount", "amount must have at most 15 decimals")
    if asked.effective_at is not None and asked.effective_at - asked.created_at > _FARTHEST_BEGINNING:
        raise InvalidGrant("effective_at", "effective_at must be at most ten years ahead")
    if asked.expires_at is not None and asked.expiry_asked == "never":
        raise InvalidGrant("expires_at", "expires_at must be a moment or never, not both")
    if asked.is_refundable and kind != Grant.Kind.PAID:
        raise InvalidGrant("is_refundable", "only paid credit can be refundable")
    if not -LARGEST_PRIORITY <= asked.priority <= LARGEST_PRIORITY:
        raise InvalidGrant("priority", f"priority must be from -{LARGEST_PRIORITY} to {LARGEST_PRIORITY}")


def _check_texts(asked: ScheduledGrant) -> None:
    if asked.kind == Grant.Kind.PAID and not asked.reference.strip():
        raise InvalidGrant("reference", "a paid grant needs a reference, such as the bank transfer's number")
    if not asked.key:
        raise InvalidGrant("key", "key must have 1 to 255 characters")
    for name, longest in (("reason", 500), ("reference", 255), ("key", 255)):
        text = getattr(asked, name)
        if len(text) > longest or "\x00" in text:
            raise InvalidGrant(name, f"{name} must have at most {longest} characters, and no NUL")


def debts(wallets: Sequence[ledger.LockedWallet]) -> dict[int, Decimal]:
    """What the customers of locked wallets owe (USD): the part of their usage that no grant has paid."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT customer_id, sum(remaining) FROM billing_grant WHERE customer_id = ANY (%s::bigint[]) GROUP BY 1",
            [number_array([wallet.customer_id for wallet in wallets])],
            binary=True,
        )
        left = dict(cursor.fetchall())
    return {
        wallet.customer_id: max(ZERO, EXACT.subtract(left.get(wallet.customer_id, ZERO), wallet.balance))
        for wallet in wallets
    }


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What one customer owes for one billing period's usage of one settlement, in USD; at least 0."""

    customer_id: int
    period: date
    amount: Decimal


def charge_usage(
    charges: Sequence[Charge], *, wallets: Mapping[int, ledger.LockedWallet], settlement: str, at: datetime
) -> list[int | None]:
    """Take usage off locked wallets: burn down grants, post one transfer per charge. Returns the transfers' numbers.

    A charge of zero makes no transfer. What no grant covers becomes debt and counts as revenue, as paid credit does.
    Raises ledger.AlreadyPosted if this settlement was posted before.
    """
    assert all(charge.amount >= 0 for charge in charges), "usage never credits"
    posted = ledger.charge_usage(
        [(charge.customer_id, charge.period, charge.amount) for charge in charges if charge.amount],
        wallets=wallets,
        settlement=settlement,
        at=at,
    )
    return [posted.get((charge.customer_id, charge.period)) for charge in charges]
