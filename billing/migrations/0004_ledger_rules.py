"""The ledger's rules live in the database: append-only, at least two entries a transfer, adding up to zero."""

from django.db import migrations

APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END;
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_grantuse
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON billing_wallet
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

ZERO_SUM = """
CREATE FUNCTION billing_entries_add_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT customer_id, transfer_id, sum(amount) AS total, count(*) AS entries INTO wrong FROM new_entries
        GROUP BY customer_id, transfer_id HAVING sum(amount) <> 0 OR count(*) < 2 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % of customer % has % entries that add up to %, not two or more that add up to 0',
            wrong.transfer_id, wrong.customer_id, wrong.entries, wrong.total USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER entries_add_up AFTER INSERT ON billing_entry REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION billing_entries_add_up();
"""


class Migration(migrations.Migration):
    dependencies = (("billing", "0003_hot_keys"),)
    operations = (
        migrations.RunSQL("SET lock_timeout = '5s'"),
        migrations.RunSQL(APPEND_ONLY),
        migrations.RunSQL(ZERO_SUM),
    )
