"""A customer on account uses the API, is invoiced with tax, is late, pays by link, and is credited an outage."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
import time_machine
from django.test import Client

from billing import credit_lines, credit_notes
from billing.manual import Person
from billing.models import Customer, Invoice, Notice, OperatorSettings
from billing.tasks import chase_overdue_invoices
from metering.statements import close_invoices
from tests.concurrency.racing import assert_books_are_right
from tests.invoicing import entries, on_account, set_profile
from tests.paying import RETURN
from tests.payments import receive
from tests.payments_sandbox import StripeSandbox
from tests.world import EXAMPLE_CHARGE, CustomerApi, Payer, Relay, make_event

pytestmark = pytest.mark.usefixtures("committed")
OCTOBER = date(2026, 10, 1)


def at(month: int, day: int, hour: int = 12) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def chase(day: datetime) -> None:
    with time_machine.travel(day):
        chase_overdue_invoices()


def reminders(payer: Payer) -> list[int]:
    rows = Notice.objects.filter(customer=payer.customer, kind="invoice_overdue").order_by("pk")
    return [row.data["reminder"] for row in rows]


def a_customer() -> Payer:
    """Since September, in Spain, on account with a credit limit; the operator suspends after fifteen days."""
    with time_machine.travel(at(9, 1), tick=False):
        payer = on_account()
        set_profile(payer, tax_number="B12345674", legal_name="Ada SL")
        credit_lines.set_credit_limit(
            customer_id=payer.customer.pk, limit=Decimal(100), reason="contract", actor="olga", at=at(9, 1)
        )
    return payer


@pytest.fixture
def policy(committed: None) -> Iterator[None]:
    """The operator suspends after fifteen days; nothing is cleaned up here, so it is taken back."""
    OperatorSettings.objects.update(suspend_overdue_days=15)
    yield
    OperatorSettings.objects.update(suspend_overdue_days=None)


@pytest.mark.usefixtures("policy")
def test_usage_invoice_reminders_suspension_payment_and_credit_note(stripe_sandbox: StripeSandbox) -> None:
    payer = a_customer()
    relay, api = Relay(), CustomerApi(payer)
    with time_machine.travel(at(10, 20)):
        events = [make_event(payer, occurred_at=at(10, day).isoformat()) for day in range(1, 19)]
        assert relay.report(*events).body["accepted"] == 18
    used = 18 * EXAMPLE_CHARGE
    assert payer.balance == -used

    with time_machine.travel(at(11, 1)):
        assert close_invoices(period=OCTOBER, at=at(11, 1), customer=payer.customer).issued == 1
    invoice = Invoice.objects.get(customer=payer.customer)
    assert (invoice.subtotal, invoice.tax, invoice.total) == (Decimal("0.53"), Decimal("0.11"), Decimal("0.64"))
    assert (invoice.status, invoice.amount_due, invoice.due_on) == ("issued", Decimal("0.64"), date(2026, 11, 15))
    assert invoice.customer_name == "Ada SL"
    assert payer.balance == Decimal("-0.64")

    for day in (15, 16, 18, 25, 29):
        chase(at(11, day))
    assert reminders(payer) == [1, 2]
    assert Customer.objects.get(pk=payer.customer.pk).status == "active"
    chase(at(11, 30))
    assert Customer.objects.get(pk=payer.customer.pk).status == "suspended"
    assert relay.authorize(payer).code == "customer_suspended"

    shown = api.get(f"invoices/{invoice.public_id}").body
    assert (shown["status"], shown["amount_due"], shown["tax"]) == ("overdue", "0.64", "0.11")
    page = api.send("POST", f"invoices/{invoice.public_id}/pay", {})
    assert page.status == 201
    assert (page.body["amount"], page.body["credited"], page.body["invoice"]) == (
        "0.640000",
        "0.000000",
        invoice.public_id,
    )
    assert api.send("POST", f"invoices/{invoice.public_id}/pay", {}).body["id"] == page.body["id"]
    stripe_sandbox.pay(page.body["checkout_url"].rsplit("/", 1)[1])
    receive(stripe_sandbox.deliveries())
    invoice.refresh_from_db()
    assert (invoice.status, invoice.amount_due, payer.balance) == ("paid", 0, 0)
    assert Customer.objects.get(pk=payer.customer.pk).status == "active"
    back = Client().get(RETURN, {"session_id": invoice.payments.get().session_id or ""})
    assert f"{invoice.number} has your payment" in back.content.decode()
    assert api.send("POST", f"invoices/{invoice.public_id}/pay", {}).code == "nothing_due"
    chase(at(12, 20))
    assert reminders(payer) == [1, 2]

    line = invoice.lines.order_by("position")[0]
    credit_notes.ask(
        invoice_id=invoice.pk,
        parts={line.pk: Decimal("0.05")},
        reason="an outage",
        key="outage",
        person=Person(None, "olga"),
        at=at(12, 2),
    )
    (note,) = api.get("credit-notes").body["data"]
    assert note["number"].startswith("CN-2026-")
    assert (note["subtotal"], note["tax"], note["total"]) == ("0.05", "0.01", "0.06")
    assert api.get(f"credit-notes/{note['id']}").body == note
    assert payer.balance == Decimal("0.06")
    assert entries(payer, "tax") == Decimal("0.10")
    assert_books_are_right(payer.customer)
