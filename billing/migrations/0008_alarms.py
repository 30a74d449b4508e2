"""Alarms for the operator, and when waiting events raise one."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("billing", "0007_verified_wallet"), migrations.swappable_dependency(settings.AUTH_USER_MODEL))
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="operatorsettings",
            name="waiting_alarm_count",
            field=models.PositiveIntegerField(
                default=100, help_text="An alarm opens when more events than this wait for one and the same thing."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="waiting_alarm_minutes",
            field=models.PositiveIntegerField(
                default=60, help_text="An alarm opens when an event has waited longer than this, however few they are."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="alarm_email",
            field=models.EmailField(
                blank=True,
                help_text="Told once of each alarm that opens, if EMAIL_URL is set; empty: Django's ADMINS.",
                max_length=254,
            ),
        ),
        migrations.CreateModel(
            name="Alarm",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(help_text="Who watches, and what for: waiting.parked.no_price.", max_length=60),
                ),
                (
                    "subject",
                    models.CharField(
                        blank=True,
                        help_text="What it is about, such as a model; empty if about no single thing.",
                        max_length=255,
                    ),
                ),
                ("message", models.CharField(max_length=500)),
                ("advice", models.CharField(blank=True, max_length=500)),
                ("count", models.BigIntegerField(help_text="How many there were when it was last seen.")),
                ("first_seen", models.DateTimeField()),
                ("last_seen", models.DateTimeField()),
                ("notified_at", models.DateTimeField(help_text="When it was mailed.", null=True)),
                ("acknowledged_at", models.DateTimeField(null=True)),
                (
                    "acknowledged_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("resolved_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("resolved_at__isnull", True)),
                        fields=("kind", "subject"),
                        name="one_open_alarm",
                    )
                ],
            },
        ),
    )
