"""Closing an account, with its keys: the money side (billing.closing) and the keys in one transaction."""

from dataclasses import dataclass
from datetime import datetime

from billing import closing
from billing.closing import Closed, PaidCredit
from metering import keys
from relayadmin.db import in_transaction


@dataclass(frozen=True, slots=True)
class ClosedAccount:
    """What became of the money, and how many keys were revoked by this call."""

    money: Closed
    keys: int


def close_account(
    *, customer_id: int, paid_credit: PaidCredit, release_holds: bool, reason: str, actor: str, at: datetime
) -> ClosedAccount:
    """Close an account and revoke its keys; a second time changes nothing.

    Usage of requests that ran is charged when it is reported, as of any revoked key. Raises closing.HoldsOpen,
    accounts.InvalidChange, ledger.UnknownCustomer.
    """

    def work() -> ClosedAccount:
        money = closing.close(
            customer_id=customer_id,
            paid_credit=paid_credit,
            release_holds=release_holds,
            reason=reason,
            actor=actor,
            at=at,
        )
        return ClosedAccount(money, keys.revoke_all_api_keys(customer_id=customer_id, at=at))

    return in_transaction(work)
