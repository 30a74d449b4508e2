"""Every amount is checked at every write, and every hot table's statistics are taken again as it grows: for less.

The check is the same in other words: an amount that is no finite number has no scale. Statistics are left out of columns
that no condition asks for, and which take longest to sort.
"""

from django.db import migrations

_OLD = "scale(VALUE) <= 15 AND VALUE > '-Infinity' AND VALUE < 'Infinity'"
_NEW = "VALUE IS NULL OR coalesce(scale(VALUE), 99) <= 15"
_COLUMNS = {
    "billing_entry": ("amount", "balance_after"),
    "billing_grantuse": ("amount",),
}


def _check(condition: str) -> str:
    # What is there fulfils either, and is not read again.
    return (
        "ALTER DOMAIN amount DROP CONSTRAINT at_most_15_decimals;"
        f" ALTER DOMAIN amount ADD CONSTRAINT at_most_15_decimals CHECK ({condition}) NOT VALID;"
    )


def _statistics(target: int) -> str:
    return "".join(
        f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target};"
        for table, columns in _COLUMNS.items()
        for column in columns
    )


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0210_notes_by_one_person"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.RunSQL(_check(_NEW), _check(_OLD)),
        migrations.RunSQL(_statistics(0), _statistics(-1)),
    ]
