"""The events of a re-rating's scope as they count now, customer by customer, in pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from billing import ledger
from metering.adjustments import CHARGED, Charged, read_charged
from relayadmin.db import in_transaction, number_array, server_cursor

PAGE = 2_000
CUSTOMERS_PER_PAGE = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events: those whose call ended in [start, end), of a model or a customer if one is named (row numbers).

    Of a model are those that count as it, as a whole or in one of their calls, or ever did: so the same scope finds the
    same events again after it has put their models right.
    """

    start: datetime
    end: datetime
    model_id: int | None = None
    customer_id: int | None = None
    is_reparse: bool = False


def pages(scope: Scope, *, is_waiting: bool) -> Iterator[list[Charged]]:
    """The scope's events as they count now, in the order of customers, in pages; read without a lock.

    If `is_waiting`, nothing is missing that was rated before this began: settlements in flight are waited for.
    """
    page: list[Charged] = []
    customers: set[int] = set()
    for event in _events(scope, is_waiting=is_waiting):
        if len(page) >= PAGE or (event.customer_id not in customers and len(customers) >= CUSTOMERS_PER_PAGE):
            yield page
            page, customers = [], set()
        page.append(event)
        customers.add(event.customer_id)
    if page:
        yield page


def _events(scope: Scope, *, is_waiting: bool) -> Iterator[Charged]:
    for customer_id in _customers(scope, is_waiting=is_waiting):
        place: tuple[datetime, int] | None = None
        while True:
            found = _events_after(scope, customer_id, place)
            yield from found
            if len(found) < PAGE:
                break
            place = (found[-1].occurred_at, found[-1].number)


def _customers(scope: Scope, *, is_waiting: bool) -> Iterator[int]:
    """Customers with usage in the scope's hours, in order.

    A settlement in flight may be a customer's first, so all wallets are waited for before their hours are looked at.
    A wallet that comes later settles at today's prices.
    """
    for customer_ids in _wallets(scope):
        if is_waiting:
            _let_pass(customer_ids)
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT customer_id FROM unnest(%s::bigint[]) AS w (customer_id) WHERE EXISTS ("
                "   SELECT FROM metering_usagehour h WHERE h.customer_id = w.customer_id"
                "     AND h.hour > %s::timestamptz - interval '1 hour' AND h.hour < %s"
                " ) ORDER BY customer_id",
                [number_array(customer_ids), scope.start, scope.end],
            )
            found = [row[0] for row in cursor.fetchall()]
        yield from found


def _wallets(scope: Scope) -> Iterator[list[int]]:
    """The scope's customers, in order, so many at a time as a transaction locks."""
    if scope.customer_id is not None:
        yield [scope.customer_id]
        return
    after = 0
    while True:
        with server_cursor() as cursor:
            cursor.execute(
                "SELECT customer_id FROM billing_wallet WHERE customer_id > %s ORDER BY customer_id LIMIT %s",
                [after, CUSTOMERS_PER_PAGE],
            )
            page = [row[0] for row in cursor.fetchall()]
        if not page:
            return
        yield page
        after = page[-1]


def _let_pass(customer_ids: list[int]) -> None:
    """Wait until whoever has these wallets locked now has ended; afterwards none of them is held.

    A settlement reads the prices under its wallets' locks. So what was rated at earlier prices is committed by then,
    and whoever locks later reads the prices of today. Free wallets are not held while busy ones are waited for.
    """
    free = in_transaction(lambda: ledger.lock_free_wallets(customer_ids).keys())
    busy = [customer_id for customer_id in customer_ids if customer_id not in free]
    if busy:
        in_transaction(lambda: ledger.lock_wallets(busy))


_CAME_TO_COUNT_AS = """e.id IN (
    SELECT event_number FROM metering_usageadjustment WHERE customer_id = %s AND is_other_model
        AND (new_model_id = %s OR new_parts @> %s::jsonb))"""


def _events_after(scope: Scope, customer_id: int, place: tuple[datetime, int] | None) -> list[Charged]:
    where = "e.customer_id = %s AND e.occurred_at >= %s AND e.occurred_at < %s"
    params: list[object] = [customer_id, scope.start, scope.end]
    if scope.model_id is not None:
        where += f" AND (e.model_id = %s OR e.parts @> %s::jsonb OR {_CAME_TO_COUNT_AS})"
        model = [scope.model_id, f'[{{"model_id": {scope.model_id}}}]']
        params += [*model, customer_id, *model]
    if place is not None:
        where += " AND (e.occurred_at, e.id) > (%s, %s)"
        params += place
    chosen = f"(SELECT * FROM metering_usageevent e WHERE {where} ORDER BY e.occurred_at, e.id LIMIT {PAGE}) e"
    with server_cursor() as cursor:
        cursor.execute(f"{CHARGED.format(source=chosen)} ORDER BY e.occurred_at, e.id", params)
        return [read_charged(row) for row in cursor.fetchall()]
