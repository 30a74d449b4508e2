"""Stripe's books against ours: fees, rates and payouts booked once; what differs stands until it is explained."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command

from billing import refunds, stripe_differences, stripe_gateway, stripe_reconciliation
from billing.checks import Scope
from billing.models import (
    Alarm,
    Customer,
    Entry,
    ExchangeRate,
    PayCurrency,
    StripeDifference,
    StripeTransaction,
    TopUp,
    Transfer,
)
from billing.stripe_objects import BalanceTransaction
from billing.verification import check_ledger
from tests.payments import (
    assert_right,
    cash_at_stripe,
    charge_of,
    later,
    make_poor,
    movement,
    now,
    pay_only,
    receive,
    refund,
    start_top_up,
    top_up,
)
from tests.payments_sandbox import StripeSandbox

pytestmark = pytest.mark.django_db


def reconcile(**told: Any) -> stripe_reconciliation.Reconciled:
    return stripe_reconciliation.reconcile(at=told.pop("at", now()), **told)


def house_books() -> dict[str, Decimal]:
    house = Customer.objects.get(is_house=True)
    sums: dict[str, Decimal] = {}
    for account, amount in Entry.objects.filter(customer=house).values_list("account", "amount"):
        sums[account] = sums.get(account, Decimal(0)) + amount
    return {account: amount.normalize() for account, amount in sums.items() if amount}


def assert_house_is_right() -> None:
    house = Customer.objects.get(is_house=True)
    for full in (False, True):
        assert check_ledger(Scope(house.pk, house.pk, full=full)) == []


def open_kinds() -> list[str]:
    rows = StripeDifference.objects.filter(resolved_at=None, explained_at=None)
    return list(rows.order_by("kind").values_list("kind", flat=True))


def assert_cash_agrees(stripe: StripeSandbox) -> None:
    standing = stripe_reconciliation.standing()
    assert standing.at_stripe == standing.in_ledger == cash_at_stripe(stripe)


@pytest.fixture
def at_stripe(stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What Stripe's balance transactions are said to be, beside or in place of the sandbox's."""

    def say(*more: BalanceTransaction, only: bool = False) -> None:
        real = [] if only else list(stripe_gateway.balance_transactions(later(days=-1), later(days=1)))
        monkeypatch.setattr(stripe_gateway, "balance_transactions", lambda start, end: iter([*real, *more]))

    return say


