"""What each endpoint takes: the part of Stripe's parameters that the sandbox understands. All else is refused."""

from __future__ import annotations

from sandbox.forms import ADDRESS, EITHER, FLAG, INTEGER, METADATA, RANGE, TEXT, Spec

EXPAND: Spec = {"expand": [TEXT]}
PAGES: Spec = {**EXPAND, "limit": INTEGER, "starting_after": TEXT, "ending_before": TEXT}
DATED: Spec = {**PAGES, "created": RANGE}
USAGE = ("on_session", "off_session")

CUSTOMER: Spec = {
    **EXPAND,
    "name": TEXT,
    "email": TEXT,
    "description": TEXT,
    "phone": TEXT,
    "metadata": METADATA,
    "preferred_locales": [TEXT],
    "invoice_settings": {"default_payment_method": TEXT},
}

CHECKOUT: Spec = {
    **EXPAND,
    "mode": ("payment", "setup"),
    "customer": TEXT,
    "customer_email": TEXT,
    "client_reference_id": TEXT,
    "currency": TEXT,
    "locale": TEXT,
    "submit_type": ("auto", "book", "donate", "pay", "subscribe"),
    "metadata": METADATA,
    "success_url": ADDRESS,
    "cancel_url": ADDRESS,
    "expires_at": INTEGER,
    "adaptive_pricing": {"enabled": FLAG},
    "automatic_tax": {"enabled": FLAG},
    "allowed_payment_method_types": [TEXT],
    "excluded_payment_method_types": [TEXT],
    "payment_method_options": {
        "card": {
            "setup_future_usage": USAGE,
            "request_three_d_secure": ("any", "automatic", "challenge"),
        },
        "alipay": {"setup_future_usage": ("none",)},
        "wechat_pay": {"app_id": TEXT, "client": ("android", "ios", "web"), "setup_future_usage": ("none",)},
    },
    "payment_intent_data": {
        "description": TEXT,
        "metadata": METADATA,
        "receipt_email": TEXT,
        "setup_future_usage": USAGE,
        "statement_descriptor": TEXT,
        "statement_descriptor_suffix": TEXT,
    },
    "setup_intent_data": {"description": TEXT, "metadata": METADATA},
    "line_items": [
        {
            "quantity": INTEGER,
            "price_data": {
                "currency": TEXT,
                "unit_amount": INTEGER,
                "tax_behavior": ("exclusive", "inclusive", "unspecified"),
                "product_data": {"name": TEXT, "description": TEXT, "metadata": METADATA, "images": [ADDRESS]},
            },
        }
    ],
}

PAYMENT_INTENT: Spec = {
    **EXPAND,
    "amount": INTEGER,
    "currency": TEXT,
    "customer": TEXT,
    "payment_method": TEXT,
    "allowed_payment_method_types": [TEXT],
    "automatic_payment_methods": {"enabled": FLAG, "allow_redirects": ("always", "never")},
    "confirm": FLAG,
    "off_session": EITHER,
    "error_on_requires_action": FLAG,
    "description": TEXT,
    "metadata": METADATA,
    "receipt_email": TEXT,
    "return_url": ADDRESS,
    "setup_future_usage": USAGE,
    "statement_descriptor_suffix": TEXT,
}

CONFIRM: Spec = {**EXPAND, "payment_method": TEXT, "off_session": EITHER, "return_url": ADDRESS}
CANCEL: Spec = {**EXPAND, "cancellation_reason": ("abandoned", "duplicate", "fraudulent", "requested_by_customer")}

REFUND: Spec = {
    **EXPAND,
    "payment_intent": TEXT,
    "charge": TEXT,
    "amount": INTEGER,
    "metadata": METADATA,
    "reason": ("duplicate", "fraudulent", "requested_by_customer"),
}

OF_PAYMENT: Spec = {**DATED, "payment_intent": TEXT, "charge": TEXT}
OF_CUSTOMER: Spec = {**DATED, "customer": TEXT}
PAYMENT_METHODS: Spec = {**PAGES, "customer": TEXT, "type": TEXT}
SESSIONS: Spec = {**OF_CUSTOMER, "payment_intent": TEXT, "status": ("complete", "expired", "open")}
BALANCE: Spec = {**DATED, "currency": TEXT, "source": TEXT, "type": TEXT}
EVENTS: Spec = {**DATED, "type": TEXT}
