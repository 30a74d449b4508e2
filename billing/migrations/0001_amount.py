from django.db import migrations


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", "SET lock_timeout = '5s'"),
        migrations.RunSQL(
            """
            CREATE DOMAIN amount AS numeric CONSTRAINT at_most_15_decimals
                CHECK (scale(VALUE) <= 15 AND VALUE > '-Infinity' AND VALUE < 'Infinity')
            """,
            "DROP DOMAIN amount",
        ),
    )
