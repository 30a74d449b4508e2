from typing import Any

from django.conf import settings
from django.db import models

from billing.models.customers import Customer
from relayadmin import ids
from relayadmin.db import AmountField
from relayadmin.money import EXACT


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
    """A frozen document: everything billed to a customer after its last closed period, up to this one.

    Supplier and customer are copied, so that a later change of theirs changes no invoice. What may change after issue:
    status, amount_due, paid_at, void and reminders.
    """

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
    terms = models.CharField(
        max_length=10, default="prepaid", db_default="prepaid", help_text="As the customer's were."
    )
    customer_name = models.CharField(max_length=200)
    customer_email = models.EmailField(blank=True)
    customer_address = models.TextField(blank=True, db_default="")
    customer_country = models.CharField(max_length=2, blank=True, db_default="")
    customer_tax_number = models.CharField(max_length=30, blank=True, db_default="")
    order_reference = models.CharField(max_length=100, blank=True, db_default="")
    supplier_name = models.CharField(max_length=200, blank=True, db_default="")
    supplier_address = models.TextField(blank=True, db_default="")
    supplier_tax_number = models.CharField(max_length=60, blank=True, db_default="")
    supplier_email = models.EmailField(blank=True, db_default="")
    language = models.CharField(max_length=7, default="en", db_default="en")
    paper = models.CharField(max_length=9, default="a4", db_default="a4")
    timezone = models.CharField(max_length=64, default="UTC", db_default="UTC")
    opening_balance: Any = AmountField(default=0, db_default=0, help_text="The wallet's, when the period began.")
    closing_balance: Any = AmountField(default=0, db_default=0, help_text="The wallet's, when the period ended.")
    topped_up: Any = AmountField(default=0, db_default=0, help_text="Paid credit that came in the period.")
    other_movements: Any = AmountField(
        default=0,
        db_default=0,
        help_text="Whatever else makes the one balance the other: gifts, refunds, expiry, and `charged_elsewhen`.",
    )
    charged_elsewhen: Any = AmountField(
        default=0,
        db_default=0,
        help_text="Usage of this document charged outside its period, less usage of others charged inside.",
    )
    savings: Any = AmountField(
        default=0, db_default=0, help_text="What prompt caching saved: the same tokens at the input price, less these."
    )
    paid_by_promotional: Any = AmountField(default=0, db_default=0, help_text="The part that gifts paid for.")
    charged_as_debt: Any = AmountField(
        default=0, db_default=0, help_text="The part for which there was no credit when it was used."
    )
    exact_total: Any = AmountField(help_text="The sum of the lines before rounding.")
    subtotal: Any = AmountField()
    tax: Any = AmountField()
    total: Any = AmountField()
    paid_by_credit: Any = AmountField()
    amount_due: Any = AmountField()
    currency = models.CharField(max_length=3, default="USD")
    due_on = models.DateField(null=True, help_text="Empty: nothing is due.")
    paid_at = models.DateTimeField(null=True)
    is_sandbox = models.BooleanField(
        default=False, db_default=False, help_text="Paid with test payments: no real money."
    )
    reminders = models.PositiveSmallIntegerField(default=0, db_default=0)
    reminded_at = models.DateTimeField(null=True)
    voided_at = models.DateTimeField(null=True)
    voided_by = models.CharField(max_length=150, blank=True, db_default="")
    voided_because = models.CharField(max_length=500, blank=True, db_default="")
    next_version = models.BigIntegerField(
        null=True, help_text="The wallet's version from which the next document reads its movements."
    )

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

    @property
    def paid_by_paid(self) -> Any:
        """The part of the exact total that paid credit paid for, when it was used."""
        return EXACT.subtract(EXACT.subtract(self.exact_total, self.paid_by_promotional), self.charged_as_debt)


