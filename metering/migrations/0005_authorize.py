from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "authorize.sql"


class Migration(migrations.Migration):
    dependencies = (("metering", "0004_verified_usage"), ("billing", "0005_place_hold"))
    operations = (
        migrations.RunSQL(
            SQL.read_text(),
            "DROP FUNCTION metering_authorize(bytea, bytea, text, bigint, text, bytea, numeric, timestamptz,"
            " timestamptz, jsonb)",
        ),
    )
