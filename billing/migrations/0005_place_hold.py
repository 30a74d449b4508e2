from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "place_hold.sql"


class Migration(migrations.Migration):
    dependencies = (("billing", "0004_ledger_rules"),)
    operations = (
        migrations.RunSQL(
            SQL.read_text(),
            "DROP FUNCTION billing_place_hold(bigint, text, bytea, numeric, timestamptz, timestamptz, jsonb)",
        ),
    )
