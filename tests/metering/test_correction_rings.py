"""Events that replace one another in a ring are one call: charged once, a conflict, and none of them waits for ever."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from metering import corrections, parking, pricing, rings
from metering.ingestion import Event
from metering.models import EventConflict, Model, ModelAlias, ParkedEvent, UsageAdjustment, UsageHour
from metering.verification import verify_books
from tests.world import SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _books_are_right() -> Iterator[None]:
    yield
    for full in (False, True):
        verified = verify_books(full=full, at=AT)
        assert verified.ok, verified.differences


def make_ring(payer: Payer, *, finals: tuple[int, ...] = (), of: int = 2) -> list[dict[str, Any]]:
    """Events that come in this order and each replace the one before; the first replaces the last.

    Each has another charge: the n-th uses n input tokens per 3 USD per million.
    """
    ids = [f"ring-{place}" for place in range(of)]
    return [
        make_event(
            payer,
            id=ids[place],
            replaces=ids[place - 1],
            estimated=place not in finals,
            usage={"input_tokens": 10 ** (place + 1), "output_tokens": 0},
        )
        for place in range(of)
    ]


def charge(place: int) -> Decimal:
    return Decimal(3 * 10 ** (place + 1)) / 10**6


def sweep_until_nothing_changes() -> None:
    """A sweep also refuses, which it does not count as settled."""
    before = None
    for _ in range(10):
        waiting = parking.sweep(at=AT).waiting
        if waiting == before:
            return
        before = waiting
    raise AssertionError("still settling after ten sweeps")


def conflicts(payer: Payer) -> list[str]:
    return sorted(EventConflict.objects.filter(customer=payer.customer).values_list("kind", flat=True))


def assert_one_call(payer: Payer, place: int, *kinds: str) -> None:
    """Only this event of the ring counts, nothing waits, and nothing is lost."""
    assert payer.balance == 50 - charge(place)
    hours = UsageHour.objects.filter(customer=payer.customer)
    assert sum(hour.requests for hour in hours) == 1
    assert sum(hour.quantities.get("input", 0) for hour in hours) == 10 ** (place + 1)
    assert not ParkedEvent.objects.filter(customer=payer.customer, resolved_at=None).exists()
    assert conflicts(payer) == sorted(["replaces_in_ring", *kinds])


def counts(answer: Any) -> tuple[int, int, int]:
    return answer.body["accepted"], answer.body["duplicates"], answer.body["parked"]


@pytest.mark.parametrize("turn", [1, -1])
def test_of_two_estimates_in_one_batch_the_second_counts(turn: int) -> None:
    payer = make_payer()
    assert counts(Relay().report(*make_ring(payer)[::turn])) == (2, 0, 0)
    assert_one_call(payer, 1)
    assert UsageAdjustment.objects.get(customer=payer.customer).new_charge == 0


@pytest.mark.parametrize("final", [0, 1, 2])
def test_the_only_one_that_is_no_estimate_counts_in_whatever_order_they_come(final: int) -> None:
    relay = Relay()
    for order in permutations(range(3)):
        payer = make_payer()
        ring = make_ring(payer, finals=(final,), of=3)
        for place in order:
            relay.report(ring[place])
        sweep_until_nothing_changes()
        late = [kind for kind in conflicts(payer) if kind != "replaces_in_ring"]
        assert_one_call(payer, final, *late)
        assert set(late) <= {"replaces_final", "replaces_refused"}, "what would have replaced it"


def test_of_two_that_are_no_estimates_the_one_that_came_first_counts() -> None:
    for order in ((0, 1), (1, 0)):
        payer, relay = make_payer(), Relay()
        ring = make_ring(payer, finals=(0, 1))
        assert counts(relay.report(ring[order[0]])) == (0, 0, 1)
        assert counts(relay.report(ring[order[1]])) == (0, 0, 1)
        sweep_until_nothing_changes()
        assert_one_call(payer, order[0], "replaces_final")
        kept = ParkedEvent.objects.get(customer=payer.customer, resolution="refused")
        assert kept.event_id == ring[order[1]]["id"]


def test_sent_again_it_is_all_duplicates() -> None:
    payer, relay = make_payer(), Relay()
    ring = make_ring(payer, of=3)
    relay.report(*ring)
    sweep_until_nothing_changes()
    assert counts(relay.report(*ring)) == (0, 3, 0)
    assert_one_call(payer, 2)


@pytest.mark.parametrize("batches", [1, 2, 7])
def test_a_long_ring_is_followed_to_its_end_by_the_sweep(batches: int) -> None:
    payer, relay = make_payer(), Relay()
    size = corrections.WAVES + 3
    ring = make_ring(payer, of=size)
    for first in range(batches):
        relay.report(*ring[first::batches])
    sweep_until_nothing_changes()
    assert_one_call(payer, size - 1)


def test_one_that_leads_into_a_ring_waits_for_it_and_is_judged_as_any() -> None:
    payer, relay = make_payer(), Relay()
    ring = make_ring(payer, finals=(1,))
    beside = make_event(payer, replaces=ring[1]["id"])
    relay.report(beside)
    relay.report(*ring)
    sweep_until_nothing_changes()
    assert_one_call(payer, 1, "replaces_final")


def test_rings_of_other_customers_and_of_other_calls_are_told_apart() -> None:
    payer, other, relay = make_payer(), make_payer(), Relay()
    mine, theirs = make_ring(payer), make_ring(other)
    relay.report(mine[0], theirs[1])
    assert parking.sweep(at=AT).settled == 0, "half a ring here and the other half there is none"
    assert (conflicts(payer), conflicts(other)) == ([], [])
    relay.report(mine[1], theirs[0])
    sweep_until_nothing_changes()
    assert_one_call(payer, 1)
    assert_one_call(other, 0)


def test_a_ring_waits_for_the_price_of_its_first_and_for_no_other() -> None:
    payer, relay = make_payer(), Relay()
    first, second = make_ring(payer, finals=(0,))
    first["model"] = "a model of tomorrow"
    relay.report(first, second)
    sweep_until_nothing_changes()
    waiting = ParkedEvent.objects.filter(customer=payer.customer, resolved_at=None).order_by("number")
    assert [row.reason for row in waiting] == ["unknown_model", "replaces_parked"]
    assert payer.balance == 50
    ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
    pricing.bump_version()
    sweep_until_nothing_changes()
    assert_one_call(payer, 0, "replaces_final")


def test_the_first_is_charged_though_another_one_has_no_price_yet() -> None:
    payer, relay = make_payer(), Relay()
    first, second = make_ring(payer)
    relay.report(first, {**second, "model": "a model of tomorrow"})
    sweep_until_nothing_changes()
    assert payer.balance == 50 - charge(0)
    ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
    pricing.bump_version()
    sweep_until_nothing_changes()
    assert_one_call(payer, 1)


def test_only_corrections_that_wait_for_corrections_are_looked_at_for_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    find = rings.first_of_rings

    def find_and_note(events: Sequence[Event]) -> set[tuple[int, int]]:
        looked.extend(event.id for event in events)
        return find(events)

    monkeypatch.setattr(rings, "first_of_rings", find_and_note)
    payer, relay = make_payer(), Relay()
    old = make_event(payer, estimated=True)
    early = make_event(payer, replaces="gone")
    relay.report(make_event(payer), old, make_event(payer, replaces=old["id"]), early)
    parking.sweep(at=AT)
    assert looked == []
    later = make_event(payer, replaces=early["id"])
    relay.report(later)
    assert looked == [later["id"]]


def test_a_long_chain_that_waits_is_read_once_not_once_for_each_of_it() -> None:
    payer, relay = make_payer(), Relay()
    chain = [make_event(payer, replaces="gone", id="link-0000")]
    for place in range(1, 2_000):
        chain.append(make_event(payer, replaces=chain[-1]["id"], id=f"link-{place:04}"))
    relay.report(*chain)
    began = time.monotonic()
    swept = parking.sweep(at=AT)
    assert (swept.settled, swept.waiting) == (0, 2_000)
    assert time.monotonic() - began < 5, "it takes a quarter of a second; read again from each link it takes ten"
