"""Top-ups through the payment provider: the row first, then the call under its key, then what the provider says.

A call that died is made again by the sweep, under the same key and with the same words; later than the provider is sure
to know the key, the sweep looks for what the call may have made.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from billing import exchange, payment_accounts, receivables, top_up_refusals, top_up_tax
from billing import stripe_gateway as gateway
from billing.accounts import AccountClosed, lock_account
from billing.models import Customer, Invoice, OperatorSettings, TopUp
from billing.top_up_states import NOT_OURS, State, apply, read_intent, read_session
from relayadmin.db import in_transaction, one_at_a_time, server_cursor
from relayadmin.money import amount_text, currency_text, to_cents

__all__ = ["NOT_OURS", "State", "apply", "read_intent", "read_session"]

logger = logging.getLogger(__name__)
Status = TopUp.Status
Origin = TopUp.Origin
# The provider keeps a key for a day at least, and an open page for a day at most.
SENT_AGAIN_FOR = timedelta(hours=20)
OPEN_FOR = timedelta(hours=23)
OPEN_LEFT = timedelta(hours=1)  # a page that is open for less is not given to anybody new
FIRST_LOOK = timedelta(minutes=1)
LOOK_AFTER_REFUSAL = timedelta(hours=1)
CLAIMED_FOR = timedelta(minutes=5)
CLAIMED_AT_ONCE = 20
_CLOCKS_DIFFER = timedelta(minutes=10)


class InvalidTopUp(ValueError):
    """A top-up that can't be started; `field` names what is wrong, `code` is what a program can act upon."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: how many top-ups it asked about, and how many were paid."""

    looked_at: int = 0
    paid: int = 0


def request_key(row: TopUp) -> str:
    """The key under which the provider is called for a top-up, whoever calls."""
    return f"topup:{row.public_id}"


def start(
    *, customer_id: int, amount: Decimal, currency: str, save_card: bool, return_url: str, asked_by: str, at: datetime
) -> TopUp:
    """Begin a top-up of so much (USD, tax included), paid in a currency; `open_checkout` comes next, after the commit.

    `return_url` is the page that the customer comes back to. Suspended customers may: it is how they get out of debt.
    Raises InvalidTopUp, AccountClosed, ledger.UnknownCustomer.
    """

    def work() -> TopUp:
        customer = _payer(customer_id)
        quoted = _quote(amount, currency, at)
        return _make(
            customer,
            quoted,
            origin=Origin.CHECKOUT,
            asked_by=asked_by,
            at=at,
            expires_at=(at + OPEN_FOR).replace(microsecond=0),
            request={
                "methods": exchange.methods_of(currency),
                "save_card": save_card,
                "description": f"{currency_text(amount, exchange.USD)} USD of credit, {_operator()}",
                "success_url": f"{return_url}?session_id={{CHECKOUT_SESSION_ID}}",
                "cancel_url": f"{return_url}?canceled={{id}}",
            },
        )

    return in_transaction(work)


def start_payment(
    *, customer_id: int, invoice: str, currency: str, return_url: str, asked_by: str, at: datetime
) -> TopUp:
    """Begin paying all that is due on an invoice, by its public id; `open_checkout` comes next, after the commit.

    A page that is open for the same amount is returned again. The limits of top-ups don't hold. Raises InvalidTopUp
    (nothing is due, no such invoice), AccountClosed, ledger.UnknownCustomer.
    """

    def work() -> TopUp:
        customer = _payer(customer_id)
        row = Invoice.objects.filter(customer=customer, public_id=invoice).first()
        if row is None:
            raise InvalidTopUp("invoice", "not_found", f"there is no invoice {invoice}")
        if row.status not in receivables.OPEN:
            raise InvalidTopUp("invoice", "nothing_due", f"nothing is due on {row.number}")
        known = TopUp.objects.filter(
            invoice=row,
            status=Status.PENDING,
            amount=row.amount_due,
            currency=currency,
            expires_at__gt=at + OPEN_LEFT,
            is_sandbox=payment_accounts.is_sandbox(),
        ).first()
        if known is not None:
            return known
        return _make(
            customer,
            _priced(row.amount_due, currency, at),
            origin=Origin.CHECKOUT,
            invoice=row,
            asked_by=asked_by,
            at=at,
            expires_at=(at + OPEN_FOR).replace(microsecond=0),
            request={
                "methods": exchange.methods_of(currency),
                "save_card": False,
                "description": f"Invoice {row.number}, {_operator()}",
                "success_url": f"{return_url}?session_id={{CHECKOUT_SESSION_ID}}",
                "cancel_url": f"{return_url}?canceled={{id}}",
            },
        )

    return in_transaction(work)


