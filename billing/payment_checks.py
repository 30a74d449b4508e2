"""Are payments and the ledger the same story? Top-ups and their grants, refunds and disputes and their transfers.

Their rows are few beside usage, so each check reads all of a customer's; what it needs of the ledger it finds by key.
"""

from billing.checks import HERE

_TOP_UPS = f"""
SELECT t.customer_id, d.what || t.public_id, NULL::bigint, true, d.expected, d.found
FROM billing_topup t
LEFT JOIN billing_grant g ON g.customer_id = t.customer_id AND g.id = t.grant_id
LEFT JOIN LATERAL (
    SELECT -sum(e.amount) FILTER (WHERE e.account = CASE WHEN t.origin IN ('bank_transfer', 'cash')
               THEN 'cash:manual' ELSE 'cash:stripe' END) AS cash,
           sum(e.amount) FILTER (WHERE e.account = 'tax') AS tax,
           sum(e.amount) FILTER (WHERE m.kind = 'payment' AND e.account = 'wallet') AS invoice
    FROM billing_transfer m JOIN billing_entry e
        ON e.customer_id = m.customer_id AND e.id >= m.id * 16 AND e.id < m.id * 16 + 16
    WHERE m.customer_id = t.customer_id AND m.kind IN ('grant', 'payment') AND m.key = t.public_id
) e ON true
CROSS JOIN LATERAL (VALUES
    ('credited for ', t.amount - t.tax, CASE WHEN t.invoice_id IS NULL THEN 0 ELSE coalesce(e.invoice, 0) END
     + CASE WHEN g.kind = 'paid' AND g.reference = t.public_id THEN g.amount ELSE 0 END),
    ('taxed of ', t.tax, coalesce(e.tax, 0)),
    ('received in cash for ', t.amount, coalesce(e.cash, 0))
) d (what, expected, found)
WHERE t.customer_id {HERE} AND t.status = 'paid' AND d.expected IS DISTINCT FROM d.found
ORDER BY t.customer_id, t.id"""

# What of an account one transfer has moved, found by its key.
_MOVED = """(SELECT coalesce(sum(e.amount), 0) FROM billing_transfer t JOIN billing_entry e
    ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    WHERE t.customer_id = r.customer_id AND t.kind IN ({kinds}) AND t.key = {key} AND e.account {account})"""
_PAID_OUT = _MOVED.format(
    kinds="'refund'", key="'refund:' || r.public_id || ':paid'", account="IN ('cash:stripe', 'cash:manual')"
)
_GIVEN_BACK = _MOVED.format(kinds="'grant', 'payment'", key="'refund:' || r.public_id", account="= 'wallet'")
_TAKEN = _MOVED.format(kinds="'refund'", key="'refund:' || r.public_id", account="= 'refunds_pending'")
_TAKEN_BY_CLOSING = """(SELECT coalesce(sum(u.amount), 0) FROM billing_grantuse u
    JOIN billing_grant g ON g.customer_id = u.customer_id AND g.id = u.grant_id
    WHERE u.customer_id = r.customer_id AND u.transfer_id = r.transfer_id AND g.kind = 'paid' AND (
        g.id = r.grant_id OR (
            g.reference = (SELECT p.public_id FROM billing_topup p WHERE p.id = r.top_up_id)
            AND NOT EXISTS (SELECT FROM billing_refund o WHERE o.customer_id = r.customer_id
                AND o.transfer_id = r.transfer_id AND o.grant_id = g.id))))"""

_REFUNDS = f"""
SELECT r.customer_id, d.what || r.public_id, NULL::bigint, true, d.expected, d.found
FROM billing_refund r CROSS JOIN LATERAL (VALUES
    ('taken for ', r.amount + CASE WHEN r.origin = 'closing' THEN 0 ELSE r.tax END,
     CASE WHEN r.origin = 'closing' THEN {_TAKEN_BY_CLOSING} ELSE {_TAKEN} END),
    ('paid out for ', CASE r.status WHEN 'succeeded' THEN r.amount + r.tax WHEN 'pending' THEN 0 ELSE {_PAID_OUT} END,
     {_PAID_OUT}),
    ('given back of ', CASE r.status WHEN 'failed' THEN r.amount ELSE 0 END, {_GIVEN_BACK})
) d (what, expected, found)
WHERE r.customer_id {HERE} AND d.expected <> d.found ORDER BY r.customer_id, r.id"""

# Grants' uses by a refund are its amount less what became debt; so are they for each dispute.
_REFUND_USES = f"""
SELECT r.customer_id, 'used of grants by ' || r.public_id, NULL::bigint, true, r.amount - r.unpaid,
       coalesce(u.amount, 0)
FROM billing_refund r LEFT JOIN LATERAL (
    SELECT sum(u.amount) AS amount FROM billing_grantuse u
    WHERE u.customer_id = r.customer_id AND u.transfer_id = r.transfer_id
) u ON true
WHERE r.customer_id {HERE} AND r.origin <> 'closing' AND r.amount - r.unpaid <> coalesce(u.amount, 0)
ORDER BY r.customer_id, r.id"""

