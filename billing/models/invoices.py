from typing import Any

from django.db import models

from billing.models.customers import Customer
from relayadmin import ids
from relayadmin.db import AmountField


def new_invoice_id() -> str:
    return ids.random_id("inv")


class InvoiceSeries(models.Model):
    """The last number given out in a series and year; locked while an invoice is issued, so there are no gaps."""

    series = models.CharField(max_length=10)
    year = models.PositiveSmallIntegerField()
    last_number = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name_plural = "invoice series"
        constraints = (models.UniqueConstraint(fields=["series", "year"], name="one_series_per_year"),)

    def __str__(self) -> str:
        return f"{self.series}-{self.year}"


class Invoice(models.Model):
    """A frozen document: everything billed to a customer after its last closed period, up to this one."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        ISSUED = "issued"
        PAID = "paid"
        OVERDUE = "overdue"
        VOID = "void"

    public_id = models.CharField(max_length=32, unique=True, default=new_invoice_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="invoices")
    series = models.CharField(max_length=10)
    year = models.PositiveSmallIntegerField()
    sequence = models.PositiveIntegerField()
    number = models.CharField(max_length=40, unique=True)
    status = models.CharField(max_length=10, choices=Status.choices)
    period = models.DateField(help_text="The first day of the billing month.")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    issued_at = models.DateTimeField()
    customer_name = models.CharField(max_length=200)
    customer_email = models.EmailField(blank=True)
    exact_total: Any = AmountField(help_text="The sum of the lines before rounding.")
    subtotal: Any = AmountField()
    tax: Any = AmountField()
    total: Any = AmountField()
    paid_by_credit: Any = AmountField()
    amount_due: Any = AmountField()
    currency = models.CharField(max_length=3, default="USD")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "period"], name="one_invoice_per_customer_and_period"),
            models.UniqueConstraint(fields=["series", "year", "sequence"], name="invoice_numbers_are_unique"),
            models.CheckConstraint(
                condition=models.Q(total=models.F("subtotal") + models.F("tax")), name="invoice_total_adds_up"
            ),
        )

    def __str__(self) -> str:
        return self.number


class InvoiceLine(models.Model):
    """One line: quantity × unit price ÷ per = amount. The rounding line has no quantity and no price."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    position = models.PositiveIntegerField()
    usage_period = models.DateField(null=True, help_text="The month the usage happened in.")
    description = models.CharField(max_length=300)
    model = models.CharField(max_length=255, blank=True)
    meter = models.CharField(max_length=40, blank=True)
    quantity: Any = models.DecimalField(max_digits=40, decimal_places=0, null=True)
    unit_price: Any = AmountField(null=True)
    per = models.PositiveIntegerField(null=True)
    amount: Any = AmountField()

    class Meta:
        ordering = ("invoice", "position")
        constraints = (models.UniqueConstraint(fields=["invoice", "position"], name="one_line_per_position"),)

    def __str__(self) -> str:
        return self.description
