from typing import Any

from django.db import models

from billing.models.customers import Customer
from relayadmin import ids


class Notice(models.Model):
    """Something that a customer is to be told, once for each (kind, key). Written once; only `is_planned` changes.

    Its public id is what mail and webhooks carry, the same however often they are sent.
    """

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False, related_name="+")
    kind = models.CharField(max_length=60, help_text="What it says, such as credit_expires.")
    key = models.CharField(max_length=255, help_text="What it is about, so that it is said once.")
    data: Any = models.JSONField(help_text="What the message needs to know.")
    created_at = models.DateTimeField()
    is_planned = models.BooleanField(
        default=False, db_default=False, help_text="Whether it was decided where it is sent to."
    )

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=["id"], condition=models.Q(is_planned=False), name="notices_to_plan"),)
        constraints = (models.UniqueConstraint(fields=["customer", "kind", "key"], name="notice_once_per_key"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"

    @property
    def public_id(self) -> str:
        return ids.hot_id("msg", self.customer_id, self.pk)
