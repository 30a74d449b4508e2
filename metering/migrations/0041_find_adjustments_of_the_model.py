from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Beside the traffic: the adjustments may be many, and the index is empty at first."""

    atomic = False
    dependencies = (("metering", "0040_adjustments_of_the_model"),)
    operations = (
        AddIndexConcurrently(
            "usageadjustment",
            models.Index(
                fields=["customer", "event_number"],
                name="adjustment_to_other_model",
                condition=models.Q(is_other_model=True),
            ),
        ),
    )
