"""Up to where each customer's usage was found right, for incremental checks."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0006_first_rows"), ("metering", "0003_first_rows"))
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="VerifiedUsage",
            fields=[
                (
                    "customer",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="billing.customer",
                    ),
                ),
                ("event_number", models.BigIntegerField(help_text="Its last event; 0 if it had none.")),
                ("transfer_number", models.BigIntegerField(help_text="Its last transfer; 0 if it had none.")),
                ("charge", relayadmin.db.AmountField(help_text="The charge of all its hourly usage.")),
                ("verified_at", models.DateTimeField()),
            ],
        ),
    )
