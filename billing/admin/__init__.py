"""The operator's pages for customers and their money."""

from django.contrib import admin

from billing.admin import (
    alarms,
    by_hand,
    codes,
    customers,
    grants,
    invoices,
    ledger,
    notices,
    operation,
    people,
    receipts,
    recharges,
    verified,
)

__all__ = [
    "alarms",
    "by_hand",
    "codes",
    "customers",
    "grants",
    "invoices",
    "ledger",
    "notices",
    "operation",
    "people",
    "receipts",
    "recharges",
    "verified",
]

admin.site.index_title = "Home"
