"""Corrections whose estimate never came: an operator has them charged as they stand, or refused, once and by name."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from billing.models import Entry, Transfer
from metering import decisions, parking, pricing
from metering.models import EventConflict, EventKey, ModelAlias, ParkedEvent, UsageEvent
from metering.verification import verify_books
from tests.operator import log_in, make_staff, page, text_of
from tests.world import EXAMPLE_CHARGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
ESTIMATE = {"input_tokens": 1000, "output_tokens": 100}
ESTIMATED_CHARGE = Decimal("0.0045")


@pytest.fixture(autouse=True)
def _books_are_right() -> Iterator[None]:
    yield
    for full in (False, True):
        verified = verify_books(full=full, at=AT)
        assert verified.ok, verified.differences


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def estimate(payer: Payer, **changes: Any) -> dict[str, Any]:
    return make_event(payer, **{"status": "aborted", "estimated": True, "usage": ESTIMATE, **changes})


def park(payer: Payer, relay: Relay, **changes: Any) -> tuple[dict[str, Any], dict[str, Any], ParkedEvent]:
    """An estimate that has not come, its correction, and the row where that waits."""
    old = estimate(payer)
    new = make_event(payer, replaces=old["id"], **changes)
    assert relay.report(new).body["parked"] == 1
    return old, new, ParkedEvent.objects.get(customer=payer.customer, event_id=new["id"])


def charge(*rows: ParkedEvent) -> set[int]:
    return decisions.charge_as_they_stand(parked_ids=[row.pk for row in rows], actor="grace", at=AT)


def refuse(*rows: ParkedEvent) -> set[int]:
    return decisions.refuse(parked_ids=[row.pk for row in rows], actor="grace", at=AT)


def conflicts(payer: Payer, *, is_open: bool) -> list[str]:
    found = EventConflict.objects.filter(customer=payer.customer, resolved_at__isnull=is_open)
    return list(found.order_by("id").values_list("kind", flat=True))


class TestChargedAsItStands:
    def test_is_charged_as_an_ordinary_event_once(self) -> None:
        payer, relay = make_payer(), Relay()
        _, new, row = park(payer, relay)
        assert charge(row) == {row.pk}
        assert charge(row) == set()
        assert payer.balance == 50 - EXAMPLE_CHARGE
        event = UsageEvent.objects.get(customer=payer.customer)
        assert (event.event_id, event.charge) == (new["id"], EXAMPLE_CHARGE)
        transfer = Transfer.objects.get(customer=payer.customer, kind="usage")
        assert Entry.objects.get(transfer_id=transfer.pk, account="wallet").amount == -EXAMPLE_CHARGE
        assert relay.report(new).body["duplicates"] == 1
        assert parking.sweep(at=AT).settled == 0
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_says_who_decided_and_leaves_nothing_to_look_into(self) -> None:
        payer = make_payer()
        _, new, row = park(payer, Relay())
        charge(row)
        row.refresh_from_db()
        assert (row.resolution, row.decided_by, row.resolved_at) == ("settled", "grace", AT)
        assert conflicts(payer, is_open=True) == []
        conflict = EventConflict.objects.get(customer=payer.customer)
        assert (conflict.kind, conflict.event_id, conflict.resolved_at) == ("charged_as_it_stands", new["id"], AT)
        assert "grace" in conflict.detail

    def test_costs_the_price_of_its_own_moment(self) -> None:
        payer, relay = make_payer(), Relay()
        _, _, row = park(payer, relay, model="our-sonnet", occurred_at="2026-11-22T10:00:00Z")
        assert row.reason == "unknown_model"
        assert charge(row) == set(), "what has no price can't be charged as it stands either"
        ModelAlias.objects.create(name="our-sonnet", model_id=self.sonnet())
        pricing.bump_version()
        parking.sweep(at=AT)
        assert charge(row) == {row.pk}
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert UsageEvent.objects.get(customer=payer.customer).occurred_at == datetime(2026, 11, 22, 10, tzinfo=UTC)

    def test_stays_where_its_price_is_gone(self) -> None:
        payer, relay = make_payer(), Relay()
        alias = ModelAlias.objects.create(name="our-sonnet", model_id=self.sonnet())
        pricing.bump_version()
        _, _, row = park(payer, relay, model="our-sonnet")
        assert row.reason == "replaces_unknown"
        alias.delete()
        pricing.bump_version()
        assert charge(row) == set()
        row.refresh_from_db()
        assert (row.resolved_at, payer.balance) == (None, 50)
        assert conflicts(payer, is_open=False) == []

    def sonnet(self) -> int:
        return pricing.current().catalog.resolve("claude-sonnet-4-20250514") or 0

    def test_makes_an_estimate_that_comes_after_all_a_duplicate_and_a_conflict(self) -> None:
        payer, relay = make_payer(), Relay()
        old, _, row = park(payer, relay)
        charge(row)
        assert relay.report(old).body["duplicates"] == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert conflicts(payer, is_open=True) == ["came_after_correction"]
        kept = EventConflict.objects.get(customer=payer.customer, kind="came_after_correction")
        assert (kept.event_id, kept.payload["usage"]) == (old["id"], ESTIMATE), "nothing is lost"

    def test_takes_the_id_of_what_never_came_and_says_so(self) -> None:
        payer = make_payer()
        old, new, row = park(payer, Relay())
        charge(row)
        key = EventKey.objects.get(customer=payer.customer, event_id=old["id"])
        stand_in = ParkedEvent.objects.get(customer=payer.customer, number=key.pk)
        assert (stand_in.reason, stand_in.resolution) == ("never_came", "replaced")
        assert stand_in.payload == {"id": old["id"], "replaced_by": new["id"]}

    def test_of_two_that_replace_the_same_the_first_is_charged_and_the_other_refused(self) -> None:
        payer, relay = make_payer(), Relay()
        old, _, first = park(payer, relay)
        relay.report(make_event(payer, replaces=old["id"], usage=ESTIMATE))
        second = ParkedEvent.objects.exclude(pk=first.pk).get(customer=payer.customer)
        assert charge(second, first) == {first.pk}
        parking.sweep(at=AT)
        second.refresh_from_db()
        assert (second.resolution, second.decided_by) == ("refused", "")
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert conflicts(payer, is_open=True) == ["replaced_before"]

    def test_refuses_another_correction_that_comes_later(self) -> None:
        payer, relay = make_payer(), Relay()
        old, _, row = park(payer, relay)
        charge(row)
        assert relay.report(make_event(payer, replaces=old["id"], usage=ESTIMATE)).body["duplicates"] == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_lets_the_correction_of_it_follow(self) -> None:
        payer, relay = make_payer(), Relay()
        _, new, row = park(payer, relay, estimated=True, usage=ESTIMATE)
        relay.report(make_event(payer, replaces=new["id"]))
        charge(row)
        assert payer.balance == 50 - ESTIMATED_CHARGE
        parking.sweep(at=AT)
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_settles_its_authorization(self) -> None:
        payer, relay = make_payer(), Relay()
        hold = relay.authorize(payer).body["id"]
        _, _, row = park(payer, relay, authorization=hold)
        charge(row)
        assert (payer.balance, payer.wallet.held) == (50 - EXAMPLE_CHARGE, 0)


class TestRefused:
    def test_is_kept_and_never_charged(self) -> None:
        payer, relay = make_payer(), Relay()
        _, new, row = park(payer, relay)
        assert refuse(row) == {row.pk}
        assert refuse(row) == set()
        assert charge(row) == set()
        parking.sweep(at=AT)
        row.refresh_from_db()
        assert (row.resolution, row.decided_by, row.payload["id"]) == ("refused", "grace", new["id"])
        assert relay.report(new).body["duplicates"] == 1
        assert payer.balance == 50
        assert (conflicts(payer, is_open=True), conflicts(payer, is_open=False)) == ([], ["correction_refused"])

    def test_leaves_an_estimate_that_comes_after_all_to_be_charged(self) -> None:
        payer, relay = make_payer(), Relay()
        old, _, row = park(payer, relay)
        refuse(row)
        assert relay.report(old).body["accepted"] == 1
        parking.sweep(at=AT)
        assert payer.balance == 50 - ESTIMATED_CHARGE

    def test_takes_the_correction_of_it_along(self) -> None:
        payer, relay = make_payer(), Relay()
        _, new, row = park(payer, relay, estimated=True)
        relay.report(make_event(payer, replaces=new["id"]))
        refuse(row)
        parking.sweep(at=AT)
        assert not ParkedEvent.objects.filter(customer=payer.customer, resolved_at=None).exists()
        assert conflicts(payer, is_open=True) == ["replaces_refused"]
        assert payer.balance == 50


@pytest.mark.parametrize("decide", [charge, refuse])
class TestNoDecision:
    """Where the estimate has come, its correction is not the operator's to judge."""

    def test_on_one_whose_estimate_has_come_meanwhile(self, decide: Any) -> None:
        payer, relay = make_payer(), Relay()
        old, _, row = park(payer, relay)
        relay.report(old)
        assert row.reason == "replaces_unknown", "as the operator still sees it"
        assert decide(row) == set()
        assert payer.balance == 50 - ESTIMATED_CHARGE
        parking.sweep(at=AT)
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_on_what_waits_for_something_else(self, decide: Any) -> None:
        payer, relay = make_payer(), Relay()
        _, new, first = park(payer, relay)
        relay.report(make_event(payer, replaces=new["id"]), make_event(payer, model="a model of tomorrow"))
        others = ParkedEvent.objects.filter(customer=payer.customer).exclude(pk=first.pk)
        assert {row.reason for row in others} == {"replaces_parked", "unknown_model"}
        assert decide(*others) == set()
        assert payer.balance == 50


