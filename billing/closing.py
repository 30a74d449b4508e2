"""Closing an account: what is left is refunded or expires, the ledger stays. Keys are metering's (metering.closing)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from billing import burning, customers, holds, ledger, manual, money_back, refunds
from billing.accounts import check_reason, lock_account, record, set_status
from billing.credits import debts
from billing.models import Account, AccountChange, Customer, Grant, Hold, Refund, ScheduledGrant, TopUp, Transfer
from billing.suspension import open_causes
from relayadmin.db import in_transaction
from relayadmin.money import EXACT, ZERO, amount_text, to_cents, total

REASON = "Account closed"  # stands on what closing posts, cancels and withdraws


class PaidCredit(StrEnum):
    """What becomes of paid credit that is left. Gifts expire in any case."""

    REFUND = "refund"
    EXPIRE = "expire"


class HoldsOpen(Exception):
    """Requests run: the account closes when they have ended, or when told to release their holds."""

    def __init__(self, count: int, amount: Decimal) -> None:
        super().__init__(f"{count} requests run, for which {amount_text(amount)} USD are held")
        self.count = count
        self.amount = amount


class NotClosed(Exception):
    """The account is not closed, so it can't be reopened."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What closing did (USD); not `is_new`: it had been closed before, and these are the figures of then."""

    refunded: Decimal
    expired: Decimal
    debt: Decimal
    released: int
    withdrawn: int
    is_new: bool


def close(
    *, customer_id: int, paid_credit: PaidCredit, release_holds: bool, reason: str, actor: str, at: datetime
) -> Closed:
    """Close an account: no authorization from now on, no access token, no credit, no credit line.

    Paid credit goes to refunds, which are sent or paid out after that, or, with the rest, to breakage. Debt stays on
    the wallet. Credit that has not begun is cancelled, adjustments that wait for a second person are withdrawn.
    A second time changes nothing. Raises HoldsOpen, InvalidChange, ledger.UnknownCustomer.
    """
    check_reason(reason)

    def work() -> Closed:
        customer, _ = lock_account(customer_id)
        if customer.status == Customer.Status.CLOSED:
            return _closed_before(customer_id)
        released = _end_holds(customer_id, release_holds=release_holds, at=at)
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        refunded, expired = _empty(wallet, paid_credit, actor=actor, at=at)
        ScheduledGrant.objects.filter(customer_id=customer_id, posted_at=None, cancelled_at=None).update(
            cancelled_at=at, cancelled_by=actor, cancelled_because=REASON
        )
        withdrawn = manual.withdraw_all(customer_id=customer_id, note=REASON, actor=actor, at=at)
        before, limit = customer.status, wallet.credit_limit
        if limit:
            wallet.credit_limit = ZERO
            ledger.save_credit_limit(wallet)
        set_status(customer, Customer.Status.CLOSED)
        tokens = customers.revoke_all_access_tokens(customer_id=customer_id, at=at)
        closed = Closed(refunded, expired, debts([wallet])[customer_id], released, len(withdrawn), is_new=True)
        record(
            customer,
            AccountChange.Kind.CLOSED,
            before=before,
            after=Customer.Status.CLOSED,
            reason=reason,
            actor=actor,
            at=at,
            details={
                "paid_credit": paid_credit.value,
                "refunded": amount_text(closed.refunded),
                "expired": amount_text(closed.expired),
                "debt": amount_text(closed.debt),
                "released_holds": released,
                "withdrawn_adjustments": withdrawn,
                "credit_limit": amount_text(limit),
                "access_tokens": tokens,
            },
        )
        return closed

    return in_transaction(work)


def reopen(*, customer_id: int, reason: str, actor: str, at: datetime) -> None:
    """Open a closed account again, on the record. Keys, tokens and credit stay as closing left them.

    Raises NotClosed, InvalidChange, ledger.UnknownCustomer.
    """
    check_reason(reason)

    def work() -> None:
        customer, _ = lock_account(customer_id)
        if customer.status != Customer.Status.CLOSED:
            raise NotClosed(f"the account is {customer.status}")
        # What it had been suspended for has not ended by closing.
        after = Customer.Status.SUSPENDED if open_causes(customer_id) else Customer.Status.ACTIVE
        set_status(customer, after)
        record(
            customer,
            AccountChange.Kind.REOPENED,
            before=Customer.Status.CLOSED,
            after=after,
            reason=reason,
            actor=actor,
            at=at,
        )

    in_transaction(work)


