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
    effective_at = models.DateTimeField(
        null=True, help_text="When it was to begin, if somebody said so; else it began when it was given."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    expiry_asked = models.CharField(
        max_length=40, blank=True, db_default="", help_text="The expiry asked for: a moment, “never”, or none."
    )
    is_refundable = models.BooleanField(default=False, db_default=False)
    voided_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField(
        null=True, help_text="When the expiry sweep has something to do about it: announce, expire, take the rest."
    )
    takings = models.PositiveIntegerField(
        default=0, db_default=0, help_text="How often expiry or voiding has taken a part of it."
    )
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
            models.CheckConstraint(
                condition=models.Q(is_refundable=False) | models.Q(kind="paid"), name="grant_refundable_is_paid"
            ),
        )
        # Charges change none of its columns, so they still update a grant in its row's own page (HOT).
        indexes = (
            models.Index(fields=["look_at"], condition=models.Q(look_at__isnull=False), name="grant_to_look_at"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.public_id}"


class ScheduledGrant(HotModel):
    """A grant that is to begin later. Its money is in no wallet until a job has posted it, once.

    Its number is the grant's, taken when it was scheduled, so that the public id stays the same.
    """

    PREFIX = "gr"

    id = models.BigIntegerField(primary_key=True)
    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, db_index=False, related_name="+")
    key = models.CharField(max_length=255)
    kind = models.CharField(max_length=12, choices=Grant.Kind.choices)
    amount: Any = AmountField()
    priority = models.SmallIntegerField(default=0)
    effective_at: Any = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    expiry_asked = models.CharField(max_length=40, blank=True)
    is_refundable = models.BooleanField(default=False)
    reference = models.CharField(max_length=255, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    posted_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)
    cancelled_by = models.CharField(max_length=150, blank=True)
    cancelled_because = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="scheduled_grant_once_per_key"),
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="scheduled_grant_above_zero"),
            models.CheckConstraint(
                condition=models.Q(posted_at=None) | models.Q(cancelled_at=None), name="scheduled_grant_ends_one_way"
            ),
        )
        indexes = (
            models.Index(
                fields=["effective_at"],
                condition=models.Q(posted_at=None, cancelled_at=None),
                name="scheduled_grant_waiting",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.public_id}"


class GrantChange(models.Model):
    """What somebody has changed of a grant, and why. Append-only."""

    class Kind(models.TextChoices):
        EXTENDED = "extended"
        VOIDED = "voided"

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, db_index=False, related_name="+")
    grant_id = models.BigIntegerField()
    kind = models.CharField(max_length=10, choices=Kind.choices)
    key = models.CharField(max_length=255, help_text="Unique per customer: the same key changes once.")
    expires_before = models.DateTimeField(null=True)
    expires_after = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500)
    actor = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="grant_change_once_per_key"),
            models.UniqueConstraint(
                fields=["customer", "grant_id"], condition=models.Q(kind="voided"), name="grant_voided_once"
            ),
        )
        indexes = (models.Index(fields=["customer", "grant_id"], name="grant_changes_of_grant"),)

    def __str__(self) -> str:
        return f"{self.kind} grant {self.grant_id}"


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
    """How much of a use an adjustment or a credit note gave back to its grant. Append-only.

    Its primary key is (customer, used_by_id, grant_id, transfer_id), so that a use finds what came back of it.
    """

    PREFIX = "gb"

    customer = customer_key()
    used_by_id = models.BigIntegerField(help_text="The transfer that had used the grant.")
    grant_id = models.BigIntegerField()
    transfer_id = models.BigIntegerField(help_text="The adjustment or credit note that gave it back.")
    amount: Any = AmountField()

    class Meta:
        ordering = ("-id",)
        constraints = (models.CheckConstraint(condition=models.Q(amount__gt=0), name="grant_return_amount_above_zero"),)

    def __str__(self) -> str:
        return f"{self.amount} back to grant {self.grant_id}"
