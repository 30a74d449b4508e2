"""Are invoices and the ledger the same story? Their tax and rounding, what is due of them, and the tax account."""

from billing.checks import HERE

# What of an account the transfer of an invoice has moved, found by its key.
_POSTED = """(SELECT coalesce(sum(e.amount), 0) FROM billing_transfer t JOIN billing_entry e
    ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    WHERE t.customer_id = i.customer_id AND t.kind = 'invoice' AND t.key = i.public_id AND e.account = '{account}')"""

_INVOICES = f"""
SELECT i.customer_id, d.what || i.number, NULL::bigint, true, d.expected, d.found
FROM billing_invoice i CROSS JOIN LATERAL (VALUES
    ('tax by rate of ', i.tax,
     (SELECT coalesce(sum(x.amount), 0) FROM billing_invoicetax x WHERE x.invoice_id = i.id)),
    ('tax posted of ', CASE i.terms WHEN 'on_account' THEN i.tax ELSE 0 END, {_POSTED.format(account="tax")}),
    ('rounding posted of ', CASE i.terms WHEN 'on_account' THEN i.subtotal - i.exact_total ELSE 0 END,
     {_POSTED.format(account="rounding")}),
    ('due, at least nothing, of ', greatest(i.amount_due, 0), i.amount_due),
    ('due, if it is open, of ', CASE WHEN i.status IN ('issued', 'overdue') THEN i.amount_due ELSE 0 END, i.amount_due)
) d (what, expected, found)
WHERE i.customer_id {HERE} AND i.status <> 'draft' AND d.expected <> d.found ORDER BY i.customer_id, i.id"""

# What is due, paid by credit and paid is at most the total; written-off debt and credit notes are what is missing. What
# went back of a payment does not pay any more, until it returns.
_DUE = f"""
SELECT i.customer_id, 'due, at most, of ' || i.number, NULL::bigint, true,
       i.total - i.paid_by_credit - p.amount + r.amount, i.amount_due
FROM billing_invoice i CROSS JOIN LATERAL (
    SELECT coalesce(sum(e.amount), 0) AS amount FROM billing_topup u
    JOIN billing_transfer t ON t.customer_id = u.customer_id AND t.kind = 'payment' AND t.key = u.public_id
    JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16 AND e.account = 'wallet'
    WHERE u.invoice_id = i.id AND u.status = 'paid'
) p CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.amount - o.returned), 0) AS amount FROM billing_invoicereopening o WHERE o.invoice_id = i.id
) r
WHERE i.customer_id {HERE} AND i.terms = 'on_account' AND i.status IN ('issued', 'overdue')
    AND i.amount_due > i.total - i.paid_by_credit - p.amount + r.amount
ORDER BY i.customer_id, i.id"""

_TAKEN_BACK = """(SELECT coalesce(sum(e.amount), 0) FROM billing_transfer t JOIN billing_entry e
    ON e.customer_id = t.customer_id AND e.id >= t.id * 16 AND e.id < t.id * 16 + 16
    WHERE t.customer_id = n.customer_id AND t.kind = 'credit_note' AND t.key = n.public_id
        AND e.account = '{account}')"""

_CREDIT_NOTES = f"""
SELECT n.customer_id, d.what || n.number, NULL::bigint, true, d.expected, d.found
FROM billing_creditnote n JOIN billing_invoice i ON i.id = n.invoice_id CROSS JOIN LATERAL (
    SELECT sum(o.total) AS total FROM billing_creditnote o WHERE o.invoice_id = n.invoice_id
) o CROSS JOIN LATERAL (VALUES
    ('put back by ', CASE i.terms WHEN 'on_account' THEN n.total - n.documented ELSE 0 END,
     {_TAKEN_BACK.format(account="wallet")}),
    ('tax put back by ', -n.tax, {_TAKEN_BACK.format(account="tax")}),
    ('documented, the lines of ', CASE WHEN n.booked_period IS NULL THEN 0 ELSE
     (SELECT coalesce(sum(l.amount), 0) FROM billing_creditnoteline l WHERE l.credit_note_id = n.id) END, n.documented),
    ('lines, to the cent, of ', n.subtotal, CASE i.status WHEN 'void' THEN n.subtotal ELSE
     (SELECT round(coalesce(sum(l.amount), 0), 2) FROM billing_creditnoteline l WHERE l.credit_note_id = n.id) END),
    ('taken back of ' || i.number || ', at most, with ', greatest(i.total, least(o.total, 0)),
     greatest(i.total, o.total))
) d (what, expected, found)
WHERE n.customer_id {HERE} AND d.expected <> d.found ORDER BY n.customer_id, n.id"""

# No more is due than owed, but for usage that was taken back since the last closing: it is for the next invoice. What
# credit notes have documented of it has lowered what is due.
_RECEIVABLES = f"""
SELECT w.customer_id, 'due on invoices, at most', NULL::bigint, true, o.debt, i.due
FROM billing_wallet w JOIN (
    SELECT customer_id, sum(amount_due) AS due FROM billing_invoice
    WHERE customer_id {HERE} AND status IN ('issued', 'overdue') GROUP BY customer_id
) i ON i.customer_id = w.customer_id CROSS JOIN LATERAL (
    SELECT greatest(-w.balance, 0) + coalesce((
        SELECT sum(e.amount) FROM billing_transfer t
        JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16 AND e.account = 'wallet'
        WHERE t.customer_id = w.customer_id AND t.kind = 'adjustment' AND e.amount > 0
            AND t.period > coalesce(w.closed_through, '-infinity')
    ), 0) - coalesce((
        SELECT sum(n.documented) FROM billing_creditnote n
        WHERE n.customer_id = w.customer_id AND n.booked_period > coalesce(w.closed_through, '-infinity')
    ), 0) AS debt
) o
WHERE w.customer_id {HERE} AND i.due > o.debt ORDER BY w.customer_id"""

# Over all time: the tax account against the taxes of documents. What was moved there by hand stands on its own.
_TAX = f"""
SELECT c.id, 'tax', NULL::bigint, true, d.expected, d.found
FROM billing_customer c CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT sum(tax) FROM billing_invoice WHERE customer_id = c.id AND terms = 'on_account' AND status <> 'draft'
    ), 0) + coalesce((
        SELECT sum(tax) FROM billing_topup WHERE customer_id = c.id AND status = 'paid'
    ), 0) - coalesce((
        SELECT sum(tax) FROM billing_refund WHERE customer_id = c.id AND status <> 'failed'
    ), 0) - coalesce((
        SELECT sum(taken_tax - returned_tax) FROM billing_dispute WHERE customer_id = c.id
    ), 0) - coalesce((
        SELECT sum(tax) FROM billing_creditnote WHERE customer_id = c.id AND transfer_id IS NOT NULL
    ), 0) AS expected, coalesce((
        SELECT sum(e.amount) FROM billing_entry e JOIN billing_transfer t
            ON t.customer_id = e.customer_id AND t.id = e.transfer_id
        WHERE e.customer_id = c.id AND e.account = 'tax' AND t.kind <> 'manual'
    ), 0) AS found
) d
WHERE c.id {HERE} AND d.expected <> d.found ORDER BY c.id"""


def invoice_checks(*, full: bool) -> tuple[str, ...]:
    """The statements to run, for billing.checks.differences."""
    return (_INVOICES, _DUE, _CREDIT_NOTES, _RECEIVABLES, *([_TAX] if full else []))