def _closed_before(customer_id: int) -> Closed:
    last = AccountChange.objects.filter(customer_id=customer_id, kind=AccountChange.Kind.CLOSED).first()
    told = last.details if last is not None else {}
    refunded, expired, debt = (Decimal(told.get(name, "0")) for name in ("refunded", "expired", "debt"))
    released, withdrawn = int(told.get("released_holds", 0)), len(told.get("withdrawn_adjustments", ()))
    return Closed(refunded, expired, debt, released, withdrawn, is_new=False)


def _end_holds(customer_id: int, *, release_holds: bool, at: datetime) -> int:
    """Release what a locked wallet holds, if told to; returns how many holds. Overdue ones are in nobody's way."""
    running = list(Hold.objects.filter(customer_id=customer_id, status=Hold.Status.OPEN))
    in_time = [hold for hold in running if hold.expires_at > at]
    if in_time and not release_holds:
        raise HoldsOpen(len(in_time), sum((hold.remaining for hold in in_time), ZERO))
    for hold in running:
        holds.release(customer_id=customer_id, number=hold.pk, at=at)
    return len(in_time)


def _empty(
    wallet: ledger.LockedWallet, paid_credit: PaidCredit, *, actor: str, at: datetime
) -> tuple[Decimal, Decimal]:
    """Take all that is left off a locked wallet's grants; returns what is refunded and what expires (USD).

    What is refunded stands in refunds, one for each top-up and each other paid grant; what is too little to be sent
    back in its currency expires.
    """
    parts = burning.left(wallet)
    if not parts:
        return ZERO, ZERO
    refundable = [] if paid_credit == PaidCredit.EXPIRE else [part for part in parts if part.is_refundable]
    # An account that was reopened can be closed again; its wallet has moved since.
    key = f"closing:{wallet.version}"
    rows = _refunds(wallet.customer_id, refundable, key=key, actor=actor, at=at)
    refunded, tax = total([row.amount for row in rows]), total([row.tax for row in rows])
    expired = EXACT.subtract(burning.sum_of(parts), refunded)
    sides = (
        (Account.WALLET.value, -EXACT.add(refunded, expired)),
        (Account.REFUNDS_PENDING.value, EXACT.add(refunded, tax)),
        (Account.TAX.value, -tax),
        (Account.BREAKAGE.value, expired),
    )
    posting = ledger.Posting(
        wallet.customer_id,
        Transfer.Kind.CLOSING.value,
        key,
        [(account, amount) for account, amount in sides if amount],
        reason=REASON,
        actor=actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={wallet.customer_id: wallet}, at=at)
    burning.burn(wallet, parts, transfer_id=transfer_id)
    for row in rows:
        row.transfer_id = transfer_id
    Refund.objects.bulk_create(rows)
    return refunded, expired


def _refunds(customer_id: int, parts: Sequence[burning.Part], *, key: str, actor: str, at: datetime) -> list[Refund]:
    """The refunds, not saved yet, of what is left of paid grants: by top-up, or by grant where it was given by hand."""
    references = dict(
        Grant.objects.filter(customer_id=customer_id, pk__in=[part.grant_id for part in parts]).values_list(
            "pk", "reference"
        )
    )
    paid = TopUp.objects.filter(customer_id=customer_id, status=TopUp.Status.PAID, public_id__in=references.values())
    top_ups = {row.public_id: row for row in paid}
    # No more goes back of a top-up than was paid: what credit by hand that names one is more, a person pays out.
    rest = {name: EXACT.subtract(row.amount, money_back.gone_of(row).amount) for name, row in top_ups.items()}
    rows: dict[str, Refund] = {}
    for part in parts:
        name = references[part.grant_id]
        top_up = top_ups[name] if rest.get(name, ZERO) >= part.amount else None
        if top_up is not None:
            rest[name] = EXACT.subtract(rest[name], part.amount)
        what = str(part.grant_id) if top_up is None else top_up.public_id
        row = rows.setdefault(
            what,
            Refund(
                customer_id=customer_id,
                top_up=top_up,
                grant_id=part.grant_id if top_up is None else None,
                origin=Refund.Origin.CLOSING,
                amount=ZERO,
                currency="USD" if top_up is None else top_up.currency,
                key=f"{key}:{what}",
                reason=REASON,
                actor=actor,
                look_at=None if top_up is None or top_up.origin in refunds.BY_HAND else at,
                created_at=at,
            ),
        )
        row.amount = EXACT.add(row.amount, part.amount)
    for row in rows.values():
        if row.top_up is None:
            row.pay_amount = to_cents(row.amount)
            continue
        gone = money_back.gone_of(row.top_up)
        row.pay_amount = money_back.pay_of(row.top_up, row.amount, gone)
        row.tax = money_back.tax_of(row.top_up, row.amount, gone)
    return [row for row in rows.values() if row.pay_amount]
