"""Hot tables: rows that grow with traffic, keyed by (customer_id, id)."""

from typing import Any

from django.db import models

from relayadmin import ids


def customer_key(**kwargs: Any) -> Any:
    """The customer of a hot row.

    No foreign key in the database: checking it would cost every inserted row a look-up and a lock, and every writer
    holds the wallet's row, which has the key and can't be deleted.
    """
    return models.ForeignKey(
        "billing.Customer", on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+", **kwargs
    )


class HotModel(models.Model):
    """A row whose primary key starts with customer_id in the database, (customer_id, id) unless it says otherwise.

    Django's single-column `id` keeps the admin working; it is unique by its sequence.
    """

    PREFIX = ""

    id = models.BigAutoField(primary_key=True)

    class Meta:
        abstract = True

    @property
    def public_id(self) -> str:
        return ids.hot_id(self.PREFIX, self.customer_id, self.id)  # type: ignore[attr-defined]
