from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from metering.meters import NAMES
from relayadmin.db import AmountField, VerbatimJSONField


class EventKey(HotModel):
    """Every event id ever taken, parked ones included; gives the event its number. Never archived, append-only.

    Its primary key is (customer, event_id).
    """

    PREFIX = "evt"

    customer = customer_key()
    event_id = models.CharField(max_length=255, db_collation="C", help_text="The relay's id of the event.")
    digest = models.BinaryField(max_length=16, help_text="Of all that matters in the event; empty if it never came.")

    def __str__(self) -> str:
        return self.event_id


class UsageEvent(HotModel):
    """One finished upstream call: what the provider counted and what it was rated at. Append-only.

    `id` is the number of its EventKey. Amounts are exact; each meter's is its quantity × unit price ÷ per.
    """

    PREFIX = "evt"

    class Status(models.TextChoices):
        COMPLETED = "completed"
        ABORTED = "aborted"
        FAILED = "failed"

    id = models.BigIntegerField(primary_key=True)
    customer = customer_key()
    event_id = models.CharField(max_length=255)
    api_key_id = models.BigIntegerField()
    model_id = models.BigIntegerField()
    channel_id = models.BigIntegerField()
    price_set_id = models.BigIntegerField()
    transfer_id = models.BigIntegerField(null=True, help_text="The usage transfer that charged it; none if free.")
    hold_id = models.BigIntegerField(null=True)
    period = models.DateField(help_text="The billing period.")
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    format = models.CharField(max_length=30)
    status = models.CharField(max_length=9, choices=Status.choices)
    estimated = models.BooleanField()
    quantities: Any = models.JSONField()
    charge: Any = AmountField()
    cost: Any = AmountField()
    upstream_account_id = models.BigIntegerField(null=True)
    parts: Any = models.JSONField(
        null=True,
        help_text="Of a response that holds several calls: [{kind, model_id, price_set_id, quantities, charge, cost}].",
    )
    usage: Any = VerbatimJSONField(help_text="The provider's own usage object, as it came.")
    metadata: Any = VerbatimJSONField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=["customer", "occurred_at"], name="usage_event_by_time"),
            models.Index(
                fields=["customer", "id"], name="usage_event_in_parts", condition=models.Q(parts__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return self.public_id


class UsageHour(HotModel):
    """A customer's usage of one hour, written in the settlement's transaction; what dashboards and invoices read.

    Its primary key is (customer, hour, period, api_key_id, model_id, channel_id, price_set_id).
    """

    PREFIX = "hr"

    customer = customer_key()
    period = models.DateField(help_text="The billing period.")
    hour = models.DateTimeField()
    api_key_id = models.BigIntegerField()
    model_id = models.BigIntegerField()
    channel_id = models.BigIntegerField()
    price_set_id = models.BigIntegerField()
    requests = models.BigIntegerField()
    charge: Any = AmountField()
    cost: Any = AmountField()

    class Meta:
        ordering = ("-hour",)
        # What a month's closing reads, however long the customer's history.
        indexes = (models.Index(fields=["customer", "period"], name="usage_hour_by_period"),)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00}"

    @property
    def quantities(self) -> dict[str, int]:
        """Quantity by meter, zeros left out."""
        return {name: int(quantity) for name in NAMES if (quantity := getattr(self, name))}


for _name in NAMES:
    UsageHour.add_to_class(_name, models.DecimalField(max_digits=40, decimal_places=0, default=0, db_default=0))


class WaitingEvent(models.Model):
    """Fields of events that wait: as reported, the API key already replaced by its hash."""

    event_id = models.CharField(max_length=255)
    reason = models.CharField(max_length=40)
    detail = models.CharField(max_length=500, blank=True)
    payload: Any = models.JSONField(help_text="The event as reported, without the key.")
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution = models.CharField(max_length=40, blank=True)

    class Meta:
        abstract = True


class ParkedEvent(WaitingEvent):
    """An event of a known customer that can't be rated yet; its id is taken. Settled by the sweep."""

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, related_name="+")
    number = models.BigIntegerField(help_text="The number of its EventKey.")
    api_key_id = models.BigIntegerField()
    model = models.CharField(max_length=255)
    channel = models.CharField(max_length=255, blank=True)
    subject = models.CharField(
        max_length=255, blank=True, default="", db_default="", help_text="What it waits for: a model, a channel, …"
    )
    decided_by = models.CharField(
        max_length=150,
        blank=True,
        default="",
        db_default="",
        help_text="Who had it charged as it stands, or refused; empty: nobody had to.",
    )

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=["customer", "number"], name="parked_once"),)
        indexes = (
            models.Index(
                fields=["reason", "subject", "received_at"],
                include=["occurred_at", "customer"],
                condition=models.Q(resolved_at__isnull=True),
                name="parked_open_by_subject",
            ),
            models.Index(fields=["id"], condition=models.Q(resolved_at__isnull=True), name="parked_open"),
        )

    def __str__(self) -> str:
        return self.event_id


class UnclaimedEvent(WaitingEvent):
    """An event whose key nobody knows; waits outside the customers, once per (key, id)."""

    key = models.CharField(max_length=255, help_text="The key's id as reported, or sha256: and the key's hash.")
    model = models.CharField(max_length=255)
    digest = models.BinaryField(max_length=16)

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=["key", "event_id"], name="unclaimed_once"),)
        indexes = (
            models.Index(
                fields=["reason", "key", "received_at"],
                include=["occurred_at"],
                condition=models.Q(resolved_at__isnull=True),
                name="unclaimed_open_by_key",
            ),
            models.Index(fields=["id"], condition=models.Q(resolved_at__isnull=True), name="unclaimed_open"),
        )

    def __str__(self) -> str:
        return self.event_id


class EventConflict(models.Model):
    """Something the operator should look into: the same id with other content, a hold of another customer, …"""

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, null=True, related_name="+")
    event_id = models.CharField(max_length=255)
    kind = models.CharField(max_length=40)
    detail = models.CharField(max_length=500)
    payload: Any = models.JSONField()
    received_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["kind", "received_at"],
                include=["customer"],
                condition=models.Q(resolved_at__isnull=True),
                name="conflict_open_since",
            ),
        )

    def __str__(self) -> str:
        return self.event_id


class QuarantinedEvent(models.Model):
    """A rejected event, kept with its secrets masked so that nothing is lost."""

    event_id = models.CharField(max_length=255, blank=True)
    code = models.CharField(max_length=40)
    message = models.CharField(max_length=1000)
    body = models.TextField(help_text="The event as it came, secrets masked, cut at 64 KiB.")
    relay_token_id = models.BigIntegerField(null=True)
    received_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["code", "received_at"],
                condition=models.Q(resolved_at__isnull=True),
                name="quarantine_open_since",
            ),
        )

    def __str__(self) -> str:
        return self.event_id or f"quarantined {self.pk}"
