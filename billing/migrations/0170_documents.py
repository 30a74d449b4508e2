"""What documents say beside their figures: why a line has another price, and that the money was not real."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0150_what_a_document_adds_up"),
        ("billing", "0160_tax"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="invoice",
            name="is_sandbox",
            field=models.BooleanField(
                db_default=False, default=False, help_text="Paid with test payments: no real money."
            ),
        ),
        migrations.AddField(
            model_name="invoiceline",
            name="note",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="Why its price is another one than usual: batch.",
                max_length=200,
            ),
        ),
    ]
