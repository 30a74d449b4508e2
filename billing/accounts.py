"""What the use cases on accounts share: a customer read under its wallet's lock, and the record of what was changed."""

from datetime import datetime
from typing import Any

from billing import ledger
from billing.models import AccountChange, Customer


class InvalidChange(ValueError):
    """A change that can't be made; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class AccountClosed(Exception):
    """The account is closed; it is reopened first."""


def lock_account(customer_id: int) -> tuple[Customer, ledger.LockedWallet]:
    """Lock a customer's wallet, then read the customer. Raises ledger.UnknownCustomer, InvalidChange for the house."""
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    customer = Customer.objects.get(pk=customer_id)
    if customer.is_house:
        raise InvalidChange("customer", "the house customer stays as it is")
    return customer, wallet


def check_open(customer_id: int) -> None:
    """Raise AccountClosed if a gift to this customer, whose wallet is locked, would be of no use to it."""
    if Customer.objects.filter(pk=customer_id, status=Customer.Status.CLOSED).exists():
        raise AccountClosed("the account is closed: write its debt off, or reopen it before you give it credit")


def check_reason(reason: str) -> None:
    """Raise InvalidChange unless there is a reason."""
    if not 1 <= len(reason.strip()) <= 500 or "\x00" in reason:
        raise InvalidChange("reason", "reason must have 1 to 500 characters, and no NUL")


def set_status(customer: Customer, status: Customer.Status) -> None:
    """Write the status of a customer whose wallet is locked; the next authorization reads it."""
    customer.status = status
    customer.save(update_fields=["status"])


def record(
    customer: Customer,
    kind: AccountChange.Kind,
    *,
    before: str,
    after: str,
    reason: str,
    actor: str,
    at: datetime,
    cause: str = "",
    details: dict[str, Any] | None = None,
) -> AccountChange:
    """Keep what was changed, by whom and why."""
    return AccountChange.objects.create(
        customer=customer,
        kind=kind,
        cause=cause,
        before=before,
        after=after,
        reason=reason,
        actor=actor,
        details=details or {},
        created_at=at,
    )
