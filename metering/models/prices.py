from typing import Any

from django.db import models

from metering.meters import METERS
from metering.models.catalog import Channel, Model

METER_CHOICES = [(meter.name, meter.label) for meter in METERS]


class PriceBookVersion(models.Model):
    """One row, read by every authorization and settlement: cached price tables of another version are rebuilt."""

    version = models.BigIntegerField(default=0)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="one_price_book_version"),)

    def __str__(self) -> str:
        return str(self.version)


class Price(models.Model):
    """What one meter of one model costs on one channel, or its maker's list price that plans start from."""

    class Kind(models.TextChoices):
        COST = "cost", "Cost on the channel"
        CHARGE = "charge", "List price"

    kind = models.CharField(max_length=6, choices=Kind.choices)
    channel = models.ForeignKey(
        Channel, on_delete=models.PROTECT, null=True, blank=True, help_text="Empty for a list price."
    )
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="prices")
    meter = models.CharField(max_length=40, choices=METER_CHOICES)
    above_prompt_tokens = models.PositiveIntegerField(
        default=0, help_text="The tier: holds for prompts of more tokens than this; 0 holds for every prompt."
    )
    unit_price: Any = models.DecimalField(max_digits=20, decimal_places=9, help_text="USD per million or thousand.")
    per = models.PositiveIntegerField(help_text="1,000,000 tokens or 1,000 calls.")
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")
    effective_until = models.DateTimeField(null=True, blank=True, help_text="Empty: until further notice.")
    daily_from = models.TimeField(null=True, blank=True, help_text="UTC; a window of the day.")
    daily_until = models.TimeField(null=True, blank=True)
    derived = models.CharField(max_length=60, blank=True, help_text="By which rule, if the source gives no price.")
    source = models.CharField(max_length=60)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("model", "channel", "kind", "meter", "above_prompt_tokens")
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "channel", "model", "meter", "above_prompt_tokens", "effective_from", "daily_from"],
                name="one_price_per_moment",
                nulls_distinct=False,
            ),
            models.CheckConstraint(condition=models.Q(unit_price__gte=0), name="price_not_negative"),
            models.CheckConstraint(
                condition=models.Q(kind="cost", channel__isnull=False) | models.Q(kind="charge", channel__isnull=True),
                name="price_cost_has_channel",
            ),
            models.CheckConstraint(
                condition=models.Q(effective_until__isnull=True)
                | models.Q(effective_from__isnull=True)
                | models.Q(effective_until__gt=models.F("effective_from")),
                name="price_ends_after_it_begins",
            ),
        )

    def __str__(self) -> str:
        return f"{self.model_id} {self.meter} {self.unit_price}"


class PriceSet(models.Model):
    """The unit prices one event was rated at, by meter, with the price rows they come from. Content-addressed.

    `content`: {"model", "channel", "plan", "meters": {meter: {"charge", "cost", "per", "charge_price",
    "cost_price"}}}; unit prices are strings in USD per `per`.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    content: Any = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"Price set {self.pk}"


class Plan(models.Model):
    """How a customer's prices come from the list prices."""

    name = models.CharField(max_length=60, unique=True)
    multiplier = models.DecimalField(
        max_digits=9, decimal_places=6, default=1, help_text="On every list price: 1.2 is a markup of 20 per cent."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.CheckConstraint(condition=models.Q(multiplier__gte=0), name="plan_not_negative"),)

    def __str__(self) -> str:
        return self.name


class CustomerPlan(models.Model):
    """Which plan a customer is on; customers without a row are on `list`."""

    customer: Any = models.OneToOneField(
        "billing.Customer", on_delete=models.PROTECT, primary_key=True, related_name="plan_assignment"
    )
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT)

    def __str__(self) -> str:
        return f"{self.customer_id}: {self.plan}"
