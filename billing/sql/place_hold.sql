-- Reserves money for one request, or says why not: one round trip, one customer.
--
-- The wallet's row is the mutex. It is locked by a statement of its own; only the statements after it, each with a
-- fresh snapshot, look at holds and judge the floor. A floor inside the locking statement would be judged on the
-- snapshot from before the wait, and oversell.
--
-- The unique key that refuses a second hold for a request is also the look whether there is one: what fits is placed
-- without asking first. Only where nothing was placed is the earlier hold read.
--
-- outcome: placed | replayed | conflict | insufficient | unknown_customer. A placed hold is what was asked for, so only
-- its number is told; the other columns are those of the earlier hold, and of what is available.
CREATE OR REPLACE FUNCTION billing_place_hold(
    p_customer_id bigint, p_request_id text, p_digest bytea, p_amount numeric, p_at timestamptz,
    p_expires_at timestamptz, p_details jsonb,
    OUT outcome text, OUT hold_id bigint, OUT hold_amount numeric, OUT hold_status text,
    OUT hold_expires_at timestamptz, OUT hold_details jsonb, OUT available numeric
) LANGUAGE plpgsql AS $$
DECLARE
    wallet billing_wallet;
    hold billing_hold;
BEGIN
    SELECT * INTO wallet FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_customer';
        RETURN;
    END IF;

    IF wallet.balance - wallet.held + wallet.credit_limit >= p_amount THEN
        INSERT INTO billing_hold
            (customer_id, request_id, digest, amount, remaining, settled, status, details, created_at, expires_at)
        VALUES
            (p_customer_id, p_request_id, p_digest, p_amount, p_amount, 0, 'open', p_details, p_at, p_expires_at)
        ON CONFLICT (customer_id, request_id) DO NOTHING
        RETURNING id INTO hold_id;
        IF FOUND THEN
            UPDATE billing_wallet w SET held = w.held + p_amount WHERE w.customer_id = p_customer_id;
            outcome := 'placed';
            RETURN;
        END IF;
    END IF;

    SELECT * INTO hold FROM billing_hold h WHERE h.customer_id = p_customer_id AND h.request_id = p_request_id;
    IF FOUND THEN
        outcome := CASE WHEN hold.digest = p_digest THEN 'replayed' ELSE 'conflict' END;
        hold_id := hold.id;
        hold_amount := hold.amount;
        hold_status := CASE WHEN hold.status = 'open' AND hold.expires_at <= p_at THEN 'expired' ELSE hold.status END;
        hold_expires_at := hold.expires_at;
        hold_details := hold.details;
    ELSE
        outcome := 'insufficient';
        available := wallet.balance - wallet.held + wallet.credit_limit;
    END IF;
END;
$$;
