"""Credit that ends: announced, expired to breakage or, if it was voided, taken back; all under the wallet's lock.

Every grant says when there is something to do about it (`look_at`), so a sweep reads only what is due. What running
requests hold is never taken: of what is left goes min(left, max(0, balance − held)), and the sweep comes back for the
rest, after what the requests used was charged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from billing import ledger, notices
from billing.credits import ANNOUNCED_DAYS, next_look
from billing.models import Account, Grant, GrantChange, Transfer
from relayadmin.db import copy_rows, in_transaction, number_array, server_cursor, text_array
from relayadmin.money import EXACT, ZERO, amount_text

CREDIT_EXPIRES = "credit_expires"
EXPIRED = "Expired"
# How long what is held is left alone before the sweep comes back for it.
BACK_AFTER = timedelta(minutes=1)
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a round of the sweep did: grants looked at, of which a part was taken, and notices that are new."""

    looked_at: int
    taken: int
    announced: int


def sweep(*, at: datetime, limit: int = 200) -> Swept:
    """Do what is due for up to `limit` grants, in one transaction; looked at 0 when nothing is due.

    Any number of workers may run it at once: what is due is read again under the wallets' locks.
    """

    def work() -> Swept:
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT customer_id, id FROM billing_grant WHERE look_at <= %s ORDER BY look_at LIMIT %s", [at, limit]
            )
            due = cursor.fetchall()
        if not due:
            return Swept(0, 0, 0)
        wallets = ledger.lock_wallets(customer_id for customer_id, _ in due)
        grants = list(
            Grant.objects.filter(customer_id__in=wallets, pk__in=[number for _, number in due], look_at__lte=at)
        )
        ended = [grant for grant in grants if has_ended(grant, at=at)]
        taken = take(ended, wallets=wallets, at=at)
        going_on = [grant for grant in grants if not has_ended(grant, at=at)]
        announced = notices.announce_all([_news(grant, at) for grant in going_on if grant.remaining], at=at)
        for grant in going_on:
            grant.look_at = next_look(grant.expires_at, after=at)
        _save_looks(going_on)
        return Swept(len(due), len(taken), announced)

    return in_transaction(work)


def has_ended(grant: Grant, *, at: datetime) -> bool:
    """Whether what is left of a grant is to be taken."""
    return grant.voided_at is not None or (grant.expires_at is not None and grant.expires_at <= at)


def _news(grant: Grant, at: datetime) -> notices.News:
    assert grant.expires_at is not None, "what never expires is never announced"
    days = min(days for days in ANNOUNCED_DAYS if grant.expires_at - timedelta(days=days) <= at)
    ends = grant.expires_at.isoformat()
    return notices.News(
        grant.customer_id,
        CREDIT_EXPIRES,
        # With the moment, so that credit which was extended is announced anew.
        f"{grant.public_id}:{ends}:{days}",
        {"grant": grant.public_id, "remaining": amount_text(grant.remaining), "expires_at": ends, "days": days},
    )


def take(grants: Sequence[Grant], *, wallets: Mapping[int, ledger.LockedWallet], at: datetime) -> dict[_Key, Decimal]:
    """Take what is left of ended grants of locked wallets, except what is held, in the order in which they are used.

    Returns the amounts taken by (customer, grant), USD. One transfer for each, whose key counts the takings of its
    grant; each is written as a use of it. What is left then is looked at again in a minute.
    """
    ordered = sorted(grants, key=lambda one: (one.customer_id, one.priority, one.expires_at or at, one.pk))
    free = {number: max(ZERO, EXACT.subtract(wallet.balance, wallet.held)) for number, wallet in wallets.items()}
    taken: dict[_Key, Decimal] = {}
    for grant in ordered:
        amount = min(grant.remaining, free[grant.customer_id])
        if amount:
            free[grant.customer_id] = EXACT.subtract(free[grant.customer_id], amount)
            taken[grant.customer_id, grant.pk] = amount
            grant.remaining = EXACT.subtract(grant.remaining, amount)
            grant.takings += 1
        grant.look_at = at + BACK_AFTER if grant.remaining else None
    losing = [grant for grant in ordered if (grant.customer_id, grant.pk) in taken]
    voids = _voids([grant for grant in losing if grant.voided_at is not None])
    numbers = ledger.post(
        [_posting(grant, taken[grant.customer_id, grant.pk], voids) for grant in losing], wallets=wallets, at=at
    )
    _save(list(zip(numbers, losing, strict=True)), taken)
    _save_looks(ordered)
    return taken


