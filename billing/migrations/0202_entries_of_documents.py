"""Entries of documents, refunds and disputes are found without reading all usage."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0201_notes_of_corrections"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="entry",
            index=models.Index(
                condition=models.Q(("account__in", ["tax", "refunds_pending", "disputes"])),
                fields=["customer", "account"],
                name="entry_of_documents",
            ),
        ),
    ]
