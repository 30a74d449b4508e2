"""Columns of the hot tables that no condition asks for are left out of the statistics: JSON takes longest to sort."""

from django.db import migrations

_COLUMNS = {
    "metering_eventkey": ("digest",),
    "metering_usageevent": ("quantities", "usage", "metadata", "charge", "cost"),
}


def _statistics(target: int) -> str:
    return "".join(
        f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target};"
        for table, columns in _COLUMNS.items()
        for column in columns
    )


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0200_rerating_notes"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.RunSQL(_statistics(0), _statistics(-1)),
    ]
