from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from relayadmin.db import AmountField


class Hold(HotModel):
    """Money reserved before a request runs; settled, released or expired, exactly once.

    `remaining` is the part still held: `amount` at first, less what events with "more" settled, 0 when resolved.
    A lease is a hold for many requests: it has `admits_until`, after which the relay node admits nothing new.
    """

    PREFIX = "auth"

    class Status(models.TextChoices):
        OPEN = "open"
        SETTLED = "settled"
        RELEASED = "released"
        EXPIRED = "expired"

    customer = customer_key()
    request_id = models.CharField(max_length=255)
    digest = models.BinaryField(max_length=32, help_text="Of the request's body, to tell a replay from a conflict.")
    amount: Any = AmountField()
    remaining: Any = AmountField()
    settled: Any = AmountField(default=0, db_default=0)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.OPEN, db_default=Status.OPEN)
    scope = models.CharField(
        max_length=64, blank=True, db_default="", help_text="Whose spend it counts as, beside the customer's."
    )
    admits_until = models.DateTimeField(
        null=True, help_text="Of a lease: until when the node may start requests on it."
    )
    details: Any = models.JSONField(help_text="What the hold is for, as whoever placed it says.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "request_id"], name="hold_once_per_request"),
            models.CheckConstraint(condition=models.Q(amount__gte=0), name="hold_amount_not_negative"),
            models.CheckConstraint(
                condition=models.Q(remaining__gte=0) & models.Q(remaining__lte=models.F("amount")),
                name="hold_remaining_within_amount",
            ),
            models.CheckConstraint(
                condition=models.Q(status="open") | models.Q(remaining=0), name="hold_resolved_holds_nothing"
            ),
        )
        indexes = (models.Index(fields=["expires_at"], condition=models.Q(status="open"), name="hold_open_by_expiry"),)

    def __str__(self) -> str:
        return self.public_id

    @property
    def overrun(self) -> Any:
        """What settled usage cost beyond the hold; never clamped, 0 if it stayed within."""
        return max(self.settled - self.amount, self.amount * 0)