_OF_DISPUTE = """t.customer_id = r.customer_id AND starts_with(t.key, 'dispute:' || r.stripe_id || ':')"""
_DISPUTES = f"""
SELECT r.customer_id, d.what || r.stripe_id, NULL::bigint, true, d.expected, d.found
FROM billing_dispute r LEFT JOIN LATERAL (
    SELECT sum(e.amount) FILTER (WHERE t.kind = 'dispute' AND e.account = 'disputes') AS taken,
           sum(-e.amount) FILTER (WHERE t.kind IN ('grant', 'payment') AND e.account = 'disputes') AS returned
    FROM billing_transfer t JOIN billing_entry e
        ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    WHERE {_OF_DISPUTE} AND t.kind IN ('dispute', 'grant', 'payment')
) m ON true LEFT JOIN LATERAL (
    SELECT sum(u.amount) AS used FROM billing_transfer t
    JOIN billing_grantuse u ON u.customer_id = t.customer_id AND u.transfer_id = t.id
    WHERE {_OF_DISPUTE} AND t.kind = 'dispute'
) u ON true CROSS JOIN LATERAL (VALUES
    ('taken by ', r.taken + r.taken_tax, coalesce(m.taken, 0)),
    ('returned by ', r.returned + r.returned_tax, coalesce(m.returned, 0)),
    ('used of grants by ', r.taken - r.unpaid, coalesce(u.used, 0))
) d (what, expected, found)
WHERE r.customer_id {HERE} AND d.expected <> d.found ORDER BY r.customer_id, r.id"""

# Over all time: what stands on the accounts against the open refunds, and against what disputes have kept. What was
# moved there by hand stands on its own.
_ACCOUNTS = f"""
SELECT c.id, d.what, NULL::bigint, true, d.expected, d.found
FROM billing_customer c LEFT JOIN (
    SELECT customer_id, sum(amount + tax) AS amount FROM billing_refund
    WHERE customer_id {HERE} AND status = 'pending' GROUP BY customer_id
) r ON r.customer_id = c.id LEFT JOIN (
    SELECT customer_id, sum(taken + taken_tax - returned - returned_tax) AS amount FROM billing_dispute
    WHERE customer_id {HERE} GROUP BY customer_id
) p ON p.customer_id = c.id LEFT JOIN (
    SELECT e.customer_id, sum(e.amount) FILTER (WHERE e.account = 'refunds_pending') AS refunds,
           sum(e.amount) FILTER (WHERE e.account = 'disputes') AS disputes
    FROM billing_entry e JOIN billing_transfer t ON t.customer_id = e.customer_id AND t.id = e.transfer_id
    WHERE e.customer_id {HERE} AND e.account IN ('refunds_pending', 'disputes')
        AND t.kind NOT IN ('manual', 'settlement')
    GROUP BY e.customer_id
) e ON e.customer_id = c.id CROSS JOIN LATERAL (VALUES
    ('refunds pending', coalesce(r.amount, 0), coalesce(e.refunds, 0)),
    ('disputes', coalesce(p.amount, 0), coalesce(e.disputes, 0))
) d (what, expected, found)
WHERE c.id {HERE} AND d.expected <> d.found ORDER BY c.id"""

# On the house customer alone: each booked transaction of Stripe's has moved cash:stripe by what it says.
_SETTLED = f"""
SELECT c.id, 'booked for ' || s.stripe_id, NULL::bigint, true, s.cash, coalesce(e.amount, 0)
FROM billing_customer c CROSS JOIN LATERAL (
    SELECT stripe_id, CASE WHEN category IN ('charge', 'refund', 'refund_failure', 'partial_capture_reversal')
        THEN expected ELSE 0 END - net_usd AS cash
    FROM billing_stripetransaction WHERE booked_at IS NOT NULL
) s LEFT JOIN LATERAL (
    SELECT sum(e.amount) AS amount FROM billing_transfer t JOIN billing_entry e
        ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    WHERE t.customer_id = c.id AND t.kind = 'settlement' AND t.key = s.stripe_id AND e.account = 'cash:stripe'
) e ON true
WHERE c.id {HERE} AND c.is_house AND s.cash <> coalesce(e.amount, 0) ORDER BY c.id"""


def payment_checks(*, full: bool) -> tuple[str, ...]:
    """The statements to run, for billing.checks.differences."""
    return (_TOP_UPS, _REFUNDS, _REFUND_USES, _DISPUTES, _SETTLED, *([_ACCOUNTS] if full else []))
