"""What an operator does about refunds, disputes, webhooks and differences: who may, what is asked, what is said."""

from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from billing import disputes, refunds, stripe_differences, webhook_events
from billing.models import (
    Alarm,
    Customer,
    Dispute,
    Invoice,
    InvoiceReopening,
    OperatorSettings,
    Refund,
    StripeDifference,
    StripeTransaction,
    TopUp,
    WebhookEvent,
)
from tests.billing.test_receivables import billed
from tests.invoicing import record
from tests.operator import fill_credit, hidden_value, log_in, make_staff, page, text_of
from tests.payments import later, make_poor, now, refund, top_up
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


@pytest.fixture
def filled() -> Payer:
    payer = make_payer(name="Northwind")
    fill_credit(payer)
    return payer


def ask(client: Client, address: str, **told: str) -> str:
    """Open an action's page as a browser does, fill its form in, send it; what is said then."""
    shown = client.get(address).content.decode()
    if 'name="key"' in shown:
        told["key"] = hidden_value(shown, "key")
    return text_of(client.post(address, told, follow=True))


def home(client: Client) -> str:
    return text_of(client.get("/admin/"))


class TestRefunding:
    def test_from_the_customer_s_page(self, operator: Client, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        address = page(Customer, "refund", payer.customer.pk)
        assert "At most 10.000000 USD can go back, of one top-up." in text_of(operator.get(address))
        said = ask(operator, address, amount="4", reason="asked for it")
        assert "4.000000 USD left the wallet; 4 USD goes back." in said
        (row,) = Refund.objects.filter(customer=payer.customer)
        assert (row.reason, row.actor.startswith("staff-"), payer.balance) == ("asked for it", True, 6)
        assert "Only 6.000000 USD can be refunded" in ask(operator, address, amount="7", reason="again")
        assert "All" not in ask(operator, address, reason="the rest")
        assert payer.balance == 0

    def test_from_the_top_up_s_page(self, operator: Client, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        first, _ = (top_up(stripe_sandbox, payer) for _ in range(2))
        address = page(TopUp, "refund", first.pk)
        assert f'href="{address}"' in operator.get(page(TopUp, "change", first.pk)).content.decode()
        assert "Only 10.000000 USD can be refunded" in ask(operator, address, amount="11", reason="r")
        ask(operator, address, reason="r")
        assert [row.top_up_id for row in Refund.objects.filter(customer=payer.customer)] == [first.pk]

    def test_a_double_click_refunds_once(self, operator: Client, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        address = page(Customer, "refund", payer.customer.pk)
        form = {"amount": "4", "reason": "r", "key": hidden_value(operator.get(address).content.decode(), "key")}
        for _ in range(2):
            operator.post(address, form)
        assert payer.balance == 6

    @pytest.mark.parametrize("model", [Customer, TopUp])
    def test_only_with_the_permission(self, model: type[Customer] | type[TopUp], filled: Payer) -> None:
        row = filled.customer if model is Customer else TopUp.objects.latest("pk")
        address = page(model, "refund", row.pk)
        name = model._meta.model_name
        strangers = log_in(make_staff(permissions=[f"billing.change_{name}", f"billing.view_{name}"]))
        assert strangers.get(address).status_code == strangers.post(address, {}).status_code == 403
        allowed = log_in(make_staff(permissions=["billing.refund_top_up", f"billing.view_{name}"]))
        assert allowed.get(address).status_code == 200


class TestInvoicePayments:
    """A transfer that paid an invoice, and that the bank has taken back."""

    def test_it_is_noted_on_the_payment_s_page_and_the_invoice_is_due_again(self, operator: Client) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        shown = page(TopUp, "change", row.pk)
        address = page(TopUp, "returned", row.pk)
        assert f'href="{address}"' in operator.get(shown).content.decode()
        assert invoice.number in text_of(operator.get(address))
        said = ask(operator, address, reason="no funds", reference="RET-1")
        assert "what no credit covers is due again" in said
        assert "None: it has paid an invoice." in said
        assert f'href="{address}"' not in operator.get(shown).content.decode()
        found = text_of(operator.get(page(Invoice, "change", invoice.pk)))
        assert "Went back" in found
        assert "12.10" in text_of(operator.get(page(InvoiceReopening, "changelist")))
        assert "all of it has gone back before" in ask(operator, address, reason="no funds", reference="RET-1").lower()

    def test_only_by_who_may_record_payments(self) -> None:
        payer, invoice = billed()
        row = record(payer, invoice, "12.10")
        client = log_in(make_staff(permissions=["billing.view_topup"]))
        client.post(page(TopUp, "returned", row.pk), {"reason": "x", "reference": "R"})
        assert not InvoiceReopening.objects.exists()


class TestByHand:
    def test_it_is_paid_out_with_its_reference(self, operator: Client, filled: Payer) -> None:
        row = Refund.objects.get(customer=filled.customer)
        refunds.watch(at=now())
        assert "Refunds that wait to be paid out by hand: 1." in home(operator)
        shown = operator.get(page(Refund, "change", row.pk)).content.decode()
        assert page(Refund, "pay_out", row.pk) in shown
        assert page(Refund, "ask_now", row.pk) not in shown
        assert "This field is required" in ask(operator, page(Refund, "pay_out", row.pk))
        assert "Succeeded: 2.000000 USD." in ask(operator, page(Refund, "pay_out", row.pk), reference="wire 9")
        row.refresh_from_db()
        assert (row.status, row.reference) == ("succeeded", "wire 9")
        assert LogEntry.objects.latest("pk").change_message == "Succeeded."
        assert "It does not wait" in ask(operator, page(Refund, "pay_out", row.pk), reference="wire 9")

    def test_or_given_back(self, operator: Client, filled: Payer) -> None:
        row = Refund.objects.get(customer=filled.customer)
        before = filled.balance
        assert "given back" in ask(operator, page(Refund, "give_up", row.pk), reason="no account")
        assert filled.balance == before + 2

    def test_a_large_one_wants_a_second_person(self, filled: Payer) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(1))
        grace = make_staff(is_superuser=True)
        row = Refund.objects.get(customer=filled.customer)
        Refund.objects.update(actor=grace.username)
        said = ask(log_in(grace), page(Refund, "pay_out", row.pk), reference="wire 9")
        assert "Above 1.000000 USD a second person pays it out." in said
        olga = log_in(make_staff(is_superuser=True))
        assert "Succeeded" in ask(olga, page(Refund, "pay_out", row.pk), reference="wire 9")

    def test_what_waits_for_stripe_is_asked_about_at_once(
        self, operator: Client, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        top_up(stripe_sandbox, payer)
        (row,) = refund(payer, "4.00")
        Refund.objects.update(look_at=later(days=1))
        assert "A worker sends it" in ask(operator, page(Refund, "ask_now", row.pk))
        refunds.sweep(at=now())
        row.refresh_from_db()
        assert row.status == "succeeded"


class TestDisputes:
    def test_the_operator_sees_who_and_until_when(self, operator: Client, filled: Payer) -> None:
        disputes.watch(at=now())
        row = Dispute.objects.get(customer=filled.customer)
        assert row.evidence_due_by is not None
        assert (
            f"Northwind disputes a payment of 9 USD (fraudulent): evidence is due by {row.evidence_due_by:%Y-%m-%d}"
            in (home(operator))
        )
        shown = operator.get(page(Dispute, "change", row.pk)).content.decode()
        assert "https://dashboard.stripe.com/test/disputes/dp_1" in shown
        assert page(TopUp, "change", row.top_up_id) in shown
        listed = operator.get(page(Dispute, "changelist"), {"state": "open"})
        assert "dp_1" in text_of(listed)


class TestWebhooks:
    def test_what_failed_is_tried_again(self, operator: Client, filled: Payer) -> None:
        row = WebhookEvent.objects.get(event_id="evt_1")
        webhook_events.watch(at=now())
        assert "Webhooks that could not be worked off: 1." in home(operator)
        listed = text_of(operator.get(page(WebhookEvent, "changelist"), {"status__exact": "failed"}))
        assert "GatewayUnavailable: Stripe gave no answer" in listed
        assert "A worker tries it again now" in ask(operator, page(WebhookEvent, "try_again", row.pk))
        row.refresh_from_db()
        assert (row.status, row.attempts) == ("new", 0)
        assert (
            page(WebhookEvent, "try_again", row.pk)
            not in operator.get(page(WebhookEvent, "change", row.pk)).content.decode()
        )

    def test_a_link_that_somebody_follows_tries_nothing(self, operator: Client, filled: Payer) -> None:
        row = WebhookEvent.objects.get(event_id="evt_1")
        operator.get(page(WebhookEvent, "try_again", row.pk))
        row.refresh_from_db()
        assert row.status == "failed"

    def test_what_it_carries_is_for_those_who_may_see_payers_and_no_secret_for_anybody(self, filled: Payer) -> None:
        row = WebhookEvent.objects.get(event_id="evt_1")
        address = page(WebhookEvent, "change", row.pk)
        may_see = ["billing.view_webhookevent"]
        without = log_in(make_staff(permissions=may_see)).get(address).content.decode()
        with_it = log_in(make_staff(permissions=[*may_see, "billing.see_webhook_payload"])).get(address)
        assert "ada@example.com" not in without
        assert "ada@example.com" in with_it.content.decode()
        assert "pi_secret_1" not in with_it.content.decode()

    def test_only_who_may_change_them_tries_again(self, filled: Payer) -> None:
        row = WebhookEvent.objects.get(event_id="evt_1")
        strangers = log_in(make_staff(permissions=["billing.view_webhookevent"]))
        assert strangers.post(page(WebhookEvent, "try_again", row.pk)).status_code == 403


class TestDifferences:
    def test_it_stands_on_the_home_page_until_somebody_explains_it(self, operator: Client, filled: Payer) -> None:
        row = StripeDifference.objects.get()
        assert "Stripe has a charge of 10 USD (ch_1) that is not here." in home(operator)
        alarm = Alarm.objects.get(kind="stripe.not_here")
        assert alarm.resolved_at is None
        assert "This field is required" in ask(operator, page(StripeDifference, "explain", row.pk))
        said = ask(operator, page(StripeDifference, "explain", row.pk), note="paid for the web shop")
        assert "Explained. It alarms nobody any more." in said
        row.refresh_from_db()
        assert row.note == "paid for the web shop"
        assert "that is not here" not in home(operator)
        assert "paid for the web shop" in text_of(operator.get(page(StripeDifference, "changelist")))

    def test_only_with_the_permission(self, filled: Payer) -> None:
        row = StripeDifference.objects.get()
        strangers = log_in(make_staff(permissions=["billing.view_stripedifference"]))
        assert strangers.post(page(StripeDifference, "explain", row.pk), {"note": "x"}).status_code == 403

    def test_a_transaction_shows_what_it_moved(self, operator: Client, filled: Payer) -> None:
        row = StripeTransaction.objects.get(stripe_id="txn_1")
        shown = text_of(operator.get(page(StripeTransaction, "change", row.pk)))
        assert "9.41 USD" in shown
        listed = text_of(operator.get(page(StripeTransaction, "changelist"), {"booked": "no"}))
        assert "not booked" in listed
        assert stripe_differences.still_open() == 1
