"""Grants under one key at the same moment, and prices that change between two batches."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from uuid import uuid4

import pytest
from django.db import transaction

from billing import credits, ledger
from billing.models import Grant
from metering import pricing
from metering.models import Channel, Model, Price, UsageEvent
from tests.concurrency.racing import assert_books_are_right, at_once, look_without_lock
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")


def give(payer: Payer, key: str) -> credits.Granted:
    return credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(5),
        kind="promotional",
        reason="race",
        reference="",
        key=key,
        at=datetime.now(UTC),
    )


def test_one_key_s_grants_at_once_give_once_and_all_hear_of_it() -> None:
    payer = make_payer(credit="0")
    for number in range(5):
        outcomes = at_once([lambda number=number: give(payer, f"key {number}")] * 8)  # type: ignore[misc]
        assert all(isinstance(outcome, credits.Granted) for outcome in outcomes), outcomes
        assert len(set(outcomes)) == 1
        assert payer.balance == 5 * (number + 1)
    assert Grant.objects.filter(customer=payer.customer).count() == 5
    assert_books_are_right(payer.customer)


def test_different_grants_at_once_all_count() -> None:
    payer = make_payer(credit="0")
    at_once([lambda number=number: give(payer, f"key {number}") for number in range(12)])  # type: ignore[misc]
    assert (payer.balance, payer.wallet.version) == (60, 12)
    assert_books_are_right(payer.customer)


def test_without_the_wallet_s_lock_the_second_grant_fails_on_the_ledger_s_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: both find no such grant, and both make it."""
    payer = make_payer(credit="0")
    both_have_looked = Barrier(2)
    post = ledger.post

    def post_once_both_have_looked(*args: object, **kwargs: object) -> list[int]:
        both_have_looked.wait(30)
        return post(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "lock_wallets", look_without_lock)
    monkeypatch.setattr(ledger, "post", post_once_both_have_looked)
    outcomes = at_once([lambda: give(payer, "same")] * 2)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyPosted", "Granted"]


def test_grants_and_usage_at_once_lose_nothing_of_either() -> None:
    payer, token = make_payer(credit="0"), Relay().token
    usage = {"format": "meters", "usage": {"output": 100_000}}  # 1.50 USD

    def report() -> None:
        assert Relay(token).report(*[make_event(payer, **usage) for _ in range(4)]).body["accepted"] == 4

    def give_one() -> None:
        give(payer, uuid4().hex)

    assert at_once([report, give_one] * 6) == [None] * 12
    assert payer.balance == 6 * 5 - 6 * 4 * Decimal("1.5")
    assert_books_are_right(payer.customer)


def new_model(price: str) -> str:
    """A model of its own, so that no other test's prices change."""
    maker = Channel.objects.get(name="anthropic")
    model = Model.objects.create(public_id=f"model-{uuid4().hex}", maker=maker)
    set_price(model, price, since=None)
    return model.public_id


def set_price(model: Model, price: str, since: datetime | None) -> None:
    """From then on it costs so much a million tokens, on its channel and in the list; committed."""
    with transaction.atomic():
        if since is not None:
            Price.objects.filter(model=model, effective_until=None).update(effective_until=since)
        for kind, channel in (("cost", model.maker), ("charge", None)):
            Price.objects.create(
                kind=kind,
                channel=channel,
                model=model,
                meter="input",
                unit_price=Decimal(price),
                per=1_000_000,
                effective_from=since,
                source="test",
            )
        pricing.bump_version()


def charge_of(payer: Payer, relay: Relay, model: str, occurred_at: datetime) -> Decimal:
    event = make_event(
        payer, model=model, format="meters", usage={"input": 1_000_000}, occurred_at=occurred_at.isoformat()
    )
    assert relay.report(event).body["accepted"] == 1
    return UsageEvent.objects.get(customer=payer.customer, event_id=event["id"]).charge


def test_a_price_committed_between_two_batches_is_seen_by_the_next() -> None:
    payer, relay = make_payer(), Relay()
    name = new_model("3")
    model = Model.objects.get(public_id=name)
    yesterday, change = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)
    ask = {"model": name, "input_tokens": 1_000_000, "max_output_tokens": 0}
    assert charge_of(payer, relay, name, change) == 3
    assert relay.authorize(payer, **ask).body["amount"] == "3.000000"

    (outcome,) = at_once([lambda: set_price(model, "7", since=change)])
    assert outcome is None

    assert charge_of(payer, relay, name, change) == 7
    assert relay.authorize(payer, **ask).body["amount"] == "7.000000"
    assert charge_of(payer, relay, name, yesterday) == 3
    assert charge_of(payer, relay, name, change - timedelta(microseconds=1)) == 3


def test_a_price_that_is_not_committed_is_seen_by_nobody_and_remembered_by_nobody() -> None:
    payer, token = make_payer(), Relay().token
    name = new_model("3")
    model = Model.objects.get(public_id=name)
    now = datetime.now(UTC)

    with transaction.atomic():
        set_price(model, "7", since=now - timedelta(hours=1))
        assert charge_of(payer, Relay(token), name, now) == 7
        (charge,) = at_once([lambda: charge_of(make_payer(), Relay(token), name, now)])
        assert charge == 3
        transaction.set_rollback(True)
    assert charge_of(payer, Relay(token), name, now) == 3


def test_prices_that_change_all_the_time_leave_every_event_with_one_of_them() -> None:
    payer, token = make_payer(), Relay().token
    name = new_model("1")
    model = Model.objects.get(public_id=name)
    start = datetime.now(UTC) - timedelta(hours=1)

    def change() -> None:
        for step in range(1, 11):
            set_price(model, str(step + 1), since=start + timedelta(seconds=step))

    def report() -> list[tuple[int, Decimal]]:
        relay, found = Relay(token), []
        for step in range(12):
            moment = start + timedelta(seconds=step, milliseconds=500)
            found.append((step, charge_of(payer, relay, name, moment)))
        return found

    outcomes = at_once([change, report, report])
    for outcome in outcomes[1:]:
        assert not isinstance(outcome, Exception), outcome
        assert outcome is not None
        assert all(1 <= charge <= step + 1 for step, charge in outcome), "a price of its moment, never of a later one"
    assert charge_of(payer, Relay(token), name, start + timedelta(seconds=11)) == 11
    assert_books_are_right(payer.customer)
