"""Is the credit right? What is left of grants against balances, their uses, and what adjustments gave back of these."""

from billing.checks import HERE, SINCE

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

_RETURNS = f"""
SELECT customer_id, 'given back of what {{tr}} had used of grant ' || r.grant_id || ', at most', r.used_by_id, true,
       coalesce(u.amount, 0), r.amount
FROM (
    SELECT customer_id, used_by_id, grant_id, sum(amount) AS amount FROM billing_grantreturn
    WHERE customer_id {HERE} GROUP BY customer_id, used_by_id, grant_id
) r LEFT JOIN (
    SELECT customer_id, transfer_id AS used_by_id, grant_id, amount FROM billing_grantuse WHERE customer_id {HERE}
) u USING (customer_id, used_by_id, grant_id)
WHERE r.amount > coalesce(u.amount, 0) ORDER BY customer_id, r.used_by_id"""

_ONLY_FULL = (_USES, _RETURNS)
_ONLY_SINCE = (_USES_SINCE,)


def grant_checks(*, full: bool) -> tuple[str, ...]:
    """The statements to run, for billing.checks.differences."""
    return (_CREDIT, *(_ONLY_FULL if full else _ONLY_SINCE))
