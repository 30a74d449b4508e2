"""Who the operator is, for receipts; and whether wallets may be recharged."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0130_saved_cards_and_recharge"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="operatorsettings",
            name="address",
            field=models.TextField(blank=True, help_text="Stands on receipts, line by line.", max_length=500),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="email",
            field=models.EmailField(
                blank=True, help_text="Where customers ask about a payment; stands on receipts.", max_length=254
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="offers_recharge",
            field=models.BooleanField(
                db_default=True, default=True, help_text="Customers may have their wallet recharged from a saved card."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="tax_number",
            field=models.CharField(blank=True, help_text="Stands on receipts, as you write it.", max_length=60),
        ),
        migrations.AlterField(
            model_name="operatorsettings",
            name="name",
            field=models.CharField(default="relayadmin", help_text="Stands on invoices and receipts.", max_length=200),
        ),
    ]
