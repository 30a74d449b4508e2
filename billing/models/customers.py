from typing import Any

from django.conf import settings
from django.db import models

from relayadmin import ids


def new_customer_id() -> str:
    return ids.random_id("cus")


def new_access_token_id() -> str:
    return ids.random_id("ctk")


class Customer(models.Model):
    """Who pays: a person or a company."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"
        CLOSED = "closed"

    public_id = models.CharField(max_length=32, unique=True, default=new_customer_id, editable=False)
    name = models.CharField(max_length=200)
    email = models.EmailField(blank=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    is_house = models.BooleanField(
        default=False, editable=False, help_text="The operator itself: movements without a customer belong to it."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    members: Any = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="customers")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["is_house"], condition=models.Q(is_house=True), name="one_house_customer"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"


class Membership(models.Model):
    """A user's role at a customer."""

    class Role(models.TextChoices):
        OWNER = "owner"
        BILLING = "billing"
        DEVELOPER = "developer"
        VIEWER = "viewer"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.OWNER)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["customer", "user"], name="one_membership_per_user"),)

    def __str__(self) -> str:
        return f"{self.user} at {self.customer}: {self.role}"


class AccessToken(models.Model):
    """`ct_…`: what a customer's own script sends to the customer API. Only its SHA-256 is kept."""

    class Scope(models.TextChoices):
        READ = "read"
        KEYS = "keys"
        PAY = "pay"

    public_id = models.CharField(max_length=32, unique=True, default=new_access_token_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="access_tokens")
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    scopes: Any = models.JSONField(default=list)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last4})"


class IdempotentAnswer(models.Model):
    """The first answer to a write with an `Idempotency-Key`, secrets left out; unique per customer and key.

    Removed a week later.
    """

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    key = models.CharField(max_length=255)
    digest = models.BinaryField(max_length=32)
    status = models.PositiveSmallIntegerField()
    body: Any = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["customer", "key"], name="one_answer_per_idempotency_key"),)

    def __str__(self) -> str:
        return self.key
