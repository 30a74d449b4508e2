"""Credit grants: given, and used up by charges in a fixed order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import msgspec

from billing import debt_parts, ledger
from billing.models import Account, Grant, GrantUse, Transfer
from relayadmin.db import in_transaction, number_array, server_cursor
from relayadmin.money import EXACT, ZERO

_SOURCES = {
    Grant.Kind.PAID: Account.CASH_MANUAL,
    Grant.Kind.PROMOTIONAL: Account.PROMOTIONAL_GRANTS,
    Grant.Kind.GOODWILL: Account.GOODWILL,
}
LARGEST_GRANT = Decimal(10) ** 12


class InvalidGrant(ValueError):
    """A grant that can't be made; `field` names what is wrong, the message says what to write instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class GrantKeyConflict(Exception):
    """The idempotency key was used for another grant."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant's public id, and the wallet's balance after it (USD)."""

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
    expires_at: datetime | None = None,
    source: Account | None = None,
) -> Granted:
    """Put money in a wallet, once per key; debt is filled first. Amount in USD.

    It comes from the account of its kind unless `source` names another.

    Raises InvalidGrant, GrantKeyConflict (same key, other grant), ledger.UnknownCustomer.
    """
    _check(amount=amount, kind=kind, at=at, expires_at=expires_at)
    _check_texts(kind=kind, reason=reason, reference=reference, key=key)

    def work() -> Granted:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        transfer = Transfer.objects.filter(customer_id=customer_id, kind=Transfer.Kind.GRANT, key=key).first()
        if transfer is not None:
            return _made_before(transfer, amount=amount, kind=kind, reference=reference, expires_at=expires_at)
        debt = debts([wallet])[customer_id]
        covered = min(amount, debt)
        entries = [(Account.WALLET.value, amount), ((source or _SOURCES[Grant.Kind(kind)]).value, -amount)]
        if covered and kind != Grant.Kind.PAID:
            # Usage that stood as debt was posted as revenue; now promotional credit has paid for it.
            used = min(covered, debt_parts.of_usage(wallet, debt))
            if used:
                entries += [(Account.REVENUE.value, -used), (Account.PROMOTIONAL_USAGE.value, used)]
        posting = ledger.Posting(
            customer_id, Transfer.Kind.GRANT.value, key, entries, reason=reason, document=reference, actor=actor
        )
        (transfer_id,) = ledger.post([posting], wallets={customer_id: wallet}, at=at)
        row = Grant.objects.create(
            customer_id=customer_id,
            kind=kind,
            amount=amount,
            remaining=EXACT.subtract(amount, covered),
            expires_at=expires_at,
            reference=reference,
            reason=reason,
            transfer_id=transfer_id,
            created_at=at,
        )
        if covered:
            GrantUse.objects.create(customer_id=customer_id, grant_id=row.pk, transfer_id=transfer_id, amount=covered)
        return Granted(grant=row.public_id, balance=wallet.balance)

    return in_transaction(work)


def _check(*, amount: Decimal, kind: str, at: datetime, expires_at: datetime | None) -> None:
    if kind not in _SOURCES:
        raise InvalidGrant("kind", f"kind must be paid, promotional or goodwill, not {kind!r}")
    if not amount.is_finite() or amount <= 0:
        raise InvalidGrant("amount", f"amount must be above zero, not {amount}")
    if amount > LARGEST_GRANT:
        raise InvalidGrant("amount", f"amount must be at most {LARGEST_GRANT:f}")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -15:
        raise InvalidGrant("amount", "amount must have at most 15 decimals")
    if expires_at is not None and expires_at <= at:
        raise InvalidGrant("expires_at", "expires_at must be in the future")


def _check_texts(*, kind: str, reason: str, reference: str, key: str) -> None:
    if kind == Grant.Kind.PAID and not reference.strip():
        raise InvalidGrant("reference", "a paid grant needs a reference, such as the bank transfer's number")
    if not key:
        raise InvalidGrant("key", "key must have 1 to 255 characters")
    for name, text, longest in (("reason", reason, 500), ("reference", reference, 255), ("key", key, 255)):
        if len(text) > longest or "\x00" in text:
            raise InvalidGrant(name, f"{name} must have at most {longest} characters, and no NUL")


def _made_before(
    transfer: Transfer, *, amount: Decimal, kind: str, reference: str, expires_at: datetime | None
) -> Granted:
    row = Grant.objects.filter(customer_id=transfer.customer_id, transfer_id=transfer.pk).first()
    same = (amount, kind, reference, expires_at)
    if row is None or (row.amount, row.kind, row.reference, row.expires_at) != same:
        raise GrantKeyConflict(f"the key {transfer.key!r} was used for another grant; choose another key")
    with server_cursor() as cursor:
        cursor.execute("SELECT balance FROM billing_wallet WHERE customer_id = %s", [transfer.customer_id])
        (balance,) = cursor.fetchone() or (ZERO,)
    return Granted(grant=row.public_id, balance=balance)


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
