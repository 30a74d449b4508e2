"""The operator's pages for customers and their money."""

from billing.admin import customers, invoices, ledger, operation, people

__all__ = ["customers", "invoices", "ledger", "operation", "people"]
