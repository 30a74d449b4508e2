"""Credit limits: how far below zero a customer on account may go. The one floor judges by them."""

from datetime import datetime
from decimal import Decimal

from billing import ledger
from billing.accounts import AccountClosed, InvalidChange, check_reason, lock_account, record
from billing.models import AccountChange, Customer
from relayadmin.db import in_transaction
from relayadmin.money import ZERO, amount_text

LARGEST_LIMIT = Decimal(10) ** 12


def set_credit_limit(*, customer_id: int, limit: Decimal, reason: str, actor: str, at: datetime) -> bool:
    """Set a customer's credit limit (USD, 0 for none), effective at the next authorization; whether it changed.

    It may lie below what is owed already: then nothing more is authorized until enough is paid. Raises InvalidChange,
    AccountClosed, ledger.UnknownCustomer.
    """
    if not limit.is_finite() or not ZERO <= limit <= LARGEST_LIMIT:
        raise InvalidChange("limit", f"the credit limit must be from 0 to {LARGEST_LIMIT:f}")
    exponent = limit.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -15:
        raise InvalidChange("limit", "the credit limit must have at most 15 decimals")
    check_reason(reason)

    def work() -> bool:
        customer, wallet = lock_account(customer_id)
        if customer.status == Customer.Status.CLOSED:
            raise AccountClosed("a closed account has no credit line; reopen it first")
        if wallet.credit_limit == limit:
            return False
        before, wallet.credit_limit = wallet.credit_limit, limit
        ledger.save_credit_limit(wallet)
        record(
            customer,
            AccountChange.Kind.CREDIT_LIMIT,
            before=amount_text(before),
            after=amount_text(limit),
            reason=reason,
            actor=actor,
            at=at,
        )
        return True

    return in_transaction(work)
