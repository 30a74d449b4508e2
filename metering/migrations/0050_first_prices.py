"""Imported lines that are the first price of their usage, and so reach back to what waits for them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0041_find_adjustments_of_the_model"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="priceimportline",
            name="is_first",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Nothing has priced such usage: it reaches back to what waits for it.",
                verbose_name="first price",
            ),
        ),
        migrations.AlterField(
            model_name="priceimportline",
            name="effective_from",
            field=models.DateTimeField(help_text="Empty: from the approval on; a first price: always.", null=True),
        ),
    ]
