"""Suspended accounts: by the operator, by debt or by a dispute, until each of these causes has ended.

The status is read anew by every authorization, so it holds from the next one on, at every relay node. What runs then is
settled and charged.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import ledger
from billing.accounts import AccountClosed, check_reason, lock_account, record, set_status
from billing.credits import debts
from billing.models import AccountChange, Customer, OperatorSettings
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text

Cause = AccountChange.Cause
Status = Customer.Status
POLICY = "debt policy"  # the actor of what the scheduled job does


def suspend(*, customer_id: int, cause: AccountChange.Cause, reason: str, actor: str, at: datetime) -> bool:
    """Suspend a customer for a cause; False if it is for that already. Raises InvalidChange, AccountClosed."""
    check_reason(reason)

    def work() -> bool:
        customer, _ = lock_account(customer_id)
        return _suspend(customer, cause, reason=reason, actor=actor, at=at)

    return in_transaction(work)


def resume(
    *, customer_id: int, reason: str, actor: str, at: datetime, causes: Iterable[AccountChange.Cause] = tuple(Cause)
) -> bool:
    """End a suspension for these causes; whether the customer is active now and was not before.

    Raises InvalidChange, AccountClosed. Who owes more than the policy allows is suspended again by the next run.
    """
    check_reason(reason)

    def work() -> bool:
        customer, _ = lock_account(customer_id)
        return _resume(customer, set(causes), reason=reason, actor=actor, at=at)

    return in_transaction(work)


def open_causes(customer_id: int) -> set[str]:
    """For what a customer is suspended now."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT cause FROM (SELECT DISTINCT ON (cause) cause, kind FROM billing_accountchange"
            " WHERE customer_id = %s AND kind IN ('suspended', 'resumed') ORDER BY cause, id DESC) latest"
            " WHERE kind = 'suspended'",
            [customer_id],
        )
        return {cause for (cause,) in cursor.fetchall()}


def _suspend(customer: Customer, cause: AccountChange.Cause, *, reason: str, actor: str, at: datetime) -> bool:
    if customer.status == Status.CLOSED:
        raise AccountClosed("a closed account is not suspended")
    if customer.status == Status.SUSPENDED and cause in open_causes(customer.pk):
        return False
    before = customer.status
    set_status(customer, Status.SUSPENDED)
    record(
        customer,
        AccountChange.Kind.SUSPENDED,
        cause=cause,
        before=before,
        after=Status.SUSPENDED,
        reason=reason,
        actor=actor,
        at=at,
    )
    return True


def _resume(customer: Customer, causes: set[AccountChange.Cause], *, reason: str, actor: str, at: datetime) -> bool:
    if customer.status == Status.CLOSED:
        raise AccountClosed("a closed account is reopened, not resumed")
    if customer.status == Status.ACTIVE:
        return False
    still_open = open_causes(customer.pk)
    # A status without a record is from before there were records: the operator's.
    ended = (still_open or {Cause.OPERATOR.value}) & causes
    if not ended:
        return False
    after = Status.SUSPENDED if still_open - causes else Status.ACTIVE
    set_status(customer, after)
    for cause in sorted(ended):
        record(
            customer,
            AccountChange.Kind.RESUMED,
            cause=cause,
            before=Status.SUSPENDED,
            after=after,
            reason=reason,
            actor=actor,
            at=at,
        )
    return after == Status.ACTIVE


@dataclass(frozen=True, slots=True)
class Policed:
    """How many customers one run of the policy suspended and resumed."""

    suspended: int
    resumed: int


_OWING = """
SELECT w.customer_id FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id
WHERE c.status = 'active' AND NOT c.is_house AND w.balance + w.credit_limit < -%s::numeric ORDER BY w.customer_id"""
_PAID = """
SELECT w.customer_id FROM billing_wallet w JOIN billing_customer c ON c.id = w.customer_id
WHERE c.status = 'suspended' AND w.balance + w.credit_limit >= 0 AND (
    SELECT a.kind FROM billing_accountchange a WHERE a.customer_id = c.id AND a.cause = 'debt'
    ORDER BY a.id DESC LIMIT 1
) = 'suspended' ORDER BY w.customer_id"""


def apply_debt_policy(*, at: datetime) -> Policed:
    """Suspend who owes more beyond the credit limit than the operator's setting, resume who was and owes nothing there.

    Without the setting nobody is suspended; who was and has paid is resumed all the same.
    """
    limit: Decimal | None = OperatorSettings.objects.values_list("suspend_debt_above", flat=True).get(pk=1)
    suspended = 0
    if limit is not None:
        suspended = sum(_suspend_if_owing(customer_id, limit, at) for customer_id in _customers(_OWING, [limit]))
    resumed = sum(_resume_if_paid(customer_id, at) for customer_id in _customers(_PAID, []))
    return Policed(suspended, resumed)


def _customers(sql: str, parameters: list[Decimal]) -> list[int]:
    with server_cursor() as cursor:
        cursor.execute(sql, parameters)
        return [customer_id for (customer_id,) in cursor.fetchall()]


def _beyond_limit(wallet: ledger.LockedWallet) -> Decimal:
    """What the customer of a locked wallet owes beyond its credit limit (USD)."""
    return max(ZERO, EXACT.subtract(debts([wallet])[wallet.customer_id], wallet.credit_limit))


def _suspend_if_owing(customer_id: int, limit: Decimal, at: datetime) -> bool:
    def work() -> bool:
        customer, wallet = lock_account(customer_id)
        owed = _beyond_limit(wallet)
        if customer.status != Status.ACTIVE or owed <= limit:
            return False
        reason = f"Owes {amount_text(owed)} USD beyond the credit limit; allowed are {amount_text(limit)}"
        return _suspend(customer, Cause.DEBT, reason=reason, actor=POLICY, at=at)

    return in_transaction(work)


def _resume_if_paid(customer_id: int, at: datetime) -> bool:
    def work() -> bool:
        customer, wallet = lock_account(customer_id)
        if customer.status != Status.SUSPENDED or _beyond_limit(wallet):
            return False
        return _resume(customer, {Cause.DEBT}, reason="Paid", actor=POLICY, at=at)

    return in_transaction(work)
