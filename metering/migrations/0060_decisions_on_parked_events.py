"""Who decided on a correction whose estimate never came; and ids that were taken for events that never came."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("metering", "0050_first_prices"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="parkedevent",
            name="decided_by",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Who had it charged as it stands, or refused; empty: nobody had to.",
                max_length=150,
            ),
        ),
        migrations.AlterField(
            model_name="eventkey",
            name="digest",
            field=models.BinaryField(
                help_text="Of all that matters in the event; empty if it never came.", max_length=16
            ),
        ),
    )
