"""Nobody is suspended by itself until the operator says so: the setting is off unless it is switched on."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0132_receipts"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="operatorsettings",
            name="suspends_on_dispute",
            field=models.BooleanField(
                default=False,
                help_text="A customer whose payment is disputed is suspended until the dispute has ended.",
            ),
        ),
        # It was on from the start: nobody has chosen it.
        migrations.RunSQL("UPDATE billing_operatorsettings SET suspends_on_dispute = false", migrations.RunSQL.noop),
    ]
