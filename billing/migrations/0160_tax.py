"""Tax on top-ups and on what goes back of them, rates that are only added, and top-ups that pay an invoice."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import relayadmin.db

APPEND_ONLY = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_taxrate
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0150_what_a_document_adds_up"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterModelOptions(
            name="billingprofile",
            options={
                "ordering": ("-id",),
                "permissions": (("set_terms", "Can put customers on account, and back to prepaid"),),
            },
        ),
        migrations.RemoveConstraint(
            model_name="topup",
            name="top_up_paid_has_its_grant",
        ),
        migrations.AddField(
            model_name="dispute",
            name="returned_tax",
            field=relayadmin.db.AmountField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="dispute",
            name="taken_tax",
            field=relayadmin.db.AmountField(
                db_default=0, default=0, help_text="The tax that went with what was taken (USD)."
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="country",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="ISO 3166, such as ES: customers there are never taxed by reverse charge.",
                max_length=2,
            ),
        ),
        migrations.AddField(
            model_name="operatorsettings",
            name="suspend_overdue_days",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Customers with an invoice that is overdue for so many days are suspended until it is paid; empty: never.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="receipt",
            name="customer_address",
            field=models.TextField(blank=True, db_default=""),
        ),
        migrations.AddField(
            model_name="receipt",
            name="customer_country",
            field=models.CharField(blank=True, db_default="", max_length=2),
        ),
        migrations.AddField(
            model_name="receipt",
            name="customer_tax_number",
            field=models.CharField(blank=True, db_default="", max_length=30),
        ),
        migrations.AddField(
            model_name="receipt",
            name="tax",
            field=relayadmin.db.AmountField(
                db_default=0, default=0, help_text="The tax that was paid beside it (USD)."
            ),
        ),
        migrations.AddField(
            model_name="receipt",
            name="tax_name",
            field=models.CharField(blank=True, db_default="", help_text="Empty: not taxed.", max_length=40),
        ),
        migrations.AddField(
            model_name="receipt",
            name="tax_note",
            field=models.CharField(blank=True, db_default="", max_length=200),
        ),
        migrations.AddField(
            model_name="receipt",
            name="tax_rate",
            field=models.DecimalField(db_default=0, decimal_places=5, default=0, max_digits=6),
        ),
        migrations.AddField(
            model_name="refund",
            name="tax",
            field=relayadmin.db.AmountField(
                db_default=0, default=0, help_text="What goes back of the tax, beside the amount (USD)."
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="invoice",
            field=models.ForeignKey(
                help_text="The invoice that it pays; empty: it becomes credit.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="payments",
                to="billing.invoice",
            ),
        ),
        migrations.AddField(
            model_name="topup",
            name="tax",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="The tax in the amount (USD)."),
        ),
        migrations.AddField(
            model_name="topup",
            name="tax_name",
            field=models.CharField(blank=True, db_default="", help_text="Empty: not taxed.", max_length=40),
        ),
        migrations.AddField(
            model_name="topup",
            name="tax_note",
            field=models.CharField(blank=True, db_default="", max_length=200),
        ),
        migrations.AddField(
            model_name="topup",
            name="tax_rate",
            field=models.DecimalField(db_default=0, decimal_places=5, default=0, max_digits=6),
        ),
        migrations.AlterField(
            model_name="accountchange",
            name="cause",
            field=models.CharField(
                blank=True,
                choices=[
                    ("operator", "The operator"),
                    ("debt", "Debt"),
                    ("dispute", "A dispute"),
                    ("overdue", "Overdue invoices"),
                ],
                help_text="Of a suspension or its end.",
                max_length=8,
            ),
        ),
        migrations.AlterField(
            model_name="accountchange",
            name="kind",
            field=models.CharField(
                choices=[
                    ("credit_limit", "Credit limit"),
                    ("suspended", "Suspended"),
                    ("resumed", "Resumed"),
                    ("closed", "Closed"),
                    ("reopened", "Reopened"),
                    ("terms", "Terms of payment"),
                ],
                max_length=12,
            ),
        ),
        migrations.AddConstraint(
            model_name="topup",
            constraint=models.CheckConstraint(
                condition=models.Q(("tax__gte", 0), ("tax__lt", models.F("amount"))), name="top_up_tax_within_amount"
            ),
        ),
        migrations.AddConstraint(
            model_name="topup",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("grant_id__isnull", False), ("paid_at__isnull", False), ("status", "paid")),
                    models.Q(("invoice__isnull", False), ("paid_at__isnull", False), ("status", "paid")),
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
        migrations.RunSQL(APPEND_ONLY, "DROP TRIGGER append_only ON billing_taxrate"),
    ]
