"""What waits is settled once what was missing is there: at the price of its own moment, and once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from billing.models import Hold
from metering import keys, parking, pricing
from metering.models import (
    ApiKey,
    Channel,
    EventConflict,
    Model,
    ModelAlias,
    ParkedEvent,
    Price,
    UnclaimedEvent,
    UsageEvent,
    UsageHour,
)
from relayadmin import ids
from tests.concurrency.racing import assert_books_are_right
from tests.world import EXAMPLE_CHARGE, EXAMPLE_USAGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


def now() -> datetime:
    return datetime.now(UTC)


def park(payer: Payer, **changes: Any) -> dict[str, Any]:
    event = make_event(payer, **changes)
    answer = Relay().report(event).body
    assert answer["parked"] == 1, answer
    return event


def sweep() -> tuple[int, int, int]:
    swept = parking.sweep(at=now())
    return swept.settled, swept.claimed, swept.waiting


def add_alias(name: str, public_id: str = "claude-sonnet-4-20250514") -> None:
    ModelAlias.objects.create(name=name, model=Model.objects.get(public_id=public_id))
    pricing.bump_version()


class TestASweep:
    def test_settles_nothing_while_nothing_has_changed(self) -> None:
        payer = make_payer()
        park(payer, model="brand-new")
        assert sweep() == (0, 0, 1)
        assert payer.balance == 50

    def test_settles_an_event_once_its_model_has_a_name(self) -> None:
        payer = make_payer()
        event = park(payer, model="brand-new", metadata={"team": "search"}, status="aborted", estimated=True)
        add_alias("brand-new")
        assert sweep() == (1, 0, 0)
        assert sweep() == (0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        stored = UsageEvent.objects.get(customer=payer.customer)
        assert (stored.event_id, stored.charge, stored.metadata) == (event["id"], EXAMPLE_CHARGE, {"team": "search"})
        assert (stored.status, stored.estimated) == ("aborted", True)
        assert stored.occurred_at == datetime.fromisoformat(event["occurred_at"])
        assert stored.usage == event["usage"]
        row = ParkedEvent.objects.get()
        assert (row.resolution, row.resolved_at is None) == ("settled", False)
        assert_books_are_right(payer.customer)

    def test_settles_at_the_price_of_the_event_s_own_moment(self) -> None:
        payer = make_payer()
        model = Model.objects.create(public_id="brand-new", maker=Channel.objects.get(name="anthropic"))
        pricing.bump_version()
        before, after = "2026-11-03T11:59:59Z", "2026-11-03T12:00:00Z"
        for moment in (before, after):
            park(payer, model="brand-new", format="meters", usage={"input": 1_000_000}, occurred_at=moment)
        change = datetime(2026, 11, 3, 12, tzinfo=UTC)
        for kind, channel in (("cost", model.maker), ("charge", None)):
            common = {"kind": kind, "channel": channel, "model": model, "meter": "input", "per": 10**6, "source": "t"}
            Price.objects.create(**common, unit_price=1, effective_until=change)
            Price.objects.create(**common, unit_price=7, effective_from=change)
        pricing.bump_version()
        assert sweep() == (2, 0, 0)
        charges = UsageEvent.objects.filter(customer=payer.customer).order_by("occurred_at")
        assert [event.charge for event in charges] == [1, 7]

    def test_settles_what_was_ahead_of_the_clock_when_the_clock_has_come(self) -> None:
        payer = make_payer()
        later = now() + timedelta(minutes=10)
        park(payer, occurred_at=later.isoformat())
        assert sweep() == (0, 0, 1)
        with time_machine.travel(later, tick=False):
            assert sweep() == (1, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_settles_the_hold_that_waited_with_its_event(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        park(payer, model="brand-new", authorization=granted.body["id"])
        assert payer.wallet.held == Decimal("0.0111")
        add_alias("brand-new")
        sweep()
        hold = Hold.objects.get(customer=payer.customer)
        assert (hold.status, hold.settled, payer.wallet.held) == ("settled", EXAMPLE_CHARGE, 0)

    def test_leaves_those_that_still_wait_and_settles_the_others(self) -> None:
        payers = [make_payer() for _ in range(3)]
        for payer in payers:
            park(payer, model="brand-new")
            park(payer, model="unheard-of")
            park(payer, usage={**EXAMPLE_USAGE, "zebras": 1})
        add_alias("brand-new")
        assert sweep() == (3, 0, 6)
        assert {payer.balance for payer in payers} == {50 - EXAMPLE_CHARGE}

    def test_keeps_the_id_taken_before_and_after(self) -> None:
        payer, relay = make_payer(), Relay()
        event = park(payer, model="brand-new")
        add_alias("brand-new")
        assert relay.report(event).body["duplicates"] == 1
        sweep()
        assert relay.report(event).body["duplicates"] == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert not EventConflict.objects.exists()

    def test_comes_through_events_of_any_honest_shape(self) -> None:
        """One event that can be kept but not read again would stop the sweep for everybody."""
        payer = make_payer()
        shapes: list[dict[str, Any]] = [
            {"metadata": {"n": [1e300] * 500}},
            {"metadata": {"n": 10**4000}},
            {"metadata": {"deep": _nested(98)}},
            {"usage": {**EXAMPLE_USAGE, "note": "n" * 65_000}},
            {"usage": {**EXAMPLE_USAGE, "numbers": [-1e300] * 6_000}},
            {"usage": {**EXAMPLE_USAGE, "n": -(10**4000)}},
            {"metadata": {"\u2028": "\u007f\ufffe\U0001f600\\u0000"}},
            {"id": "\t\n\\N", "authorization": "\\."},
            {"occurred_at": "0001-01-01T00:00:00Z"},
        ]
        for shape in shapes:
            park(payer, **{"model": "brand-new", **shape})
        add_alias("brand-new")
        assert sweep() == (len(shapes), 0, 0)
        assert payer.balance == 50 - len(shapes) * EXAMPLE_CHARGE
        assert_books_are_right(payer.customer)

    def test_of_chosen_events_leaves_the_others(self) -> None:
        payer = make_payer()
        for _ in range(3):
            park(payer, model="brand-new")
        add_alias("brand-new")
        first = ParkedEvent.objects.order_by("pk").first()
        assert first is not None
        assert parking.settle_parked(parked_ids=[first.pk], at=now()) == 1
        assert parking.settle_parked(parked_ids=[first.pk], at=now()) == 0
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_in_portions_comes_to_its_end(self) -> None:
        payer = make_payer()
        Relay().report(*[make_event(payer, model="brand-new") for _ in range(1_500)])
        add_alias("brand-new")
        assert sweep() == (1_500, 0, 0)
        assert UsageHour.objects.get(customer=payer.customer).requests == 1_500


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class TestUnclaimedUsage:
    def make_key(self, payer: Payer, secret: str, public_id: str = "") -> ApiKey:
        key, _ = keys.create_api_key(customer=payer.customer, name="late", at=now())
        changed = {"digest": ids.secret_digest(secret)} | ({"public_id": public_id} if public_id else {})
        ApiKey.objects.filter(pk=key.pk).update(**changed)
        return key

    def test_is_charged_when_its_key_appears_by_hash_or_by_id(self) -> None:
        payer, relay = make_payer(), Relay()
        by_hash, by_id = make_event(api_key="sk-late"), make_event(api_key_id="key_late")
        relay.report(by_hash, by_id)
        assert sweep() == (0, 0, 2)
        key = self.make_key(payer, "sk-late", "key_late")
        assert sweep() == (0, 2, 0)
        assert sweep() == (0, 0, 0)
        assert payer.balance == 50 - 2 * EXAMPLE_CHARGE
        events = UsageEvent.objects.filter(customer=payer.customer)
        assert {event.event_id for event in events} == {by_hash["id"], by_id["id"]}
        assert {event.api_key_id for event in events} == {key.pk}
        assert {row.resolution for row in UnclaimedEvent.objects.all()} == {"claimed"}
        assert_books_are_right(payer.customer)

    def test_is_charged_once_however_it_was_named(self) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(api_key="sk-late")
        relay.report(event)
        relay.report({**event, "api_key": None, "api_key_id": "key_late"} | {"api_key_id": "key_late"})
        self.make_key(payer, "sk-late", "key_late")
        assert relay.report(event).body["accepted"] == 1
        sweep()
        assert relay.report(event).body["duplicates"] == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert not EventConflict.objects.exists()

    def test_that_can_t_be_priced_yet_parks_at_its_customer(self) -> None:
        payer = make_payer()
        Relay().report(make_event(api_key="sk-late", model="brand-new"))
        self.make_key(payer, "sk-late")
        assert sweep() == (0, 1, 1)
        assert ParkedEvent.objects.get().customer == payer.customer
        add_alias("brand-new")
        assert sweep() == (1, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE

    @pytest.mark.parametrize("name", ["sha256:", "sha256:x", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "AB" * 32])
    def test_of_a_key_id_that_looks_like_a_hash_stops_nobody(self, name: str) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(api_key_id=name), make_event(api_key="sk-late"))
        self.make_key(payer, "sk-late")
        assert sweep() == (0, 1, 1)

    def test_is_kept_apart_by_key_though_the_ids_are_the_same(self) -> None:
        relay = Relay()
        one, other = make_event(api_key_id="key_one", id="same"), make_event(api_key_id="key_other", id="same")
        assert relay.report(one, other).body["parked"] == 2
        assert not EventConflict.objects.exists()


def test_what_it_waits_for_is_written_down_anew_when_it_has_become_something_else() -> None:
    payer = make_payer()
    park(payer, model="nobody-sells-this")
    unpriced = Model.objects.create(public_id="unpriced-1", maker=Channel.objects.get(name="anthropic"))
    add_alias("nobody-sells-this", unpriced.public_id)
    assert sweep() == (0, 0, 1)
    row = ParkedEvent.objects.get(customer=payer.customer)
    assert (row.reason, row.resolved_at) == ("no_price", None)
    assert "unpriced-1" in row.detail
