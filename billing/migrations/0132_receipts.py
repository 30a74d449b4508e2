"""Receipts for paid top-ups: written once."""

import django.db.models.deletion
from django.db import migrations, models

import billing.models.receipts
import relayadmin.db

WRITTEN_ONCE = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_receipt
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0131_settings_of_payments"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="topup",
            index=models.Index(
                condition=models.Q(("paid_at__isnull", False)), fields=["paid_at"], name="top_ups_by_payment"
            ),
        ),
        migrations.CreateModel(
            name="Receipt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.receipts.new_receipt_id, editable=False, max_length=32, unique=True
                    ),
                ),
                ("series", models.CharField(max_length=10)),
                ("year", models.PositiveSmallIntegerField(help_text="Of its making, in the operator's time zone.")),
                ("sequence", models.PositiveIntegerField()),
                ("number", models.CharField(max_length=40, unique=True)),
                ("issued_at", models.DateTimeField()),
                ("paid_at", models.DateTimeField()),
                (
                    "timezone",
                    models.CharField(help_text="The operator's, which its dates are written in.", max_length=64),
                ),
                ("supplier_name", models.CharField(max_length=200)),
                ("supplier_address", models.TextField(blank=True)),
                ("supplier_tax_number", models.CharField(blank=True, max_length=60)),
                ("supplier_email", models.EmailField(blank=True, max_length=254)),
                ("customer_name", models.CharField(max_length=200)),
                ("customer_email", models.EmailField(blank=True, max_length=254)),
                (
                    "origin",
                    models.CharField(
                        choices=[
                            ("checkout", "Checkout"),
                            ("recharge", "Automatic recharge"),
                            ("bank_transfer", "Bank transfer"),
                            ("cash", "Cash"),
                        ],
                        max_length=14,
                    ),
                ),
                ("method", models.CharField(blank=True, max_length=40)),
                ("method_detail", models.CharField(blank=True, max_length=60)),
                ("reference", models.CharField(blank=True, max_length=255)),
                ("currency", models.CharField(max_length=3)),
                ("pay_amount", relayadmin.db.AmountField(help_text="What was paid, in `currency`.")),
                ("amount", relayadmin.db.AmountField(help_text="What was credited (USD).")),
                ("rate", models.DecimalField(decimal_places=9, max_digits=20)),
                ("is_sandbox", models.BooleanField(default=False)),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
                    ),
                ),
                (
                    "top_up",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="receipt", to="billing.topup"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(fields=("series", "year", "sequence"), name="receipt_numbers_are_unique")
                ],
            },
        ),
        migrations.RunSQL(WRITTEN_ONCE, migrations.RunSQL.noop),
    ]
