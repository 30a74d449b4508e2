-- Takes usage off locked wallets, for many customers in one statement; returns the transfer of each charge.
--
-- Parameters: customer numbers, billing periods, amounts in USD above 0 (three arrays of one length, a customer and
-- period once), the settlement's key, the transfers' kind and reason, the moment. The caller holds the locks of all
-- these wallets.
--
-- Grants are used in the order priority, expiry, age. Laid end to end they form a line of money, and so do a customer's
-- charges: where a charge and a grant overlap, the grant pays. What no grant covers is debt, and counts as revenue, as
-- paid credit does; promotional and goodwill credit counts as promotional usage.
WITH due AS (
    SELECT customer_id, period, amount, nextval('billing_transfer_id_seq') AS transfer_id,
           sum(amount) OVER queue AS due_to, row_number() OVER queue AS place
    FROM unnest(%(customers)s::bigint[], %(periods)s::date[], %(amounts)s::numeric[]) AS t (customer_id, period, amount)
    WINDOW queue AS (PARTITION BY customer_id ORDER BY period)
), credit AS (
    SELECT g.customer_id, g.id, g.kind, g.remaining, sum(g.remaining) OVER (
        PARTITION BY g.customer_id ORDER BY g.priority, g.expires_at NULLS LAST, g.id
    ) AS left_to
    FROM billing_grant g
    WHERE g.customer_id = ANY (%(customers)s::bigint[]) AND g.remaining > 0
), used AS (
    SELECT d.customer_id, d.transfer_id, c.id AS grant_id, c.kind,
           least(d.due_to, c.left_to) - greatest(d.due_to - d.amount, c.left_to - c.remaining) AS part
    FROM due d
    JOIN credit c ON c.customer_id = d.customer_id
        AND c.left_to > d.due_to - d.amount AND c.left_to - c.remaining < d.due_to
), burnt AS (
    UPDATE billing_grant g SET remaining = g.remaining - u.part
    FROM (SELECT customer_id, grant_id, sum(part) AS part FROM used GROUP BY 1, 2) u
    WHERE g.customer_id = u.customer_id AND g.id = u.grant_id
), uses AS (
    INSERT INTO billing_grantuse (customer_id, grant_id, transfer_id, amount)
    SELECT customer_id, grant_id, transfer_id, part FROM used
), posted AS (
    INSERT INTO billing_transfer (customer_id, id, kind, key, period, reason, created_at)
    SELECT customer_id, transfer_id, %(kind)s::text, %(settlement)s::text || ':' || period, period, %(reason)s::text,
           %(at)s::timestamptz
    FROM due
), paid AS (
    SELECT d.customer_id, d.transfer_id, d.amount, d.due_to, d.place, coalesce(u.part, 0) AS promotional
    FROM due d LEFT JOIN (
        SELECT customer_id, transfer_id, sum(part) AS part FROM used WHERE kind <> 'paid' GROUP BY 1, 2
    ) u ON u.customer_id = d.customer_id AND u.transfer_id = d.transfer_id
), entries AS (
    INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount, balance_after, wallet_version)
    -- The wallet as this statement found it: had its lock been forgotten, the next version would be taken already.
    -- In the order of their numbers: a transfer's entries go to the same page of every index, one right after the other.
    SELECT * FROM (
        SELECT p.customer_id, p.transfer_id * 16 AS id, p.transfer_id, 'wallet', -p.amount,
               w.balance - p.due_to, w.version + p.place
        FROM paid p JOIN billing_wallet w ON w.customer_id = p.customer_id
        UNION ALL
        SELECT customer_id, transfer_id * 16 + 1, transfer_id, 'promotional_usage', promotional, NULL, NULL
        FROM paid WHERE promotional > 0
        UNION ALL
        SELECT customer_id, transfer_id * 16 + 2, transfer_id, 'revenue', amount - promotional, NULL, NULL
        FROM paid WHERE amount > promotional
    ) e ORDER BY id
), moved AS (
    UPDATE billing_wallet w SET balance = w.balance - t.amount, version = w.version + t.charges
    FROM (SELECT customer_id, sum(amount) AS amount, count(*) AS charges FROM due GROUP BY 1) t
    WHERE w.customer_id = t.customer_id
)
SELECT customer_id, period, transfer_id FROM due
