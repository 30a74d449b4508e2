"""Taxes and invoices for tests: rates, profiles, and invoices of customers on account."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from billing import billing_profiles, credits, invoicing, ledger, receivables, received, taxes
from billing.manual import Person
from billing.models import (
    BillingProfile,
    Customer,
    Entry,
    Invoice,
    InvoiceLine,
    InvoiceTax,
    TaxRate,
    TopUp,
    Wallet,
)
from metering.models import ApiKey
from relayadmin import ids
from relayadmin.db import in_transaction
from relayadmin.money import to_cents, total
from tests.world import Payer, Relay, make_event, make_payer

OLGA = Person(None, "olga")


def now() -> datetime:
    return datetime.now(UTC)


def add_rate(country: str, rate: str, *, valid_from: date = date(2020, 1, 1), **changes: Any) -> TaxRate:
    """A country's rate from a day on."""
    told: dict[str, Any] = {"name": "VAT", "actor": "olga", "at": now(), **changes}
    return taxes.add_rate(country=country, rate=Decimal(rate), valid_from=valid_from, **told)


def set_profile(payer: Payer, **changes: Any) -> BillingProfile:
    """What stands in a customer's profile from now on; terms too."""
    return billing_profiles.update(
        customer_id=payer.customer.pk, changes=changes, actor="olga", at=now(), may_set_terms=True
    )


PERIOD = date(2026, 10, 1)
ISSUED = datetime(2026, 11, 1, 6, tzinfo=UTC)


def use(payer: Payer, amount: str, *, period: date = PERIOD) -> None:
    """Charge so much usage, in a billing period."""

    def work() -> None:
        wallets = ledger.lock_wallets([payer.customer.pk])
        charge = credits.Charge(payer.customer.pk, period, Decimal(amount))
        credits.charge_usage([charge], wallets=wallets, settlement=f"set_{uuid4().hex}", at=now())

    in_transaction(work)


def make_many_used(count: int, *, period: date) -> list[Customer]:
    """So many customers, each with one event in a month, which is a debt; in few statements."""
    made = Customer.objects.bulk_create([Customer(name=f"Used {number}") for number in range(count)])
    Wallet.objects.bulk_create([Wallet(customer=customer) for customer in made])
    secrets = [ids.new_secret("sk-") for _ in made]
    keys = ApiKey.objects.bulk_create(
        ApiKey(customer=customer, name="k", digest=secret.digest, prefix=secret.prefix, last4=secret.last4)
        for customer, secret in zip(made, secrets, strict=True)
    )
    at = f"{period:%Y-%m}-15T12:00:00Z"
    answer = Relay().report(*[make_event(occurred_at=at, api_key_id=key.public_id) for key in keys])
    assert answer.body["accepted"] == count
    return made


def issue(payer: Payer, exact: str, *, period: date = PERIOD, at: datetime = ISSUED) -> Invoice:
    """An invoice of a customer on account for usage that was charged before: one line, and the rounding."""
    profile = billing_profiles.profile_of(payer.customer)
    subtotal = to_cents(Decimal(exact))
    found = taxes.taxes_of(profile, subtotal=subtotal, on=period)
    tax = total([to_cents(Decimal(0)), *(one.amount for one in found)])

    def work() -> Invoice:
        wallet = ledger.lock_wallets([payer.customer.pk])[payer.customer.pk]
        sequence = invoicing.next_number("INV", 2026)
        invoice = Invoice(
            customer=payer.customer,
            series="BYHAND",
            year=2026,
            sequence=sequence,
            number=f"BYHAND-2026-{sequence:06d}",
            period=period,
            period_start=at,
            period_end=at,
            issued_at=at,
            terms="on_account",
            customer_name=payer.customer.name,
            exact_total=Decimal(exact),
            subtotal=subtotal,
            tax=tax,
            total=subtotal + tax,
        )
        receivables.post_invoice(invoice, wallet, at=at)
        invoice.save()
        InvoiceTax.objects.bulk_create(
            InvoiceTax(invoice=invoice, name=one.name, rate=one.rate, base=one.base, amount=one.amount) for one in found
        )
        whole = {"quantity": Decimal(1), "unit_price": Decimal(exact), "per": 1}
        rows = [InvoiceLine(invoice=invoice, position=1, description="tokens", amount=Decimal(exact), **whole)]
        if subtotal != Decimal(exact):
            amount = subtotal - Decimal(exact)
            rows.append(InvoiceLine(invoice=invoice, position=2, description="Rounding to the cent", amount=amount))
        InvoiceLine.objects.bulk_create(rows)
        return invoice

    return in_transaction(work)


def on_account(credit: str = "0", rate: str = "0.21") -> Payer:
    """A customer on account in a country with a rate."""
    payer = make_payer(credit)
    if not TaxRate.objects.filter(country="ES").exists():
        add_rate("ES", rate)
    set_profile(payer, country="ES", terms="on_account")
    return payer


def record(payer: Payer, invoice: Invoice | None, amount: str, reference: str = "T-1", **changes: Any) -> TopUp:
    """A bank transfer for an invoice, or for credit."""
    told: dict[str, Any] = {"kind": "bank_transfer", "currency": "USD", "received_on": date(2026, 11, 1), **changes}
    payment = received.Payment(
        pay_amount=Decimal(amount), reference=reference, invoice_id=invoice.pk if invoice else None, **told
    )
    return received.record(customer_id=payer.customer.pk, payment=payment, person=OLGA, at=now())


def entries(payer: Payer, account: str) -> Decimal:
    """The sum of a customer's entries on an account (USD)."""
    return total(list(Entry.objects.filter(customer=payer.customer, account=account).values_list("amount", flat=True)))
