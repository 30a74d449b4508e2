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
    job_pages,
    ledger,
    messages,
    notices,
    operation,
    people,
    receipts,
    recharges,
    reconciliation,
    refunds,
    reopenings,
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
    "job_pages",
    "ledger",
    "messages",
    "notices",
    "operation",
    "people",
    "receipts",
    "recharges",
    "reconciliation",
    "refunds",
    "reopenings",
    "taxation",
    "top_ups",
    "verified",
    "webhook_events",
]

admin.site.index_title = "Home"
