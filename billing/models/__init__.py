from billing.models.accounts import AccountChange, WalletAdjustment
from billing.models.credits import Grant, GrantChange, GrantReturn, GrantUse, ScheduledGrant
from billing.models.customers import AccessToken, Customer, IdempotentAnswer, Membership
from billing.models.holds import Hold
from billing.models.invoices import Invoice, InvoiceLine, InvoiceSeries
from billing.models.ledger import Account, Entry, Transfer, Wallet
from billing.models.notices import Notice
from billing.models.operation import Alarm, JobRun, OperatorSettings
from billing.models.redemption import RedemptionCode, RedemptionGuesses
from billing.models.spending import SpendCounter, SpendLimit
from billing.models.verification import VerifiedWallet

__all__ = [
    "AccessToken",
    "Account",
    "AccountChange",
    "Alarm",
    "Customer",
    "Entry",
    "Grant",
    "GrantChange",
    "GrantReturn",
    "GrantUse",
    "Hold",
    "IdempotentAnswer",
    "Invoice",
    "InvoiceLine",
    "InvoiceSeries",
    "JobRun",
    "Membership",
    "Notice",
    "OperatorSettings",
    "RedemptionCode",
    "RedemptionGuesses",
    "ScheduledGrant",
    "SpendCounter",
    "SpendLimit",
    "Transfer",
    "VerifiedWallet",
    "Wallet",
    "WalletAdjustment",
]
