from typing import Any

from django.db import models

from billing.models.base import HotModel, customer_key
from relayadmin.db import AmountField

CUSTOMER_SCOPE = "customer"


class Span(models.TextChoices):
    """How long a limit counts before it begins anew, in the operator's time zone."""

    DAY = "day"
    MONTH = "month"


class SpendLimit(models.Model):
    """How much may be spent and held in a day or a month: by a customer, or by one of its keys.

    `scope` is "customer" or what whoever holds and charges calls the spender, such as "key:7". All limits of a customer
    and a key hold together, whoever set them.
    """

    class Owner(models.TextChoices):
        OPERATOR = "operator", "The operator"
        CUSTOMER = "customer", "The customer"
        TIER = "tier", "The usage tier"

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, related_name="spend_limits")
    scope = models.CharField(max_length=64, default=CUSTOMER_SCOPE)
    span = models.CharField(max_length=5, choices=Span.choices)
    owner = models.CharField(max_length=8, choices=Owner.choices)
    is_hard = models.BooleanField(default=True, help_text="Refuse what goes beyond it; if not, only tell of it.")
    amount: Any = AmountField()
    counts_from = models.DateField(help_text="The first day or month that is counted whole.")
    timezone = models.CharField(max_length=64, help_text="Whose days and months it is counted in.")
    actor = models.CharField(max_length=150, blank=True, help_text="Who set it, if a person did.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("customer_id", "scope", "span")
        constraints = (
            models.UniqueConstraint(
                fields=["customer", "scope", "span", "owner", "is_hard"], name="one_spend_limit_of_a_kind"
            ),
            models.CheckConstraint(condition=models.Q(amount__gte=0), name="spend_limit_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.amount} USD a {self.span}"


class SpendCounter(HotModel):
    """What was spent, and is held, by one scope in one day or month that has a limit.

    Its primary key is (customer, scope, span, starts_on). What a hold reserves and settles counts in the day and month
    in which the hold was placed.
    """

    PREFIX = "spc"

    customer = customer_key()
    scope = models.CharField(max_length=64)
    span = models.CharField(max_length=5, choices=Span.choices)
    starts_on = models.DateField()
    spent: Any = AmountField(default=0, db_default=0)
    held: Any = AmountField(default=0, db_default=0)

    class Meta:
        ordering = ("-starts_on", "scope", "span")
        constraints = (models.CheckConstraint(condition=models.Q(held__gte=0), name="spend_counter_held_not_negative"),)

    def __str__(self) -> str:
        return f"{self.scope} in the {self.span} of {self.starts_on}"
