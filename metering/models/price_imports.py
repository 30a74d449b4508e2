"""How the price book came to be what it is: its changes by version, and imports that wait for an operator."""

from decimal import Decimal
from typing import Any

from django.core.validators import MinValueValidator
from django.db import models

from metering.models.catalog import Channel, Model
from metering.models.prices import METER_CHOICES, VARIANTS, Price


class PriceBookSettings(models.Model):
    """What the operator sets about imports of prices: one row."""

    second_look_percent: Any = models.DecimalField(
        "second look from (%)",
        max_digits=7,
        decimal_places=2,
        default=Decimal(25),
        db_default=Decimal(25),
        validators=[MinValueValidator(0)],
        help_text="A price that changes by more than so many per cent, up or down, is confirmed by itself.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "price book settings"
        constraints = (
            models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_price_book_settings"),
            models.CheckConstraint(
                condition=models.Q(second_look_percent__gte=0), name="second_look_percent_not_negative"
            ),
        )

    def __str__(self) -> str:
        return "Price book settings"


class PriceImport(models.Model):
    """What a price source would change in the book, as it was shown; nothing changes until it is approved.

    `book_digest` names the price rows that the lines were compared with; `lines_digest` what the lines say.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Waits for approval"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        REPLACED = "replaced", "Replaced by a later import"

    source = models.CharField(max_length=60)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150)
    book_version = models.BigIntegerField(help_text="The version of the price book it was compared with.")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.PENDING)
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=150, blank=True)
    book_digest = models.CharField(max_length=64)
    lines_digest = models.CharField(max_length=64)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["source"], condition=models.Q(status="pending"), name="one_pending_price_import"
            ),
        )

    def __str__(self) -> str:
        return f"Price import {self.pk}"


class PriceImportLine(models.Model):
    """One price of an import that differs: what it is now, what it would be, and by how much."""

    class Decision(models.TextChoices):
        CONFIRMED = "confirmed", "Confirmed"
        LEFT_OUT = "left_out", "Left out"

    price_import = models.ForeignKey(PriceImport, on_delete=models.CASCADE, related_name="lines")
    kind = models.CharField(max_length=6, choices=Price.Kind.choices)
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, null=True, related_name="+")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    variant = models.CharField(max_length=10, choices=list(VARIANTS.items()), blank=True)
    meter = models.CharField(max_length=40, choices=METER_CHOICES)
    above_prompt_tokens = models.PositiveIntegerField()
    per = models.PositiveIntegerField()
    daily_from = models.TimeField(null=True)
    daily_until = models.TimeField(null=True)
    old_price_id = models.BigIntegerField(null=True, help_text="The price row that holds until then; empty: none.")
    old_unit_price: Any = models.DecimalField(max_digits=20, decimal_places=9, null=True)
    unit_price: Any = models.DecimalField(
        max_digits=20, decimal_places=9, null=True, help_text="USD per million or thousand; empty: the price ends."
    )
    percent: Any = models.DecimalField(max_digits=30, decimal_places=1, null=True)
    effective_from = models.DateTimeField(null=True, help_text="Empty: from the approval on; a first price: always.")
    effective_until = models.DateTimeField(null=True)
    derived = models.CharField(max_length=60, blank=True)
    ends: Any = models.JSONField(default=list, help_text="Price rows that end where it begins.")
    is_first = models.BooleanField(
        "first price",
        default=False,
        db_default=False,
        help_text="Nothing has priced such usage: it reaches back to what waits for it.",
    )
    second_look = models.CharField(max_length=200, blank=True, help_text="Why it is confirmed by itself.")
    decision = models.CharField(max_length=9, choices=Decision.choices, blank=True)
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("price_import", "id")

    def __str__(self) -> str:
        return f"{self.model} {self.meter}"


class PriceBookChange(models.Model):
    """One version of the price book: when it came, by whom, and what is different in it."""

    version = models.BigIntegerField(unique=True)
    changed_at = models.DateTimeField()
    who = models.CharField(max_length=150)
    source = models.CharField(max_length=60, help_text="Where the prices come from, or what page was saved.")
    summary = models.CharField(max_length=500)
    created = models.PositiveIntegerField("rows added", default=0)
    ended = models.PositiveIntegerField("rows ended", default=0)
    withdrawn = models.PositiveIntegerField("announced rows withdrawn", default=0)
    price_import = models.ForeignKey(PriceImport, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        ordering = ("-version",)

    def __str__(self) -> str:
        return f"Version {self.version}"
