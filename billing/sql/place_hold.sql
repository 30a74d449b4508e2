-- Reserves money for one request, or says why not: one round trip, one customer.
--
-- The wallet's row is the mutex. It is locked by a statement of its own; only the statements after it, each with a
-- fresh snapshot, look at holds and spend and judge floor and limits. A floor inside the locking statement would be
-- judged on the snapshot from before the wait, and oversell.
--
-- The unique key that refuses a second hold for a request is also the look whether there is one: what fits is placed
-- without asking first. Only where nothing was placed is the earlier hold read.
--
-- p_scope: whose spend it counts as beside the customer's, such as a key's. p_minimum: of a lease, which takes what
-- there is, from that up to p_amount; NULL asks for p_amount or nothing. p_admits_until: of a lease, too.
--
-- outcome: placed | replayed | conflict | limited | insufficient | unknown_customer. Of a placed hold its number and
-- amount are told; of a replayed one all that was kept; `available` is what there would have been, under the limit
-- (limit_scope, limit_span, limit_amount) that is the narrowest, or in the wallet.
CREATE OR REPLACE FUNCTION billing_place_hold(
    p_customer_id bigint, p_request_id text, p_digest bytea, p_amount numeric, p_at timestamptz,
    p_expires_at timestamptz, p_details jsonb, p_scope text, p_minimum numeric, p_admits_until timestamptz,
    OUT outcome text, OUT hold_id bigint, OUT hold_amount numeric, OUT hold_status text,
    OUT hold_expires_at timestamptz, OUT hold_admits_until timestamptz, OUT hold_details jsonb, OUT available numeric,
    OUT limit_scope text, OUT limit_span text, OUT limit_amount numeric
) LANGUAGE plpgsql AS $$
DECLARE
    wallet billing_wallet;
    hold billing_hold;
    need numeric := coalesce(p_minimum, p_amount);
    room numeric;
    limit_room numeric;
    today date;
BEGIN
    SELECT * INTO wallet FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_customer';
        RETURN;
    END IF;
    room := wallet.balance - wallet.held + wallet.credit_limit;

    IF wallet.counts_spend THEN
        SELECT (p_at AT TIME ZONE o.timezone)::date INTO today FROM billing_operatorsettings o WHERE o.id = 1;
        SELECT l.scope, l.span, l.amount, l.amount - coalesce(c.spent + c.held, 0)
        INTO limit_scope, limit_span, limit_amount, limit_room
        FROM billing_spendlimit l LEFT JOIN billing_spendcounter c
            ON c.customer_id = l.customer_id AND c.scope = l.scope AND c.span = l.span
            AND c.starts_on = date_trunc(l.span, today)::date
        WHERE l.customer_id = p_customer_id AND l.scope IN ('customer', p_scope) AND l.is_hard
        ORDER BY 4, l.id LIMIT 1;
    END IF;

    IF room >= need AND coalesce(limit_room >= need, true) THEN
        hold_amount := least(p_amount, room, limit_room);
        INSERT INTO billing_hold (
            customer_id, request_id, digest, amount, remaining, settled, status, details, created_at, expires_at,
            scope, admits_until
        ) VALUES (
            p_customer_id, p_request_id, p_digest, hold_amount, hold_amount, 0, 'open', p_details, p_at, p_expires_at,
            p_scope, p_admits_until
        )
        ON CONFLICT (customer_id, request_id) DO NOTHING
        RETURNING id INTO hold_id;
        IF FOUND THEN
            UPDATE billing_wallet w SET held = w.held + hold_amount WHERE w.customer_id = p_customer_id;
            IF wallet.counts_spend THEN
                INSERT INTO billing_spendcounter AS c (customer_id, scope, span, starts_on, spent, held)
                SELECT DISTINCT l.customer_id, l.scope, l.span, date_trunc(l.span, today)::date, 0, hold_amount
                FROM billing_spendlimit l
                WHERE l.customer_id = p_customer_id AND l.scope IN ('customer', p_scope) ORDER BY l.scope, l.span
                ON CONFLICT (customer_id, scope, span, starts_on) DO UPDATE SET held = c.held + excluded.held;
            END IF;
            outcome := 'placed';
            RETURN;
        END IF;
    END IF;

    SELECT * INTO hold FROM billing_hold h WHERE h.customer_id = p_customer_id AND h.request_id = p_request_id;
    IF FOUND THEN
        outcome := CASE WHEN hold.digest = p_digest THEN 'replayed' ELSE 'conflict' END;
        hold_id := hold.id;
        hold_amount := hold.amount;
        hold_status := CASE WHEN hold.status = 'open' AND coalesce(hold.admits_until, hold.expires_at) <= p_at
                            THEN 'expired' ELSE hold.status END;
        hold_expires_at := hold.expires_at;
        hold_admits_until := hold.admits_until;
        hold_details := hold.details;
    ELSIF limit_room < need THEN
        outcome := 'limited';
        available := limit_room;
    ELSE
        outcome := 'insufficient';
        available := room;
    END IF;
END;
$$;
