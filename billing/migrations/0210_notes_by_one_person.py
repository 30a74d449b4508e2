"""Which credit notes one person issued alone: those of an invoice count together."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0202_entries_of_documents"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="creditnoterequest",
            name="needs_second_person",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="It was too large for one person, with what was issued so before.",
            ),
        ),
        migrations.RunSQL(
            "UPDATE billing_creditnoterequest SET needs_second_person = true WHERE status <> 'issued'"
            " OR (asked_by, asked_by_user_id) IS DISTINCT FROM (decided_by, decided_by_user_id)",
            migrations.RunSQL.noop,
        ),
        migrations.AlterField(
            model_name="grantreturn",
            name="transfer_id",
            field=models.BigIntegerField(help_text="The adjustment or credit note that gave it back."),
        ),
    ]
