"""What waits raises one alarm for each thing it waits for: updated, mailed once, and resolved by itself."""

from datetime import UTC, datetime, timedelta
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection
from django.db.models import F

from billing import alarms
from billing.models import Alarm, OperatorSettings
from metering import parking, pricing, watching
from metering import tasks as metering_tasks
from metering.models import Model, ModelAlias, ParkedEvent, QuarantinedEvent, UnclaimedEvent
from tests.world import EXAMPLE_USAGE, SONNET, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(autouse=True)
def _limits() -> None:
    """Small ones: more than three events, or longer than an hour."""
    OperatorSettings.objects.update(waiting_alarm_count=3)


def park(count: int, **changes: Any) -> None:
    payer = make_payer()
    answer = Relay().report(*[make_event(payer, **changes) for _ in range(count)])
    assert answer.body["parked"] == count, answer.body


def watch(at: datetime | None = None) -> tuple[int, int]:
    watched = watching.watch_what_waits(at=at or now())
    return watched.opened, watched.resolved


def open_alarms() -> list[tuple[str, str, int]]:
    rows = Alarm.objects.filter(resolved_at=None).order_by("kind", "subject")
    return list(rows.values_list("kind", "subject", "count"))


class TestAnAlarm:
    def test_opens_when_more_events_wait_than_the_operator_allows_and_not_before(self) -> None:
        park(3, model="brand-new")
        assert watch() == (0, 0)
        park(1, model="brand-new")
        assert watch() == (1, 0)
        assert open_alarms() == [("waiting.parked.unknown_model", "brand-new", 4)]
        alarm = Alarm.objects.get()
        assert alarm.message.startswith("Unknown model brand-new: 4 events wait since 20")
        assert "Add brand-new as an alias" in alarm.advice

    def test_opens_when_one_event_has_waited_too_long(self) -> None:
        park(1, model="brand-new")
        assert watch(now() + timedelta(minutes=59)) == (0, 0)
        assert watch(now() + timedelta(minutes=61)) == (1, 0)

    def test_is_one_for_a_thousand_events_more(self) -> None:
        park(5, model="brand-new")
        assert watch() == (1, 0)
        first = Alarm.objects.get()
        park(1_000, model="brand-new")
        assert watch() == (0, 0)
        alarm = Alarm.objects.get()
        assert (alarm.count, alarm.first_seen) == (1_005, first.first_seen)
        assert alarm.last_seen > first.last_seen
        assert "1,005 events wait" in alarm.message

    def test_stays_while_anything_waits_then_resolves_itself_and_opens_again(self) -> None:
        park(4, model="brand-new")
        watch()
        ParkedEvent.objects.filter(pk__in=list(ParkedEvent.objects.values_list("pk", flat=True)[:3])).delete()
        assert watch() == (0, 0)
        assert open_alarms() == [("waiting.parked.unknown_model", "brand-new", 1)]
        ParkedEvent.objects.update(resolved_at=now())
        assert watch() == (0, 1)
        assert watch() == (0, 0)
        ParkedEvent.objects.update(resolved_at=None)
        park(4, model="brand-new")
        assert watch() == (1, 0)
        assert Alarm.objects.count() == 2

    def test_resolves_itself_once_an_alias_lets_the_sweep_settle_what_waits(self) -> None:
        park(4, model="brand-new")
        watch()
        ModelAlias.objects.create(name="brand-new", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        parking.sweep(at=now())
        assert watch() == (0, 1)

    def test_is_not_resolved_by_a_watch_that_looked_before_it_opened(self) -> None:
        earlier = now()
        park(4, model="brand-new")
        watch()
        alarms.report([], source=watching.SOURCE, at=earlier)
        assert len(open_alarms()) == 1

    def test_of_another_source_is_left_alone(self) -> None:
        sighting = alarms.Sighting("payments.webhook", "stripe", "stripe", 1, "No webhook came.")
        alarms.report([sighting], source="payments", at=now())
        assert watch() == (0, 0)
        assert open_alarms() == [("payments.webhook", "stripe", 1)]

    def test_tells_reasons_and_kinds_apart(self) -> None:
        park(4, model="brand-new")
        park(4, channel="nowhere")
        park(4, usage={**EXAMPLE_USAGE, "zebras": 1})
        park(4, occurred_at=(now() + timedelta(hours=1)).isoformat())
        payer, relay = make_payer(), Relay()
        relay.report(*[make_event(api_key_id="key_of_nobody") for _ in range(4)])
        relay.report(*[make_event(payer, usage={"input_tokens": -1, "output_tokens": 1}) for _ in range(4)])
        relay.report(*[make_event(payer, authorization="auth_1_1") for _ in range(4)])
        assert watch() == (7, 0)
        assert open_alarms() == [
            ("waiting.conflict.unknown_authorization", "", 4),
            ("waiting.parked.clock_ahead", "", 4),
            ("waiting.parked.unknown_channel", "nowhere", 4),
            ("waiting.parked.unknown_counter", "zebras of anthropic.messages", 4),
            ("waiting.parked.unknown_model", "brand-new", 4),
            ("waiting.quarantined.invalid_usage", "", 4),
            ("waiting.unclaimed.unknown_key", "key_of_nobody", 4),
        ]

    def test_is_one_for_all_when_a_relay_makes_up_names(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(*[make_event(payer, model=f"made-up-{number}") for number in range(30)])
        later = now() + timedelta(hours=2)
        assert watch(later) == (1, 0)
        assert open_alarms() == [("waiting.parked.unknown_model", "", 30)]
        assert "30 names" in Alarm.objects.get().message
        relay.report(*[make_event(payer, model=f"later-{number}") for number in range(5)])
        assert watch(later + timedelta(minutes=1)) == (0, 0), "what is new belongs to the open one"
        ParkedEvent.objects.update(resolved_at=now())
        assert watch(later + timedelta(minutes=2)) == (0, 1)

    def test_beside_those_of_their_own_stands_one_for_the_rest(self) -> None:
        for number in range(3):
            park(4, model=f"known-{number}")
        watch()
        payer, relay = make_payer(), Relay()
        relay.report(*[make_event(payer, model=f"made-up-{number % 20}") for number in range(80)])
        assert watch() == (1, 0)
        assert [count for _, _, count in open_alarms()] == [80, 4, 4, 4]


class TestTheLog:
    def test_says_once_that_an_alarm_opened(self, caplog: pytest.LogCaptureFixture) -> None:
        park(4, model="brand-new")
        for _ in range(3):
            watch()
        (record,) = [record for record in caplog.records if record.name == "billing.alarms"]
        assert record.levelname == "WARNING"
        assert record.getMessage() == ('alarm opened kind=waiting.parked.unknown_model subject="brand-new" count=4')

    def test_holds_no_key_no_payload_and_no_line_of_somebody_else(self, caplog: pytest.LogCaptureFixture) -> None:
        secret = "sk-proj4711aaaabbbbcccc"
        park(4, model=f"x\nERROR root forged {secret}")
        Relay().report(*[make_event(api_key=secret) for _ in range(4)])
        Relay().report(*[make_event(api_key_id="a plain key of another system") for _ in range(4)])
        assert watch() == (3, 0)
        said = [record.getMessage() for record in caplog.records if record.name == "billing.alarms"]
        written = "\n".join([*said, *Alarm.objects.values_list(F("message"), flat=True)])
        assert len(said) == 3
        assert not any("\n" in line for line in said)
        assert secret not in written
        assert "another system" not in written
        assert UnclaimedEvent.objects.filter(key__startswith="sha256:").first().key not in written  # type: ignore[union-attr]


class TestTheMail:
    @pytest.fixture(autouse=True)
    def _server(self, settings: Any) -> None:
        settings.EMAIL_URL = "smtp://mail.example"
        OperatorSettings.objects.update(alarm_email="operator@example.com")

    def test_goes_out_once_for_all_that_opened(self) -> None:
        park(4, model="brand-new")
        park(4, channel="nowhere")
        for _ in range(3):
            watch()
            alarms.mail_new(at=now())
        (sent,) = mail.outbox
        assert sent.to == ["operator@example.com"]
        assert sent.subject == "relayadmin: 2 alarms opened"
        assert "Unknown model brand-new: 4 events wait" in sent.body
        assert "Add a channel called nowhere" in sent.body
        assert Alarm.objects.filter(notified_at=None).count() == 0

    def test_goes_to_the_admins_of_the_settings_if_the_operator_named_nobody(self, settings: Any) -> None:
        OperatorSettings.objects.update(alarm_email="")
        settings.ADMINS = [("Ada", "ada@example.com")]
        park(4, model="brand-new")
        watch()
        assert alarms.mail_new(at=now()) == 1
        assert mail.outbox[0].to == ["ada@example.com"]

    @pytest.mark.parametrize(("url", "address"), [("", "operator@example.com"), ("smtp://mail.example", "")])
    def test_stays_away_without_a_server_or_an_address(self, settings: Any, url: str, address: str) -> None:
        settings.EMAIL_URL, settings.ADMINS = url, []
        OperatorSettings.objects.update(alarm_email=address)
        park(4, model="brand-new")
        assert watch() == (1, 0)
        assert alarms.mail_new(at=now()) == 0
        assert mail.outbox == []

    def test_that_fails_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        park(4, model="brand-new")
        watch()

        def fail(self: Any, messages: Any) -> int:
            raise SMTPServerDisconnected("gone")

        with monkeypatch.context() as broken:
            broken.setattr(EmailBackend, "send_messages", fail)
            assert alarms.mail_new(at=now()) == 0
        assert alarms.mail_new(at=now()) == 1
        assert len(mail.outbox) == 1

    def test_of_what_is_over_is_not_sent(self) -> None:
        park(4, model="brand-new")
        watch()
        ParkedEvent.objects.update(resolved_at=now())
        watch()
        assert alarms.mail_new(at=now()) == 0


class TestTheJob:
    def test_leaves_a_row_of_what_it_did_and_nothing_when_nothing_is_new(self) -> None:
        park(4, model="brand-new")
        assert metering_tasks.watch_what_waits() == {"opened": 1, "resolved": 0, "mailed": 0}
        assert metering_tasks.watch_what_waits() is None


@pytest.mark.parametrize(
    ("changes", "reason", "subject"),
    [
        ({"model": "brand-new"}, "unknown_model", "brand-new"),
        ({"channel": "nowhere"}, "unknown_channel", "nowhere"),
        ({"upstream_account": "second"}, "unknown_upstream_account", "second"),
        ({"usage": {**EXAMPLE_USAGE, "service_tier": "gold"}}, "unknown_service_tier", "gold"),
        ({"usage": {**EXAMPLE_USAGE, "speed": "warp"}}, "unknown_speed", "warp"),
        ({"usage": {**EXAMPLE_USAGE, "inference_geo": "mars"}}, "unknown_inference_geo", "mars"),
        ({"model": "m" * 255}, "unknown_model", "m" * 255),
        ({"model": "a\tb\\N\n"}, "unknown_model", "a\tb\\N\n"),
    ],
)
def test_a_parked_event_keeps_what_it_waits_for(changes: dict[str, Any], reason: str, subject: str) -> None:
    park(1, **changes)
    row = ParkedEvent.objects.get()
    assert (row.reason, row.subject) == (reason, subject)


def test_of_several_models_in_one_response_the_unknown_one_is_waited_for() -> None:
    counts = {"input_tokens": 10, "output_tokens": 5}
    calls = [
        {"type": "message", **counts},
        {"type": "advisor_message", "model": "an-advisor-of-tomorrow", **counts},
    ]
    park(1, usage={**counts, "iterations": calls})
    assert ParkedEvent.objects.get().subject == "an-advisor-of-tomorrow"


def test_the_migration_says_of_older_rows_what_new_ones_say_of_themselves() -> None:
    from importlib import import_module

    for changes in (
        {"model": "brand-new"},
        {"channel": "nowhere"},
        {"upstream_account": "second"},
        {"usage": {**EXAMPLE_USAGE, "zebras": 1}},
        {"usage": {**EXAMPLE_USAGE, "service_tier": "gold"}},
        {"usage": {**EXAMPLE_USAGE, "inference_geo": "mars"}},
        {"occurred_at": (now() + timedelta(hours=1)).isoformat()},
    ):
        park(1, **changes)
    written = dict(ParkedEvent.objects.values_list("pk", "subject"))
    ParkedEvent.objects.update(subject="?")
    with connection.cursor() as cursor:
        cursor.execute(import_module("metering.migrations.0020_what_waits").SUBJECTS)
    assert dict(ParkedEvent.objects.values_list("pk", "subject")) == written


def test_quarantine_keeps_its_own_count_until_it_is_dealt_with() -> None:
    payer, relay = make_payer(), Relay()
    relay.report(*[make_event(payer, usage={"input_tokens": -1, "output_tokens": 1}) for _ in range(4)])
    assert watch() == (1, 0)
    QuarantinedEvent.objects.update(resolved_at=now())
    assert watch() == (0, 1)
