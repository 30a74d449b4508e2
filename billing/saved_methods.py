"""Saved cards, as the payment provider knows them: saved and changed there, removed from here or there.

A card is removed here first, so that nothing charges it any more, and then there; a sweep sends what died in between.
A removed one never comes back: the provider doesn't attach it again either.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

from billing import ledger, payment_accounts, recharge_rules
from billing import stripe_gateway as gateway
from billing.models import PaymentAccount, PaymentMethod
from relayadmin.db import in_transaction, server_cursor

logger = logging.getLogger(__name__)
CARD = "card"  # the one kind that can be saved and charged later
RETRY = timedelta(minutes=1)
# A page to save a card on lives for a day; the provider is asked in between, less and less often.
LOOKED_FOR = timedelta(hours=25)
BATCH = 100


class UnknownMethod(LookupError):
    """The customer has no such saved card."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did: removals sent to the provider, customers whose cards were read, and what failed."""

    detached: int = 0
    looked_at: int = 0
    failed: int = 0


def saved(customer_id: int) -> list[PaymentMethod]:
    """A customer's cards, the default one first; those of the mode that payments are made in now."""
    mine = PaymentMethod.objects.filter(
        customer_id=customer_id, removed_at=None, is_sandbox=payment_accounts.is_sandbox()
    )
    return list(mine.order_by("-is_default", "-pk"))


def start_setup(*, customer_id: int, key: str | None, success_url: str, cancel_url: str, at: datetime) -> str:
    """Open a page on which the customer saves a card; returns its address. The same `key` opens the same page.

    Not in a transaction. Raises what the gateway raises.
    """
    stripe_customer = payment_accounts.ensure(customer_id=customer_id, at=at)
    account = PaymentAccount.objects.select_related("customer").get(stripe_id=stripe_customer)
    payment_accounts.expect_card(stripe_customer, at=at)
    session = gateway.create_setup_checkout(
        key=f"setup:{account.customer.public_id}:{sha256((key or uuid4().hex).encode()).hexdigest()}",
        customer=account.customer.public_id,
        stripe_customer=stripe_customer,
        currency=recharge_rules.CURRENCY.lower(),
        success_url=success_url,
        cancel_url=cancel_url,
    )
    return session.url or ""


def read(stripe_id: str) -> gateway.PaymentMethod:
    """A card as the provider knows it. Not in a transaction."""
    return gateway.payment_method(stripe_id)


def apply(state: gateway.PaymentMethod, *, at: datetime) -> str:
    """Bring our row of a card to what the provider says; returns what was done, for the webhook's row."""

    def work() -> str:
        known = PaymentMethod.objects.filter(stripe_id=state.id).first()
        account = PaymentAccount.objects.filter(stripe_id=state.stripe_customer).first()
        customer_id = known.customer_id if known else account.customer_id if account else None
        if customer_id is None:
            return "no customer of ours has this payment method"
        ledger.lock_wallets([customer_id])
        known = PaymentMethod.objects.filter(stripe_id=state.id).first()
        if known is None:
            return "not a card" if state.type != CARD or account is None else _add(state, account, at)
        if known.removed_at is not None:
            if account is None:
                PaymentMethod.objects.filter(pk=known.pk).update(look_at=None)
            return "removed before"
        if account is None or account.customer_id != customer_id:
            _take_away(known, "Removed at the payment provider", at=at)
            return "removed"
        _describe(known, state)
        known.save()
        return "saved before"

    return in_transaction(work)


def sync(stripe_id: str, *, at: datetime) -> str:
    """Read one card from the provider and apply it."""
    return apply(read(stripe_id), at=at)


def sync_setup_intent(setup_intent_id: str, *, at: datetime) -> str:
    """Read what became of saving a card without a payment; apply the card, if there is one."""
    intent = gateway.setup_intent(setup_intent_id)
    if intent.status != "succeeded" or intent.method is None:
        return f"setup is {intent.status}"
    return sync(intent.method, at=at)


def sync_customer(stripe_customer: str, *, at: datetime) -> list[str]:
    """Read all cards of a customer from the provider and apply them, the oldest first."""
    return [apply(state, at=at) for state in reversed(gateway.payment_methods(stripe_customer))]


def _add(state: gateway.PaymentMethod, account: PaymentAccount, at: datetime) -> str:
    others = PaymentMethod.objects.filter(
        customer_id=account.customer_id, is_sandbox=account.is_sandbox, is_default=True
    )
    row = PaymentMethod(
        customer_id=account.customer_id,
        stripe_id=state.id,
        is_sandbox=account.is_sandbox,
        is_default=not others.exists(),
        created_at=at,
    )
    _describe(row, state)
    row.save()
    return "saved"


def _describe(row: PaymentMethod, state: gateway.PaymentMethod) -> None:
    row.type, row.brand, row.last4 = state.type, state.brand or "", state.last4 or ""
    row.exp_month, row.exp_year = state.exp_month, state.exp_year


