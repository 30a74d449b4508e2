from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "authorize.sql"
# What it takes and returns is declared another way, which no CREATE OR REPLACE may change.
DROP = (
    "DROP FUNCTION IF EXISTS metering_authorize(bytea, bytea, text, bigint, text, bytea, numeric, timestamptz,"
    " timestamptz, jsonb)"
)


class Migration(migrations.Migration):
    dependencies = (("metering", "0060_decisions_on_parked_events"), ("billing", "0020_spend_limits"))
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.RunSQL(DROP, migrations.RunSQL.noop),
        migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),
    )
