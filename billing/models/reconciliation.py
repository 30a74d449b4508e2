"""What the payment provider's own books say, and where ours say something else."""

from typing import Any

from django.db import models

from billing.models.payments import Dispute, Refund, TopUp
from relayadmin.db import AmountField


class StripeTransaction(models.Model):
    """One movement of the Stripe account's balance, as it was read; booked once, on the house customer.

    Amounts are in `currency`, which the account settles in; `expected` is what the ledger had on cash:stripe for it
    before (USD), so that the rest is the difference of exchange rates.
    """

    stripe_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=60)
    category = models.CharField(max_length=60, help_text="As Stripe reports it: charge, refund, dispute, fee, payout.")
    amount: Any = AmountField()
    fee: Any = AmountField()
    net: Any = AmountField()
    currency = models.CharField(max_length=3)
    exchange_rate: Any = models.DecimalField(max_digits=30, decimal_places=15, null=True)
    source = models.CharField(max_length=255, blank=True)
    description = models.CharField(max_length=500, blank=True)
    occurred_at = models.DateTimeField()
    available_on = models.DateTimeField()
    top_up = models.ForeignKey(TopUp, on_delete=models.PROTECT, null=True, related_name="+")
    refund = models.ForeignKey(Refund, on_delete=models.PROTECT, null=True, related_name="+")
    dispute = models.ForeignKey(Dispute, on_delete=models.PROTECT, null=True, related_name="+")
    expected: Any = AmountField(null=True)
    net_usd: Any = AmountField(null=True, help_text="What it moved on cash:stripe in all (USD).")
    booked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-occurred_at", "-id")
        indexes = (
            models.Index(fields=["source"], name="stripe_transactions_by_source"),
            models.Index(fields=["id"], condition=models.Q(booked_at=None), name="stripe_transactions_to_book"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(booked_at=None, net_usd=None)
                | models.Q(booked_at__isnull=False, net_usd__isnull=False),
                name="stripe_transaction_booked_has_its_sum",
            ),
        )

    def __str__(self) -> str:
        return f"{self.category} {self.stripe_id}"


class StripeDifference(models.Model):
    """Something that Stripe's books and ours say differently. Over when they agree, or when somebody explained it."""

    class Kind(models.TextChoices):
        NOT_HERE = "not_here", "At Stripe, not here"
        NOT_AT_STRIPE = "not_at_stripe", "Here, not at Stripe"
        DOUBLED = "doubled", "Twice at Stripe"
        OTHER_AMOUNT = "other_amount", "Another amount"
        NO_RATE = "no_rate", "Settled in a currency without a rate"
        UNKNOWN = "unknown", "Of an unknown kind"

    kind = models.CharField(max_length=14, choices=Kind.choices)
    subject = models.CharField(max_length=255, help_text="Stripe's id, or our top-up's or refund's.")
    message = models.CharField(max_length=500)
    advice = models.CharField(max_length=500, blank=True)
    amount: Any = AmountField(null=True)
    currency = models.CharField(max_length=3, blank=True)
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    note = models.CharField(max_length=500, blank=True)
    explained_by = models.CharField(max_length=150, blank=True)
    explained_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        permissions = (("explain_difference", "Can explain differences with the payment provider"),)
        constraints = (models.UniqueConstraint(fields=["kind", "subject"], name="stripe_difference_once"),)

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject}"
