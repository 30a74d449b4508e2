"""What an operator decides on parked corrections whose estimate never came: charge them as they stand, or refuse them.

Both are judged under the wallet's lock. What has been settled meanwhile, or has what it replaces by now, is left alone:
the sweep does with it what it does with any correction. So the same decision twice has no second effect.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from billing import ledger
from metering import corrections, event_store, parking, settlement
from metering.ingestion import Event, chunks
from metering.models import ParkedEvent
from relayadmin.db import in_transaction

REASON = "replaces_unknown"

Wallets = dict[int, ledger.LockedWallet]


def charge_as_they_stand(*, parked_ids: Sequence[int], actor: str, at: datetime) -> set[int]:
    """Charge corrections of what never came as ordinary events, at the prices of their moments; returns which.

    Of several that replace the same, the first is charged. What it replaces counts as replaced: its id is taken, so
    that it is a duplicate and a conflict if it comes after all, and so are further corrections of it. What has no
    price stays parked.
    """

    def charge(unknown: list[Event], wallets: Wallets) -> list[Event]:
        first: dict[tuple[int, str], Event] = {}
        for event in sorted(unknown, key=lambda event: event.number):
            first.setdefault((event.customer_id, event.replaces or ""), event)
        charged = settlement.charge_parked(list(first.values()), wallets=wallets, at=at)
        event_store.take_replaced_ids(charged, at=at)
        event_store.record_decisions(charged, kind="charged_as_it_stands", actor=actor, at=at)
        event_store.resolve_parked(_numbers(charged), at=at, decided_by=actor)
        return charged

    return _decide(parked_ids, charge)


def refuse(*, parked_ids: Sequence[int], actor: str, at: datetime) -> set[int]:
    """Refuse corrections of what never came: kept, and not charged; returns which.

    What they replace is charged as any event if it comes after all.
    """

    def set_aside(unknown: list[Event], wallets: Wallets) -> list[Event]:
        event_store.record_decisions(unknown, kind="correction_refused", actor=actor, at=at)
        event_store.resolve_parked(_numbers(unknown), at=at, resolution="refused", decided_by=actor)
        return unknown

    return _decide(parked_ids, set_aside)


def _decide(parked_ids: Sequence[int], decide: Callable[[list[Event], Wallets], list[Event]]) -> set[int]:
    """Decide on those that still wait for what never came, a transaction for each customer; the ids of the rows."""
    page = ParkedEvent.objects.filter(pk__in=parked_ids, reason=REASON, resolved_at=None)
    rows = {(row.customer_id, row.number): row for row in page}

    def work(chunk: list[Event]) -> list[Event]:
        wallets = ledger.lock_wallets({event.customer_id for event in chunk})
        waiting = event_store.still_parked(chunk)
        return decide(
            corrections.of_nothing_known([event for event in chunk if (event.customer_id, event.number) in waiting]),
            wallets,
        )

    decided: set[int] = set()
    for chunk in chunks(parking.restored(rows.values()), 1):
        decided.update(rows[place].pk for place in _numbers(in_transaction(partial(work, chunk))))
    return decided


def _numbers(events: Sequence[Event]) -> list[tuple[int, int]]:
    return [(event.customer_id, event.number) for event in events]
