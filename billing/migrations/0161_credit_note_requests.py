"""Credit notes are written once; large ones wait for a second person."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import relayadmin.db

WRITTEN_ONCE = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_creditnote
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_creditnoteline
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
TAKEN_OUT = "DROP TRIGGER append_only ON billing_creditnote; DROP TRIGGER append_only ON billing_creditnoteline"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0160_tax"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="CreditNoteRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Waits for a second person"),
                            ("issued", "Issued"),
                            ("rejected", "Rejected"),
                        ],
                        default="pending",
                        max_length=8,
                    ),
                ),
                (
                    "parts",
                    models.JSONField(
                        help_text="By line of the invoice, the amount; null: all that is left.", null=True
                    ),
                ),
                ("total", relayadmin.db.AmountField(help_text="With tax, as it was when it was asked for.")),
                ("reason", models.CharField(max_length=500)),
                (
                    "key",
                    models.CharField(help_text="Unique per customer: the same key takes back once.", max_length=255),
                ),
                ("asked_by", models.CharField(blank=True, max_length=150)),
                ("asked_at", models.DateTimeField()),
                ("decided_by", models.CharField(blank=True, max_length=150)),
                ("decided_at", models.DateTimeField(null=True)),
                (
                    "asked_by_user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "credit_note",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="request",
                        to="billing.creditnote",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.customer"
                    ),
                ),
                (
                    "decided_by_user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.invoice"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "permissions": (("credit_invoice", "Can credit and void invoices, and decide on it"),),
                "constraints": [
                    models.UniqueConstraint(fields=("customer", "key"), name="credit_note_request_once_per_key"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("credit_note__isnull", False), ("status", "issued")),
                            models.Q(models.Q(("status", "issued"), _negated=True), ("credit_note", None)),
                            _connector="OR",
                        ),
                        name="credit_note_request_issued_has_its_note",
                    ),
                ],
            },
        ),
        migrations.RunSQL(WRITTEN_ONCE, TAKEN_OUT),
    ]
