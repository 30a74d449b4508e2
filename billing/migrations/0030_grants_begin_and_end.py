"""Grants that begin later, end, are voided and extended: when the expiry sweep looks at them, and who changed what."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db

# What is there keeps its expiry, and is announced if there is time left for it.
BRING_UP_TO_DATE = """
UPDATE billing_grant SET is_refundable = kind = 'paid',
    expiry_asked = coalesce(to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), ''),
    look_at = CASE WHEN expires_at - interval '30 days' > now() THEN expires_at - interval '30 days'
                   WHEN expires_at - interval '7 days' > now() THEN expires_at - interval '7 days'
                   ELSE expires_at END
"""


class Migration(migrations.Migration):
    dependencies = (("billing", "0021_spend_limit_timezones"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="transfer",
            name="kind",
            field=models.CharField(
                choices=[
                    ("usage", "Usage"),
                    ("grant", "Grant"),
                    ("adjustment", "Adjustment"),
                    ("expiry", "Expiry"),
                    ("void", "Void"),
                ],
                max_length=20,
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="paid_credit_days",
            field=models.PositiveIntegerField(
                default=365,
                help_text="How many days after its purchase paid credit expires, unless a grant says otherwise; 0: never.",
                validators=[django.core.validators.MaxValueValidator(36_500)],
            ),
        ),
        migrations.AddField(
            model_name="grant",
            name="effective_at",
            field=models.DateTimeField(
                help_text="When it was to begin, if somebody said so; else it began when it was given.", null=True
            ),
        ),
        migrations.AddField(
            model_name="grant",
            name="expiry_asked",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="The expiry asked for: a moment, “never”, or none.",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="grant",
            name="is_refundable",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(model_name="grant", name="voided_at", field=models.DateTimeField(null=True)),
        migrations.AddField(
            model_name="grant",
            name="look_at",
            field=models.DateTimeField(
                help_text="When the expiry sweep has something to do about it: announce, expire, take the rest.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="grant",
            name="takings",
            field=models.PositiveIntegerField(
                db_default=0, default=0, help_text="How often expiry or voiding has taken a part of it."
            ),
        ),
        migrations.RunSQL(BRING_UP_TO_DATE, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="grant",
            constraint=models.CheckConstraint(
                condition=models.Q(("is_refundable", False), ("kind", "paid"), _connector="OR"),
                name="grant_refundable_is_paid",
            ),
        ),
        migrations.AddIndex(
            model_name="grant",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="grant_to_look_at"
            ),
        ),
        migrations.CreateModel(
            name="ScheduledGrant",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("key", models.CharField(max_length=255)),
                (
                    "kind",
                    models.CharField(
                        choices=[("paid", "Paid"), ("promotional", "Promotional"), ("goodwill", "Goodwill")],
                        max_length=12,
                    ),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("priority", models.SmallIntegerField(default=0)),
                ("effective_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(null=True)),
                ("expiry_asked", models.CharField(blank=True, max_length=40)),
                ("is_refundable", models.BooleanField(default=False)),
                ("reference", models.CharField(blank=True, max_length=255)),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
                ("posted_at", models.DateTimeField(null=True)),
                ("cancelled_at", models.DateTimeField(null=True)),
                ("cancelled_by", models.CharField(blank=True, max_length=150)),
                ("cancelled_because", models.CharField(blank=True, max_length=500)),
                (
                    "customer",
                    models.ForeignKey(
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
                    models.UniqueConstraint(fields=("customer", "key"), name="scheduled_grant_once_per_key"),
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="scheduled_grant_above_zero"),
                    models.CheckConstraint(
                        condition=models.Q(("posted_at", None), ("cancelled_at", None), _connector="OR"),
                        name="scheduled_grant_ends_one_way",
                    ),
                ],
                "indexes": [
                    models.Index(
                        condition=models.Q(("cancelled_at", None), ("posted_at", None)),
                        fields=["effective_at"],
                        name="scheduled_grant_waiting",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="GrantChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("grant_id", models.BigIntegerField()),
                ("kind", models.CharField(choices=[("extended", "Extended"), ("voided", "Voided")], max_length=10)),
                (
                    "key",
                    models.CharField(help_text="Unique per customer: the same key changes once.", max_length=255),
                ),
                ("expires_before", models.DateTimeField(null=True)),
                ("expires_after", models.DateTimeField(null=True)),
                ("reason", models.CharField(max_length=500)),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
                (
                    "customer",
                    models.ForeignKey(
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
                    models.UniqueConstraint(fields=("customer", "key"), name="grant_change_once_per_key"),
                    models.UniqueConstraint(
                        condition=models.Q(("kind", "voided")),
                        fields=("customer", "grant_id"),
                        name="grant_voided_once",
                    ),
                ],
                "indexes": [models.Index(fields=["customer", "grant_id"], name="grant_changes_of_grant")],
            },
        ),
        migrations.RunSQL(
            """
            ALTER TABLE billing_scheduledgrant DROP CONSTRAINT billing_scheduledgrant_pkey,
                ADD PRIMARY KEY (customer_id, id);
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_grantchange
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """,
            migrations.RunSQL.noop,
        ),
    )
