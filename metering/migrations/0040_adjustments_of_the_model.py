"""Which adjustments let an event count as another model: a filter by model asks only for these."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("metering", "0032_authorize_in_fewer_steps"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="usageadjustment",
            name="is_other_model",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Since it counts as another model than before, or a call in it does.",
            ),
        ),
    )
