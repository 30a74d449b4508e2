"""The operator's pages for customers and their money."""

from django.contrib import admin

from billing.admin import (
    alarms,
    by_hand,
    codes,
    currencies,
    customers,
    grants,
    invoices,
    ledger,
    notices,
    operation,
    people,
    receipts,
    recharges,
    top_ups,
    verified,
)

__all__ = [
    "alarms",
    "by_hand",
    "codes",
    "currencies",
    "customers",
    "grants",
    "invoices",
    "ledger",
    "notices",
    "operation",
    "people",
    "receipts",
    "recharges",
    "top_ups",
    "verified",
]

admin.site.index_title = "Home"
