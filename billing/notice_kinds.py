"""The kinds of notices: what each is for, how it is told unless a customer chose otherwise, and what it carries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BALANCE_LOW = "balance_low"
CREDIT_NOTE_ISSUED = "credit_note_issued"
INVOICE_DUE_AGAIN = "invoice_due_again"
INVOICE_ISSUED = "invoice_issued"
INVOICE_OVERDUE = "invoice_overdue"
KEY_CREATED = "key_created"
KEY_REVOKED = "key_revoked"
PAYMENT_FAILED = "payment_failed"
PAYMENT_RECEIVED = "payment_received"
WEBHOOK_DISABLED = "webhook_disabled"
TEST = "test"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `example` is what its `data` looks like: amounts as strings in USD, moments RFC 3339."""

    name: str
    text: str
    example: Mapping[str, Any]
    mail: bool = True
    webhook: bool = True


_TOP_UP = "top_0k9d3f6h1m2n4p5q"
_CARD = "visa •••• 4242"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            INVOICE_ISSUED,
            "An invoice or a month's statement was issued.",
            {
                "invoice": "inv_0k9d3f6h1m2n4p5q",
                "number": "INV-2026-000042",
                "period": "2026-10",
                "status": "issued",
                "total": "121.00",
                "amount_due": "121.00",
                "due_on": "2026-11-15",
            },
        ),
        Kind(
            CREDIT_NOTE_ISSUED,
            "A credit note took back an issued invoice, or a part of it.",
            {
                "credit_note": "cn_0k9d3f6h1m2n4p5q",
                "number": "CN-2026-000007",
                "invoice": "inv_0k9d3f6h1m2n4p5q",
                "invoice_number": "INV-2026-000042",
                "total": "12.10",
                "amount_due": "108.90",
                "reason": "An outage on the 12th.",
            },
        ),
        Kind(
            INVOICE_OVERDUE,
            "An invoice is 3, 10 or 20 days overdue.",
            {
                "invoice": "inv_0k9d3f6h1m2n4p5q",
                "number": "INV-2026-000042",
                "reminder": 1,
                "amount_due": "121.00",
                "due_on": "2026-11-15",
                "days": 3,
            },
        ),
        Kind(
            INVOICE_DUE_AGAIN,
            "Money of an invoice's payment went back, so the invoice is due again.",
            {
                "invoice": "inv_0k9d3f6h1m2n4p5q",
                "number": "INV-2026-000042",
                "top_up": _TOP_UP,
                "amount": "121.00",
                "amount_due": "121.00",
                "due_on": "2026-11-15",
                "because": "dispute",
            },
        ),
        Kind(
            PAYMENT_RECEIVED,
            "A payment came in, and was credited or has paid an invoice.",
            {
                "top_up": _TOP_UP,
                "amount": "50.000000",
                "currency": "EUR",
                "paid": "46.300000",
                "method": _CARD,
                "origin": "checkout",
                "invoice": "",
                "number": "",
            },
        ),
        Kind(
            PAYMENT_FAILED,
            "A payment that was begun on a page did not go through.",
            {
                "top_up": _TOP_UP,
                "amount": "50.000000",
                "currency": "EUR",
                "code": "insufficient_funds",
                "message": "Your card has insufficient funds.",
            },
        ),
        Kind(
            BALANCE_LOW,
            "Less is left to spend than the customer's threshold.",
            {
                "balance": "4.982150",
                "credit_limit": "0.000000",
                "left": "4.982150",
                "threshold": "5.000000",
            },
        ),
        Kind(
            "spend_limit_used",
            "80 % or 100 % of a spend limit are spent.",
            {
                "api_key": "key_0k9d3f6h1m2n4p5q",
                "span": "month",
                "starts_on": "2026-11-01",
                "set_by": "customer",
                "type": "hard",
                "amount": "100.000000",
                "spent": "80.029250",
                "percent": 80,
            },
        ),
        Kind(
            "credit_expires",
            "Credit expires in 30 and in 7 days.",
            {
                "grant": "gr_18_7",
                "remaining": "12.345678",
                "expires_at": "2026-12-01T00:00:00+00:00",
                "days": 7,
            },
        ),
        Kind(
            "in_debt",
            "Debt has stopped the keys.",
            {"debt": "3.141500", "credit_limit": "0.000000", "since": "2026-11-22T10:00:00+00:00"},
        ),
        Kind(
            KEY_CREATED,
            "An API key was created.",
            {"api_key": "key_0k9d3f6h1m2n4p5q", "name": "production", "last4": "x7Qk"},
        ),
        Kind(
            KEY_REVOKED,
            "An API key was revoked.",
            {"api_key": "key_0k9d3f6h1m2n4p5q", "name": "production", "last4": "x7Qk"},
        ),
        Kind(
            "recharge_failed",
            "A saved card was declined; it is charged again later.",
            {
                "top_up": _TOP_UP,
                "amount": "50.000000",
                "card": _CARD,
                "code": "card_declined",
                "message": "Your card was declined.",
                "next_try_at": "2026-11-23T10:00:00+00:00",
            },
        ),
        Kind(
            "recharge_capped",
            "The automatic recharge has reached the month's cap.",
            {"monthly_cap": "500.000000", "charged": "500.000000", "goes_on_at": "2026-12-01T00:00:00+00:00"},
        ),
        Kind(
            "recharge_off",
            "The automatic recharge was switched off, and why.",
            {"because": "declined", "message": "The card visa •••• 4242 was declined 3 times: Your card was declined."},
        ),
        Kind(
            "authentication_required",
            "The bank wants the customer to confirm a recharge.",
            {
                "top_up": _TOP_UP,
                "amount": "50.000000",
                "card": _CARD,
                "checkout_url": "https://checkout.stripe.com/c/pay/cs_test_a1",
            },
        ),
        Kind(
            "dispute_taken",
            "A payment is disputed, and was taken back.",
            {"top_up": _TOP_UP, "amount": "50.000000", "reason": "fraudulent"},
        ),
        Kind(
            "dispute_returned",
            "A dispute has returned a payment; it counts again.",
            {"top_up": _TOP_UP, "amount": "50.000000", "reason": "fraudulent"},
        ),
        Kind(
            "refund_paid",
            "A refund was paid out.",
            {"refund": "ref_0k9d3f6h1m2n4p5q", "amount": "10.000000", "currency": "EUR", "paid": "9.260000"},
        ),
        Kind(
            "refund_failed",
            "A refund could not be paid out; its credit is back.",
            {"refund": "ref_0k9d3f6h1m2n4p5q", "amount": "10.000000", "currency": "EUR", "paid": "9.260000"},
        ),
        Kind(
            WEBHOOK_DISABLED,
            "A webhook endpoint failed for days and was switched off.",
            {
                "endpoint": "whe_0k9d3f6h1m2n4p5q",
                "url": "https://example.com/hooks",
                "because": "It took nothing for 5 days.",
            },
            webhook=False,
        ),
    )
}
# What an endpoint is sent when its customer tries it out; nobody chooses it.
TEST_KIND = Kind(TEST, "Asked for by the customer, to try an endpoint out.", {"endpoint": "whe_0k9d3f6h1m2n4p5q"})
