"""Usage tiers: who has topped up more may use more. Nobody has one until the operator switches one on."""

import logging
from datetime import datetime
from decimal import Decimal

from billing.models import SpendLimit
from billing.models.spending import Span
from metering import spend
from metering.models import CustomerTier, UsageTier
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import ZERO

logger = logging.getLogger(__name__)
# As published for Claude's platform: name, top-ups from, requests and tokens per minute, spend per month; in USD.
SAMPLE = (
    ("Tier 1", Decimal(5), 50, 40_000, Decimal(100)),
    ("Tier 2", Decimal(40), 1_000, 80_000, Decimal(500)),
    ("Tier 3", Decimal(200), 2_000, 160_000, Decimal(1_000)),
    ("Tier 4", Decimal(400), 4_000, 400_000, Decimal(5_000)),
)

# What customers have paid in; not what was voided, such as a typing error, nor money back, which was paid in before.
_TOP_UPS = """
SELECT g.customer_id, sum(g.amount) AS amount FROM billing_grant g
LEFT JOIN billing_walletadjustment a
    ON a.customer_id = g.customer_id AND a.transfer_id = g.transfer_id AND a.kind = 'money_back'
WHERE g.kind = 'paid' AND g.voided_at IS NULL AND a.id IS NULL{who} GROUP BY g.customer_id"""

# The highest tier that is on and reached, for each customer who has a lower one, one that is off, or none. Compared
# before anything is written: a run that promotes nobody locks no row. The last condition is judged on the newest row,
# so that a tier pinned meanwhile stays.
_PROMOTE = f"""
INSERT INTO metering_customertier AS m (customer_id, tier_id, is_pinned, since)
SELECT c.id, reached.id, false, %s
FROM billing_customer c
LEFT JOIN ({_TOP_UPS.format(who="")}
) top_ups ON top_ups.customer_id = c.id
CROSS JOIN LATERAL (
    SELECT t.id, t.top_ups_from FROM metering_usagetier t
    WHERE t.is_on AND t.top_ups_from <= coalesce(top_ups.amount, 0) ORDER BY t.top_ups_from DESC LIMIT 1
) reached
LEFT JOIN metering_customertier has ON has.customer_id = c.id
LEFT JOIN metering_usagetier old ON old.id = has.tier_id AND old.is_on
WHERE NOT c.is_house AND has.is_pinned IS NOT TRUE
  AND (old.id IS NULL OR old.top_ups_from < reached.top_ups_from)
ORDER BY c.id
ON CONFLICT (customer_id) DO UPDATE SET tier_id = excluded.tier_id, since = excluded.since WHERE NOT m.is_pinned
"""


def load_sample() -> int:
    """Add the sample table, switched off; returns how many tiers are new. A name or amount that is taken stays."""

    def work() -> int:
        before = UsageTier.objects.count()
        UsageTier.objects.bulk_create(
            [
                UsageTier(
                    name=name,
                    top_ups_from=top_ups,
                    requests_per_minute=requests,
                    tokens_per_minute=tokens,
                    spend_per_month=per_month,
                )
                for name, top_ups, requests, tokens, per_month in SAMPLE
            ],
            ignore_conflicts=True,
        )
        return UsageTier.objects.count() - before

    return in_transaction(work)


def switch(*, tier_ids: list[int] | None, is_on: bool, at: datetime) -> int:
    """Switch these tiers (None: all) on or off, effective at the next authorization; returns how many changed.

    Who has topped up enough has the tier at once; switched off, it limits nobody.
    """

    def work() -> int:
        chosen = UsageTier.objects.all() if tier_ids is None else UsageTier.objects.filter(pk__in=tier_ids)
        changed = chosen.exclude(is_on=is_on).update(is_on=is_on)
        if changed:
            promote(at=at)
        return changed

    return in_transaction(work)


def promote(*, at: datetime) -> int:
    """Give customers the highest tier that is on and that their top-ups reach; returns how many got another one.

    Nobody is ever put down, unless from a tier that is off; a pinned tier stays. Can run at once with itself.
    """

    def work() -> int:
        if not UsageTier.objects.filter(is_on=True).exists():
            return 0
        with server_cursor() as cursor:
            cursor.execute(_PROMOTE, [at])
            return cursor.rowcount

    promoted = in_transaction(work)
    if promoted:
        logger.info("customers promoted count=%d", promoted)
    return promoted


def pin(*, customer_id: int, tier_id: int | None, at: datetime) -> None:
    """Give a customer this tier (None: never limited) until it is unpinned, whatever is topped up."""
    told = {"tier_id": tier_id, "is_pinned": True, "since": at}
    CustomerTier.objects.update_or_create(customer_id=customer_id, defaults=told)


def top_ups_of(customer_id: int) -> Decimal:
    """All that a customer has paid in so far, in USD."""
    with server_cursor() as cursor:
        cursor.execute(_TOP_UPS.format(who=" AND g.customer_id = %s"), [customer_id])
        _, total = cursor.fetchone() or (customer_id, ZERO)
    return Decimal(total)


def next_tier(customer_id: int) -> UsageTier | None:
    """The lowest tier that is on and that the customer's top-ups don't reach yet."""
    return UsageTier.objects.filter(is_on=True, top_ups_from__gt=top_ups_of(customer_id)).first()


# Customers whose tier's spend per month is not the limit that they have.
_OTHER_LIMIT = f"""
SELECT c.id, t.spend_per_month FROM billing_customer c
LEFT JOIN metering_customertier m ON m.customer_id = c.id
LEFT JOIN metering_usagetier t ON t.id = m.tier_id AND t.is_on
LEFT JOIN billing_spendlimit l ON l.customer_id = c.id AND l.owner = '{SpendLimit.Owner.TIER}'
WHERE NOT c.is_house AND t.spend_per_month IS DISTINCT FROM l.amount::numeric
ORDER BY c.id LIMIT %s"""
_LIMITED_AT_ONCE = 1_000


def limit_spend(*, at: datetime) -> int:
    """Make each tier's spend per month a limit of its customers, a wallet at a time; returns how many changed.

    At most a thousand: the next run goes on.
    """
    with server_cursor() as cursor:
        cursor.execute(_OTHER_LIMIT, [_LIMITED_AT_ONCE])
        other = cursor.fetchall()
    for customer_id, amount in other:
        spend.replace_limits(
            customer_id,
            [] if amount is None else [spend.Limit(Span.MONTH, amount)],
            owner=SpendLimit.Owner.TIER,
            api_key_id=None,
            actor="",
            at=at,
        )
    return len(other)
