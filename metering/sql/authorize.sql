-- Who asks, and if it is who the caller believes it is: the hold, in the same round trip.
--
-- `state` is the text of all that an authorization is judged by. A process that remembers it, judges by what it
-- remembers and passes `p_state`: the hold is placed only if nothing of it has changed since, and only the hold's
-- columns (billing_place_hold's) are filled in. With NULL, or after a change, the others are: a plain look-up. Unknown
-- tokens and keys take as long as good ones.
CREATE OR REPLACE FUNCTION metering_authorize(
    p_relay_token bytea, p_api_key bytea, p_state text,
    p_customer_id bigint, p_request_id text, p_digest bytea, p_amount numeric, p_at timestamptz,
    p_expires_at timestamptz, p_details jsonb, p_minimum numeric, p_admits_until timestamptz,
    OUT state text, OUT relay_token_id bigint, OUT relay_scopes jsonb, OUT key_id bigint, OUT key_public_id text,
    OUT allowed_models jsonb, OUT allowed_networks jsonb, OUT key_expires_at timestamptz,
    OUT key_revoked_at timestamptz, OUT customer_id bigint, OUT customer_public_id text, OUT customer_status text,
    OUT plan_id bigint, OUT price_book_version bigint,
    OUT outcome text, OUT hold_id bigint, OUT hold_amount numeric, OUT hold_status text,
    OUT hold_expires_at timestamptz, OUT hold_admits_until timestamptz, OUT hold_details jsonb, OUT available numeric,
    OUT limit_scope text, OUT limit_span text, OUT limit_amount numeric
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    asks record;
    hold record;
BEGIN
    SELECT t.id AS relay_token_id, t.scopes, k.id AS key_id, k.public_id AS key_public_id, k.allowed_models,
           k.allowed_networks, k.expires_at, k.revoked_at, c.id AS customer_id, c.public_id AS customer_public_id, c.status,
           (SELECT a.plan_id FROM metering_customerplan a
            WHERE a.customer_id = k.customer_id AND (a.effective_from IS NULL OR a.effective_from <= p_at)
            ORDER BY a.effective_from DESC NULLS LAST LIMIT 1) AS plan_id,
           v.version
    INTO asks
    FROM metering_pricebookversion v
    LEFT JOIN metering_relaytoken t ON t.digest = p_relay_token AND t.revoked_at IS NULL
    LEFT JOIN metering_apikey k ON k.digest = p_api_key
    LEFT JOIN billing_customer c ON c.id = k.customer_id
    WHERE v.id = 1;
    state := asks::text;
    IF state = p_state THEN
        hold := billing_place_hold(
            p_customer_id, p_request_id, p_digest, p_amount, p_at, p_expires_at, p_details, 'key:' || asks.key_id,
            p_minimum, p_admits_until
        );
        outcome := hold.outcome;
        hold_id := hold.hold_id;
        hold_amount := hold.hold_amount;
        hold_status := hold.hold_status;
        hold_expires_at := hold.hold_expires_at;
        hold_admits_until := hold.hold_admits_until;
        hold_details := hold.hold_details;
        available := hold.available;
        limit_scope := hold.limit_scope;
        limit_span := hold.limit_span;
        limit_amount := hold.limit_amount;
        RETURN;
    END IF;
    relay_token_id := asks.relay_token_id;
    relay_scopes := asks.scopes;
    key_id := asks.key_id;
    key_public_id := asks.key_public_id;
    allowed_models := asks.allowed_models;
    allowed_networks := asks.allowed_networks;
    key_expires_at := asks.expires_at;
    key_revoked_at := asks.revoked_at;
    customer_id := asks.customer_id;
    customer_public_id := asks.customer_public_id;
    customer_status := asks.status;
    plan_id := asks.plan_id;
    price_book_version := asks.version;
END;
$$;
