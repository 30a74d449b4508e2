"""Stripe, as the use cases see it: plain arguments in, frozen shapes out, five exceptions. The only importer of stripe.

No call is made inside a transaction: a rolled-back row must never have moved money. Every call that makes something
takes the caller's own idempotency `key`, so that it survives a crash; the parameters must be the same under one key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from django.conf import settings

from billing.stripe_objects import (
    BalanceTransaction,
    Charge,
    CheckoutSession,
    Dispute,
    Event,
    GatewayRejected,
    GatewayUnavailable,
    InvalidSignature,
    Json,
    PaymentDeclined,
    PaymentIntent,
    PaymentMethod,
    PaymentsNotConfigured,
    Refund,
    SetupIntent,
)
from billing.stripe_objects import read_balance_transaction as _balance_transaction
from billing.stripe_objects import read_checkout as _checkout
from billing.stripe_objects import read_dispute as _dispute
from billing.stripe_objects import read_event as _event
from billing.stripe_objects import read_payment_intent as _payment_intent
from billing.stripe_objects import read_payment_method as _payment_method
from billing.stripe_objects import read_refund as _refund
from billing.stripe_objects import read_setup_intent as _setup_intent
from relayadmin.db import outside_transaction
from relayadmin.money import minor_units

if TYPE_CHECKING:
    import stripe
    from stripe.params import PaymentIntentCreateParams
    from stripe.params.checkout import SessionCreateParams, SessionCreateParamsPaymentMethodOptions

__all__ = [
    "BalanceTransaction",
    "Charge",
    "CheckoutSession",
    "Dispute",
    "Event",
    "GatewayRejected",
    "GatewayUnavailable",
    "InvalidSignature",
    "PaymentDeclined",
    "PaymentIntent",
    "PaymentMethod",
    "PaymentsNotConfigured",
    "Refund",
    "SetupIntent",
]

API_VERSION = "2026-10-28.endive"
TIMEOUT_S = 10
RETRIES = 1  # by the package itself, under the same idempotency key
SIGNATURE_AGE_S_MAX = 300
PAGE = 100

T = TypeVar("T")


def configured() -> bool:
    """Whether there is a key to call Stripe with."""
    return bool(settings.STRIPE_SECRET_KEY)


# --- customers and their saved cards


def create_customer(*, key: str, name: str, email: str | None, customer: str) -> str:
    """Make a customer at Stripe that carries our public id; returns its `cus_…`."""
    with _calling() as client:
        made = client.v1.customers.create(
            {"name": name[:256], "metadata": {"customer": customer}, **({"email": email} if email else {})},
            {"idempotency_key": key},
        )
        return made.id


def payment_methods(stripe_customer: str) -> list[PaymentMethod]:
    """The cards a customer has saved, newest first."""
    with _calling() as client:
        found = client.v1.payment_methods.list({"customer": stripe_customer, "type": "card", "limit": PAGE})
        return [_payment_method(each.to_dict()) for each in found.auto_paging_iter()]


def payment_method(id: str) -> PaymentMethod:
    with _calling() as client:
        return _payment_method(client.v1.payment_methods.retrieve(id).to_dict())


def detach(id: str) -> PaymentMethod:
    """Remove a saved card for good."""
    with _calling() as client:
        return _payment_method(client.v1.payment_methods.detach(id).to_dict())


def set_default(stripe_customer: str, method: str) -> None:
    with _calling() as client:
        client.v1.customers.update(stripe_customer, {"invoice_settings": {"default_payment_method": method}})


def setup_intent(id: str) -> SetupIntent:
    with _calling() as client:
        return _setup_intent(client.v1.setup_intents.retrieve(id).to_dict())


# --- Checkout


def create_checkout(
    *,
    key: str,
    top_up: str,
    customer: str,
    stripe_customer: str,
    amount: Decimal,
    currency: str,
    methods: Sequence[str],
    success_url: str,
    cancel_url: str,
    expires_at: datetime,
    save_card: bool,
    description: str,
) -> CheckoutSession:
    """Open a page on which `amount` is paid, tied to our top-up; `expires_at` is 30 minutes to 24 hours ahead.

    `methods` filters: what the currency or the account does not allow vanishes from the page silently.
    """
    ours = {"top_up": top_up, "customer": customer}
    options: SessionCreateParamsPaymentMethodOptions = {}
    if "wechat_pay" in methods:
        options["wechat_pay"] = {"client": "web"}
    if save_card and "card" in methods:
        # On the card alone: for the whole payment it would rule out the methods that can't be saved.
        options["card"] = {"setup_future_usage": "off_session"}
    params: SessionCreateParams = {
        "mode": "payment",
        "customer": stripe_customer,
        "client_reference_id": top_up,
        "metadata": ours,
        "payment_intent_data": {"metadata": ours, "description": description},
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": currency.lower(),
                    "unit_amount": minor_units(amount, currency),
                    "product_data": {"name": description},
                },
            }
        ],
        "allowed_payment_method_types": list(methods),
        "success_url": success_url,
        "cancel_url": cancel_url,
        "expires_at": int(expires_at.timestamp()),
        # Or Stripe may offer the amount in the payer's own currency, at a rate that is not ours.
        "adaptive_pricing": {"enabled": False},
    }
    if options:
        params["payment_method_options"] = options
    with _calling() as client:
        return _checkout(client.v1.checkout.sessions.create(params, {"idempotency_key": key}).to_dict())


def create_setup_checkout(
    *, key: str, customer: str, stripe_customer: str, currency: str, success_url: str, cancel_url: str
) -> CheckoutSession:
    """Open a page on which a card is saved and nothing is paid."""
    ours = {"customer": customer}
    params: SessionCreateParams = {
        "mode": "setup",
        "customer": stripe_customer,
        "client_reference_id": customer,
        "currency": currency.lower(),
        "metadata": ours,
        "setup_intent_data": {"metadata": ours},
        "allowed_payment_method_types": ["card"],
        "success_url": success_url,
        "cancel_url": cancel_url,
    }
    with _calling() as client:
        return _checkout(client.v1.checkout.sessions.create(params, {"idempotency_key": key}).to_dict())


def checkout(id: str) -> CheckoutSession:
    with _calling() as client:
        return _checkout(client.v1.checkout.sessions.retrieve(id).to_dict())


def expire_checkout(id: str) -> CheckoutSession:
    """Close an open page; GatewayRejected if it is complete or expired already."""
    with _calling() as client:
        return _checkout(client.v1.checkout.sessions.expire(id).to_dict())


def checkouts_created(from_: datetime, to: datetime) -> Iterator[CheckoutSession]:
    """All made in [from_, to), newest first."""
    return _pages(
        lambda client: client.v1.checkout.sessions.list({"created": _span(from_, to), "limit": PAGE}), _checkout
    )


# --- payments


def charge_saved(
    *,
    key: str,
    stripe_customer: str,
    method: str,
    amount: Decimal,
    currency: str,
    top_up: str,
    customer: str,
    description: str,
) -> PaymentIntent:
    """Charge a saved card without its owner. PaymentDeclined also when the bank wants to see them."""
    params: PaymentIntentCreateParams = {
        "amount": minor_units(amount, currency),
        "currency": currency.lower(),
        "customer": stripe_customer,
        "payment_method": method,
        "allowed_payment_method_types": ["card"],
        "off_session": True,
        "confirm": True,
        "description": description,
        "metadata": {"top_up": top_up, "customer": customer},
        "expand": ["latest_charge.balance_transaction"],
    }
    with _calling() as client:
        return _payment_intent(client.v1.payment_intents.create(params, {"idempotency_key": key}).to_dict())


def payment_intent(id: str) -> PaymentIntent:
    with _calling() as client:
        found = client.v1.payment_intents.retrieve(id, {"expand": ["latest_charge.balance_transaction"]})
        return _payment_intent(found.to_dict())


def cancel_payment_intent(id: str) -> PaymentIntent:
    """Give up one that has not succeeded; GatewayRejected if it has."""
    with _calling() as client:
        return _payment_intent(client.v1.payment_intents.cancel(id).to_dict())


def payment_intents_created(from_: datetime, to: datetime) -> Iterator[PaymentIntent]:
    """All made in [from_, to), newest first."""
    return _pages(
        lambda client: client.v1.payment_intents.list(
            {"created": _span(from_, to), "limit": PAGE, "expand": ["data.latest_charge.balance_transaction"]}
        ),
        _payment_intent,
    )


# --- what goes back


def create_refund(
    *, key: str, payment_intent: str, amount: Decimal, currency: str, refund: str, customer: str
) -> Refund:
    """Send `amount` of a payment back. With WeChat Pay it stays `pending` for a while."""
    with _calling() as client:
        made = client.v1.refunds.create(
            {
                "payment_intent": payment_intent,
                "amount": minor_units(amount, currency),
                "metadata": {"refund": refund, "customer": customer},
                "expand": ["balance_transaction"],
            },
            {"idempotency_key": key},
        )
        return _refund(made.to_dict())


def refund(id: str) -> Refund:
    with _calling() as client:
        return _refund(client.v1.refunds.retrieve(id, {"expand": ["balance_transaction"]}).to_dict())


def refunds_of(payment_intent: str) -> list[Refund]:
    """Every refund of a payment, ours and the dashboard's, newest first."""
    with _calling() as client:
        found = client.v1.refunds.list(
            {"payment_intent": payment_intent, "limit": PAGE, "expand": ["data.balance_transaction"]}
        )
        return [_refund(each.to_dict()) for each in found.auto_paging_iter()]


