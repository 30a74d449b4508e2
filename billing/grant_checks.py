"""Is the credit right? What is left of grants against balances, their uses, and what adjustments gave back of these.

And what became of grants otherwise: expired and voided, begun as scheduled, or made of redemption codes.
"""

from billing.checks import HERE, SINCE, rows_after

_CREDIT = f"""{SINCE}
SELECT s.customer_id, 'credit left on grants', NULL::bigint, true, greatest(s.balance, 0), coalesce(g.remaining, 0)
FROM since s LEFT JOIN (
    SELECT customer_id, sum(remaining) AS remaining FROM billing_grant WHERE customer_id {HERE} GROUP BY customer_id
) g ON g.customer_id = s.customer_id
WHERE coalesce(g.remaining, 0) <> greatest(s.balance, 0) ORDER BY s.customer_id"""

_USES = f"""
SELECT customer_id, CASE WHEN g.amount IS NULL THEN 'uses of {{gr}}, which does not exist' ELSE 'left of {{gr}}' END,
       id, true, coalesce(g.amount - coalesce(u.used, 0), 0), coalesce(g.remaining, u.used)
FROM (SELECT customer_id, id, amount, remaining FROM billing_grant WHERE customer_id {HERE}) g
FULL JOIN (
    SELECT customer_id, grant_id AS id, sum(amount) AS used FROM (
        SELECT customer_id, grant_id, amount FROM billing_grantuse WHERE customer_id {HERE}
        UNION ALL SELECT customer_id, grant_id, -amount FROM billing_grantreturn WHERE customer_id {HERE}
    ) u GROUP BY customer_id, grant_id
) u USING (customer_id, id)
WHERE g.remaining IS NULL OR g.remaining <> g.amount - coalesce(u.used, 0) ORDER BY customer_id, id"""

_USES_SINCE = f"""{SINCE}
SELECT s.customer_id, 'used of all grants', NULL::bigint, true, s.used + coalesce(u.used, 0), coalesce(g.used, 0)
FROM since s LEFT JOIN (
    SELECT customer_id, sum(amount - remaining) AS used FROM billing_grant WHERE customer_id {HERE}
    GROUP BY customer_id
) g ON g.customer_id = s.customer_id LEFT JOIN (
    SELECT customer_id, sum(amount) AS used FROM (
        SELECT u.customer_id, u.amount
        FROM since s JOIN billing_grantuse u ON u.customer_id = s.customer_id AND u.transfer_id > s.after_transfer
        WHERE u.customer_id {HERE}
        UNION ALL
        SELECT r.customer_id, -r.amount
        FROM since s JOIN billing_grantreturn r ON r.customer_id = s.customer_id AND r.transfer_id > s.after_transfer
        WHERE r.customer_id {HERE}
    ) u GROUP BY customer_id
) u ON u.customer_id = s.customer_id
WHERE s.used + coalesce(u.used, 0) <> coalesce(g.used, 0) ORDER BY s.customer_id"""


def _returns_sql(*, full: bool) -> str:
    """What came back of each use against the use, over all time if any of it is to be checked."""
    new = f"""JOIN (
        SELECT DISTINCT e.customer_id, e.used_by_id, e.grant_id
        FROM {rows_after("billing_grantreturn", "e.transfer_id > s.after_transfer", full=False)}
    ) n USING (customer_id, used_by_id, grant_id)"""
    return f"""{SINCE}
SELECT r.customer_id, 'given back of what {{tr}} had used of grant ' || r.grant_id || ', at most', r.used_by_id, true,
       coalesce(u.amount, 0), r.amount
FROM (
    SELECT customer_id, used_by_id, grant_id, sum(amount) AS amount
    FROM billing_grantreturn {"" if full else new}
    WHERE customer_id {HERE} GROUP BY customer_id, used_by_id, grant_id
) r LEFT JOIN billing_grantuse u
    ON u.customer_id = r.customer_id AND u.transfer_id = r.used_by_id AND u.grant_id = r.grant_id
WHERE r.amount > coalesce(u.amount, 0) ORDER BY r.customer_id, r.used_by_id"""


