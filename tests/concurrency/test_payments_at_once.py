"""Webhooks, refunds and disputes at the same moment: each happens once, never below what is there, the books right."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from billing import disputes, ledger, receivables, refunds, webhook_events
from billing.models import InvoiceReopening, Notice, Refund, Transfer, WebhookEvent
from billing.stripe_gateway import read_event
from tests.billing.hands import charge
from tests.billing.test_invoice_payments import pay_by_link
from tests.billing.test_receivables import billed
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock, wait_until
from tests.payments import (
    assert_right,
    books,
    charge_of,
    later,
    make_poor,
    now,
    pay_only,
    receive,
    refund,
    start_top_up,
    top_up,
)
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

pytestmark = pytest.mark.usefixtures("committed")
MANY = 8


def paid_event(stripe: StripeSandbox, payer: Payer) -> int:
    """The number of a stored event that says that something was paid."""
    pay_only(stripe, start_top_up(payer))
    event = next(one for one in stripe.deliveries() if one.type == "payment_intent.succeeded")

    number = webhook_events.store(event.body, read_event(event.body, event.signature), at=now())
    assert number is not None
    return number


def test_an_event_that_eight_workers_take_up_is_worked_off_by_one(stripe_sandbox: StripeSandbox) -> None:
    payer = make_poor()
    number = paid_event(stripe_sandbox, payer)

    answers = at_once([lambda: webhook_events.work_off(number, at=later(seconds=1))] * MANY)

    assert Counter(answers) == {"paid": 1, "not due": MANY - 1}
    assert (payer.balance, WebhookEvent.objects.get(pk=number).attempts) == (10, 1)
    assert_books_are_right(payer.customer)


def test_without_the_claim_all_read_and_apply_it_and_still_it_is_credited_once(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: eight have claimed it; the event's own lock lets one through."""
    payer = make_poor()
    number = paid_event(stripe_sandbox, payer)
    monkeypatch.setattr(webhook_events, "_claim", lambda number, at: WebhookEvent.objects.get(pk=number))

    answers = at_once([lambda: webhook_events.work_off(number, at=later(seconds=1))] * MANY)

    assert Counter(answers) == {"paid": 1, "done before": MANY - 1}, "all eight have read it"
    assert payer.balance == 10


