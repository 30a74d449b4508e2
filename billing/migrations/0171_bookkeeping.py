"""The monthly summary finds what was booked in a month, and its entries, by ranges of blocks."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0170_documents"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterModelOptions(
            name="transfer",
            options={
                "ordering": ("-id",),
                "permissions": (("see_books", "Can see the monthly summary for bookkeeping"),),
            },
        ),
        migrations.RunSQL(
            "CREATE INDEX transfer_by_time ON billing_transfer USING brin (created_at) WITH (autosummarize = on);"
            " CREATE INDEX entry_newest ON billing_entry USING brin (id) WITH (autosummarize = on);",
            "DROP INDEX transfer_by_time; DROP INDEX entry_newest;",
        ),
    ]
