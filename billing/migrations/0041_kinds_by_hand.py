"""Transfers by hand, write-offs and closings, and the account of what is charged by hand: names only."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("billing", "0040_accounts"),)
    operations = (
        migrations.AlterField(
            model_name="entry",
            name="account",
            field=models.CharField(
                choices=[
                    ("wallet", "Wallet"),
                    ("revenue", "Revenue"),
                    ("promotional_usage", "Promotional usage (contra revenue)"),
                    ("cash:manual", "Cash, recorded by hand"),
                    ("cash:stripe", "Cash at Stripe"),
                    ("processing_fees", "Processing fees"),
                    ("fx_difference", "Exchange-rate difference"),
                    ("promotional_grants", "Promotional grants"),
                    ("goodwill", "Goodwill"),
                    ("breakage", "Breakage (expired credit)"),
                    ("refunds_pending", "Refunds pending"),
                    ("disputes", "Disputes"),
                    ("tax", "Tax"),
                    ("write_offs", "Write-offs"),
                    ("rounding", "Rounding"),
                    ("other_revenue", "Other revenue (charged by hand)"),
                ],
                max_length=32,
            ),
        ),
        migrations.AlterField(
            model_name="transfer",
            name="kind",
            field=models.CharField(
                choices=[
                    ("usage", "Usage"),
                    ("grant", "Grant"),
                    ("adjustment", "Adjustment"),
                    ("manual", "Manual"),
                    ("write_off", "Write-off"),
                    ("closing", "Closing"),
                    ("expiry", "Expiry"),
                    ("void", "Void"),
                ],
                max_length=20,
            ),
        ),
    )
