"""The operator's pages for customers and their money."""

from django.contrib import admin

from billing.admin import alarms, by_hand, customers, invoices, ledger, operation, people, verified

__all__ = ["alarms", "by_hand", "customers", "invoices", "ledger", "operation", "people", "verified"]

admin.site.index_title = "Home"