class TestAnOperator:
    @pytest.mark.parametrize(
        ("action", "said", "trace", "charged"),
        [
            ("charge_one", "1 charged as it stands.", "Charged as it stands.", EXAMPLE_CHARGE),
            ("refuse_one", "1 refused.", "Refused.", Decimal(0)),
        ],
    )
    def test_is_asked_first_then_heard_once_and_named(
        self, operator: Client, action: str, said: str, trace: str, charged: Decimal
    ) -> None:
        payer = make_payer()
        _, _, row = park(payer, Relay())
        address = page(ParkedEvent, action, row.pk)
        shown = page(ParkedEvent, "change", row.pk)
        assert address in operator.get(shown).content.decode()
        assert "has not come" in text_of(operator.get(address))
        row.refresh_from_db()
        assert row.resolved_at is None
        assert said in text_of(operator.post(address, follow=True))
        assert "nothing left to decide" in text_of(operator.post(address, follow=True))
        assert payer.balance == 50 - charged
        row.refresh_from_db()
        log = LogEntry.objects.get(object_id=str(row.pk))
        assert (log.change_message, log.user.get_username()) == (trace, row.decided_by)
        after = operator.get(shown)
        assert row.decided_by in text_of(after)
        assert address not in after.content.decode()

    @pytest.mark.parametrize(("action", "said"), [("charge_chosen", "2 charged"), ("refuse_chosen", "2 refused")])
    def test_decides_on_several_of_the_list(self, operator: Client, action: str, said: str) -> None:
        payers, relay = [make_payer(), make_payer()], Relay()
        rows = [park(payer, relay)[2] for payer in payers]
        relay.report(make_event(payers[0], model="a model of tomorrow"))
        chosen = list(ParkedEvent.objects.values_list("pk", flat=True))
        address = page(ParkedEvent, "changelist")
        asked = operator.post(address, {"action": action, "_selected_action": chosen})
        body = asked.content.decode()
        assert "For each of 2 corrections" in text_of(asked)
        assert all(f'name="_selected_action" value="{row.pk}"' in body for row in rows)
        assert body.count("_selected_action") == 2
        assert ParkedEvent.objects.filter(resolved_at=None).count() == 3
        confirmed = {"action": action, "_selected_action": [row.pk for row in rows], "confirmed": "yes"}
        assert said in text_of(operator.post(address, confirmed, follow=True))
        assert "None of these waits" in text_of(operator.post(address, confirmed, follow=True))
        assert LogEntry.objects.filter(object_id__in=[str(row.pk) for row in rows]).count() == 2
        assert ParkedEvent.objects.get(resolved_at=None).reason == "unknown_model"

    def test_is_told_what_was_left_alone(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        old, _, row = park(payer, relay)
        relay.report(old)
        answer = operator.post(page(ParkedEvent, "charge_one", row.pk), follow=True)
        assert "1 left alone" in text_of(answer)
        assert not LogEntry.objects.filter(object_id=str(row.pk)).exists()
        assert payer.balance == 50 - ESTIMATED_CHARGE

    def test_finds_no_such_button_on_what_waits_for_something_else(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, model="a model of tomorrow"))
        row = ParkedEvent.objects.get(customer=payer.customer)
        body = operator.get(page(ParkedEvent, "change", row.pk)).content.decode()
        for action in ("charge_one", "refuse_one"):
            address = page(ParkedEvent, action, row.pk)
            assert address not in body
            assert "nothing left to decide" in text_of(operator.post(address, follow=True))
        assert payer.balance == 50

    @pytest.mark.parametrize("what", ["charge", "refuse"])
    def test_who_may_only_look_decides_nothing(self, what: str) -> None:
        payer = make_payer()
        _, _, row = park(payer, Relay())
        client = log_in(make_staff(permissions=["metering.view_parkedevent"]))
        address = page(ParkedEvent, f"{what}_one", row.pk)
        assert address not in client.get(page(ParkedEvent, "change", row.pk)).content.decode()
        assert (client.get(address).status_code, client.post(address).status_code) == (403, 403)
        chosen = {"action": f"{what}_chosen", "_selected_action": row.pk, "confirmed": "yes"}
        client.post(page(ParkedEvent, "changelist"), chosen)
        row.refresh_from_db()
        assert (row.resolved_at, payer.balance) == (None, 50)
        allowed = log_in(make_staff(permissions=["metering.view_parkedevent", "metering.change_parkedevent"]))
        assert allowed.post(address).status_code == 302
        row.refresh_from_db()
        assert row.resolved_at is not None