def _accounts_sql(*, full: bool) -> str:
    """What went back to grants of each kind against the accounts of the adjustment that gave it back.

    Its wallet entry says how much of it has cured debt, which is revenue that no grant had paid.
    """
    return f"""{SINCE}, adjusted AS (
    SELECT t.customer_id, t.id, a.amount, least(a.amount, greatest(a.amount - a.balance_after, 0)) AS cured,
           a.promotional, a.revenue
    FROM (
        SELECT e.customer_id, e.id
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)} AND e.kind = 'adjustment'
    ) t CROSS JOIN LATERAL (
        SELECT sum(amount) FILTER (WHERE account = 'wallet') AS amount, sum(balance_after) AS balance_after,
               coalesce(-sum(amount) FILTER (WHERE account = 'promotional_usage'), 0) AS promotional,
               coalesce(-sum(amount) FILTER (WHERE account = 'revenue'), 0) AS revenue
        FROM billing_entry e WHERE e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    ) a
    WHERE a.amount > 0
), returned AS (
    SELECT r.customer_id, r.id, coalesce(sum(r.amount) FILTER (WHERE g.kind <> 'paid'), 0) AS promotional,
           coalesce(sum(r.amount) FILTER (WHERE g.kind = 'paid'), 0) AS paid
    FROM (
        SELECT e.customer_id, e.transfer_id AS id, e.grant_id, e.amount
        FROM {rows_after("billing_grantreturn", "e.transfer_id > s.after_transfer", full=full)}
    ) r LEFT JOIN billing_transfer t ON t.customer_id = r.customer_id AND t.id = r.id
    LEFT JOIN billing_grant g ON g.customer_id = r.customer_id AND g.id = r.grant_id
    WHERE t.kind IS DISTINCT FROM 'credit_note'
    GROUP BY r.customer_id, r.id
), fresh AS (
    SELECT customer_id, transfer_id AS id, sum(amount) AS amount FROM billing_grant
    WHERE customer_id {HERE} GROUP BY customer_id, transfer_id
)
SELECT customer_id, d.what, id, true, d.expected, d.found
FROM adjusted a FULL JOIN returned r USING (customer_id, id) LEFT JOIN fresh f USING (customer_id, id)
CROSS JOIN LATERAL (VALUES
    ('given back to promotional grants by {{tr}}', coalesce(a.promotional, 0), coalesce(r.promotional, 0)),
    ('given back to paid grants by {{tr}}', coalesce(a.revenue - a.cured, 0),
     coalesce(r.paid, 0) + coalesce(f.amount, 0))
) d (what, expected, found)
WHERE d.expected <> d.found ORDER BY customer_id, id"""


def _notes_sql(*, full: bool) -> str:
    """What credit notes gave back: gifts to their grants, which pay debt that is left, and else paid credit.

    Together that is what went beyond the debt. What counts against promotional usage came back to gifts.
    """
    return f"""{SINCE}, noted AS (
    SELECT t.customer_id, t.id, a.amount, greatest(a.amount - greatest(-a.balance_before, 0), 0) AS beyond,
           a.promotional
    FROM (
        SELECT e.customer_id, e.id
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)} AND e.kind = 'credit_note'
    ) t CROSS JOIN LATERAL (
        SELECT sum(amount) FILTER (WHERE account = 'wallet') AS amount,
               sum(balance_after - amount) FILTER (WHERE account = 'wallet') AS balance_before,
               coalesce(-sum(amount) FILTER (WHERE account = 'promotional_usage'), 0) AS promotional
        FROM billing_entry e WHERE e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    ) a
    WHERE a.amount > 0
)
SELECT n.customer_id, d.what, n.id, true, d.expected, d.found
FROM noted n CROSS JOIN LATERAL (
    SELECT coalesce(sum(r.amount) FILTER (WHERE g.kind <> 'paid'), 0) AS gifts,
           coalesce(sum(r.amount) FILTER (WHERE g.kind = 'paid'), 0) AS paid
    FROM billing_grantreturn r JOIN billing_grant g ON g.customer_id = r.customer_id AND g.id = r.grant_id
    WHERE r.customer_id = n.customer_id AND r.transfer_id = n.id
) r CROSS JOIN LATERAL (
    SELECT coalesce(sum(u.amount), 0) AS used FROM billing_grantuse u
    WHERE u.customer_id = n.customer_id AND u.transfer_id = n.id
) u CROSS JOIN LATERAL (
    SELECT coalesce(sum(g.amount), 0) AS amount FROM billing_grant g
    WHERE g.customer_id = n.customer_id AND g.transfer_id = n.id
) f CROSS JOIN LATERAL (VALUES
    ('credit made by {{tr}}', n.beyond, r.gifts - u.used + f.amount),
    ('given back to paid grants by {{tr}}', 0, r.paid),
    ('taken back of promotional usage by {{tr}}, at most', least(n.promotional, r.gifts), n.promotional)
) d (what, expected, found)
WHERE d.expected <> d.found ORDER BY n.customer_id, n.id"""


