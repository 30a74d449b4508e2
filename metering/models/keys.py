from ipaddress import ip_network
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models

from relayadmin import ids


def new_api_key_id() -> str:
    return ids.random_id("key")


def new_relay_token_id() -> str:
    return ids.random_id("rlt")


def check_networks(networks: Any) -> None:
    if not isinstance(networks, list):
        raise ValidationError('Write a list of networks such as ["203.0.113.0/24"].')
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValidationError(f"{network!r} is not a network: {error}.") from error


class ApiKey(models.Model):
    """`sk-…`: what the customer's program sends to the relay. Only its SHA-256 is kept."""

    public_id = models.CharField(max_length=32, unique=True, default=new_api_key_id, editable=False)
    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    allowed_models: Any = models.JSONField(default=list, blank=True, help_text="Public ids; empty: every model.")
    allowed_networks: Any = models.JSONField(
        default=list, blank=True, validators=[check_networks], help_text="Networks; empty: from anywhere."
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="In place of the customer's tier, and counted for this key alone. Empty: what the tier says.",
    )
    tokens_per_minute = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="In place of the customer's tier, and counted for this key alone. Empty: what the tier says.",
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        verbose_name = "API key"
        constraints = (
            models.CheckConstraint(condition=models.Q(requests_per_minute__gte=1), name="key_requests_above_zero"),
            models.CheckConstraint(condition=models.Q(tokens_per_minute__gte=1), name="key_tokens_above_zero"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last4})"


class RelayToken(models.Model):
    """`rl_…`: what a relay node sends to us. Only its SHA-256 is kept."""

    public_id = models.CharField(max_length=32, unique=True, default=new_relay_token_id, editable=False)
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    scopes: Any = models.JSONField(default=list, help_text='What the node may do: "authorize", "usage".')
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last4})"
