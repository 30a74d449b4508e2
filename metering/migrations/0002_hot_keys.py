"""Primary keys that start with customer_id, room for in-row updates, and events that can't be changed."""

from django.db import migrations


def _key(table: str, columns: str = "customer_id, id") -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY ({columns})"


HOUR = "customer_id, hour, period, api_key_id, model_id, channel_id, price_set_id"


class Migration(migrations.Migration):
    dependencies = (("metering", "0001_tables"), ("billing", "0004_ledger_rules"))
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'"),
        migrations.RunSQL(_key("metering_eventkey", "customer_id, event_id")),
        migrations.RunSQL(_key("metering_usageevent")),
        migrations.RunSQL(_key("metering_usagehour", HOUR)),
        migrations.RunSQL(
            """
            ALTER TABLE metering_usagehour SET (fillfactor = 70);
            CREATE INDEX usageevent_newest ON metering_usageevent USING brin (id);
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON metering_eventkey
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON metering_usageevent
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """,
        ),
    )
