"""Money comes in, goes back in part, is disputed, and comes back: what the customer sees is 10, 6, 0, 6."""

from collections.abc import Iterator

import pytest

from billing import refunds, stripe_reconciliation
from billing.models import Customer, StripeDifference
from tests.payments import (
    assert_right,
    books,
    cash_at_stripe,
    cash_in_ledger,
    charge_of,
    later,
    make_poor,
    pay_only,
    receive,
    refund,
    start_top_up,
    suspend_on_dispute,
    the_dispute,
    the_refund,
)
from tests.payments_sandbox import StripeSandbox

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def _suspends(committed: None) -> Iterator[None]:
    suspend_on_dispute()
    yield
    suspend_on_dispute(is_on=False)


@pytest.mark.usefixtures("_suspends")
def test_top_up_refund_dispute_and_win_it(stripe_sandbox: StripeSandbox) -> None:
    payer = make_poor()
    row = start_top_up(payer)
    pay_only(stripe_sandbox, row)
    receive(stripe_sandbox.deliveries())
    assert payer.balance == 10

    refund(payer, "4.00")
    assert payer.balance == 6, "it is gone before anybody is told"
    assert the_refund(payer).status == "pending"
    refunds.sweep(at=later(seconds=1))
    receive(stripe_sandbox.deliveries())
    assert (payer.balance, the_refund(payer).status) == (6, "succeeded")

    row.refresh_from_db()
    made = stripe_sandbox.dispute(charge_of(row))
    receive(stripe_sandbox.deliveries())
    assert payer.balance == 0
    assert Customer.objects.get(pk=payer.customer.pk).status == "suspended"

    stripe_sandbox.win(made["id"])
    receive(stripe_sandbox.deliveries())
    assert payer.balance == 6
    assert Customer.objects.get(pk=payer.customer.pk).status == "active"
    assert (the_dispute(payer).status, the_dispute(payer).taken, the_dispute(payer).returned) == ("won", 6, 6)
    assert books(payer).accounts == {"wallet": 6, "cash:stripe": -6}
    assert_right(payer)

    done = stripe_reconciliation.reconcile(at=later(days=3))
    assert done.booked == done.new >= 4
    assert cash_in_ledger(payer) == cash_at_stripe(stripe_sandbox)
    assert not StripeDifference.objects.filter(resolved_at=None, message__contains=row.public_id).exists()
    again = stripe_reconciliation.reconcile(at=later(days=3))
    assert (again.new, again.booked) == (0, 0)
    assert cash_in_ledger(payer) == cash_at_stripe(stripe_sandbox)
