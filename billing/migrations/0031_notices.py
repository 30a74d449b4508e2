"""What customers are to be told, once each."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("billing", "0030_grants_begin_and_end"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Notice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(help_text="What it says: credit_expires.", max_length=60)),
                ("key", models.CharField(help_text="What it is about, so that it is said once.", max_length=255)),
                ("data", models.JSONField(help_text="What the message needs to know.")),
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
                    models.UniqueConstraint(fields=("customer", "kind", "key"), name="notice_once_per_key")
                ],
            },
        ),
    )
