"""A secret where it doesn't belong is kept nowhere."""

import pytest

from metering.models import ParkedEvent, QuarantinedEvent, UnclaimedEvent
from tests.world import EXAMPLE_CHARGE, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


def test_a_key_in_the_place_of_its_id_is_charged_and_kept_as_its_hash() -> None:
    payer = make_payer()
    assert Relay().report(make_event(payer, api_key_id=payer.api_key)).body["accepted"] == 1
    assert payer.balance == 50 - EXAMPLE_CHARGE


def test_an_unknown_key_in_the_place_of_its_id_is_kept_as_its_hash() -> None:
    Relay().report(make_event(make_payer(), api_key_id="sk-" + "u" * 48))
    kept = UnclaimedEvent.objects.get()
    assert kept.key.startswith("sha256:")
    assert "sk-" not in str(kept.payload)


@pytest.mark.parametrize("field", ["id", "format", "status"])
def test_a_key_in_any_field_of_a_bad_event_is_masked(field: str) -> None:
    secret = "sk-" + "s" * 40
    Relay().report({**make_event(make_payer(), status="done"), field: secret})
    kept = QuarantinedEvent.objects.get()
    assert secret not in kept.event_id + kept.message + kept.body


def test_a_key_written_in_escapes_is_masked() -> None:
    line = b'{"api\\u005fkey": "\\u0073k-' + b"e" * 40 + b'", "id": "x"}'
    Relay().post("usage", line, content_type="application/x-ndjson")
    assert "e" * 40 not in QuarantinedEvent.objects.get().body


def test_a_key_in_the_place_of_the_model_is_masked_in_the_reason() -> None:
    Relay().report(make_event(make_payer(), model="sk-" + "m" * 40))
    assert "m" * 40 not in ParkedEvent.objects.get().detail
