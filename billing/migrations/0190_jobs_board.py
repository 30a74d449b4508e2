"""The timetable as it is watched, and which of a task's scheduled calls a run was."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0180_messages"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "timetable",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="django_celery_beat.periodictask",
                    ),
                ),
                (
                    "schedule",
                    models.CharField(help_text="When it ran when it was last looked at; off: never.", max_length=500),
                ),
                ("counts_from", models.DateTimeField(help_text="Since when it has run at these times.")),
            ],
            options={
                "permissions": (("run_job", "Can run a job now"),),
            },
        ),
        migrations.RemoveIndex(
            model_name="jobrun",
            name="job_runs_by_job",
        ),
        migrations.AddField(
            model_name="jobrun",
            name="begun_by",
            field=models.CharField(blank=True, db_default="", help_text="Empty: the timetable.", max_length=150),
        ),
        migrations.AddField(
            model_name="jobrun",
            name="variant",
            field=models.CharField(
                blank=True, db_default="", help_text="What it was called with, as JSON; empty: nothing.", max_length=200
            ),
        ),
        migrations.AddIndex(
            model_name="jobrun",
            index=models.Index(fields=["job", "variant", "-started_at"], name="job_runs_by_variant"),
        ),
        migrations.AddIndex(
            model_name="jobrun",
            index=models.Index(
                condition=models.Q(("duration_ms__isnull", False), ("error", "")),
                fields=["job", "variant", "-started_at"],
                name="job_runs_done",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(fields=["id"], condition=models.Q(status="failed"), name="webhook_events_failed"),
        ),
    ]
