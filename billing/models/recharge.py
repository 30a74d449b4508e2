"""Cards that customers have saved, and the rules by which their wallets are filled from them."""

from typing import Any

from django.db import models

from billing.models.customers import Customer
from relayadmin import ids
from relayadmin.db import AmountField


def new_payment_method_id() -> str:
    return ids.random_id("pmt")


class PaymentMethod(models.Model):
    """A card that a customer has saved at the payment provider. Removed once, never saved again.

    A removal is decided here first; `look_at` says that the provider still has to be told.
    """

    public_id = models.CharField(max_length=32, unique=True, default=new_payment_method_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    stripe_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=40)
    brand = models.CharField(max_length=40, blank=True)
    last4 = models.CharField(max_length=4, blank=True)
    exp_month = models.PositiveSmallIntegerField(null=True)
    exp_year = models.PositiveSmallIntegerField(null=True)
    is_sandbox = models.BooleanField(default=False, help_text="Saved in the sandbox or in test mode: no real money.")
    is_default = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True)
    removed_because = models.CharField(max_length=200, blank=True)
    look_at = models.DateTimeField(null=True, help_text="When the sweep tells the provider that it is removed.")

    class Meta:
        ordering = ("-id",)
        verbose_name = "saved card"
        indexes = (
            models.Index(
                fields=["look_at"], condition=models.Q(look_at__isnull=False), name="payment_methods_to_look_at"
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["customer", "is_sandbox"],
                condition=models.Q(is_default=True),
                name="one_default_payment_method",
            ),
            models.CheckConstraint(
                condition=models.Q(is_default=False) | models.Q(removed_at__isnull=True),
                name="removed_payment_method_is_no_default",
            ),
        )

    def __str__(self) -> str:
        return f"{self.brand or self.type} •••• {self.last4}"


class Recharge(models.Model):
    """A customer's automatic recharge: below `threshold`, `amount` is charged to a saved card. Amounts in USD.

    Whether a charge is under way is no field: it is an open top-up of this origin.
    """

    class Off(models.TextChoices):
        CUSTOMER = "customer", "Switched off by the customer"
        OPERATOR = "operator", "Switched off by the operator"
        DECLINED = "declined", "The card was declined three times"
        REMOVED = "removed", "The card was removed"
        EXPIRED = "expired", "The card has expired"
        LIMITS = "limits", "The amount is no longer allowed"
        REFUSED = "refused", "A payment didn't match"
        WENT_BACK = "went_back", "A payment was refunded or disputed"

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, related_name="+")
    is_on = models.BooleanField(default=False)
    threshold: Any = AmountField(help_text="A balance below this is recharged (USD).")
    amount: Any = AmountField(help_text="What is charged and credited each time (USD).")
    monthly_cap: Any = AmountField(
        null=True, help_text="At most so much in a calendar month of the operator's time zone (USD); empty: no cap."
    )
    method = models.ForeignKey(PaymentMethod, on_delete=models.PROTECT, null=True, related_name="+")
    failures = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="Declines in a row.")
    next_try_at = models.DateTimeField(null=True, help_text="Nothing is charged before.")
    waits_for: Any = models.ForeignKey(
        "billing.TopUp",
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The charge that the bank wants its customer for; nothing is tried until they have paid themselves.",
    )
    return_url = models.CharField(
        max_length=500, blank=True, help_text="Where the customer comes back to from a page of the provider's."
    )
    judged_through = models.BigIntegerField(
        default=0, db_default=0, help_text="The number of the last top-up of this rule whose end was taken in."
    )
    off_because = models.CharField(max_length=10, choices=Off.choices, blank=True)
    off_message = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        verbose_name = "automatic recharge"
        permissions = (("switch_recharge", "Can switch automatic recharges off and allow them again"),)
        indexes = (models.Index(fields=["customer"], condition=models.Q(is_on=True), name="recharges_that_are_on"),)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(amount__gt=0)
                & models.Q(threshold__gte=0)
                & (models.Q(monthly_cap__isnull=True) | models.Q(monthly_cap__gte=models.F("amount"))),
                name="recharge_amounts",
            ),
            models.CheckConstraint(
                condition=models.Q(is_on=False) | models.Q(method__isnull=False, off_because=""),
                name="recharge_on_has_its_method",
            ),
        )

    def __str__(self) -> str:
        return f"{'On' if self.is_on else 'Off'}: {self.amount.normalize():f} below {self.threshold.normalize():f}"
