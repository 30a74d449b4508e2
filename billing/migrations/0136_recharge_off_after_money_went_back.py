"""One more reason why a recharge is off: a refund or a dispute took the balance below its threshold."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0135_suspension_on_dispute_is_off"),
    ]

    operations = [
        migrations.AlterField(
            model_name="recharge",
            name="off_because",
            field=models.CharField(
                blank=True,
                choices=[
                    ("customer", "Switched off by the customer"),
                    ("operator", "Switched off by the operator"),
                    ("declined", "The card was declined three times"),
                    ("removed", "The card was removed"),
                    ("expired", "The card has expired"),
                    ("limits", "The amount is no longer allowed"),
                    ("refused", "A payment didn't match"),
                    ("went_back", "A payment was refunded or disputed"),
                ],
                max_length=10,
            ),
        ),
    ]
