"""Re-ratings that end in credit notes."""

import django.db.models.deletion
from django.db import migrations, models

WRITTEN_ONCE = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON metering_reratingnote
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
TAKEN_OUT = "DROP TRIGGER append_only ON metering_reratingnote"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0201_notes_of_corrections"),
        ("metering", "0190_find_usage_by_period"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="rerating",
            name="by_credit_note",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="What gets cheaper of issued invoices ends in credit notes; else it stands on the next invoice.",
            ),
        ),
        migrations.CreateModel(
            name="ReratingNote",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "last_adjustment",
                    models.BigIntegerField(help_text="Adjustments up to this one were looked at for it."),
                ),
                (
                    "credit_note",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.creditnote"
                    ),
                ),
                (
                    "rerating",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="notes", to="metering.rerating"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.AddIndex(
            model_name="usageadjustment",
            index=models.Index(
                condition=models.Q(("rerating_id__isnull", False)),
                fields=["rerating_id", "customer"],
                name="adjustments_of_rerating",
            ),
        ),
        migrations.RunSQL(WRITTEN_ONCE, TAKEN_OUT),
    ]
