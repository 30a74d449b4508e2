"""Many hands on one invoice: payments and credit notes; and what happens with the lock taken out."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing import credit_notes, ledger, receivables, top_ups
from billing.checks import Scope
from billing.credit_notes import InvalidCreditNote
from billing.manual import Person
from billing.models import CreditNote, Grant, Invoice, Notice, TopUp
from billing.received import InvalidPayment
from billing.verification import check_ledger
from tests.concurrency.racing import at_once, look_without_lock
from tests.invoicing import issue, now, on_account, record, use
from tests.paying import RETURN
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def billed(committed: None) -> tuple[Payer, Invoice]:
    """A customer who owes 12.10 for October."""
    payer = on_account()
    use(payer, "10")
    return payer, issue(payer, "10")


def assert_right(payer: Payer) -> None:
    """The ledger's figures; the usage here was charged without events."""
    assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True)) == []


def take_back(invoice: Invoice, amount: str, key: str) -> object:
    line = invoice.lines.get(position=1)
    return credit_notes.ask(
        invoice_id=invoice.pk,
        parts={line.pk: Decimal(amount)},
        reason="an outage",
        key=key,
        person=Person(None, "olga"),
        at=now(),
    )


def test_of_many_transfers_for_one_invoice_no_more_than_is_due_is_taken(billed: tuple[Payer, Invoice]) -> None:
    payer, invoice = billed
    outcomes = at_once([lambda turn=turn: record(payer, invoice, "5.00", f"T-{turn}") for turn in range(6)])  # type: ignore[misc]
    assert sum(isinstance(outcome, TopUp) for outcome in outcomes) == 2
    assert sum(isinstance(outcome, InvalidPayment) for outcome in outcomes) == 4
    assert Invoice.objects.get(pk=invoice.pk).amount_due == Decimal("2.10")
    assert payer.balance == Decimal("-2.10")
    assert_right(payer)


def test_two_pages_paid_at_once_pay_it_once_and_the_rest_is_credit(
    billed: tuple[Payer, Invoice], stripe_sandbox: StripeSandbox
) -> None:
    payer, invoice = billed
    states = []
    for currency in ("USD", "USD"):
        row = top_ups.start_payment(
            customer_id=payer.customer.pk,
            invoice=invoice.public_id,
            currency=currency,
            return_url=RETURN,
            asked_by="",
            at=now(),
        )
        row = top_ups.open_checkout(top_up_id=row.pk, at=now())
        # A page that is about to end is not given out again, so there are two.
        TopUp.objects.filter(pk=row.pk).update(expires_at=now())
        stripe_sandbox.pay(row.session_id or "")
        states.append(top_ups.read_session(row.session_id or ""))
    outcomes = at_once([lambda state=state: top_ups.apply(state, at=now()) for state in states * 3])  # type: ignore[misc]
    assert sorted(str(outcome) for outcome in outcomes) == ["paid"] * 2 + ["paid before"] * 4
    assert Invoice.objects.get(pk=invoice.pk).status == "paid"
    assert payer.balance == Decimal("12.10")
    assert Grant.objects.get(customer=payer.customer).amount == Decimal("12.10")
    assert_right(payer)


def test_credit_notes_and_payments_at_once_leave_the_books_right(billed: tuple[Payer, Invoice]) -> None:
    payer, invoice = billed
    works = [lambda turn=turn: take_back(invoice, "4.00", f"k{turn}") for turn in range(4)]  # type: ignore[misc]
    works += [lambda turn=turn: record(payer, invoice, "3.00", f"T-{turn}") for turn in range(4)]  # type: ignore[misc]
    outcomes = at_once(works)
    assert all(isinstance(outcome, InvalidCreditNote) or not isinstance(outcome, Exception) for outcome in outcomes[:4])
    numbers = sorted(CreditNote.objects.filter(invoice=invoice).values_list("sequence", flat=True))
    assert numbers == [numbers[0], numbers[0] + 1]
    assert_right(payer)


def test_with_the_lock_taken_out_more_is_taken_back_than_there_was(
    billed: tuple[Payer, Invoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: all find the line whole; they are stopped, if at all, by the wallet's unique version."""
    _, invoice = billed
    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    found: list[Decimal] = []
    left_of = credit_notes.left_of

    def look(one: Invoice) -> credit_notes.Left:
        left = left_of(one)
        found.append(left.subtotal)
        return left

    monkeypatch.setattr(credit_notes, "left_of", look)
    outcomes = at_once([lambda turn=turn: take_back(invoice, "6.00", f"k{turn}") for turn in range(2)])  # type: ignore[misc]
    assert found == [Decimal("10.00")] * 2
    assert not any(isinstance(outcome, InvalidCreditNote) for outcome in outcomes)


def test_chasing_at_once_tells_once(billed: tuple[Payer, Invoice]) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    payer, invoice = billed
    found = at_once([lambda: receivables.chase(at=at)] * 4)
    assert not [one for one in found if isinstance(one, Exception)]
    told = Notice.objects.filter(customer=payer.customer, kind="invoice_overdue")
    assert [notice.data["reminder"] for notice in told] == [1]
    assert Invoice.objects.get(pk=invoice.pk).reminders == 1
