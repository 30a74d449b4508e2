"""The operator's pages for customers and their money."""

from django.contrib import admin

from billing.admin import customers, invoices, ledger, operation, people, verified

__all__ = ["customers", "invoices", "ledger", "operation", "people", "verified"]

admin.site.index_title = "Home"
