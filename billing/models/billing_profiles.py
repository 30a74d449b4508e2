"""Who a customer is on documents: its name and address, the terms it pays by, and how it is taxed."""

from typing import Any

from django.db import models

from billing.models.customers import Customer


class BillingProfile(models.Model):
    """What stands on a customer's documents, and how it pays. Copied to each document when that is issued."""

    class Terms(models.TextChoices):
        PREPAID = "prepaid", "Prepaid: tax is paid with the top-up"
        ON_ACCOUNT = "on_account", "On account: tax is paid with the invoice"

    class Language(models.TextChoices):
        ENGLISH = "en", "English"
        SPANISH = "es", "Español"
        CHINESE = "zh-hans", "简体中文"

    class Paper(models.TextChoices):
        A4 = "a4", "A4"
        LETTER = "us-letter", "Letter"

    customer: Any = models.OneToOneField(Customer, on_delete=models.PROTECT, related_name="billing_profile")
    terms = models.CharField(max_length=10, choices=Terms.choices, default=Terms.PREPAID)
    legal_name = models.CharField(max_length=200, blank=True, help_text="Empty: the customer's name.")
    address = models.TextField(max_length=500, blank=True, help_text="Line by line, without the country.")
    country = models.CharField(max_length=2, blank=True, help_text="ISO 3166, such as ES or CN.")
    tax_number = models.CharField(max_length=30, blank=True, help_text="VAT number or the like, with its country.")
    tax_number_checked_at = models.DateTimeField(
        null=True, help_text="When its form and check digits were found right."
    )
    order_reference = models.CharField(max_length=100, blank=True, help_text="The customer's own order number.")
    language = models.CharField(max_length=7, choices=Language.choices, default=Language.ENGLISH)
    paper = models.CharField(max_length=9, choices=Paper.choices, default=Paper.A4)
    payment_days = models.PositiveSmallIntegerField(default=14, help_text="Days from issue until an invoice is due.")

    class Meta:
        ordering = ("-id",)
        permissions = (("set_terms", "Can put customers on account, and back to prepaid"),)

    def __str__(self) -> str:
        return f"{self.get_terms_display()}: {self.legal_name or self.customer}"


class TaxRate(models.Model):
    """The tax that customers of a country pay from a day on, until the next row of that country. 0.21 is 21 %."""

    country = models.CharField(max_length=2, help_text="ISO 3166 of the customer's country.")
    name = models.CharField(max_length=40, help_text="Stands on documents: IVA, VAT.")
    rate: Any = models.DecimalField(max_digits=6, decimal_places=5)
    valid_from = models.DateField()
    reverse_charge = models.BooleanField(
        default=False, help_text="A customer with a checked tax number pays none, and owes the tax itself."
    )
    note = models.CharField(max_length=200, blank=True, help_text="Stands on documents taxed with it.")
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("country", "-valid_from")
        constraints = (
            models.UniqueConstraint(fields=["country", "valid_from"], name="one_tax_rate_per_country_and_day"),
            models.CheckConstraint(condition=models.Q(rate__gte=0) & models.Q(rate__lt=1), name="tax_rate_is_a_share"),
        )

    def __str__(self) -> str:
        return f"{self.country} {self.name} {self.rate}"
