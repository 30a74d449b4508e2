from typing import Any

from django.db import models

from billing.models.customers import Customer
from relayadmin.db import AmountField


class VerifiedWallet(models.Model):
    """Up to where a customer's ledger was last found right; the next incremental check begins there."""

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, primary_key=True, related_name="+")
    version = models.BigIntegerField(help_text="The wallet's version.")
    transfer_number = models.BigIntegerField(help_text="Its last transfer; 0 if it had none.")
    used: Any = AmountField(help_text="How much of all its grants was used.")
    verified_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.customer_id} at version {self.version}"
