"""Do documents say what the ledger says? Their lines against transfers, their balances, and numbers without gaps."""

from billing.checks import HERE

# What credit notes have documented of the periods that a document covers: it has that the other way round.
DOCUMENTED = """(SELECT coalesce(sum(n.documented), 0) FROM billing_creditnote n
    WHERE n.customer_id = {invoice}.customer_id AND n.booked_period > {invoice}.previous
        AND n.booked_period <= {invoice}.period)"""

# A document covers what is billed after its customer's document before it; the day's margin is for runs at once.
_USAGE = f"""
WITH documents AS MATERIALIZED (
    SELECT i.id, i.customer_id, i.number, i.issued_at, i.exact_total, i.period,
           coalesce(lag(i.period) OVER (PARTITION BY i.customer_id ORDER BY i.period), '-infinity') AS previous
    FROM billing_invoice i WHERE i.customer_id {HERE} AND i.status <> 'draft'
), fresh AS MATERIALIZED (
    SELECT d.* FROM documents d LEFT JOIN billing_verifiedwallet v ON v.customer_id = d.customer_id
    WHERE %(full)s::boolean OR d.issued_at > coalesce(v.verified_at, '-infinity') - interval '1 day'
), used AS (
    SELECT d.id, -sum(e.amount) AS charged FROM fresh d
    JOIN billing_transfer t ON t.customer_id = d.customer_id AND t.period > d.previous AND t.period <= d.period
        AND t.kind IN ('usage', 'adjustment')
    JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id BETWEEN t.id * 16 AND t.id * 16 + 15
        AND e.account = 'wallet'
    GROUP BY d.id
), charged AS (
    SELECT d.*, coalesce(u.charged, 0) + {DOCUMENTED.format(invoice="d")} AS charged
    FROM fresh d LEFT JOIN used u ON u.id = d.id
)
SELECT d.customer_id, 'usage transfers of invoice ' || d.number, NULL::bigint, true, d.charged, d.exact_total
FROM charged d WHERE d.charged <> d.exact_total ORDER BY d.customer_id, d.id"""

# Documents of before these figures were kept have no next_version.
_BALANCES = f"""
SELECT i.customer_id, 'closing balance of invoice ' || i.number, NULL::bigint, true,
       i.opening_balance + i.topped_up + i.other_movements - i.exact_total, i.closing_balance
FROM billing_invoice i
WHERE i.customer_id {HERE} AND i.status <> 'draft' AND i.next_version IS NOT NULL
    AND i.opening_balance + i.topped_up + i.other_movements - i.exact_total <> i.closing_balance
ORDER BY i.customer_id, i.id"""

# Series are the operator's, so its house customer stands for them.
_SERIES = f"""
SELECT c.id, 'numbers of series ' || s.series || '-' || s.year, NULL::bigint, false, s.last_number::numeric,
       coalesce(i.numbers, 0)::numeric
FROM billing_customer c CROSS JOIN billing_invoiceseries s LEFT JOIN (
    SELECT series, year, count(*) AS numbers, max(sequence) AS last FROM billing_invoice GROUP BY series, year
) i ON i.series = s.series AND i.year = s.year
WHERE c.id {HERE} AND c.is_house AND s.series = 'INV'
    AND (coalesce(i.numbers, 0) <> s.last_number OR coalesce(i.last, 0) <> s.last_number)
ORDER BY s.year"""


def document_checks() -> list[str]:
    """The statements to run, for billing.checks.differences."""
    return [_USAGE, _BALANCES, _SERIES]