class InvoiceLine(models.Model):
    """One line: quantity × unit price ÷ per = amount. The rounding line has no quantity and no price."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    position = models.PositiveIntegerField()
    usage_period = models.DateField(null=True, help_text="The month the usage happened in.")
    description = models.CharField(max_length=300)
    model = models.CharField(max_length=255, blank=True)
    meter = models.CharField(max_length=40, blank=True)
    note = models.CharField(
        max_length=200, blank=True, db_default="", help_text="Why its price is another one than usual: batch."
    )
    quantity: Any = models.DecimalField(max_digits=40, decimal_places=0, null=True)
    unit_price: Any = AmountField(null=True)
    per = models.PositiveIntegerField(null=True)
    multiplier: Any = AmountField(null=True, help_text="Of a cache meter: its price as a multiple of input's.")
    amount: Any = AmountField()

    class Meta:
        ordering = ("invoice", "position")
        constraints = (models.UniqueConstraint(fields=["invoice", "position"], name="one_line_per_position"),)

    def __str__(self) -> str:
        return self.description


class InvoiceTax(models.Model):
    """The tax of one rate on one invoice, as it was at that moment: base × rate, half up to the cent."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="taxes")
    name = models.CharField(max_length=40)
    rate: Any = models.DecimalField(max_digits=6, decimal_places=5)
    base: Any = AmountField()
    amount: Any = AmountField()
    is_reverse_charge = models.BooleanField(default=False)
    note = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["invoice", "name", "rate"], name="one_tax_line_per_rate"),)

    def __str__(self) -> str:
        return f"{self.name} {self.rate}"