class TestBooked:
    def test_fees_refunds_and_disputes_bring_cash_to_what_stripe_has(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        rows = [top_up(stripe_sandbox, payer, method=method) for method in ("card", "alipay", "wechat_pay")]
        refund(payer, "4.00", top_up_id=rows[0].pk)
        refunds.sweep(at=later(seconds=1))
        stripe_sandbox.deliveries()
        lost = stripe_sandbox.dispute(charge_of(rows[0]))
        receive(stripe_sandbox.deliveries())
        stripe_sandbox.lose(lost["id"])
        receive(stripe_sandbox.deliveries())

        done = reconcile()

        assert (done.new, done.booked, done.differences) == (5, 5, 0)
        assert_cash_agrees(stripe_sandbox)
        fees = sum((row.fee for row in StripeTransaction.objects.all()), Decimal(0))
        assert house_books()["processing_fees"] == -fees.normalize() < 0
        assert sum(Entry.objects.filter(account="disputes").values_list("amount", flat=True)) == 0
        assert_house_is_right()

    def test_what_was_made_there_and_no_webhook_told_of_is_taken_in(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = top_up(stripe_sandbox, payer)
        stripe_sandbox.refund(charge_of(row), amount=400)
        made = stripe_sandbox.dispute(charge_of(row))
        stripe_sandbox.lose(made["id"])
        assert payer.balance == 10
        assert reconcile().differences == 0
        assert payer.balance == 0
        assert reconcile() == stripe_reconciliation.Reconciled(0, 0, 0)
        receive(stripe_sandbox.deliveries())  # much later, after all
        assert payer.balance == 0
        assert_cash_agrees(stripe_sandbox)
        assert_right(payer)

    def test_each_is_booked_once_however_often_it_is_read(self, stripe_sandbox: StripeSandbox) -> None:
        top_up(stripe_sandbox, make_poor())
        reconcile()
        before = house_books()
        for days in (None, 1, 400):
            assert reconcile(days=days) == stripe_reconciliation.Reconciled(0, 0, 0)
        assert house_books() == before
        assert Transfer.objects.filter(kind="settlement").count() == 1

    def test_a_refund_that_failed_after_all_leaves_no_trace_on_cash(self, stripe_sandbox: StripeSandbox) -> None:
        for method in ("card", "wechat_pay"):
            payer = make_poor()
            top_up(stripe_sandbox, payer, method=method)
            (row,) = refund(payer, "4.00")
            refunds.sweep(at=later(seconds=1))
            if method == "card":
                reconcile()  # booked as gone, before it comes back
            row.refresh_from_db()
            stripe_sandbox.settle_refund(str(row.stripe_id), arrives=False)
            receive(stripe_sandbox.deliveries())
        assert reconcile().differences == 0
        assert not StripeTransaction.objects.filter(booked_at=None).exists()
        assert_cash_agrees(stripe_sandbox)
        assert_house_is_right()

    def test_payouts_and_stripe_s_own_fees(self, stripe_sandbox: StripeSandbox, at_stripe: Any) -> None:
        top_up(stripe_sandbox, make_poor(), "100.00")
        at_stripe(movement("payout", "-50"), movement("payout", "7", reporting_category="payout_reversal"))
        reconcile()
        at_stripe(movement("stripe_fee", "-2", reporting_category="fee"))
        reconcile()
        assert house_books()["cash:bank"] == -43
        standing = stripe_reconciliation.standing()
        assert standing.at_stripe == standing.in_ledger
        assert_house_is_right()

    def test_what_was_settled_at_another_rate_is_an_exchange_difference(
        self, stripe_sandbox: StripeSandbox, at_stripe: Any
    ) -> None:
        row = top_up(stripe_sandbox, make_poor())
        TopUp.objects.filter(pk=row.pk).update(currency="CNY", pay_amount=Decimal("71.30"), rate=Decimal("7.13"))
        settled = movement("charge", "9.90", fee=Decimal("0.5"), net=Decimal("9.4"), source=charge_of(row))
        at_stripe(settled, only=True)
        reconcile()
        assert house_books() == {
            "cash:stripe": Decimal("0.6"),
            "processing_fees": Decimal("-0.5"),
            "fx_difference": Decimal("-0.1"),
        }
        assert_house_is_right()

    def test_an_account_that_settles_in_euros_needs_a_rate(self, stripe_sandbox: StripeSandbox, at_stripe: Any) -> None:
        row = top_up(stripe_sandbox, make_poor())
        at_stripe(movement("charge", "9", currency="eur", source=charge_of(row)), only=True)
        assert reconcile().booked == 0
        assert open_kinds() == ["no_rate"]

        PayCurrency.objects.update_or_create(code="EUR", defaults={"methods": ["card"]})
        ExchangeRate.objects.create(
            currency_id="EUR", per_usd=Decimal("0.9"), effective_from=now() - timedelta(days=2), created_at=now()
        )
        assert reconcile(at=later(seconds=1)) == stripe_reconciliation.Reconciled(0, 1, 0)


class TestDifferences:
    def test_a_payment_that_is_not_here(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        pay_only(stripe_sandbox, row)  # and nobody here has heard of it
        assert reconcile() == stripe_reconciliation.Reconciled(1, 0, 1)
        assert open_kinds() == ["not_here"]
        assert Alarm.objects.filter(kind="stripe.not_here", resolved_at=None).exists()
        receive(stripe_sandbox.deliveries())
        assert reconcile(at=later(seconds=1)) == stripe_reconciliation.Reconciled(0, 1, 0)
        assert not Alarm.objects.filter(kind="stripe.not_here", resolved_at=None).exists()
        assert_cash_agrees(stripe_sandbox)

    def test_a_payment_that_is_not_at_stripe(self, stripe_sandbox: StripeSandbox, at_stripe: Any) -> None:
        top_up(stripe_sandbox, make_poor())
        reconcile()
        gone = top_up(stripe_sandbox, make_poor())
        at_stripe(only=True)
        assert reconcile(at=later(days=1)).differences == 0, "Stripe may be late"
        assert reconcile(at=later(days=3)).differences == 1
        (found,) = StripeDifference.objects.filter(resolved_at=None)
        assert (found.kind, found.subject) == ("not_at_stripe", gone.public_id)

    def test_a_payment_that_stripe_has_twice_is_booked_once(
        self, stripe_sandbox: StripeSandbox, at_stripe: Any
    ) -> None:
        row = top_up(stripe_sandbox, make_poor())
        at_stripe(movement("charge", "10", source=charge_of(row)))
        done = reconcile()
        assert (done.booked, open_kinds()) == (1, ["doubled"])

    def test_another_amount(self, stripe_sandbox: StripeSandbox, at_stripe: Any) -> None:
        row = top_up(stripe_sandbox, make_poor())
        at_stripe(movement("charge", "9", source=charge_of(row)), only=True)
        reconcile()
        assert open_kinds() == ["other_amount"]

    def test_a_kind_that_nobody_knows(self, stripe_sandbox: StripeSandbox, at_stripe: Any) -> None:
        at_stripe(movement("climate_order_purchase", "-3"))
        reconcile()
        assert open_kinds() == ["unknown"]

    def test_a_refund_that_is_not_here_is_waited_for_only_if_it_is_known(
        self, stripe_sandbox: StripeSandbox, at_stripe: Any
    ) -> None:
        at_stripe(movement("refund", "-3", source="re_of_another_program"))
        reconcile()
        assert open_kinds() == ["not_here"]

    def test_what_somebody_has_explained_alarms_nobody_any_more(
        self, stripe_sandbox: StripeSandbox, at_stripe: Any
    ) -> None:
        at_stripe(movement("climate_order_purchase", "-3"))
        reconcile()
        row = StripeDifference.objects.get()
        with pytest.raises(stripe_differences.CannotExplain):
            stripe_differences.explain(number=row.pk, note=" ", person="olga", at=later(seconds=1))
        stripe_differences.explain(number=row.pk, note="carbon removal", person="olga", at=later(seconds=1))
        assert not Alarm.objects.filter(kind="stripe.unknown", resolved_at=None).exists()
        assert reconcile(at=later(seconds=2)).differences == 0
        row.refresh_from_db()
        assert (row.note, row.explained_by, row.resolved_at) == ("carbon removal", "olga", None)
        with pytest.raises(stripe_differences.CannotExplain):
            stripe_differences.explain(number=row.pk, note="again", person="olga", at=later(seconds=3))


class TestCommand:
    def test_it_prints_both_sides_and_exits_with_1_while_they_differ(self, stripe_sandbox: StripeSandbox) -> None:
        row = start_top_up(make_poor())
        pay_only(stripe_sandbox, row)
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("reconcile_stripe", "--days", "3", stdout=out)
        assert msgspec.json.decode(out.getvalue())["differences"] == 1
        receive(stripe_sandbox.deliveries())
        out = StringIO()
        call_command("reconcile_stripe", stdout=out)
        answer = msgspec.json.decode(out.getvalue())
        assert (answer["ok"], answer["booked"], answer["unbooked"]) == (True, 1, 0)
        assert answer["at_stripe"] == answer["in_ledger"]

    def test_without_a_key_it_says_so(self, settings: Any, db: None) -> None:
        settings.STRIPE_SECRET_KEY = ""
        with pytest.raises(CommandError, match="STRIPE_SECRET_KEY is not set"):
            call_command("reconcile_stripe")
        with pytest.raises(CommandError, match="--days"):
            call_command("reconcile_stripe", "--days", "0")
