"""What documents say beside their figures: why a line has another price, that the money was no real one, the language."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0161_credit_note_requests"),
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
        migrations.AddField(
            model_name="receipt",
            name="language",
            field=models.CharField(db_default="en", default="en", max_length=7),
        ),
        migrations.AddField(
            model_name="receipt",
            name="paper",
            field=models.CharField(db_default="a4", default="a4", max_length=9),
        ),
    ]
