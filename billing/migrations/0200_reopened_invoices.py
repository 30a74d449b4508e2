"""Receipts of invoices' payments, and what went back of such payments: due on the invoice again."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0190_jobs_board"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="receipt",
            name="invoice_number",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="Of the invoice that was paid; empty: it became credit.",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="receipt",
            name="invoice_part",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="What of it paid that invoice (USD)."),
        ),
        migrations.AlterField(
            model_name="receipt",
            name="amount",
            field=relayadmin.db.AmountField(help_text="What was credited, or paid an invoice (USD)."),
        ),
        migrations.AlterField(
            model_name="refund",
            name="origin",
            field=models.CharField(
                choices=[
                    ("operator", "The operator"),
                    ("provider", "Made at the provider"),
                    ("closing", "Closing of the account"),
                    ("returned", "Taken back by the payer's bank"),
                ],
                max_length=10,
            ),
        ),
        migrations.CreateModel(
            name="InvoiceReopening",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("transfer_id", models.BigIntegerField(help_text="The transfer that took it off the wallet.")),
                (
                    "amount",
                    relayadmin.db.AmountField(help_text="What the payment does not pay of the invoice any more (USD)."),
                ),
                (
                    "due",
                    relayadmin.db.AmountField(db_default=0, default=0, help_text="What was due again of it (USD)."),
                ),
                (
                    "returned",
                    relayadmin.db.AmountField(
                        db_default=0, default=0, help_text="What came back of the amount, and pays again (USD)."
                    ),
                ),
                ("created_at", models.DateTimeField()),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
                    ),
                ),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="reopenings", to="billing.invoice"
                    ),
                ),
                (
                    "top_up",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="reopenings", to="billing.topup"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("customer", "transfer_id"), name="invoice_reopened_once_per_transfer"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("amount__gt", 0),
                            ("due__gte", 0),
                            ("due__lte", models.F("amount")),
                            ("returned__gte", 0),
                            ("returned__lte", models.F("amount")),
                        ),
                        name="invoice_reopened_within_amount",
                    ),
                ],
            },
        ),
    ]
