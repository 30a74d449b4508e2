"""A wrong price of the past is superseded by a row of the same moments; neither is changed or removed."""

import django.db.models.deletion
import django.db.models.manager
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0030_usage_adjustments"),
    ]

    operations = [
        migrations.RunSQL("SET lock_timeout = '5s'", migrations.RunSQL.noop),
        migrations.AlterModelOptions(
            name="price",
            options={
                "base_manager_name": "with_superseded",
                "ordering": ("model", "channel", "kind", "variant", "meter", "above_prompt_tokens"),
            },
        ),
        migrations.AlterModelManagers(
            name="price",
            managers=[
                ("objects", django.db.models.manager.Manager()),
                ("with_superseded", django.db.models.manager.Manager()),
            ],
        ),
        migrations.RemoveConstraint(
            model_name="price",
            name="one_price_per_moment",
        ),
        migrations.AddField(
            model_name="price",
            name="corrected_why",
            field=models.CharField(blank=True, db_default="", help_text="Who says so, and why.", max_length=500),
        ),
        migrations.AddField(
            model_name="price",
            name="corrects",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="corrected_by",
                to="metering.price",
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="superseded_at",
            field=models.DateTimeField(blank=True, help_text="Since when a corrected row holds instead.", null=True),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=models.UniqueConstraint(
                condition=models.Q(("superseded_at__isnull", True)),
                fields=(
                    "kind",
                    "channel",
                    "model",
                    "variant",
                    "meter",
                    "above_prompt_tokens",
                    "effective_from",
                    "daily_from",
                ),
                name="one_price_per_moment",
                nulls_distinct=False,
            ),
        ),
    ]