@dataclass(frozen=True, slots=True)
class _Void:
    """Where a voided grant's money goes back to, and who voided it for what reason."""

    source: str
    reason: str
    actor: str


def _voids(grants: Sequence[Grant]) -> dict[_Key, _Void]:
    if not grants:
        return {}
    with server_cursor() as cursor:
        cursor.execute(
            # The second entry of a grant's own transfer is on the account that its money came from.
            "SELECT g.customer_id, g.id, e.account, c.reason, c.actor"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS t (customer_id, id)"
            " JOIN billing_grant g ON g.customer_id = t.customer_id AND g.id = t.id"
            " JOIN billing_entry e ON e.customer_id = g.customer_id AND e.id = g.transfer_id * 16 + 1"
            " JOIN billing_grantchange c ON c.customer_id = g.customer_id AND c.grant_id = g.id AND c.kind = %s",
            [
                number_array([grant.customer_id for grant in grants]),
                number_array([grant.pk for grant in grants]),
                GrantChange.Kind.VOIDED.value,
            ],
        )
        return {(customer_id, number): _Void(*void) for customer_id, number, *void in cursor.fetchall()}


def _posting(grant: Grant, amount: Decimal, voids: Mapping[_Key, _Void]) -> ledger.Posting:
    void = voids.get((grant.customer_id, grant.pk))
    account = Account.BREAKAGE.value if void is None else void.source
    return ledger.Posting(
        grant.customer_id,
        (Transfer.Kind.EXPIRY if void is None else Transfer.Kind.VOID).value,
        f"{grant.public_id}:{grant.takings}",
        [(Account.WALLET.value, -amount), (account, amount)],
        reason=EXPIRED if void is None else void.reason,
        document=grant.public_id,
        actor="" if void is None else void.actor,
    )


def _save(posted: Sequence[tuple[int, Grant]], taken: Mapping[_Key, Decimal]) -> None:
    """Write each taking as a use, and what is left."""
    if not posted:
        return
    with server_cursor() as cursor:
        copy_rows(
            cursor,
            "billing_grantuse",
            "customer_id, transfer_id, grant_id, amount",
            [
                f"{grant.customer_id}\t{number}\t{grant.pk}\t{taken[grant.customer_id, grant.pk]}"
                for number, grant in posted
            ],
        )
        cursor.execute(
            "UPDATE billing_grant g SET remaining = t.remaining, takings = t.takings"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::numeric[], %s::int[])"
            "   AS t (customer_id, id, remaining, takings)"
            " WHERE g.customer_id = t.customer_id AND g.id = t.id",
            [
                number_array([grant.customer_id for _, grant in posted]),
                number_array([grant.pk for _, grant in posted]),
                number_array([grant.remaining for _, grant in posted]),
                number_array([grant.takings for _, grant in posted]),
            ],
        )


def _save_looks(grants: Sequence[Grant]) -> None:
    if not grants:
        return
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_grant g SET look_at = t.look_at::timestamptz"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS t (customer_id, id, look_at)"
            " WHERE g.customer_id = t.customer_id AND g.id = t.id",
            [
                number_array([grant.customer_id for grant in grants]),
                number_array([grant.pk for grant in grants]),
                text_array([grant.look_at.isoformat() if grant.look_at else None for grant in grants]),
            ],
        )
