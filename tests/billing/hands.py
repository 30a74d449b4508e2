"""What tests of accounts do by hand: adjust, charge, and look whether the books are right."""

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from billing import credits, ledger, manual
from billing.checks import Scope
from billing.models import Entry, Transfer, WalletAdjustment
from billing.verification import check_ledger, read_marks, save_marks
from tests.operator import make_staff
from tests.world import Payer

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = date(2026, 11, 1)


def person(user: User | None = None) -> manual.Person:
    """Somebody who adjusts; a new one each time unless told who."""
    user = user or make_staff()
    return manual.Person(user.pk, user.get_username())


def adjust(payer: Payer, kind: str, amount: str, *, by: manual.Person | None = None, **wanted: Any) -> WalletAdjustment:
    """Ask for an adjustment; a debit is other revenue and money back is from revenue unless told otherwise."""
    accounts = {"debit": "other_revenue", "money_back": "revenue"}
    key = wanted.pop("key", f"key {random.random()}")
    told = {"reason": "because", "account": accounts.get(kind, ""), "document": "wire 1" if kind == "paid" else ""}
    return manual.ask(
        customer_id=payer.customer.pk,
        wanted=manual.Wanted(kind=kind, amount=Decimal(amount), **(told | wanted)),
        key=key,
        person=by or manual.Person(None, "command line"),
        at=AT,
    )


def charge(payer: Payer, amount: str) -> int:
    """Charge usage; the transfer's number."""
    with transaction.atomic():
        (number,) = credits.charge_usage(
            [credits.Charge(payer.customer.pk, NOVEMBER, Decimal(amount))],
            wallets=ledger.lock_wallets([payer.customer.pk]),
            settlement=f"settlement {random.random()}",
            at=AT,
        )
    assert number is not None
    return number


def sides(payer: Payer, transfer: int | None) -> dict[str, Decimal]:
    """A transfer's entries by account."""
    rows = Entry.objects.filter(customer=payer.customer, transfer_id=transfer)
    return {account: amount.normalize() for account, amount in rows.values_list("account", "amount")}


def last_transfer(payer: Payer) -> Transfer:
    return Transfer.objects.filter(customer=payer.customer).latest("id")


def sums(payer: Payer) -> dict[str, Decimal]:
    """What each account has by all of a customer's transfers, those with 0 left out."""
    found: dict[str, Decimal] = {}
    for account, amount in Entry.objects.filter(customer=payer.customer).values_list("account", "amount"):
        found[account] = found.get(account, Decimal(0)) + amount
    return {account: amount.normalize() for account, amount in found.items() if amount}


def assert_books(payer: Payer) -> None:
    """Every check of the ledger, from the last look on and from the beginning; the next begins here."""
    scopes = {full: Scope(payer.customer.pk, payer.customer.pk, full=full) for full in (False, True)}
    for scope in scopes.values():
        assert check_ledger(scope) == []
    save_marks(read_marks(scopes[False]), at=AT)
