"""What an operator changes of a grant: it is voided, or given more time. Each is told by a row with who and why."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import expiry, ledger
from billing.credits import next_look
from billing.models import Grant, GrantChange
from relayadmin.db import in_transaction
from relayadmin.money import ZERO


class UnknownGrant(LookupError):
    """There is no such grant."""


class CannotChange(ValueError):
    """The grant can't be changed so; `field` names what is wrong, or is empty. The message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ChangeKeyConflict(Exception):
    """The idempotency key was used for another change."""


@dataclass(frozen=True, slots=True)
class Voided:
    """What voiding has taken (USD), and what is left because running requests hold it."""

    taken: Decimal
    held_back: Decimal
    is_new: bool


def void(*, customer_id: int, number: int, reason: str, actor: str, at: datetime) -> Voided:
    """Take what is left of a grant back to where it came from, but nothing that is held.

    The rest stays for the requests that hold it; what they don't use, and whatever an adjustment gives back to the
    grant later, is taken by the expiry sweep. A second time changes nothing. Raises UnknownGrant, CannotChange.
    """
    _check_reason(reason)

    def work() -> Voided:
        wallet, grant = _lock(customer_id, number)
        if grant.voided_at is not None:
            return Voided(ZERO, grant.remaining, is_new=False)
        if not grant.remaining:
            raise CannotChange("", "nothing is left of this grant")
        GrantChange.objects.create(
            customer_id=customer_id,
            grant_id=number,
            kind=GrantChange.Kind.VOIDED,
            key=f"void:{number}",
            expires_before=grant.expires_at,
            expires_after=grant.expires_at,
            reason=reason,
            actor=actor,
            created_at=at,
        )
        grant.voided_at = at
        Grant.objects.filter(customer_id=customer_id, pk=number).update(voided_at=at)
        taken = expiry.take([grant], wallets={customer_id: wallet}, at=at)
        return Voided(taken.get((customer_id, number), ZERO), grant.remaining, is_new=True)

    return in_transaction(work)


def extend(
    *, customer_id: int, number: int, expires_at: datetime | None, reason: str, actor: str, key: str, at: datetime
) -> bool:
    """Give what is left of a grant until a later moment, or for ever (None), once per key; False if it was done before.

    Raises UnknownGrant, CannotChange, ChangeKeyConflict.
    """
    _check_reason(reason)
    if not 1 <= len(key) <= 255 or "\x00" in key:
        raise CannotChange("key", "key must have 1 to 255 characters, and no NUL")

    def work() -> bool:
        _, grant = _lock(customer_id, number)
        known = GrantChange.objects.filter(customer_id=customer_id, key=key).first()
        if known is not None:
            asked = (number, GrantChange.Kind.EXTENDED.value, expires_at)
            if (known.grant_id, known.kind, known.expires_after) != asked:
                raise ChangeKeyConflict(f"the key {key!r} was used for another change; choose another key")
            return False
        _check_extension(grant, expires_at, at)
        GrantChange.objects.create(
            customer_id=customer_id,
            grant_id=number,
            kind=GrantChange.Kind.EXTENDED,
            key=key,
            expires_before=grant.expires_at,
            expires_after=expires_at,
            reason=reason,
            actor=actor,
            created_at=at,
        )
        Grant.objects.filter(customer_id=customer_id, pk=number).update(
            expires_at=expires_at, look_at=next_look(expires_at, after=at)
        )
        return True

    return in_transaction(work)


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise CannotChange("reason", "a reason is needed; it stays with the grant")
    if len(reason) > 500 or "\x00" in reason:
        raise CannotChange("reason", "reason must have at most 500 characters, and no NUL")


def _check_extension(grant: Grant, expires_at: datetime | None, at: datetime) -> None:
    if grant.voided_at is not None:
        raise CannotChange("", "this grant was voided")
    if grant.expires_at is None:
        raise CannotChange("", "this grant never expires")
    if not grant.remaining:
        raise CannotChange("", "nothing is left of this grant; what has expired can be given anew as goodwill")
    if expires_at is not None and expires_at <= max(at, grant.expires_at):
        raise CannotChange("expires_at", "expires_at must be in the future, and later than before")


def _lock(customer_id: int, number: int) -> tuple[ledger.LockedWallet, Grant]:
    """A grant and its wallet, locked."""
    try:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
    except ledger.UnknownCustomer as error:
        raise UnknownGrant("there is no such grant") from error
    grant = Grant.objects.filter(customer_id=customer_id, pk=number).first()
    if grant is None:
        raise UnknownGrant("there is no such grant")
    return wallet, grant
