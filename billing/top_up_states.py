"""What the payment provider says of a top-up, and what that makes of our row and the ledger.

Reading is done outside of any transaction, applying inside one, under the wallet's lock. Applying judges by the row and
what was read alone, so it can be repeated, and done by many at once, in any order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from billing import credits, ledger, notices, payment_accounts, receivables, top_up_bonus
from billing import stripe_gateway as gateway
from billing.models import Account, Customer, Grant, TopUp
from billing.notice_kinds import PAYMENT_FAILED, PAYMENT_RECEIVED
from relayadmin.db import in_transaction
from relayadmin.money import amount_text, currency_text

Status = TopUp.Status
Origin = TopUp.Origin
BY_HAND = (Origin.BANK_TRANSFER, Origin.CASH)
ENDED = (Status.PAID, Status.FAILED, Status.EXPIRED, Status.CANCELED, Status.REFUSED)
NOT_OURS = "names no top-up of ours"
# A state never leads back: what was read first may be applied last.
_RANKS = {Status.PENDING: 0, Status.PROCESSING: 1, Status.FAILED: 2, Status.EXPIRED: 2, Status.CANCELED: 2}
_SOONEST, _LATEST = timedelta(minutes=1), timedelta(hours=6)
# Open checkouts are asked about until so long after their end; all else, fees too, for so long.
ASKED_AFTER_EXPIRY = timedelta(days=1)
ASKED_FOR = timedelta(days=30)
_MESSAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class State:
    """What was read: a checkout, the payment that was tried in it or without one, or both."""

    session: gateway.CheckoutSession | None = None
    intent: gateway.PaymentIntent | None = None

    @property
    def names(self) -> str:
        """The public id of the top-up that the objects say they are for."""
        for thing in (self.session, self.intent):
            if thing is not None and thing.metadata.get("top_up"):
                return thing.metadata["top_up"]
        return ""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why money that came in is not credited."""

    code: str
    message: str


def read_session(session_id: str) -> State:
    """Ask for a checkout, and the payment in it. Not in a transaction; raises what the gateway raises."""
    session = gateway.checkout(session_id)
    return State(session, gateway.payment_intent(session.payment_intent) if session.payment_intent else None)


def read_intent(payment_intent_id: str) -> State:
    """Ask for a payment, and the checkout it was made in. Not in a transaction; raises what the gateway raises."""
    intent = gateway.payment_intent(payment_intent_id)
    named = TopUp.objects.filter(public_id=intent.metadata.get("top_up", ""))
    session_id = named.values_list("session_id", flat=True).first()
    session = gateway.checkout(session_id) if session_id else None
    # Another payment than the checkout's own stands for itself.
    return State(session if session is not None and session.payment_intent == intent.id else None, intent)


def apply(state: State, *, at: datetime, judges_again: bool = False) -> str:
    """Bring a top-up and the ledger to a state that was read; returns what came of it, in a few words.

    In the caller's transaction, or one of its own. Money that came in is credited once, or, where it doesn't match,
    refused for a person to decide on; `judges_again` looks at such a one anew.
    """

    def work() -> str:
        found = _find(state)
        if found is None:
            return NOT_OURS
        ledger.lock_wallets([found.customer_id])
        row = _find(state)  # as it is now that nobody else changes it
        assert row is not None
        if row.origin in BY_HAND:
            return "was recorded by hand"
        if state.intent is not None and state.intent.status == "succeeded":
            return _apply_money(row, state, state.intent, at=at, judges_again=judges_again)
        return _apply_progress(row, state, at=at)

    return in_transaction(work)


def _find(state: State) -> TopUp | None:
    known = Q(public_id=state.names)
    if state.session is not None:
        known |= Q(session_id=state.session.id)
    rows = TopUp.objects.select_related("customer")
    if state.intent is not None:
        # A second payment for one top-up has a row of its own, which comes first.
        own = rows.filter(payment_intent_id=state.intent.id).first()
        if own is not None:
            return own
    return rows.filter(known).first()


