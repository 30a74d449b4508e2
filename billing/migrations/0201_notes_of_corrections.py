"""Credit notes of usage that adjustments have put right: what they document, and where it is booked."""

from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0200_reopened_invoices"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="creditnote",
            name="documented",
            field=relayadmin.db.AmountField(
                db_default=0,
                default=0,
                help_text="The sum of its lines, if adjustments had put that back before (USD).",
            ),
        ),
        migrations.AddField(
            model_name="creditnote",
            name="booked_period",
            field=models.DateField(
                help_text="The billing period of these adjustments: its document has the amount the other way round.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="creditnote",
            name="source",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="What made it, such as rerating:7; empty: a person.",
                max_length=60,
            ),
        ),
        migrations.AddField(
            model_name="creditnoteline",
            name="model",
            field=models.CharField(blank=True, db_default="", max_length=255),
        ),
        migrations.AddField(
            model_name="creditnoteline",
            name="meter",
            field=models.CharField(blank=True, db_default="", max_length=40),
        ),
        migrations.AddIndex(
            model_name="creditnote",
            index=models.Index(
                condition=models.Q(("booked_period__isnull", False)),
                fields=["customer", "booked_period"],
                name="credit_notes_documenting",
            ),
        ),
    ]
