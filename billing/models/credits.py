from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from relayadmin.db import AmountField


class Grant(HotModel):
    """Money put in a wallet. What is left of all grants, less the debt, is the wallet's balance."""

    PREFIX = "gr"

    class Kind(models.TextChoices):
        PAID = "paid"
        PROMOTIONAL = "promotional"
        GOODWILL = "goodwill"

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, db_index=False, related_name="+")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    amount: Any = AmountField()
    remaining: Any = AmountField()
    priority = models.SmallIntegerField(default=0, help_text="Lower is used first.")
    expires_at = models.DateTimeField(null=True, blank=True)
    reference = models.CharField(max_length=255, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    transfer_id = models.BigIntegerField()
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="grant_amount_above_zero"),
            models.CheckConstraint(
                condition=models.Q(remaining__gte=0) & models.Q(remaining__lte=models.F("amount")),
                name="grant_remaining_within_amount",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.public_id}"


class GrantUse(HotModel):
    """How much of a grant one transfer used. Append-only; its primary key is (customer, transfer_id, grant_id)."""

    PREFIX = "gu"

    customer = customer_key()
    grant_id = models.BigIntegerField()
    transfer_id = models.BigIntegerField()
    amount: Any = AmountField()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.amount} of grant {self.grant_id}"


class GrantReturn(HotModel):
    """How much of a use an adjustment gave back to its grant. Append-only.

    Its primary key is (customer, used_by_id, grant_id, transfer_id), so that a use finds what came back of it.
    """

    PREFIX = "gb"

    customer = customer_key()
    used_by_id = models.BigIntegerField(help_text="The transfer that had used the grant.")
    grant_id = models.BigIntegerField()
    transfer_id = models.BigIntegerField(help_text="The adjustment that gave it back.")
    amount: Any = AmountField()

    class Meta:
        ordering = ("-id",)
        constraints = (models.CheckConstraint(condition=models.Q(amount__gt=0), name="grant_return_amount_above_zero"),)

    def __str__(self) -> str:
        return f"{self.amount} back to grant {self.grant_id}"
