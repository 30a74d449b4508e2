from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "place_hold.sql"
# What it returns is declared another way, which no CREATE OR REPLACE may change.
DROP = "DROP FUNCTION IF EXISTS billing_place_hold(bigint, text, bytea, numeric, timestamptz, timestamptz, jsonb)"


class Migration(migrations.Migration):
    dependencies = (("billing", "0012_adjustments"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.RunSQL(DROP, migrations.RunSQL.noop),
        migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),
    )