def payment_of_charge(id: str) -> str | None:
    """The payment that a charge belongs to."""
    with _calling() as client:
        found = client.v1.charges.retrieve(id).payment_intent
        return found if found is None or isinstance(found, str) else found.id


def dispute(id: str) -> Dispute:
    with _calling() as client:
        return _dispute(client.v1.disputes.retrieve(id).to_dict())


def disputes_of(payment_intent: str) -> list[Dispute]:
    with _calling() as client:
        found = client.v1.disputes.list({"payment_intent": payment_intent, "limit": PAGE})
        return [_dispute(each.to_dict()) for each in found.auto_paging_iter()]


# --- the account's balance


def balance_transactions(from_: datetime, to: datetime) -> Iterator[BalanceTransaction]:
    """All made in [from_, to), newest first."""
    return _pages(
        lambda client: client.v1.balance_transactions.list({"created": _span(from_, to), "limit": PAGE}),
        _balance_transaction,
    )


# --- webhooks


def read_event(raw_body: bytes, signature: str) -> Event:
    """What a webhook says, once it is known to be Stripe's: HMAC-SHA256 of "{t}.{body}", at most 300 s old."""
    secret = settings.STRIPE_WEBHOOK_SECRET
    if not secret:
        raise PaymentsNotConfigured("STRIPE_WEBHOOK_SECRET is not set")
    import stripe  # not above: 20 MB and half a second, which a process without payments is spared

    if not signature.isascii():  # which the package's comparison can't take
        raise InvalidSignature("the signature is not ASCII")
    try:
        stripe.WebhookSignature.verify_header(raw_body, signature, secret, SIGNATURE_AGE_S_MAX)
        return _event(json.loads(raw_body))
    except stripe.SignatureVerificationError as error:
        raise InvalidSignature(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidSignature("the body is not an event") from None


# --- how a call is made


@contextmanager
def _calling() -> Iterator[stripe.StripeClient]:
    """The client, its errors turned into ours."""
    import stripe

    if not configured():
        raise PaymentsNotConfigured("STRIPE_SECRET_KEY is not set")
    outside_transaction()
    try:
        yield _client(settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE, TIMEOUT_S)
    except stripe.CardError as error:
        raise _declined(error) from None
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise GatewayUnavailable(f"Stripe gave no answer: {error.user_message}") from None
    except (stripe.AuthenticationError, stripe.PermissionError):
        # Their message shows part of the key.
        raise GatewayRejected("Stripe does not accept STRIPE_SECRET_KEY for this", code="not_permitted") from None
    except stripe.APIError as error:
        raise GatewayUnavailable(f"Stripe answered {error.http_status}: {error.user_message}") from None
    except stripe.IdempotencyError as error:
        raise GatewayRejected(error.user_message or "", code="idempotency_error") from None
    except stripe.StripeError as error:
        raise GatewayRejected(
            error.user_message or "Stripe refused the request", param=getattr(error, "param", None), code=error.code
        ) from None


def _declined(error: stripe.CardError) -> PaymentDeclined:
    body: dict[str, Any] = error.json_body["error"] if isinstance(error.json_body, dict) else {}
    intent = body.get("payment_intent")
    return PaymentDeclined(
        error.user_message or "The payment was declined.",
        code=error.code,
        decline_code=body.get("decline_code"),
        payment_intent=_payment_intent(intent) if isinstance(intent, dict) else None,
    )


@lru_cache(maxsize=4)
def _client(secret_key: str, api_base: str, timeout_s: int) -> stripe.StripeClient:
    import stripe

    host = urlsplit(api_base).hostname
    direct: Any = {"no_proxy": host}  # a stand-in on this machine is not asked through the machine's proxy
    return stripe.StripeClient(
        secret_key,
        stripe_version=API_VERSION,
        base_addresses={"api": api_base} if api_base else None,
        max_network_retries=RETRIES,
        http_client=stripe.RequestsClient(
            timeout=timeout_s, proxy=direct if host in {"127.0.0.1", "localhost", "::1"} else None
        ),
    )


def _pages(ask: Callable[[stripe.StripeClient], Any], read: Callable[[Json], T]) -> Iterator[T]:
    """Every object of a list, page by page; each page is a call."""
    with _calling() as client:
        found: Iterable[stripe.StripeObject] = ask(client).auto_paging_iter()
        for each in found:
            yield read(each.to_dict())
            outside_transaction()


def _span(from_: datetime, to: datetime) -> Any:
    return {"gte": int(from_.timestamp()), "lt": int(to.timestamp())}
