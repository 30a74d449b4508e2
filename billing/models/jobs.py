from typing import Any

from django.db import models


class Job(models.Model):
    """A row of the timetable as it is watched: from which moment on a run of it may be missed.

    A job that is new, was off, or ran at other times until now is not late for what it did not have to do.
    """

    timetable: Any = models.OneToOneField(
        "django_celery_beat.PeriodicTask", on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    schedule = models.CharField(max_length=500, help_text="When it ran when it was last looked at; off: never.")
    counts_from = models.DateTimeField(help_text="Since when it has run at these times.")

    class Meta:
        permissions = (("run_job", "Can run a job now"),)

    def __str__(self) -> str:
        return str(self.timetable.name)
