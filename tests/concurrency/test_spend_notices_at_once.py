"""Workers that pass a threshold of a spend limit at the same moment: it is told once, of what was spent then."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.db import transaction

from billing import notices, spend_notices
from billing.models import Notice, SpendLimit
from billing.models.spending import Span
from metering import spend
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock
from tests.world import Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

ONCE = "ON CONFLICT (customer_id, kind, key) DO NOTHING"
CHARGE = Decimal("0.015")  # 1,000 tokens of output


def set_limit(payer: Payer, amount: Decimal) -> None:
    limit = spend.Limit(Span.DAY, amount)
    spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.CUSTOMER, actor="", at=datetime.now(UTC))


def use(payer: Payer, token: str) -> Answer:
    return Relay(token).report(make_event(payer, format="meters", usage={"output": 1000}))


def told(payer: Payer) -> list[tuple[int, str]]:
    found = Notice.objects.filter(customer=payer.customer, kind="spend_limit_used")
    rows = found.order_by("pk").values_list("data", flat=True)
    return [(row["percent"], row["spent"]) for row in rows]


def test_each_threshold_is_told_once_by_the_request_that_reaches_it() -> None:
    payer, token = make_payer(), Relay().token
    set_limit(payer, 20 * CHARGE)

    works: list[Callable[[], Any]] = [lambda: use(payer, token)] * 28 + [lambda: set_limit(payer, 20 * CHARGE)] * 4
    outcomes = at_once(works)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert told(payer) == [(80, "0.240000"), (100, "0.300000")]
    assert_books_are_right(payer.customer)


def test_many_who_set_a_limit_below_what_is_spent_tell_it_once() -> None:
    payer = make_payer()
    use(payer, Relay().token)
    assert at_once([lambda: set_limit(payer, CHARGE)] * 8) == [None] * 8
    assert told(payer) == [(80, "0.015000"), (100, "0.015000")]


@pytest.mark.parametrize("once", [True, False], ids=["with its key", "without it"])
def test_what_makes_two_that_both_found_it_passed_tell_it_once_is_the_notice_s_key(
    once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the wallet's lock is taken out, and what is done where the key is taken already, too."""
    payer = make_payer()
    use(payer, Relay().token)
    set_limit(payer, Decimal(1))
    SpendLimit.objects.filter(customer=payer.customer).update(amount=CHARGE)
    both_have_looked, tell = Barrier(2), spend_notices.tell

    def tell_once_both_have_looked(passed: Sequence[Any], *, at: datetime) -> int:
        both_have_looked.wait(30)
        return tell(passed, at=at)

    monkeypatch.setattr(spend_notices, "tell", tell_once_both_have_looked)
    if not once:
        assert notices._ANNOUNCE.count(ONCE) == 1
        monkeypatch.setattr(notices, "_ANNOUNCE", notices._ANNOUNCE.replace(ONCE, ""))

    def work() -> int:
        at, wallet = datetime.now(UTC), look_without_lock([payer.customer.pk])[payer.customer.pk]
        with transaction.atomic():
            return spend_notices.tell_where_it_stands(
                wallet, scope="customer", span=Span.DAY, starts_on=at.date(), at=at
            )

    outcomes: list[Any] = at_once([work] * 2)
    assert len(told(payer)) == 2
    if once:
        assert sorted(outcomes) == [0, 2]
    else:
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError", "int"]
