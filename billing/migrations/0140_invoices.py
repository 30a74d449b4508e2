"""What documents copy of supplier and customer, taxes, credit notes, and the closing of a month row by row."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

import billing.models.invoices
import relayadmin.db


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0136_recharge_off_after_money_went_back"),
    ]

    operations = [
        migrations.CreateModel(
            name="PeriodClosing",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("period", models.DateField(help_text="The first day of the billing month.", unique=True)),
                ("begun_at", models.DateTimeField()),
                ("begun_by", models.CharField(blank=True, help_text="Empty: the schedule.", max_length=150)),
                (
                    "ended_at",
                    models.DateTimeField(
                        help_text="When no customer was left; parked ones wait for a person.", null=True
                    ),
                ),
            ],
            options={
                "ordering": ("-period",),
            },
        ),
        migrations.AddField(
            model_name="invoice",
            name="closing_balance",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="The wallet's, when the period ended."),
        ),
        migrations.AddField(
            model_name="invoice",
            name="customer_address",
            field=models.TextField(blank=True, db_default=""),
        ),
        migrations.AddField(
            model_name="invoice",
            name="customer_country",
            field=models.CharField(blank=True, db_default="", max_length=2),
        ),
        migrations.AddField(
            model_name="invoice",
            name="customer_tax_number",
            field=models.CharField(blank=True, db_default="", max_length=30),
        ),
        migrations.AddField(
            model_name="invoice",
            name="due_on",
            field=models.DateField(help_text="Empty: nothing is due.", null=True),
        ),
        migrations.AddField(
            model_name="invoice",
            name="language",
            field=models.CharField(db_default="en", default="en", max_length=7),
        ),
        migrations.AddField(
            model_name="invoice",
            name="opening_balance",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="The wallet's, when the period began."),
        ),
        migrations.AddField(
            model_name="invoice",
            name="order_reference",
            field=models.CharField(blank=True, db_default="", max_length=100),
        ),
        migrations.AddField(
            model_name="invoice",
            name="other_movements",
            field=relayadmin.db.AmountField(
                db_default=0,
                default=0,
                help_text="Whatever else moved the wallet in the period: gifts, refunds, expiry.",
            ),
        ),
        migrations.AddField(
            model_name="invoice",
            name="paid_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="invoice",
            name="paid_by_promotional",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="The part that gifts paid for."),
        ),
        migrations.AddField(
            model_name="invoice",
            name="paper",
            field=models.CharField(db_default="a4", default="a4", max_length=9),
        ),
        migrations.AddField(
            model_name="invoice",
            name="reminded_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="invoice",
            name="reminders",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="invoice",
            name="savings",
            field=relayadmin.db.AmountField(
                db_default=0,
                default=0,
                help_text="What prompt caching saved: the same tokens at the input price, less these.",
            ),
        ),
        migrations.AddField(
            model_name="invoice",
            name="supplier_address",
            field=models.TextField(blank=True, db_default=""),
        ),
        migrations.AddField(
            model_name="invoice",
            name="supplier_email",
            field=models.EmailField(blank=True, db_default="", max_length=254),
        ),
        migrations.AddField(
            model_name="invoice",
            name="supplier_name",
            field=models.CharField(blank=True, db_default="", max_length=200),
        ),
        migrations.AddField(
            model_name="invoice",
            name="supplier_tax_number",
            field=models.CharField(blank=True, db_default="", max_length=60),
        ),
        migrations.AddField(
            model_name="invoice",
            name="terms",
            field=models.CharField(
                db_default="prepaid", default="prepaid", help_text="As the customer's were.", max_length=10
            ),
        ),
        migrations.AddField(
            model_name="invoice",
            name="timezone",
            field=models.CharField(db_default="UTC", default="UTC", max_length=64),
        ),
        migrations.AddField(
            model_name="invoice",
            name="topped_up",
            field=relayadmin.db.AmountField(db_default=0, default=0, help_text="Paid credit that came in the period."),
        ),
        migrations.AddField(
            model_name="invoice",
            name="voided_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="invoice",
            name="voided_because",
            field=models.CharField(blank=True, db_default="", max_length=500),
        ),
        migrations.AddField(
            model_name="invoice",
            name="voided_by",
            field=models.CharField(blank=True, db_default="", max_length=150),
        ),
        migrations.AddField(
            model_name="invoiceline",
            name="multiplier",
            field=relayadmin.db.AmountField(
                help_text="Of a cache meter: its price as a multiple of input's.", null=True
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
                    ("invoice", "Tax and rounding of an invoice"),
                    ("payment", "Payment of an invoice"),
                    ("credit_note", "Credit note"),
                ],
                max_length=20,
            ),
        ),
        migrations.CreateModel(
            name="BillingProfile",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "terms",
                    models.CharField(
                        choices=[
                            ("prepaid", "Prepaid: tax is paid with the top-up"),
                            ("on_account", "On account: tax is paid with the invoice"),
                        ],
                        default="prepaid",
                        max_length=10,
                    ),
                ),
                ("legal_name", models.CharField(blank=True, help_text="Empty: the customer's name.", max_length=200)),
                (
                    "address",
                    models.TextField(blank=True, help_text="Line by line, without the country.", max_length=500),
                ),
                ("country", models.CharField(blank=True, help_text="ISO 3166, such as ES or CN.", max_length=2)),
                (
                    "tax_number",
                    models.CharField(blank=True, help_text="VAT number or the like, with its country.", max_length=30),
                ),
                (
                    "tax_number_checked_at",
                    models.DateTimeField(help_text="When its form and check digits were found right.", null=True),
                ),
                (
                    "order_reference",
                    models.CharField(blank=True, help_text="The customer's own order number.", max_length=100),
                ),
                (
                    "language",
                    models.CharField(
                        choices=[("en", "English"), ("es", "Español"), ("zh-hans", "简体中文")],
                        default="en",
                        max_length=7,
                    ),
                ),
                (
                    "paper",
                    models.CharField(choices=[("a4", "A4"), ("us-letter", "Letter")], default="a4", max_length=9),
                ),
                (
                    "payment_days",
                    models.PositiveSmallIntegerField(default=14, help_text="Days from issue until an invoice is due."),
                ),
                (
                    "customer",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="billing_profile",
                        to="billing.customer",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="CreditNote",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.models.invoices.new_credit_note_id, editable=False, max_length=32, unique=True
                    ),
                ),
                ("series", models.CharField(max_length=10)),
                ("year", models.PositiveSmallIntegerField()),
                ("sequence", models.PositiveIntegerField()),
                ("number", models.CharField(max_length=40, unique=True)),
                (
                    "key",
                    models.CharField(help_text="Unique per customer: the same key takes back once.", max_length=255),
                ),
                ("reason", models.CharField(max_length=500)),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("issued_at", models.DateTimeField()),
                ("subtotal", relayadmin.db.AmountField()),
                ("tax", relayadmin.db.AmountField()),
                ("total", relayadmin.db.AmountField()),
                (
                    "transfer_id",
                    models.BigIntegerField(help_text="The transfer that moved it, if it moved anything.", null=True),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
                    ),
                ),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="credit_notes", to="billing.invoice"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="CreditNoteLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("position", models.PositiveIntegerField()),
                ("description", models.CharField(max_length=300)),
                ("quantity", models.DecimalField(decimal_places=0, max_digits=40, null=True)),
                ("unit_price", relayadmin.db.AmountField(null=True)),
                ("per", models.PositiveIntegerField(null=True)),
                ("amount", relayadmin.db.AmountField()),
                (
                    "credit_note",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="lines", to="billing.creditnote"
                    ),
                ),
                (
                    "invoice_line",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.invoiceline",
                    ),
                ),
            ],
            options={
                "ordering": ("credit_note", "position"),
            },
        ),
        migrations.CreateModel(
            name="InvoiceTax",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=40)),
                ("rate", models.DecimalField(decimal_places=5, max_digits=6)),
                ("base", relayadmin.db.AmountField()),
                ("amount", relayadmin.db.AmountField()),
                ("is_reverse_charge", models.BooleanField(default=False)),
                ("note", models.CharField(blank=True, max_length=200)),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="taxes", to="billing.invoice"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="CustomerClosing",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("issued", "Issued"),
                            ("nothing", "Nothing to invoice"),
                            ("parked", "Parked: the figures don't agree"),
                        ],
                        default="waiting",
                        max_length=8,
                    ),
                ),
                (
                    "difference",
                    models.CharField(blank=True, help_text="Why it is parked, with the figures.", max_length=500),
                ),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "customer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.customer",
                    ),
                ),
                (
                    "closing",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="customers",
                        to="billing.periodclosing",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="TaxRate",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("country", models.CharField(help_text="ISO 3166 of the customer's country.", max_length=2)),
                ("name", models.CharField(help_text="Stands on documents: IVA, VAT.", max_length=40)),
                ("rate", models.DecimalField(decimal_places=5, max_digits=6)),
                ("valid_from", models.DateField()),
                (
                    "reverse_charge",
                    models.BooleanField(
                        default=False,
                        help_text="A customer with a checked tax number pays none, and owes the tax itself.",
                    ),
                ),
                ("note", models.CharField(blank=True, help_text="Stands on documents taxed with it.", max_length=200)),
                ("created_by", models.CharField(blank=True, max_length=150)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "ordering": ("country", "-valid_from"),
                "constraints": [
                    models.UniqueConstraint(fields=("country", "valid_from"), name="one_tax_rate_per_country_and_day"),
                    models.CheckConstraint(
                        condition=models.Q(("rate__gte", 0), ("rate__lt", 1)), name="tax_rate_is_a_share"
                    ),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="creditnote",
            constraint=models.UniqueConstraint(fields=("customer", "key"), name="credit_note_once_per_key"),
        ),
        migrations.AddConstraint(
            model_name="creditnote",
            constraint=models.UniqueConstraint(
                fields=("series", "year", "sequence"), name="credit_note_numbers_are_unique"
            ),
        ),
        migrations.AddConstraint(
            model_name="creditnote",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "total",
                        django.db.models.expressions.CombinedExpression(models.F("subtotal"), "+", models.F("tax")),
                    )
                ),
                name="credit_note_total_adds_up",
            ),
        ),
        migrations.AddConstraint(
            model_name="creditnoteline",
            constraint=models.UniqueConstraint(fields=("credit_note", "position"), name="one_credit_line_per_position"),
        ),
        migrations.AddConstraint(
            model_name="invoicetax",
            constraint=models.UniqueConstraint(fields=("invoice", "name", "rate"), name="one_tax_line_per_rate"),
        ),
        migrations.AddIndex(
            model_name="customerclosing",
            index=models.Index(condition=models.Q(("status", "waiting")), fields=["closing"], name="closings_waiting"),
        ),
        migrations.AddIndex(
            model_name="customerclosing",
            index=models.Index(condition=models.Q(("status", "parked")), fields=["closing"], name="closings_parked"),
        ),
        migrations.AddConstraint(
            model_name="customerclosing",
            constraint=models.UniqueConstraint(fields=("closing", "customer"), name="one_closing_per_customer"),
        ),
    ]
