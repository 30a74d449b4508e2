from typing import Any

from django.db import models

from billing.models.customers import Customer
from billing.models.payments import TopUp
from relayadmin import ids
from relayadmin.db import AmountField


def new_receipt_id() -> str:
    return ids.random_id("rcp")


class Receipt(models.Model):
    """What was paid, as it was when the receipt was made: one for each paid top-up. Written once, never updated.

    Supplier and customer are copied, so that a later change of theirs changes no receipt. What went back later is not
    in it: that stands on the top-up.
    """

    public_id = models.CharField(max_length=32, unique=True, default=new_receipt_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    top_up: Any = models.OneToOneField(TopUp, on_delete=models.PROTECT, related_name="receipt")
    series = models.CharField(max_length=10)
    year = models.PositiveSmallIntegerField(help_text="Of its making, in the operator's time zone.")
    sequence = models.PositiveIntegerField()
    number = models.CharField(max_length=40, unique=True)
    issued_at = models.DateTimeField()
    paid_at = models.DateTimeField()
    timezone = models.CharField(max_length=64, help_text="The operator's, which its dates are written in.")
    supplier_name = models.CharField(max_length=200)
    supplier_address = models.TextField(blank=True)
    supplier_tax_number = models.CharField(max_length=60, blank=True)
    supplier_email = models.EmailField(blank=True)
    customer_name = models.CharField(max_length=200)
    customer_email = models.EmailField(blank=True)
    origin = models.CharField(max_length=14, choices=TopUp.Origin.choices)
    method = models.CharField(max_length=40, blank=True)
    method_detail = models.CharField(max_length=60, blank=True)
    reference = models.CharField(max_length=255, blank=True)
    currency = models.CharField(max_length=3)
    pay_amount: Any = AmountField(help_text="What was paid, in `currency`.")
    amount: Any = AmountField(help_text="What was credited, or paid an invoice (USD).")
    rate: Any = models.DecimalField(max_digits=20, decimal_places=9)
    is_sandbox = models.BooleanField(default=False)

    customer_address = models.TextField(blank=True, db_default="")
    customer_country = models.CharField(max_length=2, blank=True, db_default="")
    customer_tax_number = models.CharField(max_length=30, blank=True, db_default="")
    tax: Any = AmountField(default=0, db_default=0, help_text="The tax that was paid beside it (USD).")
    tax_name = models.CharField(max_length=40, blank=True, db_default="", help_text="Empty: not taxed.")
    tax_rate: Any = models.DecimalField(max_digits=6, decimal_places=5, default=0, db_default=0)
    tax_note = models.CharField(max_length=200, blank=True, db_default="")
    language = models.CharField(max_length=7, default="en", db_default="en")
    paper = models.CharField(max_length=9, default="a4", db_default="a4")
    invoice_number = models.CharField(
        max_length=40, blank=True, db_default="", help_text="Of the invoice that was paid; empty: it became credit."
    )
    invoice_part: Any = AmountField(default=0, db_default=0, help_text="What of it paid that invoice (USD).")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["series", "year", "sequence"], name="receipt_numbers_are_unique"),
        )

    def __str__(self) -> str:
        return self.number
