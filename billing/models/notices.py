from typing import Any

from django.db import models

from billing.models.customers import Customer


class Notice(models.Model):
    """Something that a customer is to be told, once for each (kind, key). Written once, never updated."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False, related_name="+")
    kind = models.CharField(max_length=60, help_text="What it says, such as credit_expires.")
    key = models.CharField(max_length=255, help_text="What it is about, so that it is said once.")
    data: Any = models.JSONField(help_text="What the message needs to know.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=["customer", "kind", "key"], name="notice_once_per_key"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"
