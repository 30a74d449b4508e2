"""What a checkout was asked with, payment accounts of each mode, cash by hand, a bonus with the first top-up."""

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0100_payments"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterModelOptions(
            name="paymentaccount",
            options={"ordering": ("-id",)},
        ),
        migrations.AlterModelOptions(
            name="topup",
            options={
                "ordering": ("-id",),
                "permissions": (("record_payment", "Can record bank transfers and cash, and decide on them"),),
                "verbose_name": "top-up",
            },
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="first_bonus_days",
            field=models.PositiveIntegerField(
                db_default=90,
                default=90,
                help_text="How many days after the top-up the bonus expires; 0: never.",
                validators=[django.core.validators.MaxValueValidator(36500)],
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="first_bonus_maximum",
            field=relayadmin.db.AmountField(blank=True, help_text="At most so much (USD); empty: no limit.", null=True),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="first_bonus_percent",
            field=models.DecimalField(
                db_default=0,
                decimal_places=2,
                default=0,
                help_text="Given once, as promotional credit, with a customer's first paid top-up; 0: none.",
                max_digits=5,
            ),
        ),
        migrations.AddField(
            model_name="paymentaccount",
            name="is_sandbox",
            field=models.BooleanField(
                db_default=False, default=False, help_text="Known in the sandbox or in test mode: no real money."
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="request",
            field=models.JSONField(
                default=dict,
                help_text="What the checkout was asked with: sent again, it has to be the same under its key.",
            ),
        ),
        migrations.AlterField(
            model_name="paymentaccount",
            name="customer",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
            ),
        ),
        migrations.AddIndex(
            model_name="topup",
            index=models.Index(condition=models.Q(("status", "refused")), fields=["id"], name="top_ups_refused"),
        ),
        migrations.AddConstraint(
            model_name="operatorsettings",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("first_bonus_percent__gte", 0),
                    models.Q(("first_bonus_maximum", None), ("first_bonus_maximum__gt", 0), _connector="OR"),
                ),
                name="operator_bonus_not_negative",
            ),
        ),
        migrations.AddConstraint(
            model_name="paymentaccount",
            constraint=models.UniqueConstraint(
                fields=("customer", "is_sandbox"), name="one_payment_account_for_each_mode"
            ),
        ),
        migrations.AddConstraint(
            model_name="topup",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("origin__in", ["bank_transfer", "cash"]), models.Q(("status", "canceled"), _negated=True)
                ),
                fields=("customer", "reference"),
                name="top_up_once_per_reference",
            ),
        ),
    ]
