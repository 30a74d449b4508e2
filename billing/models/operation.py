from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import models


def check_timezone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(f"{name} is not a time zone; write one such as Europe/Madrid or UTC.")


class OperatorSettings(models.Model):
    """What the operator sets in the admin: one row."""

    name = models.CharField(max_length=200, default="relayadmin", help_text="Stands on invoices.")
    timezone = models.CharField(
        max_length=64, default="UTC", validators=[check_timezone], help_text="Bounds of billing months."
    )
    closing_grace_hours = models.PositiveSmallIntegerField(
        default=6, help_text="How long the scheduled job waits for late usage before it closes a month."
    )

    class Meta:
        verbose_name = verbose_name_plural = "operator settings"
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_operator_settings"),)

    def __str__(self) -> str:
        return "Operator settings"


class JobRun(models.Model):
    """One run of a scheduled job, for the operator to see."""

    job = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(null=True, help_text="Empty while it runs, or if it was killed.")
    result: Any = models.JSONField(null=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=["job", "-started_at"], name="job_runs_by_job"),)

    def __str__(self) -> str:
        return f"{self.job} at {self.started_at:%Y-%m-%d %H:%M}"
