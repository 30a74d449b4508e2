"""The price book's version, and the plan that everyone is on until another is chosen: list prices."""

from django.db import migrations

FIRST_ROWS = """
INSERT INTO metering_pricebookversion (id, version, changed_at) VALUES (1, 0, now());
INSERT INTO metering_plan (name, multiplier, created_at) VALUES ('list', 1, now());
"""


class Migration(migrations.Migration):
    dependencies = (("metering", "0002_hot_keys"),)
    operations = (migrations.RunSQL(FIRST_ROWS),)
