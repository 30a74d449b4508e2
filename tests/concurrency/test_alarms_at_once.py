"""Two watches at the same moment, and a mail that two jobs would send."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import IntegrityError, connection

from billing import alarms
from billing.alarms import Sighting
from billing.models import Alarm, OperatorSettings
from tests.concurrency.racing import at_once

pytestmark = pytest.mark.usefixtures("committed")
DROP = "DROP INDEX one_open_alarm"
MAKE = "CREATE UNIQUE INDEX one_open_alarm ON billing_alarm (kind, subject) WHERE resolved_at IS NULL"


@pytest.fixture
def source(committed: None) -> Iterator[str]:
    """A source of this test's own; its alarms are gone afterwards."""
    name = f"race{uuid4().hex[:8]}"
    yield name
    Alarm.objects.filter(kind__startswith=name).delete()


def sightings(source: str, count: int) -> list[Sighting]:
    return [Sighting(f"{source}.kind", f"subject {number}", "label", 1, "It waits.") for number in range(count)]


def test_eight_watches_at_once_open_one_alarm_of_each_and_say_so_once(
    source: str, caplog: pytest.LogCaptureFixture
) -> None:
    at, seen = datetime.now(UTC), sightings(source, 20)

    with caplog.at_level(logging.WARNING, "billing.alarms"):
        outcomes = at_once(
            [lambda: alarms.report(seen, source=source, at=at)] * 4
            + [lambda: alarms.report(list(reversed(seen)), source=source, at=at)] * 4
        )

    assert sum(outcome.opened for outcome in outcomes if isinstance(outcome, alarms.Watched)) == 20
    assert Alarm.objects.filter(kind__startswith=source).count() == 20
    assert len([record for record in caplog.records if record.name == "billing.alarms"]) == 20


@pytest.mark.parametrize("has_constraint", [True, False], ids=["with the constraint", "without it"])
def test_looking_before_writing_would_not_do(
    source: str, has_constraint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: both look, find no alarm, and write one. Only the constraint refuses the second."""
    both_have_looked = Barrier(2)

    def look_then_write(seen: Any, at: datetime) -> set[tuple[str, str]]:
        (item,) = seen
        is_there = Alarm.objects.filter(kind=item.kind, resolved_at=None).exists()
        both_have_looked.wait(30)
        if not is_there:
            Alarm.objects.create(
                kind=item.kind, subject=item.subject, message=item.message, count=1, first_seen=at, last_seen=at
            )
        return set()

    monkeypatch.setattr(alarms, "_upsert", look_then_write)
    at, seen = datetime.now(UTC), sightings(source, 1)
    with connection.cursor() as cursor:
        try:
            if not has_constraint:
                cursor.execute(DROP)
            outcomes = at_once([lambda: alarms.report(seen, source=source, at=at)] * 2)
            opened = Alarm.objects.filter(kind__startswith=source, resolved_at=None).count()
        finally:
            Alarm.objects.filter(kind__startswith=source).delete()
            if not has_constraint:
                cursor.execute(MAKE)

    assert opened == (1 if has_constraint else 2)
    assert sum(isinstance(outcome, IntegrityError) for outcome in outcomes) == (1 if has_constraint else 0)


def test_two_jobs_send_one_mail_and_not_in_a_transaction(
    source: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.EMAIL_URL = "smtp://mail.example"
    OperatorSettings.objects.update(alarm_email="operator@example.com")
    alarms.report(sightings(source, 3), source=source, at=datetime.now(UTC))
    in_transaction: list[bool] = []
    send = EmailBackend.send_messages

    def look_and_send(self: Any, messages: Any) -> int:
        in_transaction.append(connection.in_atomic_block)
        return send(self, messages)

    monkeypatch.setattr(EmailBackend, "send_messages", look_and_send)
    try:
        mailed = at_once([lambda: alarms.mail_new(at=datetime.now(UTC))] * 4)
    finally:
        OperatorSettings.objects.update(alarm_email="")

    assert in_transaction == [False]
    assert len(mail.outbox) == 1
    assert sorted(mailed)[:3] == [0, 0, 0]  # type: ignore[type-var]