def has_expired(method: PaymentMethod, *, at: datetime) -> bool:
    """Whether the month printed on a card is over (UTC)."""
    if method.exp_year is None or method.exp_month is None:
        return False
    now = at.astimezone(UTC)
    return (method.exp_year, method.exp_month) < (now.year, now.month)


def set_default(*, customer_id: int, public_id: str) -> PaymentMethod:
    """Make this card the one that is proposed. Nothing at the provider reads its own default. Raises UnknownMethod."""

    def work() -> PaymentMethod:
        ledger.lock_wallets([customer_id])
        method = PaymentMethod.objects.filter(customer_id=customer_id, public_id=public_id, removed_at=None).first()
        if method is None:
            raise UnknownMethod(public_id)
        _make_default(method)
        return method

    return in_transaction(work)


def _make_default(method: PaymentMethod) -> None:
    mine = PaymentMethod.objects.filter(customer_id=method.customer_id, is_sandbox=method.is_sandbox)
    mine.filter(is_default=True).update(is_default=False)
    method.is_default = True
    method.save(update_fields=["is_default"])


def remove(*, customer_id: int, public_id: str, at: datetime) -> None:
    """Remove a card here, and then at the provider; if that does not answer, the sweep tells it. Not in a transaction.

    An automatic recharge that used it is off. Raises UnknownMethod, PaymentsNotConfigured.
    """
    if not gateway.configured():
        raise gateway.PaymentsNotConfigured("STRIPE_SECRET_KEY is not set")

    def work() -> PaymentMethod:
        ledger.lock_wallets([customer_id])
        method = PaymentMethod.objects.filter(customer_id=customer_id, public_id=public_id, removed_at=None).first()
        if method is None:
            raise UnknownMethod(public_id)
        _take_away(method, "Removed by the customer", at=at, look_at=at + RETRY)
        return method

    method = in_transaction(work)
    try:
        _detach(method)
    except gateway.GatewayUnavailable as error:
        logger.warning("payment method not detached yet method=%s error=%s", method.public_id, error)


def _take_away(method: PaymentMethod, because: str, *, at: datetime, look_at: datetime | None = None) -> None:
    """Mark a card of a locked wallet as removed; the newest of the others becomes the default one."""
    was_default = method.is_default
    method.removed_at, method.removed_because, method.is_default, method.look_at = at, because, False, look_at
    method.save()
    if was_default:
        others = PaymentMethod.objects.filter(
            customer_id=method.customer_id, is_sandbox=method.is_sandbox, removed_at=None
        )
        newest = others.order_by("-pk").first()
        if newest is not None:
            _make_default(newest)
    recharge_rules.card_removed(method, at=at)


def _detach(method: PaymentMethod) -> None:
    """Tell the provider of a removal; what it has detached already, or does not know, is done."""
    try:
        gateway.detach(method.stripe_id)
    except gateway.GatewayRejected as error:
        if error.code != "resource_missing" and gateway.payment_method(method.stripe_id).stripe_customer is not None:
            raise
    PaymentMethod.objects.filter(pk=method.pk).update(look_at=None)


def sweep(*, at: datetime) -> Swept:
    """Send removals that died on their way, and look for cards whose webhook never came. Any number may run at once."""
    detached = looked_at = failed = 0
    for method in _claim_removals(at):
        try:
            _detach(method)
            detached += 1
        except (gateway.GatewayUnavailable, gateway.GatewayRejected) as error:
            failed += 1
            logger.warning("payment method not detached yet method=%s error=%s", method.public_id, error)
    for stripe_customer in _claim_looks(at):
        try:
            sync_customer(stripe_customer, at=at)
            looked_at += 1
        except (gateway.GatewayUnavailable, gateway.GatewayRejected) as error:
            failed += 1
            logger.warning("saved cards not read stripe_customer=%s error=%s", stripe_customer, error)
    return Swept(detached, looked_at, failed)


def _claim_removals(at: datetime) -> Sequence[PaymentMethod]:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_paymentmethod SET look_at = %s WHERE id IN ("
            " SELECT id FROM billing_paymentmethod WHERE look_at <= %s AND is_sandbox = %s"
            " ORDER BY look_at LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id",
            [at + RETRY, at, payment_accounts.is_sandbox(), BATCH],
        )
        return list(PaymentMethod.objects.filter(pk__in=[number for (number,) in cursor.fetchall()]))


def _claim_looks(at: datetime) -> list[str]:
    """Whose cards to read now: each time after twice as long, until a page opened for them can't be used any more."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_paymentaccount SET cards_look_at ="
            "   CASE WHEN %s - cards_asked_at < %s THEN %s + (%s - cards_asked_at) END"
            " WHERE id IN ("
            " SELECT id FROM billing_paymentaccount WHERE cards_look_at <= %s AND is_sandbox = %s"
            " ORDER BY cards_look_at LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING stripe_id",
            [at, LOOKED_FOR, at, at, at, payment_accounts.is_sandbox(), BATCH],
        )
        return [stripe_id for (stripe_id,) in cursor.fetchall()]