def test_without_the_event_s_lock_it_is_applied_by_many(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with both locks taken out each of them applies it, and only the ledger keeps it single."""
    payer = make_poor()
    number = paid_event(stripe_sandbox, payer)
    looked: list[int] = []

    def apply_without_lock(number: int, applying: Any, *, at: Any) -> str:
        looked.append(number)
        wait_until(lambda: len(looked) == MANY)
        return str(applying())

    monkeypatch.setattr(webhook_events, "_claim", lambda number, at: WebhookEvent.objects.get(pk=number))
    monkeypatch.setattr(webhook_events, "_apply", apply_without_lock)

    answers = at_once([lambda: webhook_events.work_off(number, at=later(seconds=1))] * MANY)

    assert Counter(answers) == {"paid": 1, "paid before": MANY - 1}, "applied eight times"
    assert payer.balance == 10


def test_refunds_at_once_take_no_more_than_there_is(stripe_sandbox: StripeSandbox) -> None:
    payer = make_poor()
    top_up(stripe_sandbox, payer)

    answers = at_once([lambda n=n: refund(payer, "3.00", key=f"k{n}") for n in range(MANY)])

    assert Counter(type(answer) for answer in answers) == {list: 3, refunds.TooMuch: MANY - 3}
    assert payer.balance == 1
    assert_books_are_right(payer.customer)


def test_the_same_refund_asked_for_eight_times_at_once_is_one(stripe_sandbox: StripeSandbox) -> None:
    payer = make_poor()
    top_up(stripe_sandbox, payer)

    answers = at_once([lambda: refund(payer, "3.00")[0].pk] * MANY)

    assert len(set(answers)) == 1
    assert (payer.balance, Refund.objects.filter(customer=payer.customer).count()) == (7, 1)


def test_without_the_wallet_s_lock_refunds_take_more_than_there_is(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: four look before any of them takes; each believes that 10 are there."""
    payer = make_poor()
    top_up(stripe_sandbox, payer)
    find, found = refunds._refundable, []

    def look_and_let_the_others_look(*told: Any, **more: Any) -> Any:
        parts = find(*told, **more)
        found.append(sum(part.amount for part in parts))
        wait_until(lambda: len(found) == 4)
        return parts

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(refunds, "_refundable", look_and_let_the_others_look)

    answers = at_once([lambda n=n: refund(payer, "6.00", key=f"k{n}") for n in range(4)])

    assert found == [10, 10, 10, 10]
    assert not [answer for answer in answers if isinstance(answer, refunds.TooMuch)], (
        "nobody was told that it is too much"
    )


def test_a_refund_is_sent_by_one_of_many_sweeps(stripe_sandbox: StripeSandbox) -> None:
    payer = make_poor()
    top_up(stripe_sandbox, payer)
    (row,) = refund(payer, "3.00")

    at_once([lambda: refunds.sweep(at=later(seconds=1))] * MANY)

    assert len([one for one in stripe_sandbox.requests() if one["key"] == f"refund:{row.public_id}"]) == 1
    assert books(payer).accounts == {"wallet": 7, "cash:stripe": -7}
    assert_books_are_right(payer.customer)


def test_refunds_usage_and_a_dispute_share_one_wallet(stripe_sandbox: StripeSandbox) -> None:
    for _ in range(3):
        payer = make_poor()
        rows = [top_up(stripe_sandbox, payer) for _ in range(2)]
        (waiting,) = refund(payer, "2.00", top_up_id=rows[0].pk)
        stripe_sandbox.deliveries()
        made = stripe_sandbox.dispute(charge_of(rows[1]))

        answers = at_once(
            [
                lambda payer=payer: charge(payer, "1.5"),
                lambda made=made: disputes.sync(made["id"], at=now()),
                lambda waiting=waiting: refunds.sync(waiting.pk, at=now()),
                lambda payer=payer: refund(payer, "1.00", key="another")[0].pk,
                lambda payer=payer: charge(payer, "1.5"),
                lambda made=made: disputes.sync(made["id"], at=now()),
                lambda waiting=waiting: refunds.sync(waiting.pk, at=now()),
            ]
        )

        assert not [answer for answer in answers if isinstance(answer, Exception)], answers
        assert payer.balance == Decimal(20) - 2 - 10 - 1 - 3
        assert Transfer.objects.filter(customer=payer.customer, kind="dispute").count() == 1
        assert_books_are_right(payer.customer)


def test_without_the_lock_a_dispute_is_taken_twice_but_for_its_key(
    stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: both see that nothing was taken; the transfer's key refuses the second."""
    payer = make_poor()
    row = top_up(stripe_sandbox, payer)
    stripe_sandbox.deliveries()
    made = stripe_sandbox.dispute(charge_of(row), withdraws=False)
    receive(stripe_sandbox.deliveries())
    stripe_sandbox.withdraw(made["id"])
    take, looked = disputes._take, []

    def look_and_let_the_other_look(row: Any, *told: Any, **more: Any) -> str:
        looked.append(row.taken)
        wait_until(lambda: len(looked) == 2)
        return take(row, *told, **more)

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(disputes, "_take", look_and_let_the_other_look)

    answers = at_once([lambda: disputes.sync(made["id"], at=now())] * 2)

    assert looked == [0, 0], "both would have taken it"
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [ledger.AlreadyPosted]
    assert payer.balance == 0


def test_a_dispute_of_an_invoice_s_payment_that_many_hear_of_makes_it_due_once_and_pays_it_once(
    stripe_sandbox: StripeSandbox,
) -> None:
    payer, invoice = billed()
    row = pay_by_link(stripe_sandbox, payer, invoice)
    made = stripe_sandbox.dispute(charge_of(row))

    def work() -> object:
        return disputes.sync(made["id"], at=now())

    def chase() -> object:
        return receivables.chase(at=now())

    answers = at_once([work, chase, work, work, chase, work])
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    invoice.refresh_from_db()
    assert (invoice.amount_due, payer.balance) == (Decimal("12.10"), Decimal("-12.10"))
    assert InvoiceReopening.objects.filter(invoice=invoice).count() == 1
    assert Notice.objects.filter(customer=payer.customer, kind="invoice_due_again").count() == 1

    stripe_sandbox.win(made["id"])
    answers = at_once([work, chase, work, work])
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    invoice.refresh_from_db()
    assert (invoice.status, invoice.amount_due, payer.balance) == ("paid", 0, 0)
    assert_right(payer)
