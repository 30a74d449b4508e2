"""check_ledger and payments: clean after all that can happen to them, never silent about a figure that was changed."""

from decimal import Decimal

import pytest
from django.db import connection

from billing import credits, refunds
from billing.checks import Scope
from billing.models import Customer, Refund
from billing.stripe_reconciliation import reconcile
from billing.verification import check_ledger
from tests.billing.hands import charge
from tests.payments import assert_right, charge_of, later, make_poor, now, receive, refund, top_up
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

pytestmark = pytest.mark.django_db


def busy(stripe: StripeSandbox) -> Payer:
    """A customer with refunds that succeeded, failed and wait, made here and there; disputes won and lost; debt."""
    payer = make_poor()
    rows = [top_up(stripe, payer, method=method) for method in ("card", "card", "card", "wechat_pay", "wechat_pay")]
    for row, amount in ((rows[0], "4.00"), (rows[3], "2.00"), (rows[4], "3.00")):
        refund(payer, amount, top_up_id=row.pk, key=row.public_id)
    refunds.sweep(at=later(seconds=1))
    stripe.settle_refund(_sent(rows[3].pk), arrives=False)
    stripe.refund(charge_of(rows[1]), amount=500)
    stripe.win(stripe.dispute(charge_of(rows[1]))["id"])
    charge(payer, "30")
    stripe.lose(stripe.dispute(charge_of(rows[2]))["id"])
    receive(stripe.all_deliveries())
    assert payer.balance < 0
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(1),
        kind="promotional",
        reason="",
        reference="",
        key="p",
        at=now(),
    )
    reconcile(at=now())
    return payer


def _sent(top_up_id: int) -> str:

    return str(Refund.objects.get(top_up_id=top_up_id).stripe_id)


def found(customer_id: int) -> list[str]:
    return [item.what for item in check_ledger(Scope(customer_id, customer_id, full=True))]


def test_everything_that_can_happen_leaves_no_difference(stripe_sandbox: StripeSandbox) -> None:
    payer = busy(stripe_sandbox)
    assert_right(payer)
    assert found(Customer.objects.get(is_house=True).pk) == []


OF = "SELECT id FROM billing_transfer WHERE customer_id = {c} AND kind = '%s' AND key LIKE '%s'"
OF_REFUND, OF_DISPUTE = OF % ("refund", "refund:%%"), OF % ("dispute", "dispute:%%")
# (what is changed behind the ledger's back, {c} being the customer; the beginnings of what must be found)
TAMPERINGS = {
    "top-up of another amount": (
        "UPDATE billing_topup SET amount = amount + 1 WHERE customer_id = {c}",
        ["credited for top_", "received in cash for top_"],
    ),
    "top-up with another's grant": (
        "UPDATE billing_topup SET grant_id = (SELECT max(grant_id) FROM billing_topup WHERE customer_id = {c})"
        " WHERE customer_id = {c}",
        ["credited for top_"],
    ),
    "top-up from another account": (
        "UPDATE billing_topup SET origin = 'cash'"
        " WHERE id = (SELECT min(id) FROM billing_topup WHERE customer_id = {c})",
        ["received in cash for top_"],
    ),
    "refund of another amount": (
        "UPDATE billing_refund SET amount = amount + 1 WHERE customer_id = {c} AND status = 'pending'",
        ["taken for ref_", "used of grants by ref_", "refunds pending"],
    ),
    "refund said to have succeeded": (
        "UPDATE billing_refund SET status = 'succeeded', ended_at = now() WHERE customer_id = {c}"
        " AND status = 'pending'",
        ["paid out for ref_", "refunds pending"],
    ),
    "refund said to have failed": (
        "UPDATE billing_refund SET status = 'failed', ended_at = now() WHERE customer_id = {c} AND status = 'pending'",
        ["given back of ref_", "refunds pending"],
    ),
    "refund that took less of grants": (
        f"UPDATE billing_grantuse SET amount = amount - 1 WHERE customer_id = {{c}} AND transfer_id IN ({OF_REFUND})",
        ["used of grants by ref_", "used of grants by tr_", "left of gr_"],
    ),
    "refund gone": ("DELETE FROM billing_refund WHERE customer_id = {c} AND status = 'pending'", ["refunds pending"]),
    "dispute that took more": (
        "UPDATE billing_dispute SET taken = taken + 1 WHERE customer_id = {c}",
        ["taken by d", "used of grants by d", "disputes"],
    ),
    "dispute that returned more": (
        "UPDATE billing_dispute SET returned = taken WHERE customer_id = {c} AND status = 'lost'",
        ["returned by d", "disputes"],
    ),
    "dispute that made no debt": (
        "UPDATE billing_dispute SET unpaid = 0 WHERE customer_id = {c} AND unpaid > 0",
        ["used of grants by d"],
    ),
    "dispute that took less of grants": (
        f"UPDATE billing_grantuse SET amount = amount - 1 WHERE customer_id = {{c}} AND transfer_id IN ({OF_DISPUTE})",
        ["used of grants by d", "used of grants by tr_", "left of gr_"],
    ),
    "transfer to another account": (
        f"UPDATE billing_entry SET account = 'revenue' WHERE customer_id = {{c}} AND account = 'disputes'"
        f" AND transfer_id IN ({OF_DISPUTE})",
        ["taken by d", "disputes"],
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_what_was_changed_is_found(what: str, stripe_sandbox: StripeSandbox) -> None:
    payer = busy(stripe_sandbox)
    sql, expected = TAMPERINGS[what]
    _change(sql.replace("{c}", str(payer.customer.pk)).replace("%%", "%"))
    names = found(payer.customer.pk)
    missing = [beginning for beginning in expected if not any(name.startswith(beginning) for name in names)]
    assert missing == [], names


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_stripetransaction SET net_usd = net_usd + 1 WHERE id = (SELECT max(id) FROM"
        " billing_stripetransaction)",
        "UPDATE billing_entry SET account = 'revenue' WHERE account = 'processing_fees'; UPDATE billing_entry"
        " SET account = 'bank' WHERE account = 'cash:stripe'",
    ],
)
def test_what_was_changed_of_the_settlement_is_found_on_the_house(sql: str, stripe_sandbox: StripeSandbox) -> None:
    busy(stripe_sandbox)
    _change(sql)
    assert any(name.startswith("booked for txn_") for name in found(Customer.objects.get(is_house=True).pk))


def _change(sql: str) -> None:
    with connection.cursor() as cursor:
        for table in ("billing_entry", "billing_transfer", "billing_grantuse"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(sql)
        assert cursor.rowcount > 0, "it changes something"
