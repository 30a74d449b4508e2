"""Codes that customers turn into credit, once each; and how often a customer has tried one in vain."""

import django.db.models.deletion
from django.db import migrations, models

import billing.models.redemption
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0031_notices"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="RedemptionCode",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.redemption.new_redemption_code_id,
                        editable=False,
                        max_length=32,
                        unique=True,
                    ),
                ),
                ("digest", models.BinaryField(max_length=32, unique=True)),
                ("prefix", models.CharField(editable=False, max_length=5)),
                ("last4", models.CharField(editable=False, max_length=4)),
                (
                    "campaign",
                    models.CharField(help_text="What the codes are for; stands on the statement.", max_length=100),
                ),
                (
                    "kind",
                    models.CharField(choices=[("promotional", "Promotional"), ("goodwill", "Goodwill")], max_length=12),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("expires_at", models.DateTimeField(help_text="When the code itself ends.", null=True)),
                ("credit_expires_at", models.DateTimeField(help_text="When its credit ends.", null=True)),
                (
                    "credit_days",
                    models.PositiveIntegerField(help_text="How many days after redemption its credit ends.", null=True),
                ),
                (
                    "made_with",
                    models.CharField(help_text="The form it was made with, which makes its codes once.", max_length=64),
                ),
                ("position", models.PositiveIntegerField()),
                ("made_by", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
                ("redeemed_at", models.DateTimeField(null=True)),
                (
                    "grant_id",
                    models.BigIntegerField(help_text="The number of the grant that it became.", null=True),
                ),
                ("voided_at", models.DateTimeField(null=True)),
                ("voided_by", models.CharField(blank=True, max_length=150)),
                ("voided_because", models.CharField(blank=True, max_length=500)),
                (
                    "customer",
                    models.ForeignKey(
                        help_text="Who alone may redeem it; empty: whoever has it.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.customer",
                    ),
                ),
                (
                    "redeemed_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.customer",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(fields=("made_with", "position"), name="redemption_code_made_once"),
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="redemption_code_above_zero"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("grant_id__isnull", True),
                                ("redeemed_at__isnull", True),
                                ("redeemed_by__isnull", True),
                            ),
                            models.Q(
                                ("grant_id__isnull", False),
                                ("redeemed_at__isnull", False),
                                ("redeemed_by__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="redemption_code_redeemed_by_somebody",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("redeemed_at", None), ("voided_at", None), _connector="OR"),
                        name="redemption_code_ends_one_way",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("credit_expires_at", None), ("credit_days", None), _connector="OR"),
                        name="redemption_code_one_credit_expiry",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RedemptionGuesses",
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
                ("since", models.DateTimeField()),
                ("failures", models.PositiveIntegerField()),
            ],
            options={"verbose_name_plural": "redemption guesses"},
        ),
    )
