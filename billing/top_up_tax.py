"""The tax in a top-up, by the customer's profile and the rate of the day on which it is asked for."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.billing_profiles import profile_of
from billing.models import Customer, TopUp
from billing.periods import operator_timezone
from billing.taxes import Tax, included_in
from relayadmin.money import EXACT, ZERO


@dataclass(frozen=True, slots=True)
class Split:
    """What becomes of a payment (USD): the credit and the tax in it; no tax where the customer is not taxed."""

    credited: Decimal
    tax: Tax | None


def split(customer: Customer, amount: Decimal, *, at: datetime) -> Split:
    """What would be credited of so much paid now (USD, whole cents)."""
    tax = included_in(profile_of(customer), amount, on=at.astimezone(operator_timezone()).date())
    return Split(amount if tax is None else EXACT.subtract(amount, tax.amount), tax)


def put_on(row: TopUp, *, at: datetime) -> None:
    """Copy the tax of now onto a top-up that is not paid yet; one that pays an invoice has none."""
    tax = None if row.invoice_id is not None else split(row.customer, row.amount, at=at).tax
    row.tax, row.tax_rate = (ZERO, ZERO) if tax is None else (tax.amount, tax.rate)
    row.tax_name, row.tax_note = ("", "") if tax is None else (tax.name, tax.note)
