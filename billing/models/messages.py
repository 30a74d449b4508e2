"""What becomes of notices: what each customer wants to be told, where to, and each sending of it."""

from typing import Any

from django.db import models

from billing.models.customers import Customer
from billing.models.notices import Notice
from relayadmin import ids
from relayadmin.db import AmountField


def new_webhook_endpoint_id() -> str:
    return ids.random_id("whe")


def new_delivery_id() -> str:
    return ids.random_id("dlv")


class NotificationSettings(models.Model):
    """Where a customer's mail goes, and below which balance it is told; without a row, as a new customer's."""

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, related_name="+")
    addresses: Any = models.JSONField(default=list, help_text="Mail goes there; empty: to the customer's own address.")
    low_balance_below: Any = AmountField(
        null=True, help_text="Told when less than this is left to spend (USD); empty: the operator's; 0: never."
    )
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "notification settings"
        constraints = (
            models.CheckConstraint(
                condition=models.Q(low_balance_below=None) | models.Q(low_balance_below__gte=0),
                name="low_balance_not_negative",
            ),
        )

    def __str__(self) -> str:
        return ", ".join(self.addresses) or "the customer's own address"


class NoticePreference(models.Model):
    """How a customer wants to be told one kind of notice; without a row, as the kind's default says."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False, related_name="+")
    kind = models.CharField(max_length=60)
    mail = models.BooleanField()
    webhook = models.BooleanField()

    class Meta:
        ordering = ("customer", "kind")
        constraints = (models.UniqueConstraint(fields=["customer", "kind"], name="one_preference_per_kind"),)

    def __str__(self) -> str:
        return f"{self.kind}: mail {'on' if self.mail else 'off'}, webhook {'on' if self.webhook else 'off'}"


class WebhookEndpoint(models.Model):
    """An address of a customer's that notices are posted to, and the secrets that they are signed with."""

    public_id = models.CharField(max_length=32, unique=True, default=new_webhook_endpoint_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    url = models.CharField(max_length=500)
    description = models.CharField(max_length=200, blank=True)
    kinds: Any = models.JSONField(default=list, help_text="Only these kinds; empty: all that the customer wants.")
    # Kept as they are: to sign, one needs the secret itself. No page, answer or log shows them again.
    secret = models.CharField(max_length=80, editable=False)
    previous_secret = models.CharField(max_length=80, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, help_text="Until then, it is signed with the secret before, too.")
    failing_since = models.DateTimeField(null=True, help_text="The first failure since it last took something.")
    disabled_at = models.DateTimeField(null=True)
    disabled_because = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.url


class Delivery(models.Model):
    """One notice on its way to one address: sent, or tried again later and later until it has failed."""

    class Channel(models.TextChoices):
        MAIL = "mail", "Mail"
        WEBHOOK = "webhook", "Webhook"

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENT = "sent", "Sent"
        FAILED = "failed", "Failed"

    public_id = models.CharField(max_length=32, unique=True, default=new_delivery_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False, related_name="+")
    notice = models.ForeignKey(Notice, on_delete=models.PROTECT, related_name="deliveries")
    channel = models.CharField(max_length=7, choices=Channel.choices)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.PROTECT, null=True, related_name="deliveries")
    address = models.CharField(max_length=500, help_text="The mail address, or the endpoint's as it was then.")
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.WAITING)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    status_code = models.PositiveIntegerField(null=True, help_text="What the other side answered last.")
    error = models.CharField(max_length=300, blank=True)
    duration_ms = models.PositiveIntegerField(null=True, help_text="Of the last attempt.")
    look_at = models.DateTimeField(null=True, help_text="When a worker takes it up; empty when it is done with.")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "deliveries"
        indexes = (
            models.Index(
                fields=["channel", "look_at"], condition=models.Q(look_at__isnull=False), name="deliveries_waiting"
            ),
            models.Index(fields=["customer", "channel", "created_at"], name="deliveries_of_customers"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["customer", "notice", "channel", "address"],
                condition=models.Q(endpoint=None),
                name="one_mail_per_notice_and_address",
            ),
            models.UniqueConstraint(
                fields=["customer", "notice", "endpoint"],
                condition=models.Q(endpoint__isnull=False),
                name="one_delivery_per_notice_and_endpoint",
            ),
            models.CheckConstraint(
                condition=models.Q(channel="mail", endpoint=None) | models.Q(channel="webhook", endpoint__isnull=False),
                name="webhook_deliveries_have_an_endpoint",
            ),
            models.CheckConstraint(
                condition=models.Q(status="waiting", look_at__isnull=False, ended_at=None)
                | (~models.Q(status="waiting") & models.Q(look_at=None, ended_at__isnull=False)),
                name="delivery_waits_or_has_ended",
            ),
        )

    def __str__(self) -> str:
        return self.public_id


class LowBalance(models.Model):
    """A customer whose balance is low, and was told or had nothing above it before; gone once it is no longer."""

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, related_name="+")
    since = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.customer} since {self.since:%Y-%m-%d %H:%M}"
