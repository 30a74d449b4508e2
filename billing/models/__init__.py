from billing.models.credits import Grant, GrantReturn, GrantUse
from billing.models.customers import AccessToken, Customer, IdempotentAnswer, Membership
from billing.models.holds import Hold
from billing.models.invoices import Invoice, InvoiceLine, InvoiceSeries
from billing.models.ledger import Account, Entry, Transfer, Wallet
from billing.models.operation import Alarm, JobRun, OperatorSettings
from billing.models.spending import SpendCounter, SpendLimit
from billing.models.verification import VerifiedWallet

__all__ = [
    "AccessToken",
    "Account",
    "Alarm",
    "Customer",
    "Entry",
    "Grant",
    "GrantReturn",
    "GrantUse",
    "Hold",
    "IdempotentAnswer",
    "Invoice",
    "InvoiceLine",
    "InvoiceSeries",
    "JobRun",
    "Membership",
    "OperatorSettings",
    "SpendCounter",
    "SpendLimit",
    "Transfer",
    "VerifiedWallet",
    "Wallet",
]
