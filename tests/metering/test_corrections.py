"""`"replaces"`: an estimate is taken back and what was used stands in its place, once; nothing lost, nothing twice."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing.models import Entry, Transfer
from metering import corrections, parking, pricing, statements
from metering.models import (
    EventConflict,
    Model,
    ModelAlias,
    ParkedEvent,
    UsageAdjustment,
    UsageEvent,
    UsageHour,
)
from metering.verification import verify_books
from tests.world import EXAMPLE_CHARGE, SONNET, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
ESTIMATE = {"input_tokens": 1000, "output_tokens": 100}
ESTIMATED_CHARGE = Decimal("0.0045")


@pytest.fixture(autouse=True)
def _books_are_right() -> Iterator[None]:
    """After each test, from the last time on and from the beginning."""
    yield
    for full in (False, True):
        verified = verify_books(full=full, at=AT)
        assert verified.ok, verified.differences


def estimate(payer: Payer, **changes: Any) -> dict[str, Any]:
    return make_event(payer, **{"status": "aborted", "estimated": True, "usage": ESTIMATE, **changes})


def counts(answer: Answer) -> tuple[int, int, int, int]:
    body = answer.body
    return body["accepted"], body["duplicates"], body["parked"], len(body["rejected"])


def hours(payer: Payer) -> tuple[int, dict[str, int], Decimal]:
    """Requests, quantities and charge of all hours."""
    requests, charge, quantities = 0, Decimal(0), {}
    for hour in UsageHour.objects.filter(customer=payer.customer):
        requests, charge = requests + hour.requests, charge + hour.charge
        for meter, quantity in hour.quantities.items():
            quantities[meter] = quantities.get(meter, 0) + quantity
    return requests, {meter: quantity for meter, quantity in quantities.items() if quantity}, charge


EXAMPLE_HOURS = (
    1,
    {"input": 1000, "cache_read": 10000, "cache_write_5m": 1000, "cache_write_1h": 2000, "output": 500},
    EXAMPLE_CHARGE,
)


def conflicts(payer: Payer) -> list[str]:
    return list(EventConflict.objects.filter(customer=payer.customer).order_by("id").values_list("kind", flat=True))


class TestACorrection:
    def test_takes_the_estimate_back_and_charges_what_was_used(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        relay.report(old)
        assert payer.balance == 50 - ESTIMATED_CHARGE
        assert counts(relay.report(make_event(payer, replaces=old["id"]))) == (1, 0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert hours(payer) == EXAMPLE_HOURS
        first, second = UsageEvent.objects.filter(customer=payer.customer).order_by("id")
        assert (first.charge, second.charge) == (ESTIMATED_CHARGE, EXAMPLE_CHARGE), "what was stored stays"
        adjustment = UsageAdjustment.objects.get(customer=payer.customer)
        assert (adjustment.event_number, adjustment.replaced_by, adjustment.step) == (first.pk, second.pk, 1)
        assert (adjustment.old_charge, adjustment.new_charge) == (ESTIMATED_CHARGE, 0)
        transfer = Transfer.objects.get(customer=payer.customer, kind="adjustment")
        assert adjustment.transfer_id == transfer.pk
        assert transfer.key.startswith("correction:")
        assert transfer.reason == corrections.REASON
        amounts = dict(Entry.objects.filter(transfer_id=transfer.pk).values_list("account", "amount"))
        assert amounts == {"wallet": ESTIMATED_CHARGE, "promotional_usage": -ESTIMATED_CHARGE}

    @pytest.mark.parametrize("is_first", [True, False])
    def test_may_come_in_one_batch_with_the_estimate_in_any_order(self, is_first: bool) -> None:
        payer = make_payer()
        old = estimate(payer)
        batch = [old, make_event(payer, replaces=old["id"])]
        assert counts(Relay().report(*batch[:: 1 if is_first else -1])) == (2, 0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert hours(payer) == EXAMPLE_HOURS

    def test_sent_again_is_a_duplicate(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        batch = [old, make_event(payer, replaces=old["id"])]
        relay.report(*batch)
        assert counts(relay.report(*batch)) == (0, 2, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert conflicts(payer) == []

    def test_that_comes_before_the_estimate_waits_for_it(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        new = make_event(payer, replaces=old["id"])
        assert counts(relay.report(new)) == (0, 0, 1, 0)
        assert ParkedEvent.objects.get(customer=payer.customer).reason == "replaces_unknown"
        assert parking.sweep(at=AT).settled == 0
        assert payer.balance == 50
        relay.report(old)
        assert payer.balance == 50 - ESTIMATED_CHARGE
        assert parking.sweep(at=AT).settled == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert hours(payer) == EXAMPLE_HOURS

    def test_that_has_no_price_yet_leaves_the_estimate_till_it_has(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        relay.report(old, make_event(payer, replaces=old["id"], model="a model of tomorrow"))
        assert payer.balance == 50 - ESTIMATED_CHARGE
        ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        assert parking.sweep(at=AT).settled == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_of_an_estimate_that_is_parked_is_charged_in_its_place(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer, model="a model of tomorrow")
        relay.report(old)
        assert counts(relay.report(make_event(payer, replaces=old["id"]))) == (1, 0, 0, 0)
        parked = ParkedEvent.objects.get(customer=payer.customer)
        assert parked.resolution == "replaced"
        ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        assert parking.sweep(at=AT).settled == 0
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert counts(relay.report(old)) == (0, 1, 0, 0)

    def test_may_itself_be_an_estimate_and_be_corrected(self) -> None:
        payer, relay = make_payer(), Relay()
        first = estimate(payer)
        second = estimate(payer, replaces=first["id"])
        third = make_event(payer, replaces=second["id"])
        assert counts(relay.report(third, second, first)) == (3, 0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert hours(payer) == EXAMPLE_HOURS

    def test_of_a_long_chain_is_left_to_the_sweep(self) -> None:
        payer, relay = make_payer(), Relay()
        chain = [estimate(payer)]
        for _ in range(corrections.WAVES + 2):
            chain.append(estimate(payer, replaces=chain[-1]["id"]))
        chain.append(make_event(payer, replaces=chain[-1]["id"]))
        answer = relay.report(*chain)
        assert counts(answer) == (corrections.WAVES + 1, 0, 3, 0)
        for _ in range(3):
            assert parking.sweep(at=AT).settled == 1, "a link at a time"
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert hours(payer) == EXAMPLE_HOURS

    def test_of_a_closed_month_stands_in_the_open_one(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer, occurred_at="2026-10-15T12:00:00Z")
        relay.report(old)
        october = date(2026, 10, 1)
        statements.close_invoices(period=october, at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer)
        before = list(UsageHour.objects.filter(customer=payer.customer, period=october).values())
        relay.report(make_event(payer, replaces=old["id"], occurred_at="2026-10-15T12:00:00Z"))
        assert list(UsageHour.objects.filter(customer=payer.customer, period=october).values()) == before
        assert payer.balance == 50 - EXAMPLE_CHARGE
        november = UsageHour.objects.filter(customer=payer.customer, period=date(2026, 11, 1))
        assert sum(hour.charge for hour in november) == EXAMPLE_CHARGE - ESTIMATED_CHARGE
        statements.close_invoices(
            period=date(2026, 11, 1), at=datetime(2026, 12, 2, tzinfo=UTC), customer=payer.customer
        )
        invoice = payer.customer.invoices.get(period=date(2026, 11, 1))
        assert invoice.exact_total == EXAMPLE_CHARGE - ESTIMATED_CHARGE

    def test_cures_the_debt_that_the_estimate_made(self) -> None:
        payer, relay = make_payer(credit="0.01"), Relay()
        old = estimate(payer, usage={"input_tokens": 0, "output_tokens": 100_000})
        relay.report(old)
        assert payer.balance == Decimal("-1.49")
        relay.report(make_event(payer, replaces=old["id"], usage=ESTIMATE))
        assert payer.balance == Decimal("0.01") - ESTIMATED_CHARGE

    @pytest.mark.parametrize("usage", [ESTIMATE, {"input_tokens": 0, "output_tokens": 0}])
    def test_to_or_from_nothing(self, usage: dict[str, int]) -> None:
        payer, relay = make_payer(), Relay()
        nothing = {"input_tokens": 0, "output_tokens": 0}
        old = estimate(payer, usage=nothing)
        relay.report(old, make_event(payer, replaces=old["id"], usage=usage))
        again = estimate(payer, usage=usage)
        relay.report(again, make_event(payer, replaces=again["id"], usage=nothing))
        assert payer.balance == 50 - (ESTIMATED_CHARGE if usage is ESTIMATE else 0)
        assert hours(payer)[0] == 2

    def test_has_the_authorization_of_the_estimate(self) -> None:
        payer, relay = make_payer(), Relay()
        hold = relay.authorize(payer).body["id"]
        old = estimate(payer, authorization=hold)
        relay.report(old, make_event(payer, replaces=old["id"], authorization=hold))
        assert (payer.balance, payer.wallet.held) == (50 - EXAMPLE_CHARGE, 0)


class TestACorrectionThatDoesNotFit:
    """The call it speaks of is charged already: it is kept and shown, and counts as a duplicate."""

    def assert_refused(self, payer: Payer, reason: str, charge: Decimal, *, parked_for: str = "") -> None:
        assert payer.balance == 50 - charge
        assert conflicts(payer) == [reason]
        parked = ParkedEvent.objects.get(customer=payer.customer, resolution="refused")
        assert parked.reason == (parked_for or reason)
        assert parked.resolved_at is not None
        assert parking.sweep(at=AT).settled == 0
        assert payer.balance == 50 - charge

    def test_because_the_event_was_no_estimate(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer)
        relay.report(old)
        new = make_event(payer, replaces=old["id"], usage=ESTIMATE)
        assert counts(relay.report(new)) == (0, 1, 0, 0)
        assert counts(relay.report(new)) == (0, 1, 0, 0)
        self.assert_refused(payer, "replaces_final", EXAMPLE_CHARGE)

    def test_because_the_parked_event_is_no_estimate(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer, model="a model of tomorrow")
        assert counts(relay.report(old, make_event(payer, replaces=old["id"]))) == (0, 1, 1, 0)
        self.assert_refused(payer, "replaces_final", Decimal(0))

    def test_because_the_event_was_replaced_before(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        relay.report(old, make_event(payer, replaces=old["id"]))
        assert counts(relay.report(make_event(payer, replaces=old["id"], usage=ESTIMATE))) == (0, 1, 0, 0)
        self.assert_refused(payer, "replaced_before", EXAMPLE_CHARGE)

    def test_because_another_one_stood_before_it_in_the_batch(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer)
        news = [make_event(payer, replaces=old["id"], usage=usage) for usage in (ESTIMATE, None)]
        news[1]["usage"] = {"input_tokens": 7, "output_tokens": 7}
        assert counts(relay.report(*news, old)) == (2, 1, 0, 0)
        self.assert_refused(payer, "replaced_before", ESTIMATED_CHARGE)

    def test_because_the_parked_estimate_was_replaced_before(self) -> None:
        payer, relay = make_payer(), Relay()
        old = estimate(payer, model="a model of tomorrow")
        relay.report(old, make_event(payer, replaces=old["id"]))
        assert counts(relay.report(make_event(payer, replaces=old["id"]))) == (0, 1, 0, 0)
        self.assert_refused(payer, "replaced_before", EXAMPLE_CHARGE)

    def test_because_what_it_names_was_refused_itself(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer)
        refused = estimate(payer, replaces=old["id"])
        relay.report(old, refused)
        assert counts(relay.report(make_event(payer, replaces=refused["id"]))) == (0, 1, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert conflicts(payer) == ["replaces_final", "replaces_refused"]

    def test_because_it_waited_and_the_event_came_as_no_estimate(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer)
        relay.report(make_event(payer, replaces=old["id"], usage=ESTIMATE))
        relay.report(old)
        parking.sweep(at=AT)
        self.assert_refused(payer, "replaces_final", EXAMPLE_CHARGE, parked_for="replaces_unknown")


def test_an_event_that_replaces_itself_is_charged_once_and_is_a_conflict() -> None:
    payer, relay = make_payer(), Relay()
    event = make_event(payer)
    event["replaces"] = event["id"]
    assert counts(relay.report(event)) == (1, 0, 0, 0)
    assert counts(relay.report(event)) == (0, 1, 0, 0)
    assert payer.balance == 50 - EXAMPLE_CHARGE
    assert conflicts(payer) == ["replaces_itself"]


def test_another_customer_s_estimate_is_unknown_here() -> None:
    payer, other, relay = make_payer(), make_payer(), Relay()
    old = estimate(other)
    assert counts(relay.report(old, make_event(payer, replaces=old["id"]))) == (1, 0, 1, 0)
    assert (payer.balance, other.balance) == (50, 50 - ESTIMATED_CHARGE)


def test_a_parked_correction_of_a_parked_correction_waits_for_it() -> None:
    payer, relay = make_payer(), Relay()
    first = estimate(payer)
    second = estimate(payer, replaces=first["id"])
    assert counts(relay.report(second)) == (0, 0, 1, 0)
    assert counts(relay.report(make_event(payer, replaces=second["id"]))) == (0, 0, 1, 0)
    reasons = ParkedEvent.objects.filter(customer=payer.customer).order_by("id").values_list("reason", flat=True)
    assert list(reasons) == ["replaces_unknown", "replaces_parked"]
    relay.report(first)
    parking.sweep(at=AT)
    parking.sweep(at=AT)
    assert payer.balance == 50 - EXAMPLE_CHARGE
    assert hours(payer) == EXAMPLE_HOURS