def _apply_progress(row: TopUp, state: State, *, at: datetime) -> str:
    """What is known of a payment that has not succeeded."""
    session, intent = state.session, state.intent
    if row.status in {Status.PAID, Status.REFUSED}:
        return f"{row.status} before"
    if session is not None and session.id != (row.session_id or session.id):
        return "another checkout of this top-up"
    if intent is not None and intent.id != (row.payment_intent_id or intent.id):
        return "another payment of this top-up"
    status = _progress(row, state)
    if _RANKS[status] < _RANKS[Status(row.status)]:
        return f"{row.status} before"
    row.status = status
    _adopt(row, state)
    if intent is not None and (intent.decline_code or intent.error_code):
        row.error_code = (intent.decline_code or intent.error_code or "")[:100]
        row.error_message = (intent.error_message or "")[:_MESSAGE_MAX]
    row.look_at = _next_look(row, at)
    row.save()
    # Of a declined recharge its own notice tells, with what comes next.
    if row.status == Status.FAILED and row.origin == Origin.CHECKOUT:
        _tell(row, PAYMENT_FAILED, {"code": row.error_code, "message": row.error_message}, at=at)
    return str(row.status)


def _tell(row: TopUp, kind: str, more: Mapping[str, str], *, at: datetime) -> None:
    data = {"top_up": row.public_id, "amount": amount_text(row.amount), "currency": row.currency, **more}
    notices.announce(customer_id=row.customer_id, kind=kind, key=row.public_id, data=data, at=at)


def _progress(row: TopUp, state: State) -> Status:
    session, intent = state.session, state.intent
    if session is not None and session.status == "expired":
        return Status.EXPIRED
    if intent is None:
        return Status.PENDING
    if intent.status == "processing":
        return Status.PROCESSING
    if intent.status == "canceled":
        return Status.CANCELED
    # On an open page another card can be tried.
    is_over = row.origin == Origin.RECHARGE or (session is not None and session.status == "complete")
    if intent.status == "requires_payment_method" and intent.error_code and is_over:
        return Status.FAILED
    return Status.PENDING


def _adopt(row: TopUp, state: State) -> None:
    if state.session is not None and row.session_id is None:
        row.session_id = state.session.id
    if state.session is not None:
        row.checkout_url = state.session.url or ""
    if state.intent is not None:
        row.payment_intent_id = state.intent.id


def _apply_money(row: TopUp, state: State, intent: gateway.PaymentIntent, *, at: datetime, judges_again: bool) -> str:
    if row.payment_intent_id == intent.id and row.status == Status.PAID:
        _fill(row, intent, at=at)
        row.save()
        return "paid before"
    if row.status == Status.PAID:
        return _refuse_second(row, intent, at=at)
    if row.status == Status.REFUSED and not (judges_again and not row.decided_by):
        return "refused before"
    if row.status == Status.REFUSED and row.payment_intent_id != intent.id:
        return _refuse_second(row, intent, at=at)
    _adopt(row, state)
    row.checkout_url = ""
    fault = _fault(row, state, intent)
    if fault is not None:
        row.status, row.error_code, row.error_message = Status.REFUSED, fault.code, fault.message[:_MESSAGE_MAX]
        _fill(row, intent, at=at)
        row.save()
        return f"refused: {fault.message}"
    _fill(row, intent, at=at)
    credit(row, reason="Top-up", source=Account.CASH_STRIPE, at=at)
    return "paid"


def credit(row: TopUp, *, reason: str, source: Account, at: datetime, actor: str = "") -> None:
    """Turn a top-up whose wallet is locked into its grant, and its first bonus, or pay its invoice.

    Of what was paid the tax goes to the tax account, by the same transfer.
    """
    if row.invoice_id is not None:
        made = receivables.pay(
            invoice_id=row.invoice_id,
            amount=row.amount,
            payment=row.public_id,
            source=source,
            reason=reason,
            actor=actor,
            at=at,
        )
        _paid(row, None if made is None else made.pk, at=at)
        return
    granted = credits.grant(
        customer_id=row.customer_id,
        amount=row.credited,
        kind=Grant.Kind.PAID,
        reason=reason,
        reference=row.public_id,
        key=row.public_id,
        at=at,
        actor=actor,
        source=source,
        tax=row.tax,
    )
    is_first = not TopUp.objects.filter(customer_id=row.customer_id, status=Status.PAID, invoice=None).exists()
    _paid(row, credits.find(granted.grant).pk, at=at)
    if is_first:
        top_up_bonus.give(row, at=at)


