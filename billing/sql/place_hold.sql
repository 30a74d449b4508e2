-- Reserves money for one request, or says why not: one round trip, one customer.
--
-- The wallet's row is the mutex. It is locked by a statement of its own; only the statements after it, each with a
-- fresh snapshot, look at holds and judge the floor. A floor inside the locking statement would be judged on the
-- snapshot from before the wait, and oversell.
--
-- outcome: placed | replayed | conflict | insufficient | unknown_customer
CREATE OR REPLACE FUNCTION billing_place_hold(
    p_customer_id bigint, p_request_id text, p_digest bytea, p_amount numeric, p_at timestamptz,
    p_expires_at timestamptz, p_details jsonb
) RETURNS TABLE (
    outcome text, hold_id bigint, hold_amount numeric, hold_status text, hold_expires_at timestamptz,
    hold_details jsonb, available numeric
) LANGUAGE plpgsql AS $$
DECLARE
    wallet billing_wallet;
    hold billing_hold;
BEGIN
    SELECT * INTO wallet FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown_customer', NULL::bigint, NULL::numeric, NULL, NULL::timestamptz, NULL::jsonb,
                            NULL::numeric;
        RETURN;
    END IF;

    SELECT * INTO hold FROM billing_hold h WHERE h.customer_id = p_customer_id AND h.request_id = p_request_id;
    IF FOUND THEN
        RETURN QUERY SELECT
            CASE WHEN hold.digest = p_digest THEN 'replayed' ELSE 'conflict' END,
            hold.id, hold.amount::numeric,
            CASE WHEN hold.status = 'open' AND hold.expires_at <= p_at THEN 'expired' ELSE hold.status END::text,
            hold.expires_at, hold.details, NULL::numeric;
        RETURN;
    END IF;

    IF wallet.balance - wallet.held + wallet.credit_limit < p_amount THEN
        RETURN QUERY SELECT 'insufficient', NULL::bigint, p_amount, NULL, NULL::timestamptz, NULL::jsonb,
                            (wallet.balance - wallet.held + wallet.credit_limit)::numeric;
        RETURN;
    END IF;

    INSERT INTO billing_hold
        (customer_id, request_id, digest, amount, remaining, settled, status, details, created_at, expires_at)
    VALUES
        (p_customer_id, p_request_id, p_digest, p_amount, p_amount, 0, 'open', p_details, p_at, p_expires_at)
    RETURNING * INTO hold;
    UPDATE billing_wallet w SET held = w.held + p_amount WHERE w.customer_id = p_customer_id;
    RETURN QUERY SELECT 'placed', hold.id, hold.amount::numeric, hold.status::text, hold.expires_at, hold.details,
                        NULL::numeric;
END;
$$;