def _by_hand_sql(*, full: bool) -> str:
    """What debits by hand, closings, write-offs, refunds, disputes and invoices used of grants.

    All there was up to their amount; the rest is debt. Write-offs and payments of invoices cure debt, and no more; what
    the rounding of an invoice gives back beyond the debt is a grant of its own. Gifts that a credit note gives back pay
    debt at once.

    Who has debt has no credit left, so the balance before, if above zero, is what grants could pay.
    """
    return f"""{SINCE}, moved AS (
    SELECT t.customer_id, t.id, t.kind, a.amount, a.balance_after - a.amount AS balance_before
    FROM (
        SELECT e.customer_id, e.id, e.kind
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)}
            AND e.kind IN ('manual', 'closing', 'write_off', 'refund', 'dispute', 'invoice', 'payment',
                'credit_note')
    ) t CROSS JOIN LATERAL (
        SELECT sum(amount) AS amount, sum(balance_after) AS balance_after FROM billing_entry e
        WHERE e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16 AND e.account = 'wallet'
    ) a
)
SELECT m.customer_id, d.what, m.id, true, d.expected, d.found FROM moved m LEFT JOIN LATERAL (
    SELECT sum(u.amount) AS amount FROM billing_grantuse u WHERE u.customer_id = m.customer_id AND u.transfer_id = m.id
) u ON true CROSS JOIN LATERAL (VALUES
    ('used of grants by {{tr}}', CASE WHEN m.kind = 'credit_note' AND m.amount > 0
     THEN least(coalesce(u.amount, 0), m.amount, greatest(-m.balance_before, 0))
     ELSE least(greatest(-m.amount, 0), greatest(m.balance_before, 0)) END, coalesce(u.amount, 0)),
    ('cured by {{tr}}, at most the debt', least(greatest(m.amount, 0), greatest(-m.balance_before, 0)),
     CASE WHEN m.kind IN ('invoice', 'credit_note') THEN least(greatest(m.amount, 0), greatest(-m.balance_before, 0))
     ELSE greatest(m.amount, 0) END)
) d (what, expected, found)
WHERE d.expected <> d.found ORDER BY m.customer_id, m.id"""


