"""Tax with top-ups: what is paid is the whole, what is credited the rest, and what goes back takes its part of both."""

from decimal import Decimal

import pytest

from billing import receipts, refunds
from billing.models import Entry, OperatorSettings, Refund, TopUp
from billing.receipts import figures
from tests.billing.hands import charge
from tests.billing.test_receivables import wrong
from tests.invoicing import add_rate, entries, now, record, set_profile
from tests.paying import again, open_top_up, sync
from tests.payments import charge_of, receive
from tests.payments_sandbox import StripeSandbox
from tests.world import CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer(db: None) -> Payer:
    """A prepaid customer in a country with 21 %."""
    made = make_payer("0")
    add_rate("ES", "0.21", name="IVA")
    set_profile(made, country="ES", legal_name="Ada SL", address="Calle Mayor 1", tax_number="B12345674")
    return made


def paid(payer: Payer, stripe: StripeSandbox, amount: str = "10.00") -> TopUp:
    row = open_top_up(payer, amount)
    stripe.pay(row.session_id or "")
    assert sync(row) == "paid"
    return again(row)


class TestTopUp:
    def test_only_the_net_is_credited_by_one_transfer(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = paid(payer, stripe_sandbox)
        assert (row.pay_amount, row.tax, row.credited) == (Decimal("10.00"), Decimal("1.74"), Decimal("8.26"))
        assert payer.balance == Decimal("8.26")
        moved = Entry.objects.filter(customer=payer.customer).order_by("pk")
        assert {entry.account: entry.amount for entry in moved} == {
            "wallet": Decimal("8.26"),
            "cash:stripe": Decimal("-10.00"),
            "tax": Decimal("1.74"),
        }
        assert len({entry.transfer_id for entry in moved}) == 1
        assert wrong(payer) == []

    def test_the_api_says_what_is_paid_taxed_and_credited(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        answer = CustomerApi(payer).send("POST", "top-ups", {"amount": "10.00"})
        assert answer.status == 201
        assert (answer.body["amount"], answer.body["tax"], answer.body["credited"], answer.body["tax_rate"]) == (
            "10.000000",
            "1.740000",
            "8.260000",
            "0.21",
        )
        assert CustomerApi(payer).get("top-ups/options").body["tax"]["name"] == "IVA"

    def test_a_later_rate_changes_nothing_of_it(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer)
        set_profile(payer, country="FR", tax_number="")
        stripe_sandbox.pay(row.session_id or "")
        sync(row)
        assert payer.balance == Decimal("8.26")

    def test_bank_transfers_are_taxed_too(self, payer: Payer) -> None:
        row = record(payer, None, "121.00")
        assert (row.tax, payer.balance, entries(payer, "cash:manual")) == (21, 100, -121)
        assert wrong(payer) == []

    def test_the_bonus_is_of_what_was_credited(self, payer: Payer) -> None:
        OperatorSettings.objects.update(first_bonus_percent=Decimal(10))
        record(payer, None, "121.00")
        assert payer.balance == 110


class TestGoingBack:
    def test_of_everything_the_tax_goes_too(self, payer: Payer) -> None:
        record(payer, None, "10.00")
        (row,) = refunds.refund(customer_id=payer.customer.pk, amount=None, reason="r", actor="olga", key="k", at=now())
        assert (row.amount, row.tax, row.pay_amount) == (Decimal("8.26"), Decimal("1.74"), Decimal("10.00"))
        assert (payer.balance, entries(payer, "tax")) == (0, 0)
        assert wrong(payer) == []
        refunds.pay_out(refund_id=row.pk, reference="T-9", person="otto", at=now())
        assert entries(payer, "cash:manual") == 0
        assert wrong(payer) == []

    def test_in_parts_the_last_takes_the_rest(self, payer: Payer) -> None:
        record(payer, None, "10.00")
        for turn, amount in enumerate(("2.75", "2.75", "2.76")):
            refunds.refund(
                customer_id=payer.customer.pk,
                amount=Decimal(amount),
                reason="r",
                actor="olga",
                key=str(turn),
                at=now(),
            )
        rows = Refund.objects.order_by("pk")
        assert [row.tax for row in rows] == [Decimal("0.58"), Decimal("0.58"), Decimal("0.58")]
        assert sum(row.pay_amount for row in rows) == Decimal("10.00")
        assert wrong(payer) == []

    def test_what_was_used_keeps_its_tax(self, payer: Payer) -> None:
        record(payer, None, "10.00")
        charge(payer, "8.00")
        (row,) = refunds.refund(customer_id=payer.customer.pk, amount=None, reason="r", actor="olga", key="k", at=now())
        assert (row.amount, row.tax, row.pay_amount) == (Decimal("0.26"), Decimal("0.05"), Decimal("0.31"))
        assert wrong(payer) == []

    def test_what_is_given_up_comes_back_with_its_tax(self, payer: Payer) -> None:
        record(payer, None, "10.00")
        (row,) = refunds.refund(customer_id=payer.customer.pk, amount=None, reason="r", actor="olga", key="k", at=now())
        refunds.give_up(refund_id=row.pk, reason="wrong account", person="otto", at=now())
        assert (payer.balance, entries(payer, "tax")) == (Decimal("8.26"), Decimal("1.74"))
        assert wrong(payer) == []

    def test_made_at_the_provider_it_is_split(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = paid(payer, stripe_sandbox)
        stripe_sandbox.refund(charge_of(row), amount=333)
        receive(stripe_sandbox.all_deliveries())
        refund = Refund.objects.get()
        assert refund.amount + refund.tax == Decimal("3.33")
        assert refund.tax == Decimal("0.58")
        assert wrong(payer) == []

    def test_a_dispute_takes_both_and_gives_both_back(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = paid(payer, stripe_sandbox)
        disputed = stripe_sandbox.dispute(charge_of(row))
        receive(stripe_sandbox.all_deliveries())
        assert (payer.balance, entries(payer, "tax")) == (0, 0)
        assert wrong(payer) == []
        stripe_sandbox.win(disputed["id"])
        receive(stripe_sandbox.all_deliveries())
        assert (payer.balance, entries(payer, "tax")) == (Decimal("8.26"), Decimal("1.74"))
        assert wrong(payer) == []


class TestReceipt:
    def test_where_tax_was_charged_it_is_the_invoice(self, payer: Payer) -> None:
        row = record(payer, None, "10.00")
        set_profile(payer, legal_name="Another SL")
        shown = figures(receipts.of(row, at=now()))
        assert (shown.title, shown.tax_name, shown.tax_rate) == ("Invoice", "IVA", "21 %")
        assert (shown.credited, shown.tax, shown.paid_usd, shown.paid) == ("8.26", "1.74", "10.00", "10.00")
        assert (shown.customer.country, shown.customer.tax_number) == ("Spain", "ESB12345674")

    def test_without_tax_it_is_a_receipt(self) -> None:
        shown = figures(receipts.of(record(make_payer("0"), None, "10.00"), at=now()))
        assert (shown.title, shown.tax_name, shown.credited, shown.paid_usd) == ("Receipt", "", "10.00", "10.00")


def test_who_pays_no_tax_sees_10_6_0_6(stripe_sandbox: StripeSandbox) -> None:
    payer = make_payer("0")
    row = paid(payer, stripe_sandbox)
    assert (row.tax, payer.balance) == (0, 10)
    assert not entries(payer, "tax")
