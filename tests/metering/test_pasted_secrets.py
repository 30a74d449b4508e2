"""A secret pasted where a name belongs is kept nowhere; a name that only looks a little like one is kept as it is."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.core import serializers
from django.db.models import Model as Table

from billing.models import Alarm
from metering import keys, parking, pricing, watching
from metering.models import (
    ApiKey,
    EventConflict,
    Model,
    ModelAlias,
    ParkedEvent,
    QuarantinedEvent,
    UnclaimedEvent,
    UsageEvent,
)
from relayadmin import ids
from tests.world import EXAMPLE_CHARGE, SONNET, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

SECRET = "A1b2C3d4_E5f6-G7"
KEPT: tuple[type[Table], ...] = (ParkedEvent, UnclaimedEvent, EventConflict, QuarantinedEvent, Alarm)
fields = pytest.mark.parametrize("field", ["model", "channel", "upstream_account"])
kinds = pytest.mark.parametrize("kind", ["sk-", "rl_", "ct_", "whsec_"])


def all_that_is_kept() -> str:
    return "\n".join(serializers.serialize("json", table._default_manager.all()) for table in KEPT)


def now() -> datetime:
    return datetime.now(UTC)


@fields
@kinds
class TestASecretInThePlaceOfAName:
    def test_is_not_kept_with_a_parked_event(self, kind: str, field: str) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer, **{field: kind + SECRET})
        assert relay.report(event).body["parked"] == 1
        assert relay.report(event).body["duplicates"] == 1
        parking.sweep(at=now())
        watching.watch_what_waits(at=datetime(2030, 1, 1, tzinfo=UTC))
        row = ParkedEvent.objects.get(customer=payer.customer)
        assert (row.payload[field], row.subject) == (f"{kind}…", f"{kind}…")
        assert Alarm.objects.exists()
        assert not EventConflict.objects.exists()
        assert SECRET not in all_that_is_kept()

    def test_is_not_kept_with_an_unclaimed_event_nor_when_it_is_claimed(self, kind: str, field: str) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(api_key="sk-late", **{field: kind + SECRET})
        assert relay.report(event).body["parked"] == 1
        assert relay.report({**event, "status": "failed"}).body["duplicates"] == 1
        assert EventConflict.objects.count() == 1
        assert SECRET not in all_that_is_kept()
        key, _ = keys.create_api_key(customer=payer.customer, name="late", at=now())
        ApiKey.objects.filter(pk=key.pk).update(digest=ids.secret_digest("sk-late"))
        assert parking.sweep(at=now()).claimed == 1
        assert relay.report(event).body["duplicates"] == 1
        assert EventConflict.objects.count() == 1, "what comes again is what was claimed"
        assert SECRET not in all_that_is_kept()

    def test_is_not_kept_with_a_conflict(self, kind: str, field: str) -> None:
        payer, relay = make_payer(), Relay()
        first = make_event(payer)
        relay.report(first, {**first, field: kind + SECRET})
        assert EventConflict.objects.get().payload[field] == f"{kind}…"
        assert SECRET not in all_that_is_kept()


@kinds
def test_a_secret_in_the_place_of_an_authorization_is_not_kept(kind: str) -> None:
    payer = make_payer()
    assert Relay().report(make_event(payer, authorization=kind + SECRET)).body["accepted"] == 1
    assert EventConflict.objects.get().kind == "unknown_authorization"
    assert SECRET not in all_that_is_kept()


@kinds
def test_a_secret_in_the_place_of_a_key_s_id_is_kept_as_its_hash(kind: str) -> None:
    Relay().report(make_event(api_key_id=kind + SECRET))
    assert UnclaimedEvent.objects.get().key == "sha256:" + ids.secret_digest(kind + SECRET).hex()
    assert SECRET not in all_that_is_kept()


@pytest.mark.parametrize("name", ["sk-abc", "my-sk-abcdefgh", "sk-learn/1.2", "ask-abcdefgh", "whsec_", "sk-abcd efgh"])
def test_a_name_that_is_no_secret_as_a_whole_is_kept_as_it_is(name: str) -> None:
    payer = make_payer()
    Relay().report(make_event(payer, model=name))
    row = ParkedEvent.objects.get(customer=payer.customer)
    assert (row.model, row.payload["model"], row.subject) == (name, name, name)


def test_a_model_that_is_called_like_a_secret_is_charged() -> None:
    payer = make_payer()
    ModelAlias.objects.create(name="sk-learn-large", model=Model.objects.get(public_id=SONNET))
    pricing.bump_version()
    answer: dict[str, Any] = Relay().report(make_event(payer, model="sk-learn-large")).body
    assert answer["accepted"] == 1
    assert UsageEvent.objects.get(customer=payer.customer).charge == EXAMPLE_CHARGE
