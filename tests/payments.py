"""What tests of payments do: pay at the sandbox, let its webhooks come, and look what became of the money."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.test import Client

from billing import disputes, refunds, stripe_gateway, top_ups, webhook_events
from billing.checks import Scope
from billing.models import Dispute, Entry, OperatorSettings, Refund, TopUp, Transfer, WebhookEvent
from billing.stripe_objects import BalanceTransaction
from billing.verification import check_ledger
from tests.payments_sandbox import Delivery, StripeSandbox
from tests.world import Payer, make_payer

RETURN_URL = "http://127.0.0.1/back"


def now() -> datetime:
    return datetime.now(UTC)


def later(**passed: float) -> datetime:
    return now() + timedelta(**passed)


def start_top_up(payer: Payer, amount: str = "10.00", *, currency: str = "USD") -> TopUp:
    """A top-up with an open page at the sandbox; nothing is paid."""
    row = top_ups.start(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        currency=currency,
        save_card=False,
        return_url=RETURN_URL,
        asked_by="ada",
        at=now(),
    )
    return top_ups.open_checkout(top_up_id=row.pk, at=now())


def pay_only(stripe: StripeSandbox, row: TopUp, *, method: str = "card") -> None:
    """Pay at the sandbox; nobody here hears of it."""
    assert row.session_id is not None
    stripe.pay(row.session_id, method=method)


def top_up(
    stripe: StripeSandbox, payer: Payer, amount: str = "10.00", *, method: str = "card", currency: str = "USD"
) -> TopUp:
    """A top-up that is paid and credited."""
    row = start_top_up(payer, amount, currency=currency)
    pay_only(stripe, row, method=method)
    assert row.session_id is not None
    top_ups.sync_session(row.session_id, at=now())
    row.refresh_from_db()
    assert row.status == TopUp.Status.PAID
    assert row.charge_id is not None
    return row


def make_poor() -> Payer:
    """A customer with nothing but what it pays in."""
    return make_payer(credit="0")


def charge_of(row: TopUp) -> str:
    assert row.charge_id is not None
    return row.charge_id


def refund(payer: Payer, amount: str | None, *, key: str = "k", top_up_id: int | None = None) -> list[Refund]:
    return refunds.refund(
        customer_id=payer.customer.pk,
        amount=None if amount is None else Decimal(amount),
        reason="asked for it",
        actor="grace",
        key=key,
        at=now(),
        top_up_id=top_up_id,
    )


def send(client: Client, delivery: Delivery) -> Any:
    return client.post(
        "/webhooks/stripe",
        delivery.body,
        content_type="application/json",
        headers={"Stripe-Signature": delivery.signature},
    )


def receive(deliveries: Sequence[Delivery]) -> None:
    """Webhooks come in, in this order, and are worked off."""
    client = Client()
    for delivery in deliveries:
        answer = send(client, delivery)
        assert answer.status_code == 200, answer.content
        work_off_all()


def work_off_all(*, at: datetime | None = None) -> None:
    for number in WebhookEvent.objects.filter(status="new").order_by("pk").values_list("pk", flat=True):
        webhook_events.work_off(number, at=at or later(days=1))


def sweep(*, at: datetime | None = None) -> None:
    """Everything that looks for what is left, until nothing is."""
    moment = at or later(days=1)
    top_ups.sweep(at=moment)
    webhook_events.sweep(at=moment)
    refunds.sweep(at=moment)
    disputes.sweep(at=moment)


@dataclass(frozen=True)
class Books:
    """What the ledger has of a customer: its balance, and each account's sum, those with 0 left out."""

    balance: Decimal
    accounts: dict[str, Decimal]


def books(payer: Payer) -> Books:
    accounts: dict[str, Decimal] = {}
    for account, amount in Entry.objects.filter(customer=payer.customer).values_list("account", "amount"):
        accounts[account] = accounts.get(account, Decimal(0)) + amount
    return Books(payer.balance.normalize() + 0, {name: sum_.normalize() for name, sum_ in accounts.items() if sum_})


def assert_right(payer: Payer) -> None:
    """Every check of the ledger, of this customer."""
    for full in (False, True):
        assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=full)) == []


def suspend_on_dispute(*, is_on: bool = True) -> None:
    """Set the operator's policy, which is off at first."""
    OperatorSettings.objects.update(suspends_on_dispute=is_on)


def the_refund(payer: Payer) -> Refund:
    return Refund.objects.get(customer=payer.customer)


def the_dispute(payer: Payer) -> Dispute:
    return Dispute.objects.get(customer=payer.customer)


def cash_at_stripe(stripe: StripeSandbox) -> Decimal:
    """What the account at the sandbox has, by its own transactions (USD)."""
    made = stripe_gateway.balance_transactions(later(days=-1), later(days=30))
    return sum((one.net for one in made), Decimal(0)).normalize()


def cash_in_ledger(*payers: Payer) -> Decimal:
    """What cash:stripe has of these customers and of what was booked for the transactions at the sandbox now (USD)."""
    keys = [one.id for one in stripe_gateway.balance_transactions(later(days=-1), later(days=30))]
    booked = Transfer.objects.filter(kind="settlement", key__in=keys).values("pk")
    cash = Entry.objects.filter(account="cash:stripe")
    rows = cash.filter(customer__in=[payer.customer for payer in payers]) | cash.filter(transfer_id__in=booked)
    return -sum((row.amount for row in rows), Decimal(0)).normalize()


def movement(kind: str, amount: str, **told: Any) -> BalanceTransaction:
    """A balance transaction as Stripe might have it."""
    number = f"txn_{kind}_{amount}_{len(told)}"
    values: dict[str, Any] = {
        "id": number,
        "type": kind,
        "reporting_category": kind,
        "amount": Decimal(amount),
        "fee": Decimal(0),
        "net": Decimal(amount),
        "currency": "usd",
        "exchange_rate": None,
        "source": None,
        "created": now() - timedelta(hours=1),
        "available_on": now(),
        "description": None,
    }
    return BalanceTransaction(**(values | told))
