"""Top-ups, refunds, disputes, webhooks, and the currencies that customers pay in."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import billing.models.operation
import billing.models.payments
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0050_kinds_of_notices"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Dispute",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("stripe_id", models.CharField(max_length=255, unique=True)),
                (
                    "status",
                    models.CharField(help_text="As the provider says: needs_response, won, lost.", max_length=40),
                ),
                ("reason", models.CharField(blank=True, max_length=100)),
                ("currency", models.CharField(max_length=3)),
                ("pay_amount", relayadmin.db.AmountField()),
                ("taken", relayadmin.db.AmountField(db_default=0, default=0)),
                (
                    "unpaid",
                    relayadmin.db.AmountField(
                        db_default=0, default=0, help_text="The part that no credit was left for: debt (USD)."
                    ),
                ),
                ("returned", relayadmin.db.AmountField(db_default=0, default=0)),
                ("evidence_due_by", models.DateTimeField(null=True)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When the sweep asks the provider what became of it.", null=True),
                ),
                ("created_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="ExchangeRate",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "per_usd",
                    models.DecimalField(decimal_places=9, help_text="Units of the currency for 1 USD.", max_digits=18),
                ),
                (
                    "margin",
                    models.DecimalField(
                        decimal_places=4,
                        default=0,
                        help_text="Added to the rate: 0.02 makes it 2 % dearer.",
                        max_digits=6,
                    ),
                ),
                ("effective_from", models.DateTimeField()),
                ("created_by", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("-effective_from", "-id"),
            },
        ),
        migrations.CreateModel(
            name="PayCurrency",
            fields=[
                (
                    "code",
                    models.CharField(
                        help_text="ISO 4217, such as USD or CNY.", max_length=3, primary_key=True, serialize=False
                    ),
                ),
                ("is_offered", models.BooleanField(default=True)),
                (
                    "methods",
                    models.JSONField(default=list, help_text="As Stripe calls them: card, alipay, wechat_pay."),
                ),
            ],
            options={
                "verbose_name_plural": "pay currencies",
                "ordering": ("code",),
            },
        ),
        migrations.CreateModel(
            name="PaymentAccount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("stripe_id", models.CharField(max_length=255, unique=True)),
                ("created_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Refund",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.payments.new_refund_id, editable=False, max_length=32, unique=True
                    ),
                ),
                (
                    "origin",
                    models.CharField(
                        choices=[
                            ("operator", "The operator"),
                            ("provider", "Made at the provider"),
                            ("closing", "Closing of the account"),
                        ],
                        max_length=10,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("pending", "Pending"), ("succeeded", "Succeeded"), ("failed", "Failed: given back")],
                        default="pending",
                        max_length=10,
                    ),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("currency", models.CharField(max_length=3)),
                ("pay_amount", relayadmin.db.AmountField()),
                (
                    "unpaid",
                    relayadmin.db.AmountField(
                        db_default=0, default=0, help_text="The part that no credit was left for: debt (USD)."
                    ),
                ),
                ("key", models.CharField(help_text="Unique per customer: the same key refunds once.", max_length=255)),
                ("stripe_id", models.CharField(max_length=255, null=True, unique=True)),
                ("reason", models.CharField(max_length=500)),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("failure", models.CharField(blank=True, max_length=500)),
                ("attempts", models.PositiveIntegerField(db_default=0, default=0)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When the sweep sends it, or asks what became of it.", null=True),
                ),
                ("created_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("refund_top_up", "Can refund top-ups"),),
            },
        ),
        migrations.CreateModel(
            name="TopUp",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.payments.new_top_up_id, editable=False, max_length=32, unique=True
                    ),
                ),
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
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "Waits for a second person"),
                            ("pending", "Pending"),
                            ("processing", "Being processed"),
                            ("paid", "Paid"),
                            ("failed", "Failed"),
                            ("expired", "Expired"),
                            ("canceled", "Canceled"),
                            ("refused", "Refused: it doesn't match"),
                        ],
                        default="pending",
                        max_length=12,
                    ),
                ),
                ("amount", relayadmin.db.AmountField()),
                ("currency", models.CharField(max_length=3)),
                ("pay_amount", relayadmin.db.AmountField()),
                ("rate", models.DecimalField(decimal_places=9, default=1, max_digits=20)),
                ("margin", models.DecimalField(decimal_places=4, default=0, max_digits=6)),
                (
                    "is_sandbox",
                    models.BooleanField(default=False, help_text="Paid in the payment sandbox: no real money."),
                ),
                ("session_id", models.CharField(max_length=255, null=True, unique=True)),
                ("payment_intent_id", models.CharField(max_length=255, null=True, unique=True)),
                ("charge_id", models.CharField(max_length=255, null=True, unique=True)),
                ("checkout_url", models.TextField(blank=True)),
                (
                    "method",
                    models.CharField(
                        blank=True, help_text="What it was paid with: card, alipay, wechat_pay.", max_length=40
                    ),
                ),
                ("method_detail", models.CharField(blank=True, help_text="Such as: visa •••• 4242.", max_length=60)),
                (
                    "fee",
                    relayadmin.db.AmountField(
                        help_text="What the provider kept, in the currency it settles in.", null=True
                    ),
                ),
                (
                    "settled_amount",
                    relayadmin.db.AmountField(
                        help_text="What the provider settled before its fee, in that currency.", null=True
                    ),
                ),
                ("settled_currency", models.CharField(blank=True, max_length=3)),
                (
                    "reference",
                    models.CharField(
                        blank=True, help_text="The bank transfer's or the receipt's number.", max_length=255
                    ),
                ),
                ("received_on", models.DateField(help_text="When a bank transfer or cash came in.", null=True)),
                ("grant_id", models.BigIntegerField(help_text="The number of the grant that it became.", null=True)),
                ("error_code", models.CharField(blank=True, max_length=100)),
                ("error_message", models.CharField(blank=True, max_length=500)),
                ("asked_by", models.CharField(blank=True, max_length=150)),
                ("decided_by", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(null=True)),
                ("paid_at", models.DateTimeField(null=True)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When the sweep asks the provider what became of it.", null=True),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="WebhookEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event_id", models.CharField(max_length=255, unique=True)),
                ("type", models.CharField(max_length=100)),
                ("object_id", models.CharField(blank=True, max_length=255)),
                ("livemode", models.BooleanField(default=False)),
                ("payload", models.TextField(help_text="The body, as it was signed.")),
                (
                    "status",
                    models.CharField(
                        choices=[("new", "New"), ("done", "Done"), ("ignored", "Nothing for us"), ("failed", "Failed")],
                        default="new",
                        max_length=8,
                    ),
                ),
                ("attempts", models.PositiveIntegerField(db_default=0, default=0)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When a worker takes it up; empty when it is done with.", null=True),
                ),
                ("outcome", models.CharField(blank=True, max_length=500)),
                ("error", models.CharField(blank=True, max_length=500)),
                ("occurred_at", models.DateTimeField(null=True)),
                ("received_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="suspends_on_dispute",
            field=models.BooleanField(
                default=True, help_text="A customer whose payment is disputed is suspended until the dispute has ended."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="top_up_maximum",
            field=relayadmin.db.AmountField(default=10000, help_text="The largest top-up (USD)."),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="top_up_minimum",
            field=relayadmin.db.AmountField(default=5, help_text="The smallest top-up (USD)."),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="top_up_presets",
            field=models.JSONField(
                default=billing.models.operation.default_presets,
                help_text='Amounts that are offered to choose from (USD): ["10.00", "50.00"].',
            ),
        ),
        migrations.AlterField(
            model_name="entry",
            name="account",
            field=models.CharField(
                choices=[
                    ("wallet", "Wallet"),
                    ("revenue", "Revenue"),
                    ("promotional_usage", "Promotional usage (contra revenue)"),
                    ("cash:manual", "Cash, recorded by hand"),
                    ("cash:stripe", "Cash at Stripe"),
                    ("cash:bank", "Cash paid out to the bank"),
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
                max_length=32,
            ),
        ),
        migrations.AlterField(
            model_name="transfer",
            name="kind",
            field=models.CharField(
                choices=[
                    ("usage", "Usage"),
                    ("grant", "Grant"),
                    ("adjustment", "Adjustment"),
                    ("manual", "Manual"),
                    ("write_off", "Write-off"),
                    ("closing", "Closing"),
                    ("expiry", "Expiry"),
                    ("void", "Void"),
                    ("refund", "Refund"),
                    ("dispute", "Dispute"),
                    ("settlement", "Settlement with the payment provider"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="walletadjustment",
            name="account",
            field=models.CharField(
                blank=True,
                choices=[
                    ("wallet", "Wallet"),
                    ("revenue", "Revenue"),
                    ("promotional_usage", "Promotional usage (contra revenue)"),
                    ("cash:manual", "Cash, recorded by hand"),
                    ("cash:stripe", "Cash at Stripe"),
                    ("cash:bank", "Cash paid out to the bank"),
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
        migrations.AddConstraint(
            model_name="operatorsettings",
            constraint=models.CheckConstraint(
                condition=models.Q(("top_up_minimum__gt", 0), ("top_up_maximum__gte", models.F("top_up_minimum"))),
                name="operator_top_ups_from_to",
            ),
        ),
        migrations.AddField(
            model_name="dispute",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="exchangerate",
            name="currency",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="rates", to="billing.paycurrency"
            ),
        ),
        migrations.AddField(
            model_name="paymentaccount",
            name="customer",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="refund",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="asked_by_user",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="decided_by_user",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="refund",
            name="top_up",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="refunds", to="billing.topup"
            ),
        ),
        migrations.AddField(
            model_name="dispute",
            name="top_up",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="disputes", to="billing.topup"
            ),
        ),
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(fields=["object_id"], name="webhook_events_by_object"),
        ),
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="webhook_events_waiting"
            ),
        ),
        migrations.AddConstraint(
            model_name="exchangerate",
            constraint=models.UniqueConstraint(
                fields=("currency", "effective_from"), name="exchange_rate_once_per_moment"
            ),
        ),
        migrations.AddConstraint(
            model_name="exchangerate",
            constraint=models.CheckConstraint(
                condition=models.Q(("per_usd__gt", 0), ("margin__gte", 0), ("margin__lt", 1)),
                name="exchange_rate_above_zero",
            ),
        ),
        migrations.AddIndex(
            model_name="topup",
            index=models.Index(fields=["customer", "-id"], name="top_ups_of_customer"),
        ),
        migrations.AddIndex(
            model_name="topup",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="top_ups_to_look_at"
            ),
        ),
        migrations.AddConstraint(
            model_name="topup",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount__gt", 0), ("pay_amount__gt", 0), ("rate__gt", 0)), name="top_up_above_zero"
            ),
        ),
        migrations.AddConstraint(
            model_name="topup",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("grant_id__isnull", False), ("paid_at__isnull", False), ("status", "paid")),
                    models.Q(
                        models.Q(("status", "paid"), _negated=True),
                        ("grant_id__isnull", True),
                        ("paid_at__isnull", True),
                    ),
                    _connector="OR",
                ),
                name="top_up_paid_has_its_grant",
            ),
        ),
        migrations.AddIndex(
            model_name="refund",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="refunds_to_look_at"
            ),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.UniqueConstraint(fields=("customer", "key"), name="refund_once_per_key"),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("amount__gt", 0), ("pay_amount__gt", 0), ("unpaid__gte", 0), ("unpaid__lte", models.F("amount"))
                ),
                name="refund_above_zero",
            ),
        ),
        migrations.AddIndex(
            model_name="dispute",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="disputes_to_look_at"
            ),
        ),
        migrations.AddConstraint(
            model_name="dispute",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("taken__gte", 0),
                    ("returned__gte", 0),
                    ("returned__lte", models.F("taken")),
                    ("unpaid__gte", 0),
                    ("unpaid__lte", models.F("taken")),
                ),
                name="dispute_returns_at_most_what_it_took",
            ),
        ),
    ]
