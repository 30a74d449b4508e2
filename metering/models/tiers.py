from typing import Any

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from relayadmin.db import AmountField

AT_LEAST_ONE = [MinValueValidator(1)]


class UsageTier(models.Model):
    """What customers may use who have topped up so much. It limits nobody unless it is switched on."""

    name = models.CharField(max_length=60, unique=True)
    top_ups_from: Any = AmountField(
        "top-ups from", unique=True, help_text="USD. Whose paid credit adds up to this is promoted to the tier."
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=AT_LEAST_ONE, help_text="Of all keys together. Empty: no limit."
    )
    tokens_per_minute = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=AT_LEAST_ONE,
        help_text="Input and most output. Empty: no limit.",
    )
    spend_per_month: Any = AmountField(null=True, blank=True, help_text="USD. Empty: no limit.")
    is_on = models.BooleanField(
        "switched on", default=False, help_text="Off: nobody is promoted to it, and who has it is not limited."
    )

    class Meta:
        ordering = ("top_ups_from",)
        constraints = (
            models.CheckConstraint(condition=Q(top_ups_from__gte=0), name="tier_top_ups_not_negative"),
            models.CheckConstraint(condition=Q(requests_per_minute__gte=1), name="tier_requests_above_zero"),
            models.CheckConstraint(condition=Q(tokens_per_minute__gte=1), name="tier_tokens_above_zero"),
            models.CheckConstraint(condition=Q(spend_per_month__gt=0), name="tier_spend_above_zero"),
        )

    def __str__(self) -> str:
        return self.name


class CustomerTier(models.Model):
    """The tier a customer has: by promotion, or pinned by an operator. Without a row, a customer has no limits."""

    customer: Any = models.OneToOneField("billing.Customer", on_delete=models.PROTECT, related_name="usage_tier")
    tier = models.ForeignKey(
        UsageTier, on_delete=models.PROTECT, null=True, blank=True, related_name="customers", help_text="Empty: none."
    )
    is_pinned = models.BooleanField(
        "pinned", default=False, help_text="Stays as it is, whatever is topped up. Without a tier: never limited."
    )
    since = models.DateTimeField(help_text="When this tier began.")

    class Meta:
        ordering = ("-since",)

    def __str__(self) -> str:
        return f"{self.tier or 'no tier'}{', pinned' if self.is_pinned else ''}"
