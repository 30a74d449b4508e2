"""There are several kinds of notices. Only what a help text says changes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("billing", "0041_kinds_by_hand"),)
    operations = (
        migrations.AlterField(
            model_name="notice",
            name="kind",
            field=models.CharField(help_text="What it says, such as credit_expires.", max_length=60),
        ),
    )
