"""Usage tiers, which customers have one, and what a key may use in place of it."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db

AT_LEAST_ONE = [django.core.validators.MinValueValidator(1)]
OF_KEY = "In place of the customer's tier, and counted for this key alone. Empty: what the tier says."


class Migration(migrations.Migration):
    dependencies = (
        ("billing", "0013_place_holds_without_asking"),
        ("metering", "0065_authorize_leases"),
    )
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="UsageTier",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=60, unique=True)),
                (
                    "top_ups_from",
                    relayadmin.db.AmountField(
                        help_text="USD. Whose paid credit adds up to this is promoted to the tier.",
                        unique=True,
                        verbose_name="top-ups from",
                    ),
                ),
                (
                    "requests_per_minute",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Of all keys together. Empty: no limit.",
                        null=True,
                        validators=AT_LEAST_ONE,
                    ),
                ),
                (
                    "tokens_per_minute",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="Input and most output. Empty: no limit.",
                        null=True,
                        validators=AT_LEAST_ONE,
                    ),
                ),
                (
                    "spend_per_month",
                    relayadmin.db.AmountField(blank=True, help_text="USD. Empty: no limit.", null=True),
                ),
                (
                    "is_on",
                    models.BooleanField(
                        default=False,
                        help_text="Off: nobody is promoted to it, and who has it is not limited.",
                        verbose_name="switched on",
                    ),
                ),
            ],
            options={
                "ordering": ("top_ups_from",),
                "constraints": (
                    models.CheckConstraint(condition=models.Q(top_ups_from__gte=0), name="tier_top_ups_not_negative"),
                    models.CheckConstraint(
                        condition=models.Q(requests_per_minute__gte=1), name="tier_requests_above_zero"
                    ),
                    models.CheckConstraint(condition=models.Q(tokens_per_minute__gte=1), name="tier_tokens_above_zero"),
                    models.CheckConstraint(condition=models.Q(spend_per_month__gt=0), name="tier_spend_above_zero"),
                ),
            },
        ),
        migrations.CreateModel(
            name="CustomerTier",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "is_pinned",
                    models.BooleanField(
                        default=False,
                        help_text="Stays as it is, whatever is topped up. Without a tier: never limited.",
                        verbose_name="pinned",
                    ),
                ),
                ("since", models.DateTimeField(help_text="When this tier began.")),
                (
                    "customer",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="usage_tier", to="billing.customer"
                    ),
                ),
                (
                    "tier",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: none.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="customers",
                        to="metering.usagetier",
                    ),
                ),
            ],
            options={"ordering": ("-since",)},
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_minute",
            field=models.PositiveIntegerField(blank=True, help_text=OF_KEY, null=True, validators=AT_LEAST_ONE),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_minute",
            field=models.PositiveBigIntegerField(blank=True, help_text=OF_KEY, null=True, validators=AT_LEAST_ONE),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(requests_per_minute__gte=1), name="key_requests_above_zero"
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(tokens_per_minute__gte=1), name="key_tokens_above_zero"
            ),
        ),
    )
