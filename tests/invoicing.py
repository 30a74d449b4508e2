"""Taxes and invoices for tests: rates, profiles, and invoices of customers on account."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from billing import billing_profiles, taxes
from billing.models import BillingProfile, TaxRate
from tests.world import Payer


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
