"""The operator's pages for customers and their money."""

from django.contrib import admin

from billing.admin import (
    alarms,
    by_hand,
    codes,
    credit_notes,
    currencies,
    customers,
    disputes,
    grants,
    invoices,
    ledger,
    notices,
    operation,
    people,
    receipts,
    recharges,
    reconciliation,
    refunds,
    taxation,
    top_ups,
    verified,
    webhook_events,
)

__all__ = [
    "alarms",
    "by_hand",
    "codes",
    "credit_notes",
    "currencies",
    "customers",
    "disputes",
    "grants",
    "invoices",
    "ledger",
    "notices",
    "operation",
    "people",
    "receipts",
    "recharges",
    "reconciliation",
    "refunds",
    "taxation",
    "top_ups",
    "verified",
    "webhook_events",
]

admin.site.index_title = "Home"
