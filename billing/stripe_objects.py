"""What Stripe's objects say to us: frozen shapes, and readers from the API's JSON. Pure: imports no stripe.

Amounts are Decimals in the currency's major unit (10.00 for 1000 cents), currencies lower case ("usd"), times aware.
Fields are those of API version 2026-10-28.endive.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from relayadmin.money import from_minor_units

Json = Mapping[str, Any]


class PaymentsNotConfigured(Exception):
    """The secret that is needed (STRIPE_SECRET_KEY or STRIPE_WEBHOOK_SECRET) is not set."""


class GatewayUnavailable(Exception):
    """No answer, 429, 5xx, or the same key is still under way: nobody knows; try again with the same key."""


class GatewayRejected(Exception):
    """Our request is wrong, and stays wrong when it is sent again. `param` names the culprit where there is one."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class PaymentDeclined(Exception):
    """The bank said no, or wants its customer: code `card_declined`, `expired_card`, `authentication_required`, …"""

    def __init__(
        self, message: str, *, code: str | None, decline_code: str | None, payment_intent: "PaymentIntent | None"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.decline_code = decline_code
        self.payment_intent = payment_intent


class InvalidSignature(Exception):
    """Not signed with our secret, or too long ago."""


@dataclass(frozen=True)
class BalanceTransaction:
    """One movement of the Stripe account's own balance; amounts in the currency it settles in."""

    id: str
    type: str  # charge, payment, refund, payment_refund, adjustment, stripe_fee, payout, …
    reporting_category: str  # charge, refund, dispute, dispute_reversal, fee, payout, …
    amount: Decimal
    fee: Decimal
    net: Decimal
    currency: str
    exchange_rate: Decimal | None  # payment currency × rate = `currency`; None where they are the same
    source: str | None  # the ch_, re_ or dp_ it comes from
    created: datetime
    available_on: datetime
    description: str | None


@dataclass(frozen=True)
class Charge:
    id: str
    method_type: str  # card, alipay, wechat_pay
    brand: str | None
    last4: str | None
    balance_transaction: BalanceTransaction | None  # and so the fee; may come a little after the payment
    receipt_url: str | None
    disputed: bool
    amount_refunded: Decimal


@dataclass(frozen=True)
class PaymentIntent:
    id: str
    status: str  # requires_payment_method|requires_confirmation|requires_action|processing|canceled|succeeded|…
    amount: Decimal
    received: Decimal
    currency: str
    stripe_customer: str | None
    method: str | None
    metadata: Mapping[str, str]
    livemode: bool
    error_code: str | None
    decline_code: str | None
    error_message: str | None
    next_action_url: str | None
    charge: Charge | None  # the latest; None also where it was not asked for
    created: datetime


@dataclass(frozen=True)
class CheckoutSession:
    id: str
    url: str | None  # None once it is complete or expired
    mode: str  # payment, setup
    status: str  # open, complete, expired
    payment_status: str  # paid, unpaid, no_payment_required
    amount: Decimal | None
    currency: str | None
    payment_intent: str | None  # None until the customer has tried to pay
    setup_intent: str | None
    stripe_customer: str | None
    client_reference: str | None
    metadata: Mapping[str, str]
    expires_at: datetime
    livemode: bool
    created: datetime


@dataclass(frozen=True)
class SetupIntent:
    id: str
    status: str
    method: str | None
    stripe_customer: str | None
    metadata: Mapping[str, str]
    error_code: str | None


@dataclass(frozen=True)
class PaymentMethod:
    id: str
    type: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None
    stripe_customer: str | None  # None once it is detached


@dataclass(frozen=True)
class Refund:
    id: str
    status: str  # pending, requires_action, succeeded, failed, canceled
    amount: Decimal
    currency: str
    payment_intent: str | None
    charge: str | None
    failure_reason: str | None
    balance_transaction: BalanceTransaction | None
    metadata: Mapping[str, str]
    created: datetime


@dataclass(frozen=True)
class Dispute:
    id: str
    status: str  # warning_*, needs_response, under_review, won, lost, prevented
    reason: str
    amount: Decimal
    currency: str
    payment_intent: str | None
    charge: str
    is_charge_refundable: bool
    evidence_due_by: datetime | None
    balance_transactions: tuple[BalanceTransaction, ...]  # withdrawn (negative), reinstated (positive)
    livemode: bool
    created: datetime


@dataclass(frozen=True)
class Event:
    """A signal that an object has changed: its state is read from Stripe, never from the event."""

    id: str
    type: str
    object_id: str | None
    object_type: str
    created: datetime
    livemode: bool
    account: str | None  # set when it is a connected account's, which is not ours
    api_version: str | None


def read_balance_transaction(json: Json) -> BalanceTransaction:
    currency, rate = json["currency"], json.get("exchange_rate")
    return BalanceTransaction(
        id=json["id"],
        type=json["type"],
        reporting_category=json["reporting_category"],
        amount=from_minor_units(json["amount"], currency),
        fee=from_minor_units(json["fee"], currency),
        net=from_minor_units(json["net"], currency),
        currency=currency,
        exchange_rate=None if rate is None else Decimal(str(rate)),
        source=_id(json.get("source")),
        created=_time(json["created"]),
        available_on=_time(json["available_on"]),
        description=json.get("description"),
    )


def read_charge(json: Json) -> Charge:
    details = json.get("payment_method_details") or {}
    kind = details.get("type") or "card"
    return Charge(
        id=json["id"],
        method_type=kind,
        brand=(details.get(kind) or {}).get("brand"),
        last4=(details.get(kind) or {}).get("last4"),
        balance_transaction=_expanded(json.get("balance_transaction")),
        receipt_url=json.get("receipt_url"),
        disputed=bool(json.get("disputed")),
        amount_refunded=from_minor_units(json["amount_refunded"], json["currency"]),
    )


def read_payment_intent(json: Json) -> PaymentIntent:
    error = json.get("last_payment_error") or {}
    charge = json.get("latest_charge")
    return PaymentIntent(
        id=json["id"],
        status=json["status"],
        amount=from_minor_units(json["amount"], json["currency"]),
        received=from_minor_units(json.get("amount_received") or 0, json["currency"]),
        currency=json["currency"],
        stripe_customer=_id(json.get("customer")),
        method=_id(json.get("payment_method")),
        metadata=json.get("metadata") or {},
        livemode=json["livemode"],
        error_code=error.get("code"),
        decline_code=error.get("decline_code"),
        error_message=error.get("message"),
        next_action_url=_next_action_url(json.get("next_action") or {}),
        charge=read_charge(charge) if isinstance(charge, Mapping) else None,
        created=_time(json["created"]),
    )


def read_checkout(json: Json) -> CheckoutSession:
    currency, total = json.get("currency"), json.get("amount_total")
    return CheckoutSession(
        id=json["id"],
        url=json.get("url"),
        mode=json["mode"],
        status=json["status"],
        payment_status=json["payment_status"],
        amount=None if total is None or currency is None else from_minor_units(total, currency),
        currency=currency,
        payment_intent=_id(json.get("payment_intent")),
        setup_intent=_id(json.get("setup_intent")),
        stripe_customer=_id(json.get("customer")),
        client_reference=json.get("client_reference_id"),
        metadata=json.get("metadata") or {},
        expires_at=_time(json["expires_at"]),
        livemode=json["livemode"],
        created=_time(json["created"]),
    )


def read_setup_intent(json: Json) -> SetupIntent:
    return SetupIntent(
        id=json["id"],
        status=json["status"],
        method=_id(json.get("payment_method")),
        stripe_customer=_id(json.get("customer")),
        metadata=json.get("metadata") or {},
        error_code=(json.get("last_setup_error") or {}).get("code"),
    )


def read_payment_method(json: Json) -> PaymentMethod:
    details = json.get(json["type"]) or {}
    return PaymentMethod(
        id=json["id"],
        type=json["type"],
        brand=details.get("brand"),
        last4=details.get("last4"),
        exp_month=details.get("exp_month"),
        exp_year=details.get("exp_year"),
        fingerprint=details.get("fingerprint"),
        stripe_customer=_id(json.get("customer")),
    )


def read_refund(json: Json) -> Refund:
    return Refund(
        id=json["id"],
        status=json.get("status") or "pending",
        amount=from_minor_units(json["amount"], json["currency"]),
        currency=json["currency"],
        payment_intent=_id(json.get("payment_intent")),
        charge=_id(json.get("charge")),
        failure_reason=json.get("failure_reason"),
        balance_transaction=_expanded(json.get("balance_transaction")),
        metadata=json.get("metadata") or {},
        created=_time(json["created"]),
    )


def read_dispute(json: Json) -> Dispute:
    due_by = (json.get("evidence_details") or {}).get("due_by")
    return Dispute(
        id=json["id"],
        status=json["status"],
        reason=json["reason"],
        amount=from_minor_units(json["amount"], json["currency"]),
        currency=json["currency"],
        payment_intent=_id(json.get("payment_intent")),
        charge=_id(json["charge"]) or "",
        is_charge_refundable=json["is_charge_refundable"],
        evidence_due_by=None if due_by is None else _time(due_by),
        balance_transactions=tuple(map(read_balance_transaction, json["balance_transactions"])),
        livemode=json["livemode"],
        created=_time(json["created"]),
    )


def read_event(json: Json) -> Event:
    thing = json["data"]["object"]
    return Event(
        id=json["id"],
        type=json["type"],
        object_id=thing.get("id"),
        object_type=thing["object"],
        created=_time(json["created"]),
        livemode=json["livemode"],
        account=json.get("account"),
        api_version=json.get("api_version"),
    )


def _next_action_url(action: Json) -> str | None:
    """Where the customer goes to authenticate or pay; each kind of action keeps it in its own place."""
    inner = action.get(action.get("type") or "") or {}
    return inner.get("url") or inner.get("hosted_instructions_url")


def _expanded(value: object) -> BalanceTransaction | None:
    return read_balance_transaction(value) if isinstance(value, Mapping) else None


def _id(value: Any) -> str | None:
    """The id of a reference, whether the object came along or not."""
    inner: str | None = value["id"] if isinstance(value, Mapping) else value
    return inner


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
