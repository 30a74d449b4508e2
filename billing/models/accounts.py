from typing import Any

from django.conf import settings
from django.db import models

from billing.models.customers import Customer
from billing.models.ledger import Account
from relayadmin import ids
from relayadmin.db import AmountField


def new_adjustment_id() -> str:
    return ids.random_id("adj")


class AccountChange(models.Model):
    """What was done with a customer's account, by whom and why: credit limit, suspension, closing. Append-only."""

    class Kind(models.TextChoices):
        CREDIT_LIMIT = "credit_limit", "Credit limit"
        SUSPENDED = "suspended", "Suspended"
        RESUMED = "resumed", "Resumed"
        CLOSED = "closed", "Closed"
        REOPENED = "reopened", "Reopened"
        TERMS = "terms", "Terms of payment"

    class Cause(models.TextChoices):
        """Why an account is suspended. It stays so until each cause has ended."""

        OPERATOR = "operator", "The operator"
        DEBT = "debt", "Debt"
        DISPUTE = "dispute", "A dispute"
        OVERDUE = "overdue", "Overdue invoices"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    cause = models.CharField(max_length=8, choices=Cause.choices, blank=True, help_text="Of a suspension or its end.")
    before = models.CharField(max_length=60)
    after = models.CharField(max_length=60)
    reason = models.CharField(max_length=500, help_text="For the operator; customers don't see it.")
    actor = models.CharField(max_length=150, help_text="Who did it.")
    details: Any = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=["customer", "cause", "-id"], name="account_changes_by_cause"),)
        permissions = (
            ("set_credit_limit", "Can set customers' credit limits"),
            ("suspend_customer", "Can suspend and resume customers"),
            ("close_customer", "Can close and reopen customers' accounts"),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.before} → {self.after}"


class WalletAdjustment(models.Model):
    """A credit, debit or write-off by hand, with its reason. A large one waits until a second person decides on it."""

    class Kind(models.TextChoices):
        GOODWILL = "goodwill", "Goodwill credit"
        PROMOTIONAL = "promotional", "Promotional credit"
        PAID = "paid", "Paid credit"
        MONEY_BACK = "money_back", "Money back"
        DEBIT = "debit", "Debit"
        WRITE_OFF = "write_off", "Write-off"

    class Status(models.TextChoices):
        PENDING = "pending", "Waits for a second person"
        POSTED = "posted", "Posted"
        REJECTED = "rejected", "Rejected"
        WITHDRAWN = "withdrawn", "Withdrawn"

    public_id = models.CharField(max_length=32, unique=True, default=new_adjustment_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    amount: Any = AmountField(help_text="What was asked for, in USD.")
    posted_amount: Any = AmountField(
        null=True, help_text="What was posted: a write-off takes no more than the debt there is."
    )
    unpaid: Any = AmountField(default=0, help_text="The part of a debit that became debt.")
    account = models.CharField(max_length=32, choices=Account.choices, blank=True, help_text="The other side.")
    may_make_debt = models.BooleanField(default=False)
    reason = models.CharField(max_length=500)
    document = models.CharField(max_length=255, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    key = models.CharField(max_length=255)
    needs_second_person = models.BooleanField()
    asked_by = models.CharField(max_length=150)
    asked_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    asked_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True)
    decided_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=500, blank=True, help_text="Why it was rejected.")
    transfer_id = models.BigIntegerField(null=True)
    wallet_version = models.BigIntegerField(null=True, help_text="The wallet's version after its transfer.")

    class Meta:
        ordering = ("-id",)
        permissions = (
            ("adjust_wallet", "Can credit and debit wallets by hand"),
            ("write_off_debt", "Can write debt off"),
        )
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="wallet_adjustment_once_per_key"),
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="wallet_adjustment_above_zero"),
            models.CheckConstraint(
                condition=models.Q(unpaid__gte=0) & models.Q(unpaid__lte=models.F("amount")),
                name="wallet_adjustment_unpaid_within_amount",
            ),
            models.CheckConstraint(
                condition=models.Q(status="pending", decided_at=None)
                | (~models.Q(status="pending") & models.Q(decided_at__isnull=False)),
                name="wallet_adjustment_decided_once",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    status="posted", transfer_id__isnull=False, wallet_version__isnull=False, posted_amount__gt=0
                )
                | (
                    ~models.Q(status="posted")
                    & models.Q(transfer_id=None, wallet_version=None, posted_amount=None, unpaid=0)
                ),
                name="wallet_adjustment_posted_has_transfer",
            ),
            models.CheckConstraint(
                condition=~models.Q(status="posted", needs_second_person=True)
                | models.Q(asked_by_user=None)
                | models.Q(decided_by_user=None)
                | ~models.Q(asked_by_user=models.F("decided_by_user")),
                name="wallet_adjustment_by_two_people",
            ),
        )
        indexes = (
            models.Index(fields=["id"], condition=models.Q(status="pending"), name="wallet_adjustments_pending"),
            models.Index(
                fields=["customer", "wallet_version"],
                condition=models.Q(unpaid__gt=0),
                name="wallet_adjustments_unpaid",
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.public_id}"
