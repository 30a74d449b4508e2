"""Closing a month reads its hours alone, not all that the customer ever used."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("metering", "0071_authorize_with_limits"),)

    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddIndex("usagehour", models.Index(fields=["customer", "period"], name="usage_hour_by_period")),
    )
