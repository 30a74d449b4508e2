from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from metering.models.catalog import Model
from relayadmin.db import AmountField


class Rerating(models.Model):
    """A job that rated the events of a scope again: who asked for it, when, and what it came to."""

    start = models.DateTimeField(help_text="Of when the events' calls ended; half open.")
    end = models.DateTimeField()
    model = models.ForeignKey(Model, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    customer: Any = models.ForeignKey(
        "billing.Customer", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    is_reparse = models.BooleanField(help_text="Read from the providers' own usage again, with the parser of its day.")
    by_credit_note = models.BooleanField(
        default=False,
        db_default=False,
        help_text="What gets cheaper of issued invoices ends in credit notes; else it stands on the next invoice.",
    )
    reason = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    reached_customer = models.BigIntegerField(
        default=0, help_text="Customers up to this number are done, should it have been interrupted."
    )
    events = models.BigIntegerField(default=0, help_text="How many were put right.")
    old_charge: Any = AmountField(default=0)
    new_charge: Any = AmountField(default=0)
    old_cost: Any = AmountField(default=0)
    new_cost: Any = AmountField(default=0)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(end__gt=models.F("start")), name="rerating_ends_after_it_begins"),
        )

    def __str__(self) -> str:
        return f"Re-rating {self.pk}"


class ReratingNote(models.Model):
    """A credit note that a re-rating ended in. Written once, never updated."""

    rerating = models.ForeignKey(Rerating, on_delete=models.PROTECT, related_name="notes")
    credit_note: Any = models.OneToOneField("billing.CreditNote", on_delete=models.PROTECT, related_name="+")
    last_adjustment = models.BigIntegerField(help_text="Adjustments up to this one were looked at for it.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.rerating}: {self.credit_note}"


class UsageAdjustment(HotModel):
    """An event's figures before and after they were put right, and where the difference is booked. Append-only.

    An event counts as its last step says. The new figures are empty where a correction took the event back; then
    `replaced_by` is the event that stands in its place. Parts are written as in UsageEvent.
    """

    PREFIX = "adj"

    class Kind(models.TextChoices):
        RERATING = "rerating", "Rated again"
        REPARSE = "reparse", "Read and rated again"
        CORRECTION = "correction", "Taken back for a correction"

    customer = customer_key()
    event_number = models.BigIntegerField(help_text="The number of the event that is put right.")
    step = models.PositiveIntegerField(help_text="1 for the event's first adjustment, and so on.")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    rerating_id = models.BigIntegerField(null=True)
    replaced_by = models.BigIntegerField(null=True, help_text="The number of the correcting event.")
    period = models.DateField(help_text="The billing period it is booked in.")
    transfer_id = models.BigIntegerField(null=True, help_text="None where nothing moved.")
    old_model_id = models.BigIntegerField()
    old_channel_id = models.BigIntegerField()
    old_price_set_id = models.BigIntegerField()
    old_quantities: Any = models.JSONField()
    old_parts: Any = models.JSONField(null=True)
    old_charge: Any = AmountField()
    old_cost: Any = AmountField()
    new_model_id = models.BigIntegerField(null=True)
    new_channel_id = models.BigIntegerField(null=True)
    new_price_set_id = models.BigIntegerField(null=True)
    new_quantities: Any = models.JSONField()
    new_parts: Any = models.JSONField(null=True)
    new_charge: Any = AmountField()
    new_cost: Any = AmountField()
    is_other_model = models.BooleanField(
        default=False, db_default=False, help_text="Since it counts as another model than before, or a call in it does."
    )
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "event_number", "step"], name="adjustment_one_per_step"),
            models.UniqueConstraint(
                fields=["customer", "replaced_by"],
                condition=models.Q(replaced_by__isnull=False),
                name="adjustment_one_per_correction",
            ),
            models.UniqueConstraint(
                fields=["customer", "event_number"],
                condition=models.Q(kind="correction"),
                name="adjustment_taken_back_once",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    kind="correction",
                    replaced_by__isnull=False,
                    rerating_id__isnull=True,
                    new_price_set_id__isnull=True,
                    new_model_id__isnull=True,
                    new_channel_id__isnull=True,
                    new_charge=0,
                    new_cost=0,
                    new_quantities={},
                    new_parts__isnull=True,
                )
                | models.Q(
                    kind__in=["rerating", "reparse"],
                    replaced_by__isnull=True,
                    rerating_id__isnull=False,
                    new_price_set_id__isnull=False,
                    new_model_id__isnull=False,
                    new_channel_id__isnull=False,
                ),
                name="adjustment_of_one_kind",
            ),
        )
        indexes = (
            models.Index(
                fields=["customer", "event_number"],
                name="adjustment_to_other_model",
                condition=models.Q(is_other_model=True),
            ),
            models.Index(
                fields=["rerating_id", "customer"],
                name="adjustments_of_rerating",
                condition=models.Q(rerating_id__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.public_id
