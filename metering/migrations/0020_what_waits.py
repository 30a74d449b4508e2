"""What each parked event waits for, and indexes that find and count open rows by it, however many there are."""

from django.db import migrations, models

# As metering.waiting.subject_of says it of new ones.
SUBJECTS = """
UPDATE metering_parkedevent SET subject = CASE reason
    WHEN 'unknown_channel' THEN channel
    WHEN 'unknown_upstream_account' THEN coalesce(payload ->> 'upstream_account', '')
    WHEN 'clock_ahead' THEN ''
    WHEN 'correction' THEN ''
    WHEN 'unknown_counter' THEN left(split_part(substr(detail, 7), ' ', 1) || ' of ' || (payload ->> 'format'), 255)
    WHEN 'unknown_service_tier' THEN left(split_part(detail, '''', 2), 255)
    WHEN 'unknown_speed' THEN left(split_part(detail, '''', 2), 255)
    WHEN 'unknown_inference_geo' THEN left(split_part(detail, '''', 2), 255)
    ELSE model END
WHERE resolved_at IS NULL
"""
OPEN = models.Q(resolved_at__isnull=True)


class Migration(migrations.Migration):
    dependencies = (("billing", "0008_alarms"), ("metering", "0009_find_events_in_parts"))
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.RemoveIndex(model_name="eventconflict", name="conflict_open_by_kind"),
        migrations.RemoveIndex(model_name="parkedevent", name="parked_open_by_reason"),
        migrations.RemoveIndex(model_name="quarantinedevent", name="quarantine_open_by_code"),
        migrations.AddField(
            model_name="parkedevent",
            name="subject",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="What it waits for: a model, a channel, …",
                max_length=255,
            ),
        ),
        migrations.RunSQL(SUBJECTS, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="parkedevent",
            index=models.Index(
                condition=OPEN,
                fields=["reason", "subject", "received_at"],
                include=("occurred_at", "customer"),
                name="parked_open_by_subject",
            ),
        ),
        migrations.AddIndex(
            model_name="parkedevent", index=models.Index(condition=OPEN, fields=["id"], name="parked_open")
        ),
        migrations.AddIndex(
            model_name="unclaimedevent",
            index=models.Index(
                condition=OPEN,
                fields=["reason", "key", "received_at"],
                include=("occurred_at",),
                name="unclaimed_open_by_key",
            ),
        ),
        migrations.AddIndex(
            model_name="unclaimedevent", index=models.Index(condition=OPEN, fields=["id"], name="unclaimed_open")
        ),
        migrations.AddIndex(
            model_name="eventconflict",
            index=models.Index(
                condition=OPEN, fields=["kind", "received_at"], include=("customer",), name="conflict_open_since"
            ),
        ),
        migrations.AddIndex(
            model_name="quarantinedevent",
            index=models.Index(condition=OPEN, fields=["code", "received_at"], name="quarantine_open_since"),
        ),
    )
