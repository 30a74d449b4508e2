from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Beside the traffic: there is a row for each hour, key and model of each customer."""

    atomic = False
    dependencies = (("metering", "0071_authorize_with_limits"),)
    operations = (
        AddIndexConcurrently("usagehour", models.Index(fields=["customer", "period"], name="usage_hours_by_period")),
    )
