"""Versions of the price book with who made them, and imports that wait for an operator to approve them."""

from decimal import Decimal

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0020_what_waits"),
    ]

    operations = [
        migrations.CreateModel(
            name="PriceBookSettings",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "second_look_percent",
                    models.DecimalField(
                        db_default=Decimal(25),
                        decimal_places=2,
                        default=Decimal(25),
                        help_text="A price that changes by more than so many per cent, up or down, is confirmed by itself.",
                        max_digits=7,
                        validators=[django.core.validators.MinValueValidator(0)],
                        verbose_name="second look from (%)",
                    ),
                ),
            ],
            options={
                "verbose_name": "price book settings",
                "verbose_name_plural": "price book settings",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="one_row_of_price_book_settings"),
                    models.CheckConstraint(
                        condition=models.Q(("second_look_percent__gte", 0)), name="second_look_percent_not_negative"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="PriceImport",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("source", models.CharField(max_length=60)),
                ("created_at", models.DateTimeField()),
                ("created_by", models.CharField(max_length=150)),
                (
                    "book_version",
                    models.BigIntegerField(help_text="The version of the price book it was compared with."),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Waits for approval"),
                            ("approved", "Approved"),
                            ("rejected", "Rejected"),
                            ("replaced", "Replaced by a later import"),
                        ],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("decided_at", models.DateTimeField(null=True)),
                ("decided_by", models.CharField(blank=True, max_length=150)),
                ("book_digest", models.CharField(max_length=64)),
                ("lines_digest", models.CharField(max_length=64)),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("status", "pending")), fields=("source",), name="one_pending_price_import"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="PriceBookChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version", models.BigIntegerField(unique=True)),
                ("changed_at", models.DateTimeField()),
                ("who", models.CharField(max_length=150)),
                (
                    "source",
                    models.CharField(help_text="Where the prices come from, or what page was saved.", max_length=60),
                ),
                ("summary", models.CharField(max_length=500)),
                ("created", models.PositiveIntegerField(default=0, verbose_name="rows added")),
                ("ended", models.PositiveIntegerField(default=0, verbose_name="rows ended")),
                ("withdrawn", models.PositiveIntegerField(default=0, verbose_name="announced rows withdrawn")),
                (
                    "price_import",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="metering.priceimport",
                    ),
                ),
            ],
            options={
                "ordering": ("-version",),
            },
        ),
        migrations.CreateModel(
            name="PriceImportLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("cost", "Cost on the channel"), ("charge", "List price")], max_length=6),
                ),
                (
                    "variant",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "Standard"),
                            ("batch", "Batch"),
                            ("flex", "Flex"),
                            ("priority", "Priority"),
                            ("fast", "Fast"),
                        ],
                        max_length=10,
                    ),
                ),
                (
                    "meter",
                    models.CharField(
                        choices=[
                            ("input", "Input tokens"),
                            ("cache_read", "Cache reads"),
                            ("cache_write_5m", "Cache writes, 5 minutes"),
                            ("cache_write_30m", "Cache writes, 30 minutes"),
                            ("cache_write_1h", "Cache writes, 1 hour"),
                            ("cache_write_12h", "Cache writes, 12 hours"),
                            ("audio_input", "Audio input tokens"),
                            ("audio_cache_read", "Audio cache reads"),
                            ("image_input", "Image input tokens"),
                            ("image_cache_read", "Image cache reads"),
                            ("video_input", "Video input tokens"),
                            ("output", "Output tokens"),
                            ("audio_output", "Audio output tokens"),
                            ("image_output", "Image output tokens"),
                            ("video_output", "Video output tokens"),
                            ("web_search", "Web searches"),
                            ("file_search", "File searches"),
                            ("request", "Requests"),
                        ],
                        max_length=40,
                    ),
                ),
                ("above_prompt_tokens", models.PositiveIntegerField()),
                ("per", models.PositiveIntegerField()),
                ("daily_from", models.TimeField(null=True)),
                ("daily_until", models.TimeField(null=True)),
                (
                    "old_price_id",
                    models.BigIntegerField(help_text="The price row that holds until then; empty: none.", null=True),
                ),
                ("old_unit_price", models.DecimalField(decimal_places=9, max_digits=20, null=True)),
                (
                    "unit_price",
                    models.DecimalField(
                        decimal_places=9,
                        help_text="USD per million or thousand; empty: the price ends.",
                        max_digits=20,
                        null=True,
                    ),
                ),
                ("percent", models.DecimalField(decimal_places=1, max_digits=30, null=True)),
                ("effective_from", models.DateTimeField(help_text="Empty: from the approval on.", null=True)),
                ("effective_until", models.DateTimeField(null=True)),
                ("derived", models.CharField(blank=True, max_length=60)),
                ("ends", models.JSONField(default=list, help_text="Price rows that end where it begins.")),
                (
                    "second_look",
                    models.CharField(blank=True, help_text="Why it is confirmed by itself.", max_length=200),
                ),
                (
                    "decision",
                    models.CharField(
                        blank=True, choices=[("confirmed", "Confirmed"), ("left_out", "Left out")], max_length=9
                    ),
                ),
                ("decided_at", models.DateTimeField(null=True)),
                ("decided_by", models.CharField(blank=True, max_length=150)),
                (
                    "channel",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="metering.channel"
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="metering.model"
                    ),
                ),
                (
                    "price_import",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="lines", to="metering.priceimport"
                    ),
                ),
            ],
            options={
                "ordering": ("price_import", "id"),
            },
        ),
        migrations.RunSQL(
            "INSERT INTO metering_pricebooksettings (id, second_look_percent) VALUES (1, 25)", migrations.RunSQL.noop
        ),
    ]