def _takings_sql(*, full: bool) -> str:
    """Each transfer that expired or voided credit: one use of one grant, which it names, to the right account.

    Expired credit is breakage; voided credit goes back to the account of the grant's own transfer. None of it takes a
    wallet below zero.
    """
    return f"""{SINCE}, taking AS (
    SELECT t.customer_id, t.id, t.kind, t.key, w.amount, w.balance_after, o.account, u.amount AS used, u.grants,
           g.id AS grant_id, g.voided_at, s.account AS source
    FROM (
        SELECT e.customer_id, e.id, e.kind, e.key
        FROM {rows_after("billing_transfer", "e.id > s.after_transfer", full=full)} AND e.kind IN ('expiry', 'void')
    ) t
    LEFT JOIN billing_entry w ON w.customer_id = t.customer_id AND w.id = t.id * 16 AND w.account = 'wallet'
    LEFT JOIN billing_entry o ON o.customer_id = t.customer_id AND o.id = t.id * 16 + 1
    LEFT JOIN LATERAL (
        SELECT sum(u.amount) AS amount, count(*) AS grants, min(u.grant_id) AS grant_id FROM billing_grantuse u
        WHERE u.customer_id = t.customer_id AND u.transfer_id = t.id
    ) u ON true
    LEFT JOIN billing_grant g ON g.customer_id = t.customer_id AND g.id = u.grant_id
    LEFT JOIN billing_entry s ON s.customer_id = g.customer_id AND s.id = g.transfer_id * 16 + 1
)
SELECT t.customer_id, d.what, t.id, d.is_amount, d.expected, d.found FROM taking t CROSS JOIN LATERAL (VALUES
    ('grants that {{tr}} took credit of', false, 1::numeric, coalesce(t.grants, 0)::numeric),
    ('taken of the grant by {{tr}}', true, coalesce(-t.amount, 0), coalesce(t.used, 0)),
    ('taken by {{tr}} below a balance of zero', true, 0, greatest(-t.balance_after, 0)),
    ('accounts of {{tr}} that are right', false, 1,
     CASE WHEN t.account = CASE t.kind WHEN 'void' THEN t.source ELSE 'breakage' END THEN 1 ELSE 0 END),
    ('grants of {{tr}} that were voided', false, CASE t.kind WHEN 'void' THEN 1 ELSE 0 END,
     CASE WHEN t.kind = 'void' AND t.voided_at IS NOT NULL THEN 1 ELSE 0 END)
) d (what, is_amount, expected, found)
WHERE d.expected IS DISTINCT FROM d.found ORDER BY t.customer_id, t.id"""


def _undone_sql(*, full: bool) -> str:
    """Nothing gives back what expired or was voided: no usage was paid with it."""
    return f"""{SINCE}
SELECT r.customer_id, 'given back of what {{tr}} took, though no usage had used it', r.used_by_id, true, 0::numeric,
       r.amount
FROM (
    SELECT e.customer_id, e.used_by_id, sum(e.amount) AS amount
    FROM {rows_after("billing_grantreturn", "e.transfer_id > s.after_transfer", full=full)}
    GROUP BY e.customer_id, e.used_by_id
) r JOIN billing_transfer t ON t.customer_id = r.customer_id AND t.id = r.used_by_id
WHERE t.customer_id {HERE} AND t.kind IN ('expiry', 'void') ORDER BY r.customer_id, r.used_by_id"""


_SCHEDULED = f"""
SELECT s.customer_id, 'amount of {{gr}}, as scheduled', s.id, true,
       CASE WHEN s.posted_at IS NULL THEN 0 ELSE s.amount END, coalesce(g.amount, 0)
FROM billing_scheduledgrant s LEFT JOIN billing_grant g ON g.customer_id = s.customer_id AND g.id = s.id
WHERE s.customer_id {HERE}
    AND CASE WHEN s.posted_at IS NULL THEN 0 ELSE s.amount END <> coalesce(g.amount, 0)
ORDER BY s.customer_id, s.id"""

_REDEEMED = f"""
SELECT c.redeemed_by_id, 'amount of {{gr}}, from redemption codes', c.grant_id, true, c.amount, coalesce(g.amount, 0)
FROM (
    SELECT redeemed_by_id, grant_id, sum(amount) AS amount FROM billing_redemptioncode
    WHERE redeemed_by_id {HERE} GROUP BY redeemed_by_id, grant_id
) c LEFT JOIN billing_grant g ON g.customer_id = c.redeemed_by_id AND g.id = c.grant_id
WHERE c.amount <> coalesce(g.amount, 0) ORDER BY c.redeemed_by_id, c.grant_id"""


def uses_sql(*, full: bool) -> str:
    """What is left of grants against what was used of them."""
    return _USES if full else _USES_SINCE


def grant_checks(*, full: bool) -> tuple[str, ...]:
    """All other statements to run, for billing.checks.differences."""
    return (
        _CREDIT,
        _returns_sql(full=full),
        _accounts_sql(full=full),
        _notes_sql(full=full),
        _by_hand_sql(full=full),
        _takings_sql(full=full),
        _undone_sql(full=full),
        _SCHEDULED,
        _REDEEMED,
    )
