"""Spend limits and their counters, leases, and holds that say whose spend they are."""

from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db

SQL = Path(__file__).resolve().parent.parent / "sql" / "place_hold.sql"
DROP = "DROP FUNCTION IF EXISTS billing_place_hold(bigint, text, bytea, numeric, timestamptz, timestamptz, jsonb)"
SPANS = [("day", "Day"), ("month", "Month")]


class Migration(migrations.Migration):
    dependencies = (("billing", "0013_place_holds_without_asking"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="wallet",
            name="counts_spend",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="There are spend limits, so what is spent and held is counted.",
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="scope",
            field=models.CharField(
                blank=True, db_default="", help_text="Whose spend it counts as, beside the customer's.", max_length=64
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="admits_until",
            field=models.DateTimeField(
                help_text="Of a lease: until when the node may start requests on it.", null=True
            ),
        ),
        migrations.CreateModel(
            name="SpendLimit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("scope", models.CharField(default="customer", max_length=64)),
                ("span", models.CharField(choices=SPANS, max_length=5)),
                (
                    "owner",
                    models.CharField(
                        choices=[
                            ("operator", "The operator"),
                            ("customer", "The customer"),
                            ("tier", "The usage tier"),
                        ],
                        max_length=8,
                    ),
                ),
                (
                    "is_hard",
                    models.BooleanField(default=True, help_text="Refuse what goes beyond it; if not, only tell of it."),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("counts_from", models.DateField(help_text="The first day or month that is counted whole.")),
                ("actor", models.CharField(blank=True, help_text="Who set it, if a person did.", max_length=150)),
                ("created_at", models.DateTimeField()),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="spend_limits",
                        to="billing.customer",
                    ),
                ),
            ],
            options={
                "ordering": ("customer_id", "scope", "span"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("customer", "scope", "span", "owner", "is_hard"), name="one_spend_limit_of_a_kind"
                    ),
                    models.CheckConstraint(condition=models.Q(("amount__gte", 0)), name="spend_limit_not_negative"),
                ],
            },
        ),
        migrations.CreateModel(
            name="SpendCounter",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("scope", models.CharField(max_length=64)),
                ("span", models.CharField(choices=SPANS, max_length=5)),
                ("starts_on", models.DateField()),
                ("spent", relayadmin.db.AmountField(db_default=0, default=0)),
                ("held", relayadmin.db.AmountField(db_default=0, default=0)),
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
                "ordering": ("-starts_on", "scope", "span"),
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("held__gte", 0)), name="spend_counter_held_not_negative")
                ],
            },
        ),
        migrations.RunSQL(
            """
            ALTER TABLE billing_spendcounter DROP CONSTRAINT billing_spendcounter_pkey,
                ADD PRIMARY KEY (customer_id, scope, span, starts_on);
            ALTER TABLE billing_spendcounter SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
            """,
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(DROP, migrations.RunSQL.noop),
        migrations.RunSQL(SQL.read_text(), migrations.RunSQL.noop),
    )
