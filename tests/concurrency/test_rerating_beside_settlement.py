"""A settlement that began before a price was corrected is not missed by the re-rating that follows the correction."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, get_ident
from typing import Any

import pytest
from django.db import connection

from billing import ledger
from billing.models import Customer
from metering import rerating, settlement
from metering.models import UsageAdjustment
from metering.rerating import Outcome
from metering.rerating_pages import Scope
from tests.concurrency.racing import PATIENCE_S, assert_books_are_right, beside, look_without_lock, wait_until
from tests.concurrency.test_batches_at_once import sender, summed
from tests.concurrency.test_rerating_at_once import NEW_CHARGE, set_price
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

# Where no other test has usage.
AT = datetime(2021, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _price(committed: None) -> Iterator[None]:
    """At the end output costs again what it did."""
    yield
    set_price(15)


@pytest.fixture
def settling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the body while another thread has rated an event at the old prices and has yet to store it."""
    has_rated, may_store, store = Event(), Event(), settlement._store

    def store_when_told(rated: list[settlement.Rated], **kwargs: Any) -> None:
        if rated and get_ident() != main:
            has_rated.set()
            assert may_store.wait(PATIENCE_S)
        store(rated, **kwargs)

    main = get_ident()
    monkeypatch.setattr(settlement, "_store", store_when_told)

    @contextmanager
    def settle(payer: Payer) -> Iterator[tuple[Future[Answer], Event]]:
        with beside(sender(Relay().token, [make_event(payer, occurred_at=AT.isoformat())])) as sent:
            assert has_rated.wait(PATIENCE_S)
            try:
                yield sent, may_store
            finally:
                may_store.set()

    return settle


def rate_again(customer: Customer | None = None) -> Outcome:
    scope = Scope(AT - DAY, AT + DAY, customer_id=None if customer is None else customer.pk)
    return rerating.apply(scope, reason="a wrong price", actor="tests", at=datetime.now(UTC))


def is_anybody_waiting() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE '%%billing_wallet%%FOR UPDATE'"
        )
        row = cursor.fetchone()
    return bool(row and row[0])


@pytest.mark.parametrize("known", ["nothing", "an hour", "the same hour"])
@pytest.mark.parametrize("is_of_one_customer", [True, False])
def test_it_waits_for_a_settlement_at_the_old_price_and_puts_it_right(
    known: str, is_of_one_customer: bool, settling: Callable[..., Any]
) -> None:
    payer, earlier = make_payer(), {"an hour": timedelta(hours=1), "the same hour": timedelta(0)}
    if known in earlier:
        Relay().report(make_event(payer, occurred_at=(AT - earlier[known]).isoformat()))
    count = 1 + (known in earlier)

    with settling(payer) as (sent, may_store):
        set_price(20)
        with beside(lambda: rate_again(payer.customer if is_of_one_customer else None)) as rated:
            wait_until(is_anybody_waiting)
            may_store.set()
            outcome = rated.result(PATIENCE_S)
    assert summed([sent.result(PATIENCE_S)]) == {"accepted": 1}

    assert outcome.customers[payer.customer.pk].events == count
    assert payer.balance == 50 - count * NEW_CHARGE
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_the_settlement_is_missed(
    settling: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what is settled at the old price stays so."""
    payer = make_payer()

    with settling(payer) as (sent, may_store):
        set_price(20)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "lock_wallets", look_without_lock)
            outcome = rate_again(payer.customer)
        may_store.set()
        sent.result(PATIENCE_S)

    assert outcome.events == 0
    assert payer.balance == 50 - EXAMPLE_CHARGE
    assert not UsageAdjustment.objects.filter(customer=payer.customer).exists()


def test_a_busy_wallet_is_waited_for_while_no_other_is_held(settling: Callable[..., Any]) -> None:
    busy, other = make_payer(), make_payer()

    with settling(busy) as (sent, may_store):
        with beside(rate_again) as rated:
            wait_until(is_anybody_waiting)
            assert Relay().authorize(other).status == 201
            may_store.set()
            assert isinstance(rated.result(PATIENCE_S), Outcome)
        sent.result(PATIENCE_S)


def test_a_preview_waits_for_nobody(settling: Callable[..., Any]) -> None:
    payer = make_payer()

    with settling(payer):
        set_price(20)
        assert rerating.preview(Scope(AT - DAY, AT + DAY, customer_id=payer.customer.pk)).events == 0
