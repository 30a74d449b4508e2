"""Limits tell in which time zone they are counted, so that a change of the operator's is carried through to the end."""

from django.db import migrations, models

import billing.models.operation


class Migration(migrations.Migration):
    dependencies = (("billing", "0020_spend_limits"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="spendlimit",
            name="timezone",
            field=models.CharField(default="UTC", help_text="Whose days and months it is counted in.", max_length=64),
            preserve_default=False,
        ),
        migrations.RunSQL(
            "UPDATE billing_spendlimit SET timezone = o.timezone FROM billing_operatorsettings o WHERE o.id = 1",
            migrations.RunSQL.noop,
        ),
        migrations.AlterField(
            model_name="operatorsettings",
            name="timezone",
            field=models.CharField(
                default="UTC",
                help_text="Bounds of billing months, and of the days and months of spend limits.",
                max_length=64,
                validators=[billing.models.operation.check_timezone],
            ),
        ),
    )
