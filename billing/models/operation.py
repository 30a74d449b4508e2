from typing import Any
from zoneinfo import available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, URLValidator
from django.db import models

from relayadmin.db import AmountField, server_cursor


def check_timezone(name: str) -> None:
    """Let through what PostgreSQL, too, knows as a zone: "CET" is an hour without summer time there, as "EST" is."""
    if name not in available_timezones() or not _means_the_same_to_postgresql(name):
        raise ValidationError(f"{name} is not a time zone; write one such as Europe/Madrid or UTC.")


def _means_the_same_to_postgresql(name: str) -> bool:
    if name == "UTC":
        return True
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = %s)"
            " AND NOT EXISTS (SELECT FROM pg_timezone_abbrevs WHERE abbrev = %s)",
            [name, name],
        )
        (is_known,) = cursor.fetchone() or (False,)
    return bool(is_known)


def default_presets() -> list[str]:
    return ["10.00", "20.00", "50.00", "100.00"]


class OperatorSettings(models.Model):
    """What the operator sets in the admin: one row."""

    name = models.CharField(max_length=200, default="relayadmin", help_text="Stands on invoices and receipts.")
    address = models.TextField(blank=True, max_length=500, help_text="Stands on receipts, line by line.")
    tax_number = models.CharField(max_length=60, blank=True, help_text="Stands on receipts, as you write it.")
    country = models.CharField(
        max_length=2,
        blank=True,
        db_default="",
        help_text="ISO 3166, such as ES: customers there are never taxed by reverse charge.",
    )
    email = models.EmailField(blank=True, help_text="Where customers ask about a payment; stands on receipts.")
    timezone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[check_timezone],
        help_text="Bounds of billing months, and of the days and months of spend limits.",
    )
    closing_grace_hours = models.PositiveSmallIntegerField(
        default=6, help_text="How long the scheduled job waits for late usage before it closes a month."
    )
    paid_credit_days = models.PositiveIntegerField(
        default=365,
        help_text="How many days after its purchase paid credit expires, unless a grant says otherwise; 0: never.",
        validators=[MaxValueValidator(36_500)],
    )
    waiting_alarm_count = models.PositiveIntegerField(
        default=100, help_text="An alarm opens when more events than this wait for one and the same thing."
    )
    waiting_alarm_minutes = models.PositiveIntegerField(
        default=60, help_text="An alarm opens when an event has waited longer than this, however few they are."
    )
    alarm_email = models.EmailField(
        blank=True, help_text="Told once of each alarm that opens, if EMAIL_URL is set; empty: Django's ADMINS."
    )
    second_person_above: Any = AmountField(
        null=True,
        blank=True,
        help_text="Credits, debits and write-offs by hand above this (USD) wait for a second person; empty: never.",
    )
    suspend_debt_above: Any = AmountField(
        null=True,
        blank=True,
        help_text="Customers who owe more than this (USD) beyond their credit limit are suspended until they have paid;"
        " empty: never.",
    )
    suspend_overdue_days = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Customers with an invoice that is overdue for so many days are suspended until it is paid; empty:"
        " never.",
    )
    top_up_minimum: Any = AmountField(default=5, help_text="The smallest top-up (USD).")
    top_up_maximum: Any = AmountField(default=10_000, help_text="The largest top-up (USD).")
    top_up_presets: Any = models.JSONField(
        default=default_presets, help_text='Amounts that are offered to choose from (USD): ["10.00", "50.00"].'
    )
    first_bonus_percent: Any = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        default=0,
        db_default=0,
        help_text="Given once, as promotional credit, with a customer's first paid top-up; 0: none.",
    )
    first_bonus_maximum: Any = AmountField(null=True, blank=True, help_text="At most so much (USD); empty: no limit.")
    first_bonus_days = models.PositiveIntegerField(
        default=90,
        db_default=90,
        help_text="How many days after the top-up the bonus expires; 0: never.",
        validators=[MaxValueValidator(36_500)],
    )
    offers_recharge = models.BooleanField(
        default=True, db_default=True, help_text="Customers may have their wallet recharged from a saved card."
    )
    suspends_on_dispute = models.BooleanField(
        default=False, help_text="A customer whose payment is disputed is suspended until the dispute has ended."
    )

    low_balance_below: Any = AmountField(
        default=5,
        db_default=5,
        help_text="Customers who set nothing themselves are told when less than this is left (USD); 0: never.",
    )
    site_url = models.CharField(
        max_length=200,
        blank=True,
        db_default="",
        validators=[URLValidator(schemes=["https", "http"])],
        help_text="Where customers reach this site, such as https://billing.example.com: for links in mail.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "operator settings"
        constraints = (
            models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_operator_settings"),
            models.CheckConstraint(
                condition=(models.Q(second_person_above=None) | models.Q(second_person_above__gte=0))
                & (models.Q(suspend_debt_above=None) | models.Q(suspend_debt_above__gte=0)),
                name="operator_thresholds_not_negative",
            ),
            models.CheckConstraint(
                condition=models.Q(top_up_minimum__gt=0) & models.Q(top_up_maximum__gte=models.F("top_up_minimum")),
                name="operator_top_ups_from_to",
            ),
            models.CheckConstraint(
                condition=models.Q(first_bonus_percent__gte=0)
                & (models.Q(first_bonus_maximum=None) | models.Q(first_bonus_maximum__gt=0)),
                name="operator_bonus_not_negative",
            ),
            models.CheckConstraint(
                condition=models.Q(low_balance_below__gte=0), name="operator_low_balance_not_negative"
            ),
        )

    def __str__(self) -> str:
        return "Operator settings"


class JobRun(models.Model):
    """One run of a scheduled job, for the operator to see."""

    job = models.CharField(max_length=100)
    variant = models.CharField(
        max_length=200, blank=True, db_default="", help_text="What it was called with, as JSON; empty: nothing."
    )
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(null=True, help_text="Empty while it runs, or if it was killed.")
    result: Any = models.JSONField(null=True)
    error = models.TextField(blank=True)
    begun_by = models.CharField(max_length=150, blank=True, db_default="", help_text="Empty: the timetable.")

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=["job", "variant", "-started_at"], name="job_runs_by_variant"),
            models.Index(
                fields=["job", "variant", "-started_at"],
                name="job_runs_done",
                condition=models.Q(duration_ms__isnull=False, error=""),
            ),
        )

    def __str__(self) -> str:
        return f"{self.job} at {self.started_at:%Y-%m-%d %H:%M}"


class Alarm(models.Model):
    """Something the operator should see to. One open row per (kind, subject), however often it is seen again."""

    kind = models.CharField(max_length=60, help_text="Who watches, and what for: waiting.parked.no_price.")
    subject = models.CharField(
        max_length=255, blank=True, help_text="What it is about, such as a model; empty if about no single thing."
    )
    message = models.CharField(max_length=500)
    advice = models.CharField(max_length=500, blank=True)
    count = models.BigIntegerField(help_text="How many there were when it was last seen.")
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    notified_at = models.DateTimeField(null=True, help_text="When it was mailed.")
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "subject"], condition=models.Q(resolved_at__isnull=True), name="one_open_alarm"
            ),
        )

    def __str__(self) -> str:
        return self.message