def open_recharge(*, customer_id: int, amount: Decimal, currency: str, at: datetime) -> TopUp:
    """Begin a top-up that is paid with a saved card, in the caller's transaction; `apply` credits it as any other.

    The caller charges the card under `request_key`, and again after a crash: until there is a payment, the sweep here
    leaves the row alone. The operator's limits for top-ups hold. Raises InvalidTopUp, AccountClosed.
    """
    customer = _payer(customer_id)
    quoted = _quote(amount, currency, at)
    return _make(customer, quoted, origin=Origin.RECHARGE, asked_by="", at=at, expires_at=None, request={})


def _payer(customer_id: int) -> Customer:
    """The customer, under the wallet's lock."""
    customer, _ = lock_account(customer_id)
    if customer.status == Customer.Status.CLOSED:
        raise AccountClosed("a closed account takes no payments")
    return customer


def _quote(amount: Decimal, currency: str, at: datetime) -> exchange.Quote:
    if amount != to_cents(amount):
        raise InvalidTopUp("amount", "invalid_request_error", "a top-up must be whole cents, such as 10.00")
    bounds = OperatorSettings.objects.get(pk=1)
    if amount < bounds.top_up_minimum:
        least = amount_text(bounds.top_up_minimum)
        raise InvalidTopUp("amount", "amount_too_small", f"the smallest top-up is {least} USD")
    if amount > bounds.top_up_maximum:
        most = amount_text(bounds.top_up_maximum)
        raise InvalidTopUp("amount", "amount_too_large", f"the largest top-up is {most} USD")
    return _priced(amount, currency, at)


def _priced(amount: Decimal, currency: str, at: datetime) -> exchange.Quote:
    try:
        return exchange.quote(amount=amount, currency=currency, at=at)
    except exchange.UnknownCurrency as error:
        raise InvalidTopUp("currency", "currency_not_supported", str(error)) from error
    except exchange.NoRate as error:
        raise InvalidTopUp("currency", "no_exchange_rate", str(error)) from error
    except exchange.NotPayable as error:
        raise InvalidTopUp("amount", "amount_not_payable", str(error)) from error


def _operator() -> str:
    return str(OperatorSettings.objects.values_list("name", flat=True).get(pk=1))


def _make(customer: Customer, quoted: exchange.Quote, *, at: datetime, request: dict[str, Any], **fields: Any) -> TopUp:
    row = TopUp(
        customer=customer,
        amount=quoted.amount,
        currency=quoted.currency,
        pay_amount=quoted.pay_amount,
        rate=quoted.rate,
        margin=quoted.margin,
        is_sandbox=payment_accounts.is_sandbox(),
        created_at=at,
        look_at=at + FIRST_LOOK,
        **fields,
    )
    if "cancel_url" in request:
        request["cancel_url"] = request["cancel_url"].format(id=row.public_id)
    row.request = request
    top_up_tax.put_on(row, at=at)
    row.save(force_insert=True)
    return row


def open_checkout(*, top_up_id: int, at: datetime) -> TopUp:
    """Open the page on which a top-up is paid, once, however many ask; returns the row as it is then.

    Not in a transaction. Raises gateway.GatewayUnavailable (the sweep goes on with it), gateway.GatewayRejected (it has
    failed), gateway.PaymentsNotConfigured.
    """
    with one_at_a_time(f"top-up {top_up_id}"):
        row = TopUp.objects.select_related("customer").get(pk=top_up_id)
        if row.origin != Origin.CHECKOUT or row.status != Status.PENDING or row.session_id is not None:
            return row
        try:
            session = _create_checkout(row, at)
        except gateway.GatewayRejected as error:
            _fail(row.pk, code=error.code or "rejected", message=str(error))
            raise
        apply(State(session), at=at)
    return TopUp.objects.get(pk=top_up_id)


def _create_checkout(row: TopUp, at: datetime) -> gateway.CheckoutSession:
    assert row.expires_at is not None
    stripe_customer = payment_accounts.ensure(customer_id=row.customer_id, at=at)
    if row.request["save_card"]:
        payment_accounts.expect_card(stripe_customer, at=at)
    return gateway.create_checkout(
        key=request_key(row),
        top_up=row.public_id,
        customer=row.customer.public_id,
        stripe_customer=stripe_customer,
        amount=row.pay_amount,
        currency=row.currency,
        methods=row.request["methods"],
        success_url=row.request["success_url"],
        cancel_url=row.request["cancel_url"],
        expires_at=row.expires_at,
        save_card=row.request["save_card"],
        description=row.request["description"],
    )


