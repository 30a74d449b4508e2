"""The rules of automatic recharges: set by customers, switched off where they can't or may not go on.

Who changes a rule has locked the customer's wallet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing import ledger, notices
from billing.models import Customer, OperatorSettings, PaymentMethod, Recharge
from relayadmin.db import in_transaction
from relayadmin.money import CENT, MINOR_UNITS_MAX, InvalidAmount, amount_text, from_minor_units, minor_units

CURRENCY = "USD"
LARGEST = from_minor_units(MINOR_UNITS_MAX, CURRENCY)
Off = Recharge.Off


class InvalidRule(ValueError):
    """A rule that can't be; `field` names what is wrong, the message says what to write instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotOffered(Exception):
    """The operator offers no automatic recharge, at all or to this customer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a customer wants: below `threshold` charge `amount`, at most `monthly_cap` a month (USD, None: no cap).

    `method` is the public id of a saved card, None for the one that the rule has or the default one; `return_url` is
    where the customer comes back to, should the bank want to see them.
    """

    is_on: bool
    threshold: Decimal
    amount: Decimal
    monthly_cap: Decimal | None = None
    method: str | None = None
    return_url: str = ""


def set_rule(*, customer_id: int, wanted: Wanted, at: datetime) -> Recharge:
    """Set a customer's rule. Switched on, or with another card, it begins anew: declines of before are forgotten.

    Raises InvalidRule, NotOffered, ledger.UnknownCustomer.
    """

    def work() -> Recharge:
        ledger.lock_wallets([customer_id])
        rule = Recharge.objects.filter(customer_id=customer_id).first()
        if wanted.is_on:
            _check_offered(customer_id, rule)
        _check_amounts(wanted)
        method = _method(customer_id, rule, wanted)
        rule = rule or Recharge(customer_id=customer_id, created_at=at)
        if wanted.is_on and (not rule.is_on or rule.method_id != method.pk):  # type: ignore[union-attr]
            rule.failures, rule.next_try_at, rule.waits_for = 0, None, None
        elif rule.failures == 0:
            rule.next_try_at = None  # It waited for the next month, and the cap may be another now.
        if wanted.is_on:
            rule.off_because, rule.off_message = "", ""
        elif rule.is_on or rule.off_because == "":
            rule.off_because, rule.off_message = Off.CUSTOMER, ""
        rule.is_on, rule.method = wanted.is_on, method
        rule.threshold, rule.amount, rule.monthly_cap = wanted.threshold, wanted.amount, wanted.monthly_cap
        rule.return_url, rule.updated_at = wanted.return_url, at
        rule.save()
        return rule

    return in_transaction(work)


def _check_offered(customer_id: int, rule: Recharge | None) -> None:
    if not OperatorSettings.objects.values_list("offers_recharge", flat=True).get(pk=1):
        raise NotOffered("automatic recharge is not offered here")
    if rule is not None and rule.off_because == Off.OPERATOR:
        raise NotOffered("automatic recharge was switched off for this account; ask the operator")


def _check_amounts(wanted: Wanted) -> None:
    for name in ("threshold", "amount", "monthly_cap"):
        value = getattr(wanted, name)
        try:
            minor_units(value or Decimal(0), CURRENCY)
        except InvalidAmount as error:
            raise InvalidRule(name, f"{name} must be whole cents of at most one payment: {error}") from error
    # What is to be off may be outside of limits that have changed since.
    least, most = limits() if wanted.is_on else (CENT, LARGEST)
    if not least <= wanted.amount <= most:
        raise InvalidRule("amount", f"amount must be from {amount_text(least)} to {amount_text(most)}")
    if not 0 <= wanted.threshold <= most:
        raise InvalidRule("threshold", f"threshold must be from 0 to {amount_text(most)}")
    if wanted.monthly_cap is not None and wanted.monthly_cap < wanted.amount:
        raise InvalidRule("monthly_cap", "monthly_cap must be at least the amount, or null for no cap")


def limits() -> tuple[Decimal, Decimal]:
    """The operator's smallest and largest top-up (USD)."""
    least, most = OperatorSettings.objects.values_list("top_up_minimum", "top_up_maximum").get(pk=1)
    return least, most


def _method(customer_id: int, rule: Recharge | None, wanted: Wanted) -> PaymentMethod | None:
    saved = PaymentMethod.objects.filter(customer_id=customer_id, removed_at=None)
    if wanted.method is not None:
        found = saved.filter(public_id=wanted.method).first()
        if found is None:
            raise InvalidRule("payment_method", "payment_method must be a saved card of yours")
    else:
        found = saved.filter(pk=rule.method_id).first() if rule is not None and rule.method_id is not None else None
        found = found or saved.filter(is_default=True).first()
    if wanted.is_on and found is None:
        raise InvalidRule("payment_method", "save a card first: POST /api/v1/payment-methods/setup")
    return found


def switch_off(
    rule: Recharge, because: str, message: str, *, at: datetime, told: Mapping[str, Any] | None = None
) -> None:
    """Switch a rule off and tell the customer why; `told` is what the notice needs to know beside that."""
    rule.is_on, rule.off_because, rule.off_message = False, because, message
    rule.next_try_at, rule.waits_for, rule.updated_at = None, None, at
    rule.save()
    notices.announce(
        customer_id=rule.customer_id,
        kind="recharge_off",
        key=f"{because}:{at.isoformat()}",
        data={"because": because, "message": message, **(told or {})},
        at=at,
    )


def card_removed(method: PaymentMethod, *, at: datetime) -> bool:
    """Switch off the rule that uses a card which is no longer there; whether there was one."""
    rule = Recharge.objects.filter(customer_id=method.customer_id, method=method).first()
    if rule is None or not rule.is_on:
        return False
    message = f"The card {method} was removed. Choose another one to go on."
    switch_off(rule, Off.REMOVED, message, at=at, told={"card": str(method)})
    return True


def money_went_back(wallet: ledger.LockedWallet, *, at: datetime) -> None:
    """Switch off a rule that would charge at once what a refund or a dispute has just taken off this wallet."""
    rule = Recharge.objects.filter(customer_id=wallet.customer_id, is_on=True).first()
    if rule is not None and wallet.balance < rule.threshold:
        switch_off(rule, Off.WENT_BACK, "A payment was refunded or disputed. Switch it on again to go on.", at=at)


def forbid(*, customer_id: int, reason: str, at: datetime) -> bool:
    """The operator switches a customer's rule off; only `allow` lets it be switched on again. False if it was so."""

    def work() -> bool:
        ledger.lock_wallets([customer_id])
        rule = Recharge.objects.get(customer_id=customer_id)
        if rule.off_because == Off.OPERATOR:
            return False
        switch_off(rule, Off.OPERATOR, reason, at=at)
        return True

    return in_transaction(work)


def allow(*, customer_id: int, at: datetime) -> bool:
    """Let the customer switch a rule on again that the operator had switched off; False if that was not so."""

    def work() -> bool:
        ledger.lock_wallets([customer_id])
        mine = Recharge.objects.filter(customer_id=customer_id, off_because=Off.OPERATOR)
        return bool(mine.update(off_because=Off.CUSTOMER, off_message="", updated_at=at))

    return in_transaction(work)


def may_recharge(customer_id: int) -> bool:
    """Whether this customer's card may be charged now: an active one, of an operator who offers it."""
    offers = OperatorSettings.objects.values_list("offers_recharge", flat=True).get(pk=1)
    return offers and Customer.objects.filter(pk=customer_id, status=Customer.Status.ACTIVE, is_house=False).exists()