def _paid(row: TopUp, grant_id: int | None, *, at: datetime) -> None:
    row.status, row.paid_at, row.grant_id = Status.PAID, at, grant_id
    row.error_code = row.error_message = ""
    if row.origin not in BY_HAND:
        row.look_at = _next_look(row, at)
    row.save()
    invoice = row.invoice
    told = {
        "paid": amount_text(row.pay_amount),
        "method": row.method_detail or row.method,
        "origin": str(row.origin),
        "invoice": "" if invoice is None else invoice.public_id,
        "number": "" if invoice is None else invoice.number,
    }
    _tell(row, PAYMENT_RECEIVED, told, at=at)


def _fault(row: TopUp, state: State, intent: gateway.PaymentIntent) -> _Fault | None:
    """What doesn't match between a payment that came in and the top-up it says it is for; None if all does."""
    session = state.session
    customer = row.customer
    paid = currency_text(intent.received, intent.currency)
    if intent.livemode == row.is_sandbox:
        return _Fault("other_mode", "it was paid in another mode (test or live) than it was asked in")
    named = {intent.metadata.get("top_up")} | ({session.client_reference} if session is not None else set())
    if named != {row.public_id}:
        others = ", ".join(sorted(str(one or "no top-up") for one in named - {row.public_id}))
        return _Fault("other_top_up", f"the payment names {others}")
    if intent.metadata.get("customer") != customer.public_id:
        return _Fault("other_customer", f"the payment names the customer {intent.metadata.get('customer') or 'none'}")
    account = payment_accounts.find(customer.pk)
    if account is None or intent.stripe_customer != account:
        return _Fault("other_customer", f"it was paid as {intent.stripe_customer or 'nobody'}, not as {account}")
    if intent.currency.upper() != row.currency:
        return _Fault("other_currency", f"{paid} {intent.currency.upper()} were paid in place of {row.currency}")
    if intent.received != row.pay_amount:
        asked = currency_text(row.pay_amount, row.currency)
        return _Fault("other_amount", f"{paid} {row.currency} were paid in place of {asked}")
    if customer.status == Customer.Status.CLOSED:
        return _Fault("account_closed", "the account was closed before the money came")
    charge = intent.charge
    if row.status == Status.REFUSED and charge is not None and (charge.amount_refunded or charge.disputed):
        # While it was refused nothing was taken for that, and nothing will be: it is read once.
        return _Fault("went_back", "it was refunded or disputed at the payment provider meanwhile")
    return None


def _refuse_second(row: TopUp, intent: gateway.PaymentIntent, *, at: datetime) -> str:
    """Keep a second payment for a paid top-up as a row of its own: money came in, nothing is credited."""
    second = TopUp(
        customer_id=row.customer_id,
        origin=row.origin,
        status=Status.REFUSED,
        amount=row.amount,
        currency=intent.currency.upper(),
        pay_amount=intent.received,
        rate=row.rate,
        margin=row.margin,
        is_sandbox=row.is_sandbox,
        payment_intent_id=intent.id,
        error_code="paid_twice",
        error_message=f"{row.public_id} was paid before, by {row.payment_intent_id}"[:_MESSAGE_MAX],
        created_at=at,
    )
    _fill(second, intent, at=at)
    second.save()
    return f"refused: {second.error_message}"


def _fill(row: TopUp, intent: gateway.PaymentIntent, *, at: datetime) -> None:
    """Note what the provider tells of a payment that came in; the fee may come later than the money."""
    row.look_at = None
    charge = intent.charge
    if charge is not None:
        row.charge_id, row.method = charge.id, charge.method_type[:40]
        brand = charge.brand or charge.method_type
        row.method_detail = f"{brand} •••• {charge.last4}"[:60] if charge.last4 else ""
        settled = charge.balance_transaction
        if settled is not None:
            row.fee, row.settled_amount, row.settled_currency = settled.fee, settled.amount, settled.currency.upper()
    if row.status == Status.PAID:
        row.look_at = _next_look(row, at)


def _next_look(row: TopUp, at: datetime) -> datetime | None:
    """When the provider is asked again: soon at first, later and later; None when there is nothing left to learn."""
    age = at - (row.paid_at or row.created_at)
    soon = at + min(max(age / 4, _SOONEST), _LATEST)
    if row.status == Status.PAID:
        return None if row.settled_amount is not None or age > ASKED_FOR else soon
    if row.status in ENDED or age > ASKED_FOR:
        return None
    if row.status == Status.PENDING and row.expires_at is not None:
        if at > row.expires_at + ASKED_AFTER_EXPIRY:
            return None
        return min(soon, row.expires_at + _SOONEST) if at < row.expires_at else soon
    return soon
