"""Transfers that put usage right, and which use of which grant each gives back: append-only, keyed by the customer."""

import django.db.models.deletion
from django.db import migrations, models

import relayadmin.db


class Migration(migrations.Migration):
    dependencies = (("billing", "0008_alarms"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="transfer",
            name="kind",
            field=models.CharField(
                choices=[("usage", "Usage"), ("grant", "Grant"), ("adjustment", "Adjustment")], max_length=20
            ),
        ),
        migrations.AlterField(
            model_name="transfer",
            name="period",
            field=models.DateField(help_text="The billing period of usage and adjustments.", null=True),
        ),
        migrations.CreateModel(
            name="GrantReturn",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("used_by_id", models.BigIntegerField(help_text="The transfer that had used the grant.")),
                ("grant_id", models.BigIntegerField()),
                ("transfer_id", models.BigIntegerField(help_text="The adjustment that gave it back.")),
                ("amount", relayadmin.db.AmountField()),
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
                "ordering": ("-id",),
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="grant_return_amount_above_zero")
                ],
            },
        ),
        migrations.RunSQL(
            """
            ALTER TABLE billing_grantreturn DROP CONSTRAINT billing_grantreturn_pkey,
                ADD PRIMARY KEY (customer_id, used_by_id, grant_id, transfer_id);
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_grantreturn
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
            """,
            migrations.RunSQL.noop,
        ),
    )
