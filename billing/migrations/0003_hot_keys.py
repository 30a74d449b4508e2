"""Primary keys that start with customer_id; room for in-row updates; block-range indexes for the newest rows."""

from django.db import migrations


def _key(table: str, columns: str = "customer_id, id") -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY ({columns})"


class Migration(migrations.Migration):
    dependencies = (("billing", "0002_tables"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'"),
        migrations.RunSQL(_key("billing_transfer")),
        migrations.RunSQL(_key("billing_entry")),
        migrations.RunSQL(_key("billing_grant")),
        migrations.RunSQL(_key("billing_grantuse", "customer_id, transfer_id, grant_id")),
        migrations.RunSQL(_key("billing_hold")),
        migrations.RunSQL(
            """
            ALTER TABLE billing_wallet SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
            ALTER TABLE billing_grant SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
            ALTER TABLE billing_hold SET (fillfactor = 80);
            CREATE INDEX transfer_newest ON billing_transfer USING brin (id);
            CREATE INDEX hold_newest ON billing_hold USING brin (id);
            """,
        ),
    )
