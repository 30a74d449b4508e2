"""Cards that customers saved, and the automatic recharge from them."""

import django.db.models.deletion
from django.db import migrations, models

import billing.models.recharge
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0122_refunds_of_closings"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="PaymentMethod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.recharge.new_payment_method_id,
                        editable=False,
                        max_length=32,
                        unique=True,
                    ),
                ),
                ("stripe_id", models.CharField(max_length=255, unique=True)),
                ("type", models.CharField(max_length=40)),
                ("brand", models.CharField(blank=True, max_length=40)),
                ("last4", models.CharField(blank=True, max_length=4)),
                ("exp_month", models.PositiveSmallIntegerField(null=True)),
                ("exp_year", models.PositiveSmallIntegerField(null=True)),
                (
                    "is_sandbox",
                    models.BooleanField(
                        default=False, help_text="Saved in the sandbox or in test mode: no real money."
                    ),
                ),
                ("is_default", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField()),
                ("removed_at", models.DateTimeField(null=True)),
                ("removed_because", models.CharField(blank=True, max_length=200)),
                (
                    "look_at",
                    models.DateTimeField(help_text="When the sweep tells the provider that it is removed.", null=True),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="Recharge",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("is_on", models.BooleanField(default=False)),
                ("threshold", relayadmin.db.AmountField(help_text="A balance below this is recharged (USD).")),
                ("amount", relayadmin.db.AmountField(help_text="What is charged and credited each time (USD).")),
                (
                    "monthly_cap",
                    relayadmin.db.AmountField(
                        help_text="At most so much in a calendar month of the operator's time zone (USD); empty: no cap.",
                        null=True,
                    ),
                ),
                ("failures", models.PositiveSmallIntegerField(db_default=0, default=0, help_text="Declines in a row.")),
                ("next_try_at", models.DateTimeField(help_text="Nothing is charged before.", null=True)),
                (
                    "return_url",
                    models.CharField(
                        blank=True,
                        help_text="Where the customer comes back to from a page of the provider's.",
                        max_length=500,
                    ),
                ),
                (
                    "judged_through",
                    models.BigIntegerField(
                        db_default=0,
                        default=0,
                        help_text="The number of the last top-up of this rule whose end was taken in.",
                    ),
                ),
                (
                    "off_because",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("customer", "Switched off by the customer"),
                            ("operator", "Switched off by the operator"),
                            ("declined", "The card was declined three times"),
                            ("removed", "The card was removed"),
                            ("expired", "The card has expired"),
                            ("limits", "The amount is no longer allowed"),
                            ("refused", "A payment didn't match"),
                        ],
                        max_length=10,
                    ),
                ),
                ("off_message", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField()),
                ("updated_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("switch_recharge", "Can switch automatic recharges off and allow them again"),),
            },
        ),
        migrations.AddField(
            model_name="paymentaccount",
            name="cards_asked_at",
            field=models.DateTimeField(help_text="When a page to save a card on was last opened.", null=True),
        ),
        migrations.AddField(
            model_name="paymentaccount",
            name="cards_look_at",
            field=models.DateTimeField(help_text="When the sweep asks the provider for saved cards.", null=True),
        ),
        migrations.AddIndex(
            model_name="paymentaccount",
            index=models.Index(
                condition=models.Q(("cards_look_at__isnull", False)),
                fields=["cards_look_at"],
                name="payment_accounts_to_look_at",
            ),
        ),
        migrations.AddField(
            model_name="paymentmethod",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="saved_method",
            field=models.ForeignKey(
                help_text="The saved card that an automatic recharge charges.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.paymentmethod",
            ),
        ),
        migrations.AddField(
            model_name="recharge",
            name="customer",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddField(
            model_name="recharge",
            name="method",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.paymentmethod"
            ),
        ),
        migrations.AddField(
            model_name="recharge",
            name="waits_for",
            field=models.ForeignKey(
                help_text="The charge that the bank wants its customer for; nothing is tried until they have paid themselves.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.topup",
            ),
        ),
        migrations.AddIndex(
            model_name="paymentmethod",
            index=models.Index(
                condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="payment_methods_to_look_at"
            ),
        ),
        migrations.AddConstraint(
            model_name="paymentmethod",
            constraint=models.UniqueConstraint(
                condition=models.Q(("is_default", True)),
                fields=("customer", "is_sandbox"),
                name="one_default_payment_method",
            ),
        ),
        migrations.AddConstraint(
            model_name="paymentmethod",
            constraint=models.CheckConstraint(
                condition=models.Q(("is_default", False), ("removed_at__isnull", True), _connector="OR"),
                name="removed_payment_method_is_no_default",
            ),
        ),
        migrations.AddIndex(
            model_name="recharge",
            index=models.Index(condition=models.Q(("is_on", True)), fields=["customer"], name="recharges_that_are_on"),
        ),
        migrations.AddConstraint(
            model_name="recharge",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("amount__gt", 0),
                    ("threshold__gte", 0),
                    models.Q(("monthly_cap__isnull", True), ("monthly_cap__gte", models.F("amount")), _connector="OR"),
                ),
                name="recharge_amounts",
            ),
        ),
        migrations.AddConstraint(
            model_name="recharge",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("is_on", False), models.Q(("method__isnull", False), ("off_because", "")), _connector="OR"
                ),
                name="recharge_on_has_its_method",
            ),
        ),
    ]
