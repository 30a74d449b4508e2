"""What was done with accounts and why, adjustments by hand, and the settings for both."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import billing.models.accounts
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0032_redemption_codes"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="AccountChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("credit_limit", "Credit limit"),
                            ("suspended", "Suspended"),
                            ("resumed", "Resumed"),
                            ("closed", "Closed"),
                            ("reopened", "Reopened"),
                        ],
                        max_length=12,
                    ),
                ),
                (
                    "cause",
                    models.CharField(
                        blank=True,
                        choices=[("operator", "The operator"), ("debt", "Debt"), ("dispute", "A dispute")],
                        help_text="Of a suspension or its end.",
                        max_length=8,
                    ),
                ),
                ("before", models.CharField(max_length=60)),
                ("after", models.CharField(max_length=60)),
                ("reason", models.CharField(help_text="For the operator; customers don't see it.", max_length=500)),
                ("actor", models.CharField(help_text="Who did it.", max_length=150)),
                ("details", models.JSONField(blank=True, default=dict)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("set_credit_limit", "Can set customers' credit limits"),
                    ("suspend_customer", "Can suspend and resume customers"),
                    ("close_customer", "Can close and reopen customers' accounts"),
                ),
            },
        ),
        migrations.CreateModel(
            name="WalletAdjustment",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.accounts.new_adjustment_id, editable=False, max_length=32, unique=True
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("goodwill", "Goodwill credit"),
                            ("promotional", "Promotional credit"),
                            ("paid", "Paid credit"),
                            ("money_back", "Money back"),
                            ("debit", "Debit"),
                            ("write_off", "Write-off"),
                        ],
                        max_length=12,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Waits for a second person"),
                            ("posted", "Posted"),
                            ("rejected", "Rejected"),
                            ("withdrawn", "Withdrawn"),
                        ],
                        default="pending",
                        max_length=10,
                    ),
                ),
                ("amount", relayadmin.db.AmountField(help_text="What was asked for, in USD.")),
                (
                    "posted_amount",
                    relayadmin.db.AmountField(
                        help_text="What was posted: a write-off takes no more than the debt there is.", null=True
                    ),
                ),
                ("unpaid", relayadmin.db.AmountField(default=0, help_text="The part of a debit that became debt.")),
                (
                    "account",
                    models.CharField(
                        blank=True,
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
                        help_text="The other side.",
                        max_length=32,
                    ),
                ),
                ("may_make_debt", models.BooleanField(default=False)),
                ("reason", models.CharField(max_length=500)),
                ("document", models.CharField(blank=True, max_length=255)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("key", models.CharField(max_length=255)),
                ("needs_second_person", models.BooleanField()),
                ("asked_by", models.CharField(max_length=150)),
                ("asked_at", models.DateTimeField()),
                ("decided_by", models.CharField(blank=True, max_length=150)),
                ("decided_at", models.DateTimeField(null=True)),
                ("note", models.CharField(blank=True, help_text="Why it was rejected.", max_length=500)),
                ("transfer_id", models.BigIntegerField(null=True)),
                (
                    "wallet_version",
                    models.BigIntegerField(help_text="The wallet's version after its transfer.", null=True),
                ),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("adjust_wallet", "Can credit and debit wallets by hand"),
                    ("write_off_debt", "Can write debt off"),
                ),
            },
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="second_person_above",
            field=relayadmin.db.AmountField(
                blank=True,
                help_text="Credits, debits and write-offs by hand above this (USD) wait for a second person; empty: never.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="suspend_debt_above",
            field=relayadmin.db.AmountField(
                blank=True,
                help_text="Customers who owe more than this (USD) beyond their credit limit are suspended until they have paid; empty: never.",
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="operatorsettings",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("second_person_above", None), ("second_person_above__gte", 0), _connector="OR"),
                    models.Q(("suspend_debt_above", None), ("suspend_debt_above__gte", 0), _connector="OR"),
                ),
                name="operator_thresholds_not_negative",
            ),
        ),
        migrations.AddField(
            model_name="accountchange",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="walletadjustment",
            name="asked_by_user",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="walletadjustment",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="walletadjustment",
            name="decided_by_user",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddIndex(
            model_name="accountchange",
            index=models.Index(fields=["customer", "cause", "-id"], name="account_changes_by_cause"),
        ),
        migrations.AddIndex(
            model_name="walletadjustment",
            index=models.Index(
                condition=models.Q(("status", "pending")), fields=["id"], name="wallet_adjustments_pending"
            ),
        ),
        migrations.AddIndex(
            model_name="walletadjustment",
            index=models.Index(
                condition=models.Q(("unpaid__gt", 0)),
                fields=["customer", "wallet_version"],
                name="wallet_adjustments_unpaid",
            ),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.UniqueConstraint(fields=("customer", "key"), name="wallet_adjustment_once_per_key"),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount__gt", 0)), name="wallet_adjustment_above_zero"
            ),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(("unpaid__gte", 0), ("unpaid__lte", models.F("amount"))),
                name="wallet_adjustment_unpaid_within_amount",
            ),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("decided_at", None), ("status", "pending")),
                    models.Q(models.Q(("status", "pending"), _negated=True), ("decided_at__isnull", False)),
                    _connector="OR",
                ),
                name="wallet_adjustment_decided_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("posted_amount__gt", 0),
                        ("status", "posted"),
                        ("transfer_id__isnull", False),
                        ("wallet_version__isnull", False),
                    ),
                    models.Q(
                        models.Q(("status", "posted"), _negated=True),
                        ("posted_amount", None),
                        ("transfer_id", None),
                        ("unpaid", 0),
                        ("wallet_version", None),
                    ),
                    _connector="OR",
                ),
                name="wallet_adjustment_posted_has_transfer",
            ),
        ),
        migrations.AddConstraint(
            model_name="walletadjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("needs_second_person", True), ("status", "posted"), _negated=True),
                    ("asked_by_user", None),
                    ("decided_by_user", None),
                    models.Q(("asked_by_user", models.F("decided_by_user")), _negated=True),
                    _connector="OR",
                ),
                name="wallet_adjustment_by_two_people",
            ),
        ),
        migrations.RunSQL(
            """
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_accountchange
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """,
            migrations.RunSQL.noop,
        ),
    ]
