"""Rating again while usage comes in, and twice at once: every event is put right once, and every balance is right."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from threading import Lock
from typing import Any

import pytest
from django.db import IntegrityError, connection

from billing import correction_notes, ledger
from billing.models import CreditNote
from metering import adjustments, pricing, rerating, rerating_notes, statements
from metering.models import Price, Rerating, UsageAdjustment
from metering.rerating import Outcome
from metering.rerating_pages import Scope
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock, wait_until, waiting_for
from tests.concurrency.test_batches_at_once import sender, summed
from tests.invoicing import on_account
from tests.world import EXAMPLE_CHARGE, SONNET, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def rater(payer: Payer) -> Callable[[], Outcome]:
    scope = Scope(START, END, customer_id=payer.customer.pk)
    return lambda: rerating.apply(scope, reason="a wrong price", actor="tests", at=datetime.now(UTC))


def set_price(unit_price: int) -> None:
    Price.objects.filter(model__public_id=SONNET, meter="output", variant="").update(unit_price=unit_price)
    pricing.bump_version()


@pytest.fixture
def dearer(committed: None) -> Iterator[Callable[[], None]]:
    """Lets output cost more; at the end it costs again what it did."""
    yield lambda: set_price(20)
    set_price(15)


NEW_CHARGE = EXAMPLE_CHARGE + Decimal("0.0025")


def test_usage_comes_in_while_it_is_rated_again(dearer: Callable[[], None]) -> None:
    payer, token = make_payer(), Relay().token
    summed([Relay(token).report(*[make_event(payer) for _ in range(30)])])
    dearer()

    senders = [sender(token, [make_event(payer) for _ in range(10)]) for _ in range(4)]
    answers = at_once([*senders[:2], rater(payer), rater(payer), *senders[2:]])

    assert summed([answer for answer in answers if isinstance(answer, Answer)]) == {"accepted": 40}
    assert sum(isinstance(answer, Outcome) for answer in answers) == 2, answers
    assert UsageAdjustment.objects.filter(customer=payer.customer).count() == 30
    assert payer.balance == 50 - 70 * NEW_CHARGE
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_both_put_it_right_and_the_database_refuses_the_second(
    monkeypatch: pytest.MonkeyPatch, dearer: Callable[[], None]
) -> None:
    """The negative control: both see the event as it was, and one key keeps the second from booking it again."""
    payer, other, token = make_payer(), make_payer(), Relay().token
    summed([Relay(token).report(make_event(payer))])
    dearer()
    summed([Relay(token).report(make_event(other))])  # its new price set is nobody's to wait for
    adjust, first, seen = adjustments.adjust, Lock(), []

    def adjust_once_both_have_looked(changes: list[adjustments.Change], **kwargs: object) -> None:
        seen.append(len(changes))
        wait_until(lambda: len(seen) > 1)
        adjust(changes, **kwargs)  # type: ignore[arg-type]
        if first.acquire(blocking=False):
            wait_until(lambda: waiting_for(connection.connection))

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(adjustments, "adjust", adjust_once_both_have_looked)

    outcomes = at_once([rater(payer)] * 2)

    assert seen == [1, 1], "both would have booked it"
    assert {type(outcome) for outcome in outcomes} == {Outcome, IntegrityError}
    assert payer.balance == 50 - NEW_CHARGE
    assert UsageAdjustment.objects.filter(customer=payer.customer).count() == 1


@pytest.fixture
def cheaper(committed: None) -> Iterator[Callable[[], None]]:
    """Lets output cost less; at the end it costs again what it did."""
    yield lambda: set_price(5)
    set_price(15)


def invoiced() -> tuple[Payer, Scope]:
    """A customer on account whose usage of October is invoiced, and the scope of that customer."""
    payer = on_account()
    summed([Relay().report(*[make_event(payer, occurred_at="2026-10-15T12:00:00Z") for _ in range(100)])])
    statements.close_invoices(period=date(2026, 10, 1), at=datetime.now(UTC), customer=payer.customer)
    return payer, Scope(START, END, customer_id=payer.customer.pk)


def test_two_at_once_end_in_one_credit_note(cheaper: Callable[[], None]) -> None:
    payer, scope = invoiced()
    cheaper()

    def work() -> Outcome:
        return rerating.apply(scope, reason="x", actor="tests", at=datetime.now(UTC), by_credit_note=True)

    outcomes = at_once([work] * 4)

    assert {type(outcome) for outcome in outcomes} == {Outcome}, outcomes
    (note,) = CreditNote.objects.filter(customer=payer.customer)
    assert note.documented == 100 * Decimal("0.005")
    assert Rerating.objects.filter(customer=payer.customer, events__gt=0).count() == 1
    assert payer.balance == Decimal("-3.55") + note.total
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_both_would_issue_it_and_the_database_refuses_the_second(
    monkeypatch: pytest.MonkeyPatch, cheaper: Callable[[], None]
) -> None:
    """The negative control: both find the adjustments undocumented, and one key keeps the second from being issued."""
    payer, scope = invoiced()
    cheaper()
    job = rerating.apply(scope, reason="x", actor="tests", at=datetime.now(UTC)).rerating
    assert job is not None
    document, seen = correction_notes.issue, []

    def issue_once_both_have_looked(**told: Any) -> CreditNote:
        seen.append(told["key"])
        wait_until(lambda: len(seen) > 1)
        return document(**told)

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(correction_notes, "issue", issue_once_both_have_looked)

    outcomes = at_once([lambda: rerating_notes.issue(job, at=datetime.now(UTC))] * 2)

    assert len(set(seen)) == 1, "both would have issued it"
    assert len(seen) == 2
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1, outcomes
    assert CreditNote.objects.filter(customer=payer.customer).count() == 1
