"""The house customer, its wallet, and the operator's settings."""

from django.db import migrations

FIRST_ROWS = """
WITH house AS (
    INSERT INTO billing_customer (public_id, name, email, status, is_house, created_at)
    VALUES ('cus_house', 'House', '', 'active', true, now()) RETURNING id
)
INSERT INTO billing_wallet (customer_id) SELECT id FROM house;
INSERT INTO billing_operatorsettings (id, name, timezone, closing_grace_hours) VALUES (1, 'relayadmin', 'UTC', 6);
"""


class Migration(migrations.Migration):
    dependencies = (("billing", "0005_place_hold"),)
    operations = (migrations.RunSQL(FIRST_ROWS),)
