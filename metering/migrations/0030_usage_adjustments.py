"""Adjustments of usage events, append-only and keyed by the customer first, and the jobs that rate events again."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0012_adjustments"),
        ("metering", "0021_price_imports"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="verifiedusage",
            name="adjustment_number",
            field=models.BigIntegerField(db_default=0, default=0, help_text="Its last adjustment; 0 if none."),
        ),
        migrations.CreateModel(
            name="Rerating",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("start", models.DateTimeField(help_text="Of when the events' calls ended; half open.")),
                ("end", models.DateTimeField()),
                (
                    "is_reparse",
                    models.BooleanField(
                        help_text="Read from the providers' own usage again, with the parser of its day."
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("actor", models.CharField(max_length=150)),
                ("created_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "reached_customer",
                    models.BigIntegerField(
                        default=0, help_text="Customers up to this number are done, should it have been interrupted."
                    ),
                ),
                ("events", models.BigIntegerField(default=0, help_text="How many were put right.")),
                ("old_charge", relayadmin.db.AmountField(default=0)),
                ("new_charge", relayadmin.db.AmountField(default=0)),
                ("old_cost", relayadmin.db.AmountField(default=0)),
                ("new_cost", relayadmin.db.AmountField(default=0)),
                (
                    "customer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.customer",
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="metering.model",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("end__gt", models.F("start"))), name="rerating_ends_after_it_begins"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="UsageAdjustment",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_number", models.BigIntegerField(help_text="The number of the event that is put right.")),
                ("step", models.PositiveIntegerField(help_text="1 for the event's first adjustment, and so on.")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("rerating", "Rated again"),
                            ("reparse", "Read and rated again"),
                            ("correction", "Taken back for a correction"),
                        ],
                        max_length=10,
                    ),
                ),
                ("rerating_id", models.BigIntegerField(null=True)),
                ("replaced_by", models.BigIntegerField(help_text="The number of the correcting event.", null=True)),
                ("period", models.DateField(help_text="The billing period it is booked in.")),
                ("transfer_id", models.BigIntegerField(help_text="None where nothing moved.", null=True)),
                ("old_model_id", models.BigIntegerField()),
                ("old_channel_id", models.BigIntegerField()),
                ("old_price_set_id", models.BigIntegerField()),
                ("old_quantities", models.JSONField()),
                ("old_parts", models.JSONField(null=True)),
                ("old_charge", relayadmin.db.AmountField()),
                ("old_cost", relayadmin.db.AmountField()),
                ("new_model_id", models.BigIntegerField(null=True)),
                ("new_channel_id", models.BigIntegerField(null=True)),
                ("new_price_set_id", models.BigIntegerField(null=True)),
                ("new_quantities", models.JSONField()),
                ("new_parts", models.JSONField(null=True)),
                ("new_charge", relayadmin.db.AmountField()),
                ("new_cost", relayadmin.db.AmountField()),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField()),
                (
                    "customer",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.customer",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("customer", "event_number", "step"), name="adjustment_one_per_step"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("replaced_by__isnull", False)),
                        fields=("customer", "replaced_by"),
                        name="adjustment_one_per_correction",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("kind", "correction")),
                        fields=("customer", "event_number"),
                        name="adjustment_taken_back_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("kind", "correction"),
                                ("new_channel_id__isnull", True),
                                ("new_charge", 0),
                                ("new_cost", 0),
                                ("new_model_id__isnull", True),
                                ("new_parts__isnull", True),
                                ("new_price_set_id__isnull", True),
                                ("new_quantities", {}),
                                ("replaced_by__isnull", False),
                                ("rerating_id__isnull", True),
                            ),
                            models.Q(
                                ("kind__in", ["rerating", "reparse"]),
                                ("new_channel_id__isnull", False),
                                ("new_model_id__isnull", False),
                                ("new_price_set_id__isnull", False),
                                ("replaced_by__isnull", True),
                                ("rerating_id__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="adjustment_of_one_kind",
                    ),
                ],
            },
        ),
        migrations.RunSQL(
            """
            ALTER TABLE metering_usageadjustment DROP CONSTRAINT metering_usageadjustment_pkey,
                ADD PRIMARY KEY (customer_id, id);
            CREATE INDEX usageadjustment_newest ON metering_usageadjustment USING brin (id);
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON metering_usageadjustment
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """,
            migrations.RunSQL.noop,
        ),
    ]
