from typing import Any

from django.db import models

from billing.models.credits import Grant
from billing.models.customers import Customer
from relayadmin import ids
from relayadmin.db import AmountField


def new_redemption_code_id() -> str:
    return ids.random_id("rc")


class RedemptionCode(models.Model):
    """A code that whoever has it turns into credit, once. Only its SHA-256 is kept."""

    class Kind(models.TextChoices):
        PROMOTIONAL = Grant.Kind.PROMOTIONAL.value
        GOODWILL = Grant.Kind.GOODWILL.value

    public_id = models.CharField(max_length=32, unique=True, default=new_redemption_code_id, editable=False)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    prefix = models.CharField(max_length=5, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    campaign = models.CharField(max_length=100, help_text="What the codes are for; stands on the statement.")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    amount: Any = AmountField()
    customer: Any = models.ForeignKey(
        Customer,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Who alone may redeem it; empty: whoever has it.",
    )
    expires_at = models.DateTimeField(null=True, help_text="When the code itself ends.")
    credit_expires_at = models.DateTimeField(null=True, help_text="When its credit ends.")
    credit_days = models.PositiveIntegerField(null=True, help_text="How many days after redemption its credit ends.")
    made_with = models.CharField(max_length=64, help_text="The form it was made with, which makes its codes once.")
    position = models.PositiveIntegerField()
    made_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    redeemed_at = models.DateTimeField(null=True)
    redeemed_by: Any = models.ForeignKey(Customer, on_delete=models.PROTECT, null=True, related_name="+")
    grant_id = models.BigIntegerField(null=True, help_text="The number of the grant that it became.")
    voided_at = models.DateTimeField(null=True)
    voided_by = models.CharField(max_length=150, blank=True)
    voided_because = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["made_with", "position"], name="redemption_code_made_once"),
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="redemption_code_above_zero"),
            models.CheckConstraint(
                condition=models.Q(redeemed_at__isnull=True, redeemed_by__isnull=True, grant_id__isnull=True)
                | models.Q(redeemed_at__isnull=False, redeemed_by__isnull=False, grant_id__isnull=False),
                name="redemption_code_redeemed_by_somebody",
            ),
            models.CheckConstraint(
                condition=models.Q(redeemed_at=None) | models.Q(voided_at=None), name="redemption_code_ends_one_way"
            ),
            models.CheckConstraint(
                condition=models.Q(credit_expires_at=None) | models.Q(credit_days=None),
                name="redemption_code_one_credit_expiry",
            ),
        )

    def __str__(self) -> str:
        return f"{self.campaign} ({self.prefix}…{self.last4})"


class RedemptionGuesses(models.Model):
    """How many codes a customer has tried in vain since an hour began for it."""

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, primary_key=True, related_name="+")
    since = models.DateTimeField()
    failures = models.PositiveIntegerField()

    class Meta:
        verbose_name_plural = "redemption guesses"

    def __str__(self) -> str:
        return f"{self.failures} since {self.since:%Y-%m-%d %H:%M}"
