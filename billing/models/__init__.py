from billing.models.accounts import AccountChange, WalletAdjustment
from billing.models.billing_profiles import BillingProfile, TaxRate
from billing.models.credits import Grant, GrantChange, GrantReturn, GrantUse, ScheduledGrant
from billing.models.customers import AccessToken, Customer, IdempotentAnswer, Membership
from billing.models.holds import Hold
from billing.models.invoices import (
    CreditNote,
    CreditNoteLine,
    CreditNoteRequest,
    CustomerClosing,
    Invoice,
    InvoiceLine,
    InvoiceReopening,
    InvoiceSeries,
    InvoiceTax,
    PeriodClosing,
)
from billing.models.jobs import Job
from billing.models.ledger import Account, Entry, Transfer, Wallet
from billing.models.messages import Delivery, LowBalance, NoticePreference, NotificationSettings, WebhookEndpoint
from billing.models.notices import Notice
from billing.models.operation import Alarm, JobRun, OperatorSettings
from billing.models.payments import (
    Dispute,
    ExchangeRate,
    PayCurrency,
    PaymentAccount,
    Refund,
    TopUp,
    WebhookEvent,
)
from billing.models.receipts import Receipt
from billing.models.recharge import PaymentMethod, Recharge
from billing.models.reconciliation import StripeDifference, StripeTransaction
from billing.models.redemption import RedemptionCode, RedemptionGuesses
from billing.models.spending import SpendCounter, SpendLimit
from billing.models.verification import VerifiedWallet

__all__ = [
    "AccessToken",
    "Account",
    "AccountChange",
    "Alarm",
    "BillingProfile",
    "CreditNote",
    "CreditNoteLine",
    "CreditNoteRequest",
    "Customer",
    "CustomerClosing",
    "Delivery",
    "Dispute",
    "Entry",
    "ExchangeRate",
    "Grant",
    "GrantChange",
    "GrantReturn",
    "GrantUse",
    "Hold",
    "IdempotentAnswer",
    "Invoice",
    "InvoiceLine",
    "InvoiceReopening",
    "InvoiceSeries",
    "InvoiceTax",
    "Job",
    "JobRun",
    "LowBalance",
    "Membership",
    "Notice",
    "NoticePreference",
    "NotificationSettings",
    "OperatorSettings",
    "PayCurrency",
    "PaymentAccount",
    "PaymentMethod",
    "PeriodClosing",
    "Receipt",
    "Recharge",
    "RedemptionCode",
    "RedemptionGuesses",
    "Refund",
    "ScheduledGrant",
    "SpendCounter",
    "SpendLimit",
    "StripeDifference",
    "StripeTransaction",
    "TaxRate",
    "TopUp",
    "Transfer",
    "VerifiedWallet",
    "Wallet",
    "WalletAdjustment",
    "WebhookEndpoint",
    "WebhookEvent",
]
