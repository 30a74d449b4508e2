"""The payment provider's balance transactions, and where its books and ours differ."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0120_what_goes_back"),)

    operations = [
        migrations.CreateModel(
            name="StripeDifference",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("not_here", "At Stripe, not here"),
                            ("not_at_stripe", "Here, not at Stripe"),
                            ("doubled", "Twice at Stripe"),
                            ("other_amount", "Another amount"),
                            ("no_rate", "Settled in a currency without a rate"),
                            ("unknown", "Of an unknown kind"),
                        ],
                        max_length=14,
                    ),
                ),
                ("subject", models.CharField(help_text="Stripe's id, or our top-up's or refund's.", max_length=255)),
                ("message", models.CharField(max_length=500)),
                ("advice", models.CharField(blank=True, max_length=500)),
                ("amount", relayadmin.db.AmountField(null=True)),
                ("currency", models.CharField(blank=True, max_length=3)),
                ("first_seen", models.DateTimeField()),
                ("last_seen", models.DateTimeField()),
                ("note", models.CharField(blank=True, max_length=500)),
                ("explained_by", models.CharField(blank=True, max_length=150)),
                ("explained_at", models.DateTimeField(null=True)),
                ("resolved_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("explain_difference", "Can explain differences with the payment provider"),),
            },
        ),
        migrations.CreateModel(
            name="StripeTransaction",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("stripe_id", models.CharField(max_length=255, unique=True)),
                ("type", models.CharField(max_length=60)),
                (
                    "category",
                    models.CharField(
                        help_text="As Stripe reports it: charge, refund, dispute, fee, payout.", max_length=60
                    ),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("fee", relayadmin.db.AmountField()),
                ("net", relayadmin.db.AmountField()),
                ("currency", models.CharField(max_length=3)),
                ("exchange_rate", models.DecimalField(decimal_places=15, max_digits=30, null=True)),
                ("source", models.CharField(blank=True, max_length=255)),
                ("description", models.CharField(blank=True, max_length=500)),
                ("occurred_at", models.DateTimeField()),
                ("available_on", models.DateTimeField()),
                ("expected", relayadmin.db.AmountField(null=True)),
                (
                    "net_usd",
                    relayadmin.db.AmountField(help_text="What it moved on cash:stripe in all (USD).", null=True),
                ),
                ("booked_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-occurred_at", "-id"),
            },
        ),
        migrations.AddConstraint(
            model_name="stripedifference",
            constraint=models.UniqueConstraint(fields=("kind", "subject"), name="stripe_difference_once"),
        ),
        migrations.AddField(
            model_name="stripetransaction",
            name="dispute",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.dispute"
            ),
        ),
        migrations.AddField(
            model_name="stripetransaction",
            name="refund",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.refund"
            ),
        ),
        migrations.AddField(
            model_name="stripetransaction",
            name="top_up",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.topup"
            ),
        ),
        migrations.AddIndex(
            model_name="stripetransaction",
            index=models.Index(fields=["source"], name="stripe_transactions_by_source"),
        ),
        migrations.AddIndex(
            model_name="stripetransaction",
            index=models.Index(
                condition=models.Q(("booked_at", None)), fields=["id"], name="stripe_transactions_to_book"
            ),
        ),
        migrations.AddConstraint(
            model_name="stripetransaction",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("booked_at", None), ("net_usd", None)),
                    models.Q(("booked_at__isnull", False), ("net_usd__isnull", False)),
                    _connector="OR",
                ),
                name="stripe_transaction_booked_has_its_sum",
            ),
        ),
    ]
