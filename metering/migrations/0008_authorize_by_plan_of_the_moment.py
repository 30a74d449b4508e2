from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "authorize.sql"


class Migration(migrations.Migration):
    dependencies = (("metering", "0007_price_rules"),)
    operations = (migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),)
