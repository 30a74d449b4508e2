from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from billing.models.customers import Customer
from relayadmin.db import AmountField


class Account(models.TextChoices):
    """The chart of accounts. A customer's `wallet` is what it may spend; all others are the operator's.

    Signs: a wallet entry above zero is more credit for the customer; the operator's entries balance it.
    """

    WALLET = "wallet", "Wallet"
    REVENUE = "revenue", "Revenue"
    PROMOTIONAL_USAGE = "promotional_usage", "Promotional usage (contra revenue)"
    CASH_MANUAL = "cash:manual", "Cash, recorded by hand"
    CASH_STRIPE = "cash:stripe", "Cash at Stripe"
    CASH_BANK = "cash:bank", "Cash paid out to the bank"
    PROCESSING_FEES = "processing_fees", "Processing fees"
    FX_DIFFERENCE = "fx_difference", "Exchange-rate difference"
    PROMOTIONAL_GRANTS = "promotional_grants", "Promotional grants"
    GOODWILL = "goodwill", "Goodwill"
    BREAKAGE = "breakage", "Breakage (expired credit)"
    REFUNDS_PENDING = "refunds_pending", "Refunds pending"
    DISPUTES = "disputes", "Disputes"
    TAX = "tax", "Tax"
    WRITE_OFFS = "write_offs", "Write-offs"
    ROUNDING = "rounding", "Rounding"
    OTHER_REVENUE = "other_revenue", "Other revenue (charged by hand)"


class Wallet(models.Model):
    """The customer's ledger account, and the mutex of all that a customer has.

    `held` is the sum of what is left of its open holds. `version` counts its wallet entries.
    """

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, primary_key=True, related_name="wallet")
    balance: Any = AmountField(default=0, db_default=0)
    held: Any = AmountField(default=0, db_default=0)
    credit_limit: Any = AmountField(default=0, db_default=0)
    version = models.BigIntegerField(default=0, db_default=0)
    closed_through = models.DateField(null=True, blank=True, help_text="The last billing period that is closed.")
    counts_spend = models.BooleanField(
        default=False, db_default=False, help_text="There are spend limits, so what is spent and held is counted."
    )

    class Meta:
        constraints = (
            models.CheckConstraint(condition=models.Q(held__gte=0), name="wallet_held_not_negative"),
            models.CheckConstraint(condition=models.Q(credit_limit__gte=0), name="wallet_credit_limit_not_negative"),
        )

    def __str__(self) -> str:
        return f"Wallet of {self.customer}"


class Transfer(HotModel):
    """One movement of money: two or more entries that add up to zero. Append-only."""

    PREFIX = "tr"

    class Kind(models.TextChoices):
        USAGE = "usage"
        GRANT = "grant"
        ADJUSTMENT = "adjustment"
        MANUAL = "manual"
        WRITE_OFF = "write_off", "Write-off"
        CLOSING = "closing"
        EXPIRY = "expiry"
        VOID = "void"
        REFUND = "refund"
        DISPUTE = "dispute"
        SETTLEMENT = "settlement", "Settlement with the payment provider"
        INVOICE = "invoice", "Tax and rounding of an invoice"
        PAYMENT = "payment", "Payment of an invoice"
        CREDIT_NOTE = "credit_note", "Credit note"

    customer = customer_key()
    kind = models.CharField(max_length=20, choices=Kind.choices)
    key = models.CharField(max_length=255, help_text="Unique per customer and kind: the same key moves money once.")
    period = models.DateField(null=True, help_text="The billing period of usage and adjustments.")
    reason = models.CharField(max_length=500, blank=True, db_default="")
    document = models.CharField(max_length=255, blank=True, db_default="")
    actor = models.CharField(max_length=150, blank=True, db_default="", help_text="Who did it, if a person did.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "kind", "key"], name="transfer_once_per_kind_and_key"),
        )
        permissions = (("see_books", "Can see the monthly summary for bookkeeping"),)

    def __str__(self) -> str:
        return self.public_id

    @property
    def entries(self) -> models.QuerySet["Entry"]:
        """Its entries, found through their primary key."""
        first = self.pk * 16
        return Entry.objects.filter(customer_id=self.customer_id, id__gte=first, id__lt=first + 16).order_by("id")


class Entry(HotModel):
    """One side of a transfer. Wallet entries carry the wallet's balance and version after them. Append-only.

    The entries of transfer n have the numbers 16 n, 16 n + 1, …
    """

    PREFIX = "ent"

    id = models.BigIntegerField(primary_key=True)
    customer = customer_key()
    transfer_id = models.BigIntegerField()
    account = models.CharField(max_length=32, choices=Account.choices)
    amount: Any = AmountField()
    balance_after: Any = AmountField(null=True)
    wallet_version = models.BigIntegerField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "entries"
        indexes = (
            # Few of many: what documents, refunds and disputes have moved is found without reading all usage.
            models.Index(
                fields=["customer", "account"],
                condition=models.Q(account__in=[Account.TAX, Account.REFUNDS_PENDING, Account.DISPUTES]),
                name="entry_of_documents",
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["customer", "wallet_version"],
                condition=models.Q(wallet_version__isnull=False),
                name="entry_one_per_wallet_version",
            ),
            models.CheckConstraint(
                condition=models.Q(account="wallet", wallet_version__isnull=False, balance_after__isnull=False)
                | (~models.Q(account="wallet") & models.Q(wallet_version__isnull=True, balance_after__isnull=True)),
                name="entry_wallet_has_balance_and_version",
            ),
            models.CheckConstraint(
                condition=models.Q(transfer_id=models.F("id") / 16), name="entry_number_names_its_transfer"
            ),
        )

    def __str__(self) -> str:
        return f"{self.account} {self.amount}"
