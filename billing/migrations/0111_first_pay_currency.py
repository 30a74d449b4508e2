"""USD is paid in from the beginning; other currencies once the operator has added them, with a rate."""

from django.db import migrations

FIRST_CURRENCY = """
INSERT INTO billing_paycurrency (code, is_offered, methods) VALUES ('USD', true, '["card", "alipay", "wechat_pay"]')
"""


class Migration(migrations.Migration):
    dependencies = (("billing", "0110_top_up_requests"),)
    operations = (migrations.RunSQL(FIRST_CURRENCY),)
