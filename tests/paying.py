"""Payments for tests: currencies with rates, top-ups that a customer starts and pays in the sandbox."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing import exchange, top_ups
from billing.models import Entry, PayCurrency, TopUp
from tests.world import Payer

RETURN = "http://127.0.0.1:8000/payments/return"


def now() -> datetime:
    return datetime.now(UTC)


def add_currency(code: str, per_usd: str, margin: str = "0", methods: tuple[str, ...] = ("card",)) -> None:
    """Offer a currency at a rate from this moment on."""
    PayCurrency.objects.get_or_create(code=code, defaults={"methods": list(methods)})
    exchange.add_rate(
        currency=code,
        per_usd=Decimal(per_usd),
        margin=Decimal(margin),
        effective_from=None,
        actor="olga",
        at=now() - timedelta(seconds=1),
    )


def start(payer: Payer, amount: str = "10.00", **changes: Any) -> TopUp:
    """A top-up whose row is there, and nothing else."""
    asked: dict[str, Any] = {"currency": "USD", "save_card": False, "asked_by": "", "at": now()}
    return top_ups.start(
        customer_id=payer.customer.pk, amount=Decimal(amount), return_url=RETURN, **{**asked, **changes}
    )


def open_top_up(payer: Payer, amount: str = "10.00", **changes: Any) -> TopUp:
    """A top-up with its page."""
    return top_ups.open_checkout(top_up_id=start(payer, amount, **changes).pk, at=now())


def sync(row: TopUp) -> str:
    return top_ups.sync(row.pk, now())


def again(row: TopUp) -> TopUp:
    """The row as it is now."""
    return TopUp.objects.get(pk=row.pk)


def cash(payer: Payer, account: str = "cash:stripe") -> Decimal:
    """What an account of the operator's has by this customer's transfers (USD)."""
    amounts = Entry.objects.filter(customer=payer.customer, account=account).values_list("amount", flat=True)
    return sum(amounts, Decimal(0))
