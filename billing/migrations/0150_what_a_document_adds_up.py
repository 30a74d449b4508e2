"""What a document says of the wallet, and a closing that tells whether it was of everybody."""

from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0140_invoices"),)

    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            "invoice",
            "charged_elsewhen",
            relayadmin.db.AmountField(
                db_default=0,
                default=0,
                help_text="Usage of this document charged outside its period, less usage of others charged inside.",
            ),
        ),
        migrations.AddField(
            "invoice",
            "charged_as_debt",
            relayadmin.db.AmountField(
                db_default=0, default=0, help_text="The part for which there was no credit when it was used."
            ),
        ),
        migrations.AddField(
            "invoice",
            "next_version",
            models.BigIntegerField(
                help_text="The wallet's version from which the next document reads its movements.", null=True
            ),
        ),
        migrations.AlterField(
            "invoice",
            "other_movements",
            relayadmin.db.AmountField(
                db_default=0,
                default=0,
                help_text="Whatever else makes the one balance the other: gifts, refunds, expiry, and"
                " `charged_elsewhen`.",
            ),
        ),
        migrations.AddField(
            "periodclosing",
            "listed_at",
            models.DateTimeField(
                help_text="When all customers with usage were last listed; empty: single ones were closed only.",
                null=True,
            ),
        ),
        migrations.RemoveIndex("customerclosing", "closings_waiting"),
        migrations.AddIndex(
            "customerclosing",
            models.Index(condition=models.Q(status="waiting"), fields=["closing", "id"], name="closings_to_do"),
        ),
    )