class InvoiceReopening(models.Model):
    """What a refund or a dispute has taken back of an invoice's payment: what no credit covers is due again."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="reopenings")
    top_up = models.ForeignKey("billing.TopUp", on_delete=models.PROTECT, related_name="reopenings")
    transfer_id = models.BigIntegerField(help_text="The transfer that took it off the wallet.")
    amount: Any = AmountField(help_text="What the payment does not pay of the invoice any more (USD).")
    due: Any = AmountField(default=0, db_default=0, help_text="What was due again of it (USD).")
    returned: Any = AmountField(
        default=0, db_default=0, help_text="What came back of the amount, and pays again (USD)."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["customer", "transfer_id"], name="invoice_reopened_once_per_transfer"),
            models.CheckConstraint(
                condition=models.Q(amount__gt=0)
                & models.Q(due__gte=0)
                & models.Q(due__lte=models.F("amount"))
                & models.Q(returned__gte=0)
                & models.Q(returned__lte=models.F("amount")),
                name="invoice_reopened_within_amount",
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice}: {self.amount}"


def new_credit_note_id() -> str:
    return ids.random_id("cn")


class CreditNote(models.Model):
    """A document that takes back a part of an issued invoice, or all of it. Written once, never updated."""

    public_id = models.CharField(max_length=32, unique=True, default=new_credit_note_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="credit_notes")
    series = models.CharField(max_length=10)
    year = models.PositiveSmallIntegerField()
    sequence = models.PositiveIntegerField()
    number = models.CharField(max_length=40, unique=True)
    key = models.CharField(max_length=255, help_text="Unique per customer: the same key takes back once.")
    reason = models.CharField(max_length=500)
    actor = models.CharField(max_length=150, blank=True)
    issued_at = models.DateTimeField()
    subtotal: Any = AmountField()
    tax: Any = AmountField()
    total: Any = AmountField()
    transfer_id = models.BigIntegerField(null=True, help_text="The transfer that moved it, if it moved anything.")
    documented: Any = AmountField(
        default=0, db_default=0, help_text="The sum of its lines, if adjustments had put that back before (USD)."
    )
    booked_period = models.DateField(
        null=True, help_text="The billing period of these adjustments: its document has the amount the other way round."
    )
    source = models.CharField(
        max_length=60, blank=True, db_default="", help_text="What made it, such as rerating:7; empty: a person."
    )

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["customer", "booked_period"],
                condition=models.Q(booked_period__isnull=False),
                name="credit_notes_documenting",
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="credit_note_once_per_key"),
            models.UniqueConstraint(fields=["series", "year", "sequence"], name="credit_note_numbers_are_unique"),
            models.CheckConstraint(
                condition=models.Q(total=models.F("subtotal") + models.F("tax")), name="credit_note_total_adds_up"
            ),
        )

    def __str__(self) -> str:
        return self.number


class CreditNoteLine(models.Model):
    """What is taken back of one line of an invoice: above zero, but for what a void takes of lines below zero.

    Of usage that was rated again there are two, as charged and, below zero, as rated again, with model and meter.
    """

    credit_note = models.ForeignKey(CreditNote, on_delete=models.PROTECT, related_name="lines")
    position = models.PositiveIntegerField()
    invoice_line = models.ForeignKey(InvoiceLine, on_delete=models.PROTECT, null=True, related_name="+")
    description = models.CharField(max_length=300)
    model = models.CharField(max_length=255, blank=True, db_default="")
    meter = models.CharField(max_length=40, blank=True, db_default="")
    quantity: Any = models.DecimalField(max_digits=40, decimal_places=0, null=True)
    unit_price: Any = AmountField(null=True)
    per = models.PositiveIntegerField(null=True)
    amount: Any = AmountField()

    class Meta:
        ordering = ("credit_note", "position")
        constraints = (
            models.UniqueConstraint(fields=["credit_note", "position"], name="one_credit_line_per_position"),
        )

    def __str__(self) -> str:
        return self.description


class CreditNoteRequest(models.Model):
    """What somebody asks to take back of an invoice: issued at once, or when a second person has approved it."""

    class Status(models.TextChoices):
        PENDING = "pending", "Waits for a second person"
        ISSUED = "issued", "Issued"
        REJECTED = "rejected", "Rejected"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="+")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.PENDING)
    parts: Any = models.JSONField(null=True, help_text="By line of the invoice, the amount; null: all that is left.")
    total: Any = AmountField(help_text="With tax, as it was when it was asked for.")
    reason = models.CharField(max_length=500)
    key = models.CharField(max_length=255, help_text="Unique per customer: the same key takes back once.")
    needs_second_person = models.BooleanField(
        default=False, db_default=False, help_text="It was too large for one person, with what was issued so before."
    )
    credit_note: Any = models.OneToOneField(CreditNote, on_delete=models.PROTECT, null=True, related_name="request")
    asked_by = models.CharField(max_length=150, blank=True)
    asked_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    asked_at = models.DateTimeField()
    decided_by = models.CharField(max_length=150, blank=True)
    decided_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        permissions = (("credit_invoice", "Can credit and void invoices, and decide on it"),)
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="credit_note_request_once_per_key"),
            models.CheckConstraint(
                condition=models.Q(status="issued", credit_note__isnull=False)
                | (~models.Q(status="issued") & models.Q(credit_note=None)),
                name="credit_note_request_issued_has_its_note",
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice}: {self.total}"


class PeriodClosing(models.Model):
    """The closing of one month: begun by the schedule or a person, worked off customer by customer."""

    period = models.DateField(unique=True, help_text="The first day of the billing month.")
    begun_at = models.DateTimeField()
    begun_by = models.CharField(max_length=150, blank=True, help_text="Empty: the schedule.")
    listed_at = models.DateTimeField(
        null=True, help_text="When all customers with usage were last listed; empty: single ones were closed only."
    )
    ended_at = models.DateTimeField(null=True, help_text="When no customer was left; parked ones wait for a person.")

    class Meta:
        ordering = ("-period",)

    def __str__(self) -> str:
        return f"{self.period:%Y-%m}"


class CustomerClosing(models.Model):
    """One customer's part of a month's closing."""

    class Status(models.TextChoices):
        WAITING = "waiting"
        ISSUED = "issued"
        NOTHING = "nothing", "Nothing to invoice"
        PARKED = "parked", "Parked: the figures don't agree"

    closing = models.ForeignKey(PeriodClosing, on_delete=models.PROTECT, related_name="customers")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False, related_name="+")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.WAITING)
    difference = models.CharField(max_length=500, blank=True, help_text="Why it is parked, with the figures.")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=["closing", "customer"], name="one_closing_per_customer"),)
        indexes = (
            models.Index(fields=["closing", "id"], condition=models.Q(status="waiting"), name="closings_to_do"),
            models.Index(fields=["closing"], condition=models.Q(status="parked"), name="closings_parked"),
        )

    def __str__(self) -> str:
        return f"{self.closing}: {self.customer}"
