"""What closed accounts are still to get back, as refunds that an operator pays out."""

from django.db import migrations

REFUNDS = """
INSERT INTO billing_refund (public_id, customer_id, grant_id, origin, status, amount, currency, pay_amount, unpaid, key,
                            transfer_id, reason, actor, failure, reference, ended_by, attempts, created_at)
SELECT 'ref_' || substr(md5(t.customer_id || ':' || t.id || ':' || g.id), 1, 16), t.customer_id, g.id, 'closing',
       'pending', u.amount, 'USD', greatest(round(u.amount, 2), 0.01), 0, t.key || ':' || g.id, t.id, t.reason, t.actor,
       '', '', '', 0, t.created_at
FROM billing_transfer t
JOIN billing_grantuse u ON u.customer_id = t.customer_id AND u.transfer_id = t.id
JOIN billing_grant g ON g.customer_id = u.customer_id AND g.id = u.grant_id
WHERE t.kind = 'closing' AND g.is_refundable AND EXISTS (
    SELECT FROM billing_entry e WHERE e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
        AND e.account = 'refunds_pending'
)
"""


class Migration(migrations.Migration):
    dependencies = (("billing", "0121_reconciliation"),)

    operations = (migrations.RunSQL(REFUNDS, migrations.RunSQL.noop),)
