"""What is told of spend limits: 80 % and 100 % of what is spent, each once in a limit's day or month."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.db import transaction

from billing import ledger, spending
from billing.models import Notice, OperatorSettings, SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import pricing, rerating, spend, tiers
from metering.models import Price, UsageTier
from metering.rerating_pages import Scope
from tests.world import SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

LIMIT = Decimal("0.3")  # 80 % of it are 0.24
TO_80, TO_100 = 16_000, 20_000  # tokens of output, 0.000015 each
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def limit(payer: Payer, amount: Decimal | str = LIMIT, span: Span = Span.DAY, **changes: Any) -> None:
    owner = changes.pop("owner", SpendLimit.Owner.OPERATOR)
    at = changes.pop("at", None) or datetime.now(UTC)
    spend.set_limit(payer.customer.pk, spend.Limit(span, Decimal(amount), **changes), owner=owner, actor="", at=at)


def use(payer: Payer, tokens: int, **changes: Any) -> None:
    """Let a payer use tokens of output."""
    event = make_event(payer, format="meters", usage={"output": tokens}, **changes)
    assert Relay().report(event).body["accepted"] == 1


def count(payer: Payer, spent: str, at: datetime = NOON) -> None:
    """Let a payer have spent so much more, or less."""
    with transaction.atomic():
        wallets = ledger.lock_wallets([payer.customer.pk])
        change = spending.Change(payer.customer.pk, spend.key_scope(payer.key.pk), at, Decimal(spent), Decimal(0))
        spending.count([change], wallets=wallets, at=at)


def rows(payer: Payer) -> list[dict[str, Any]]:
    return list(
        Notice.objects.filter(customer=payer.customer, kind="spend_limit_used")
        .order_by("pk")
        .values_list("data", flat=True)
    )


def told(payer: Payer) -> list[tuple[str, int]]:
    """The amounts and percents told, the oldest first."""
    return [(row["amount"], row["percent"]) for row in rows(payer)]


def percents(payer: Payer) -> list[int]:
    return [row["percent"] for row in rows(payer)]


class TestAThreshold:
    @pytest.mark.parametrize(
        ("amount", "spent", "one_more", "before", "after"),
        [
            ("1", "0.799999999999999", "0.000000000000001", [], [80]),
            ("1", "0.999999999999999", "0.000000000000001", [80], [80, 100]),
            ("0.000000000000005", "0.000000000000003", "0.000000000000001", [], [80]),
            # 80 % of 7 are 5.6, which nothing can be.
            ("0.000000000000007", "0.000000000000005", "0.000000000000001", [], [80]),
            ("999999999999.99", "799999999999.991999999999999", "0.000000000000001", [], [80]),
            ("999999999999.99", "999999999999.989999999999999", "0.000000000000001", [80], [80, 100]),
        ],
    )
    def test_is_told_of_from_its_last_digit_on(
        self, amount: str, spent: str, one_more: str, before: list[int], after: list[int]
    ) -> None:
        payer = make_payer()
        limit(payer, amount, at=NOON)
        count(payer, spent)
        assert percents(payer) == before
        count(payer, one_more)
        assert percents(payer) == after

    def test_is_told_of_by_the_usage_that_reaches_it_with_all_that_a_message_needs(self) -> None:
        payer = make_payer()
        limit(payer, is_hard=False, api_key_id=payer.key.pk, owner=SpendLimit.Owner.CUSTOMER)
        use(payer, TO_80 - 1)
        assert rows(payer) == []
        use(payer, 1)
        assert rows(payer) == [
            {
                "scope": f"key:{payer.key.pk}",
                "span": "day",
                "starts_on": f"{datetime.now(UTC):%Y-%m-%d}",
                "set_by": "customer",
                "type": "soft",
                "amount": "0.300000",
                "spent": "0.240000",
                "percent": 80,
            }
        ]
        use(payer, TO_100 - TO_80 - 1)
        assert percents(payer) == [80]
        use(payer, 1)
        assert [(row["percent"], row["spent"]) for row in rows(payer)] == [(80, "0.240000"), (100, "0.300000")]

    def test_that_usage_jumps_over_is_told_of_with_the_next(self) -> None:
        payer = make_payer()
        limit(payer)
        use(payer, 2 * TO_100)
        assert percents(payer) == [80, 100]
        use(payer, 1)
        assert len(rows(payer)) == 2

    def test_is_one_of_what_is_spent_and_not_of_what_is_held(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer)
        hold = relay.authorize(payer, input_tokens=0, max_output_tokens=TO_100).body
        assert SpendCounter.objects.get(customer=payer.customer).held == LIMIT
        assert rows(payer) == []
        use(payer, TO_80, authorization=hold["id"])
        assert percents(payer) == [80]

    def test_of_nothing_is_passed_by_whatever_costs(self) -> None:
        payer = make_payer()
        limit(payer, "0")
        use(payer, 0)
        assert rows(payer) == []
        use(payer, 1)
        assert percents(payer) == [80, 100]

    def test_begins_anew_with_the_next_day(self) -> None:
        payer = make_payer()
        with time_machine.travel(NOON, tick=False):
            limit(payer)
            use(payer, TO_100)
        with time_machine.travel(NOON + timedelta(days=1), tick=False):
            use(payer, TO_80 - 1)
            assert len(rows(payer)) == 2
            use(payer, 1)
        assert [(row["starts_on"], row["percent"]) for row in rows(payer)[2:]] == [("2026-11-23", 80)]

    def test_of_the_day_that_is_just_over_is_told_of_too(self) -> None:
        payer = make_payer()
        with time_machine.travel(NOON, tick=False):
            limit(payer)
        with time_machine.travel(NOON + timedelta(days=1), tick=False):
            use(payer, TO_80, occurred_at="2026-11-22T23:59:59Z")
        assert [(row["starts_on"], row["percent"]) for row in rows(payer)] == [("2026-11-22", 80)]

    def test_is_each_limit_s_own(self) -> None:
        payer = make_payer()
        limit(payer, "0.3")
        limit(payer, "0.3", is_hard=False)
        limit(payer, "0.3", owner=SpendLimit.Owner.CUSTOMER)
        limit(payer, "0.3", Span.MONTH)
        limit(payer, "0.3", api_key_id=payer.key.pk)
        limit(payer, "0.5")
        use(payer, TO_80)
        assert [(row["scope"], row["span"], row["set_by"], row["type"]) for row in rows(payer)] == [
            ("customer", "day", "customer", "hard"),
            ("customer", "day", "operator", "soft"),
            ("customer", "month", "operator", "hard"),
            (f"key:{payer.key.pk}", "day", "operator", "hard"),
        ]

    def test_of_one_customer_is_not_told_to_another_of_the_same_batch(self) -> None:
        one, other = make_payer(), make_payer()
        limit(one)
        limit(other)
        Relay().report(
            *(make_event(who, format="meters", usage={"output": n}) for who, n in ((one, TO_80), (other, TO_80 - 1)))
        )
        assert (percents(one), percents(other)) == ([80], [])


class TestSpendThatFallsAndRises:
    def test_tells_nothing_twice(self) -> None:
        payer = make_payer()
        limit(payer, "1", at=NOON)
        for spent in ("1", "-0.5", "0.4", "-0.9", "3"):
            count(payer, spent)
        assert percents(payer) == [80, 100]

    def test_by_rating_again_tells_nothing_twice_and_what_is_new_once(self) -> None:
        payer = make_payer()
        limit(payer, LIMIT, Span.MONTH)
        use(payer, TO_80)
        found = []
        for price in ("0", "15", "30", "15", "30"):
            Price.objects.filter(model__public_id=SONNET, meter="output", variant="", kind="charge").update(
                unit_price=Decimal(price)
            )
            pricing.bump_version()
            ever = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
            rerating.apply(ever, reason="a wrong price", actor="tests", at=datetime.now(UTC))
            found.append(percents(payer))
        assert found == [[80], [80], [80, 100], [80, 100], [80, 100]]


class TestALimit:
    def test_that_is_set_tells_what_is_spent_of_it_already(self) -> None:
        payer = make_payer()
        use(payer, TO_80)
        limit(payer)
        assert told(payer) == [("0.300000", 80)]

    def test_that_is_raised_is_another_one(self) -> None:
        payer = make_payer()
        limit(payer)
        use(payer, TO_100)
        limit(payer, "0.6")
        assert told(payer)[2:] == []
        use(payer, TO_80 * 2 - TO_100)
        assert told(payer)[2:] == [("0.600000", 80)]

    def test_that_is_lowered_tells_at_once_what_it_has_passed_now(self) -> None:
        payer = make_payer()
        limit(payer, "1")
        use(payer, TO_80)
        assert told(payer) == []
        limit(payer, "0.25")
        assert told(payer) == [("0.250000", 80)]
        limit(payer, "0.24")
        assert told(payer)[1:] == [("0.240000", 80), ("0.240000", 100)]

    def test_that_is_set_again_as_it_was_tells_nothing_again(self) -> None:
        payer = make_payer()
        limit(payer)
        use(payer, TO_100)
        limit(payer, "0.300")
        spend.replace_limits(
            payer.customer.pk, [], owner=SpendLimit.Owner.OPERATOR, api_key_id=None, actor="", at=datetime.now(UTC)
        )
        limit(payer)
        assert len(told(payer)) == 2

    def test_says_nothing_of_days_before_it_was_what_it_is(self) -> None:
        payer = make_payer()
        with time_machine.travel(NOON, tick=False):
            limit(payer, "5")
        with time_machine.travel(NOON + timedelta(days=1), tick=False):
            limit(payer)
            use(payer, TO_100, occurred_at=NOON.isoformat())
        assert rows(payer) == []

    def test_of_a_usage_tier_tells_too(self) -> None:
        payer = make_payer()
        tiers.load_sample()
        tier = UsageTier.objects.get(name="Tier 1")
        UsageTier.objects.filter(pk=tier.pk).update(spend_per_month=LIMIT, is_on=True)
        tiers.pin(customer_id=payer.customer.pk, tier_id=tier.pk, at=datetime.now(UTC))
        assert tiers.limit_spend(at=datetime.now(UTC)) == 1
        use(payer, TO_80)
        assert [(row["set_by"], row["span"], row["percent"]) for row in rows(payer)] == [("tier", "month", 80)]

    def test_that_is_counted_anew_in_another_time_zone_tells_once_and_of_its_new_day(self) -> None:
        payer = make_payer()
        with time_machine.travel(NOON, tick=False):
            limit(payer)
            limit(payer, LIMIT, Span.MONTH)
            use(payer, TO_80)
            OperatorSettings.objects.update(timezone="Pacific/Kiritimati")
            spend.count_anew([payer.customer.pk], at=datetime.now(UTC))
        assert [(row["span"], row["starts_on"]) for row in rows(payer)] == [
            ("day", "2026-11-22"),
            ("month", "2026-11-01"),
            ("day", "2026-11-23"),
        ]


def test_without_a_limit_nothing_is_told() -> None:
    payer = make_payer()
    use(payer, TO_100)
    assert rows(payer) == []
    assert not SpendCounter.objects.exists()
