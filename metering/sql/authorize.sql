-- Who asks, and if it is who the caller believes it is: the hold, in the same round trip.
--
-- `state` is the text of all that an authorization is judged by. A process that remembers it, judges by what it
-- remembers and passes `p_state`: the hold is placed only if nothing of it has changed since. With NULL this is a plain
-- look-up. Unknown tokens and keys take as long as good ones. The columns of the hold are billing_place_hold's, NULL
-- where none was asked for.
CREATE OR REPLACE FUNCTION metering_authorize(
    p_relay_token bytea, p_api_key bytea, p_state text,
    p_customer_id bigint, p_request_id text, p_digest bytea, p_amount numeric, p_at timestamptz,
    p_expires_at timestamptz, p_details jsonb
) RETURNS TABLE (
    state text, relay_token_id bigint, relay_scopes jsonb, key_public_id text, allowed_models jsonb,
    allowed_networks jsonb, key_expires_at timestamptz, key_revoked_at timestamptz, customer_id bigint,
    customer_public_id text, customer_status text, plan_id bigint, price_book_version bigint,
    outcome text, hold_id bigint, hold_amount numeric, hold_status text, hold_expires_at timestamptz,
    hold_details jsonb, available numeric
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT t.id, t.scopes, k.public_id, k.allowed_models, k.allowed_networks, k.expires_at, k.revoked_at,
           c.id, c.public_id, c.status, p.plan_id, v.version
    INTO relay_token_id, relay_scopes, key_public_id, allowed_models, allowed_networks, key_expires_at,
         key_revoked_at, customer_id, customer_public_id, customer_status, plan_id, price_book_version
    FROM metering_pricebookversion v
    LEFT JOIN metering_relaytoken t ON t.digest = p_relay_token AND t.revoked_at IS NULL
    LEFT JOIN metering_apikey k ON k.digest = p_api_key
    LEFT JOIN billing_customer c ON c.id = k.customer_id
    LEFT JOIN LATERAL (
        SELECT a.plan_id FROM metering_customerplan a
        WHERE a.customer_id = k.customer_id AND (a.effective_from IS NULL OR a.effective_from <= p_at)
        ORDER BY a.effective_from DESC NULLS LAST LIMIT 1
    ) p ON true
    WHERE v.id = 1;
    state := ROW(relay_token_id, relay_scopes, key_public_id, allowed_models, allowed_networks, key_expires_at,
                 key_revoked_at, customer_id, customer_public_id, customer_status, plan_id, price_book_version)::text;
    IF state = p_state THEN
        SELECT h.outcome, h.hold_id, h.hold_amount, h.hold_status, h.hold_expires_at, h.hold_details, h.available
        INTO outcome, hold_id, hold_amount, hold_status, hold_expires_at, hold_details, available
        FROM billing_place_hold(
            p_customer_id, p_request_id, p_digest, p_amount, p_at, p_expires_at, p_details
        ) h;
    END IF;
    RETURN NEXT;
END;
$$;
