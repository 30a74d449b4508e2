"""Who a customer is on documents, and how it pays and is taxed. Documents copy it: a change holds for later ones."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from billing.accounts import InvalidChange, lock_account, record
from billing.countries import InvalidTaxNumber, check_tax_number, names
from billing.models import AccountChange, BillingProfile, Customer
from relayadmin.db import in_transaction

# What customers may change of their own; terms and days are the operator's.
CUSTOMERS = ("legal_name", "address", "country", "tax_number", "order_reference", "language", "paper")
OPERATORS = (*CUSTOMERS, "terms", "payment_days")
LONGEST = {"legal_name": 200, "address": 500, "tax_number": 30, "order_reference": 100}
LINES_MAX = 8
PAYMENT_DAYS_MAX = 180


class NotAllowed(Exception):
    """Terms are changed by who may put customers on account."""


def profile_of(customer: Customer) -> BillingProfile:
    """A customer's profile; one that is not saved, prepaid and empty, if it has none."""
    found = BillingProfile.objects.filter(customer=customer).first()
    return found if found is not None else BillingProfile(customer=customer)


def update(
    *,
    customer_id: int,
    changes: Mapping[str, Any],
    actor: str,
    at: datetime,
    may_set_terms: bool = False,
) -> BillingProfile:
    """Change fields of a profile, by their names; those not named stay. A tax number is checked with its country.

    Terms hold for invoices and top-ups from then on, and need `may_set_terms`. Raises accounts.InvalidChange,
    NotAllowed, ledger.UnknownCustomer.
    """
    for name in changes:
        if name not in OPERATORS:
            raise InvalidChange(name, f"{name} is no field of a billing profile")

    def work() -> BillingProfile:
        customer, _ = lock_account(customer_id)
        row = profile_of(customer)
        before = BillingProfile.Terms(row.terms)
        for name, value in changes.items():
            setattr(row, name, value.strip() if isinstance(value, str) else value)
        _check(row)
        _check_number(row, at)
        if row.terms != before:
            if not may_set_terms:
                raise NotAllowed("terms are changed by who may put customers on account")
            _record_terms(customer, before, BillingProfile.Terms(row.terms), actor=actor, at=at)
        row.save()
        return row

    return in_transaction(work)


def _check(row: BillingProfile) -> None:
    for name, longest in LONGEST.items():
        text = getattr(row, name)
        if len(text) > longest or any(ord(sign) < 32 and not (name == "address" and sign in "\r\n") for sign in text):
            raise InvalidChange(name, f"{name} must have at most {longest} characters, and no control characters")
    row.address = "\n".join(line.strip() for line in row.address.splitlines())
    if len(row.address.splitlines()) > LINES_MAX:
        raise InvalidChange("address", f"address must have at most {LINES_MAX} lines")
    row.country = row.country.upper()
    if row.country and row.country not in names():
        raise InvalidChange("country", "country must be two letters of ISO 3166, such as ES or CN")
    for name, choices in (("language", row.Language), ("paper", row.Paper), ("terms", row.Terms)):
        if getattr(row, name) not in choices.values:
            raise InvalidChange(name, f"{name} must be {', '.join(choices.values[:-1])} or {choices.values[-1]}")
    if not 0 <= row.payment_days <= PAYMENT_DAYS_MAX:
        raise InvalidChange("payment_days", f"payment_days must be from 0 to {PAYMENT_DAYS_MAX}")


def _check_number(row: BillingProfile, at: datetime) -> None:
    """Check the number anew with whatever country stands beside it now."""
    row.tax_number_checked_at = None
    if not row.tax_number:
        return
    if not row.country:
        raise InvalidChange("country", "a tax number needs its country")
    try:
        number, is_checked = check_tax_number(row.country, row.tax_number)
    except InvalidTaxNumber as error:
        raise InvalidChange("tax_number", str(error)) from error
    row.tax_number = number
    row.tax_number_checked_at = at if is_checked else None


def _record_terms(
    customer: Customer, before: BillingProfile.Terms, after: BillingProfile.Terms, *, actor: str, at: datetime
) -> None:
    record(
        customer,
        AccountChange.Kind.TERMS,
        before=before.value,
        after=after.value,
        reason="Terms of the billing profile",
        actor=actor,
        at=at,
    )
