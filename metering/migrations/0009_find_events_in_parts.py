from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Beside the traffic: the events may be many, and the index is empty at first."""

    atomic = False
    dependencies = (("metering", "0008_authorize_by_plan_of_the_moment"),)
    operations = (
        AddIndexConcurrently(
            "usageevent",
            models.Index(
                fields=["customer", "id"], name="usage_event_in_parts", condition=models.Q(parts__isnull=False)
            ),
        ),
    )
