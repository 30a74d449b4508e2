"""Refunds know the transfer that took them and may be of a grant by hand; disputes count their movements."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("billing", "0111_first_pay_currency"),)

    operations = [
        migrations.AlterModelOptions(
            name="webhookevent",
            options={
                "ordering": ("-id",),
                "permissions": (
                    ("see_webhook_payload", "Can see what webhooks carry: names and mail addresses of payers"),
                ),
            },
        ),
        migrations.AddField(
            model_name="dispute",
            name="movements",
            field=models.PositiveIntegerField(
                db_default=0, default=0, help_text="How many of its balance transactions have been applied."
            ),
        ),
        migrations.AddField(
            model_name="refund",
            name="ended_by",
            field=models.CharField(blank=True, help_text="Who paid it out or gave it back by hand.", max_length=150),
        ),
        migrations.AddField(
            model_name="refund",
            name="grant_id",
            field=models.BigIntegerField(help_text="The number of the grant, where there is no top-up.", null=True),
        ),
        migrations.AddField(
            model_name="refund",
            name="reference",
            field=models.CharField(blank=True, help_text="Of what was paid out by hand.", max_length=255),
        ),
        migrations.AddField(
            model_name="refund",
            name="transfer_id",
            field=models.BigIntegerField(default=0, help_text="The transfer that took it off the wallet."),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="webhookevent",
            name="account",
            field=models.CharField(blank=True, help_text="Set when it is not our own account's.", max_length=255),
        ),
        migrations.AddField(
            model_name="webhookevent",
            name="object_type",
            field=models.CharField(blank=True, max_length=60),
        ),
        migrations.AlterField(
            model_name="refund",
            name="top_up",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="refunds", to="billing.topup"
            ),
        ),
        migrations.AddIndex(
            model_name="refund",
            index=models.Index(fields=["customer", "transfer_id"], name="refunds_by_transfer"),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("grant_id", None), ("top_up__isnull", False)),
                    models.Q(("grant_id__isnull", False), ("origin", "closing"), ("top_up", None)),
                    _connector="OR",
                ),
                name="refund_of_a_top_up_or_a_grant",
            ),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("ended_at", None), ("status", "pending")),
                    models.Q(models.Q(("status", "pending"), _negated=True), ("ended_at__isnull", False)),
                    _connector="OR",
                ),
                name="refund_ended_has_its_moment",
            ),
        ),
    ]