def _fail(top_up_id: int, *, code: str, message: str) -> None:
    """End a top-up for which the provider has opened nothing."""
    waiting = TopUp.objects.filter(pk=top_up_id, status=Status.PENDING, session_id=None)
    waiting.update(status=Status.FAILED, error_code=code[:100], error_message=message[:500], look_at=None)


def sync_session(session_id: str, at: datetime) -> str:
    """Ask what became of a checkout, and apply it; not in a transaction. Raises what the gateway raises."""
    return _applied(read_session(session_id), at)


def sync_intent(payment_intent_id: str, at: datetime) -> str:
    """Ask what became of a payment, and apply it; not in a transaction. Raises what the gateway raises."""
    return _applied(read_intent(payment_intent_id), at)


def sync(top_up_id: int, at: datetime, *, judges_again: bool = False) -> str:
    """Ask what became of a top-up, and apply it; one that the provider was never told of is sent again.

    Not in a transaction. Raises what the gateway raises.
    """
    row = TopUp.objects.get(pk=top_up_id)
    if row.session_id is not None and row.error_code != "paid_twice":
        return _applied(read_session(row.session_id), at, judges_again=judges_again)
    if row.payment_intent_id is not None:
        return _applied(read_intent(row.payment_intent_id), at, judges_again=judges_again)
    if row.origin != Origin.CHECKOUT or row.status != Status.PENDING:
        return f"{row.status} before"
    if at - row.created_at < SENT_AGAIN_FOR:
        return str(open_checkout(top_up_id=top_up_id, at=at).status)
    made = gateway.checkouts_created(row.created_at - _CLOCKS_DIFFER, row.created_at + SENT_AGAIN_FOR + _CLOCKS_DIFFER)
    session = next((one for one in made if one.client_reference == row.public_id), None)
    if session is not None:
        return _applied(read_session(session.id), at)
    _fail(row.pk, code="not_opened", message="The payment provider was not reached in time; nothing was paid.")
    return "failed"


def _applied(state: State, at: datetime, *, judges_again: bool = False) -> str:
    outcome = apply(state, at=at, judges_again=judges_again)
    if outcome.startswith("refused:"):
        top_up_refusals.watch(at=at)
    return outcome


def sweep(*, at: datetime) -> Swept:
    """Ask the provider about the top-ups whose moment has come. Many workers may: each takes rows of its own.

    It ends when the provider is away; what it had taken is asked about five minutes later.
    """
    swept = Swept()
    if not gateway.configured():
        return swept
    try:
        while numbers := _claim(at):
            for number in numbers:
                swept = replace(swept, looked_at=swept.looked_at + 1, paid=swept.paid + (_swept(number, at) == "paid"))
    except gateway.GatewayUnavailable as error:
        logger.warning("top-ups not asked about: %s", error)
    top_up_refusals.watch(at=at)
    return swept


def _swept(number: int, at: datetime) -> str:
    try:
        return sync(number, at)
    except gateway.GatewayRejected as error:
        logger.warning("top-up %d can't be asked about: %s", number, error)
        TopUp.objects.filter(pk=number, look_at__isnull=False).update(look_at=at + LOOK_AFTER_REFUSAL)
        return "rejected"


def _claim(at: datetime) -> list[int]:
    """Take some of the rows that are due, by moving their moment on; who dies lets go of them that way."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_topup SET look_at = %(later)s WHERE id IN ("
            "  SELECT id FROM billing_topup WHERE look_at <= %(at)s AND is_sandbox = %(is_sandbox)s"
            "  AND (origin = 'checkout' OR payment_intent_id IS NOT NULL)"
            "  ORDER BY look_at LIMIT %(most)s FOR UPDATE SKIP LOCKED"
            ") RETURNING id",
            {
                "at": at,
                "later": at + CLAIMED_FOR,
                "is_sandbox": payment_accounts.is_sandbox(),
                "most": CLAIMED_AT_ONCE,
            },
        )
        return sorted(number for (number,) in cursor.fetchall())


def judge_again(*, top_up_id: int, at: datetime) -> str:
    """Ask about a refused top-up and judge it anew, such as after its account was reopened; what came of it.

    Not in a transaction. Raises top_up_refusals.NotRefused, and what the gateway raises.
    """
    top_up_refusals.undecided(top_up_id)
    outcome = sync(top_up_id, at, judges_again=True)
    top_up_refusals.watch(at=at)
    return outcome
