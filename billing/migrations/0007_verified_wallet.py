"""Up to where each customer's ledger was found right, for incremental checks."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0006_first_rows"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="VerifiedWallet",
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
                ("version", models.BigIntegerField(help_text="The wallet's version.")),
                ("transfer_number", models.BigIntegerField(help_text="Its last transfer; 0 if it had none.")),
                ("used", relayadmin.db.AmountField(help_text="How much of all its grants was used.")),
                ("verified_at", models.DateTimeField()),
            ],
        ),
    )
