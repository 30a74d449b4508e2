from typing import Any

from django.db import models

from relayadmin.db import AmountField


class VerifiedUsage(models.Model):
    """Up to where a customer's usage was last found right; the next incremental check begins there."""

    customer: Any = models.OneToOneField(
        "billing.Customer", on_delete=models.PROTECT, primary_key=True, related_name="+"
    )
    event_number = models.BigIntegerField(help_text="Its last event; 0 if it had none.")
    transfer_number = models.BigIntegerField(help_text="Its last transfer; 0 if it had none.")
    adjustment_number = models.BigIntegerField(default=0, db_default=0, help_text="Its last adjustment; 0 if none.")
    charge: Any = AmountField(help_text="The charge of all its hourly usage.")
    verified_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.customer_id} at event {self.event_number}"
