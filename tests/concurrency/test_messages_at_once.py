"""Workers that plan and send at the same moment: each message once; and the same with the claim taken out."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from django.core.mail.backends.locmem import EmailBackend

from billing import low_balance, mailing, messages, webhook_sending
from billing.models import Customer, Delivery, Notice
from tests.billing.hands import charge
from tests.concurrency.racing import at_once
from tests.telling import announce, deliveries, make_endpoint, now, plan, set_email
from tests.webhook_receiver import Receiver, receiver
from tests.world import Payer, make_payer

pytestmark = pytest.mark.usefixtures("committed")
WORKERS = 8
MANY = 12


@pytest.fixture
def server(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOKS_OVER_HTTP = settings.WEBHOOKS_TO_LOOPBACK = True
    settings.SENDS_MAIL = True
    with receiver() as running:
        yield running


@pytest.fixture
def payer(server: Receiver) -> Iterator[Payer]:
    """Has an endpoint and an address; what others left waits for nobody."""
    plan()
    Delivery.objects.filter(status="waiting").update(status="failed", look_at=None, ended_at=now())
    payer = make_payer()
    plan()
    make_endpoint(payer, server.url)
    set_email(payer)
    yield payer
    set_email(payer, "")
    Delivery.objects.filter(customer=payer.customer).delete()


def assert_none_failed(outcomes: list[Any]) -> None:
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []


def test_eight_plan_at_once_and_each_notice_goes_once_to_each_address(payer: Payer) -> None:
    for _ in range(MANY):
        announce(payer)
    outcomes = at_once([lambda: messages.plan(at=now(), limit=5)] * WORKERS)
    assert_none_failed(outcomes)
    plan()
    counted = Counter((row.notice_id, row.channel) for row in deliveries(payer))
    assert len(counted) == 2 * MANY
    assert set(counted.values()) == {1}
    assert not Notice.objects.filter(customer=payer.customer, is_planned=False).exists()


def test_eight_workers_post_each_webhook_once(payer: Payer, server: Receiver) -> None:
    for _ in range(MANY):
        announce(payer)
    plan()
    at = now()
    outcomes = at_once([lambda: webhook_sending.send_due(at=at, limit=4)] * WORKERS)
    assert_none_failed(outcomes)
    while webhook_sending.send_due(at=at):
        pass
    assert Counter(request.headers["webhook-id"] for request in server.received) == {
        row.notice.public_id: 1 for row in deliveries(payer) if row.channel == "webhook"
    }
    assert {(row.status, row.attempts) for row in deliveries(payer) if row.channel == "webhook"} == {("sent", 1)}


def test_eight_workers_mail_each_message_once(payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def keep(self: Any, mails: Any) -> int:
        sent.extend(mail.extra_headers["Message-ID"] for mail in mails)
        return len(mails)

    monkeypatch.setattr(EmailBackend, "send_messages", keep)
    for _ in range(MANY):
        announce(payer)
    plan()
    at = now()
    assert_none_failed(at_once([lambda: mailing.send_due(at=at, limit=3)] * WORKERS))
    while mailing.send_due(at=at):
        pass
    assert len(sent) == len(set(sent)) == MANY


@pytest.mark.parametrize("is_claimed", [True, False], ids=["with the claim", "without it"])
def test_looking_before_sending_would_not_do(
    is_claimed: bool, payer: Payer, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: both look, find it due, and post it. Only the claim keeps the second one from it."""
    announce(payer)
    plan()
    at, have_looked = now(), Barrier(2)
    if not is_claimed:

        def look(channel: Any, at: datetime, limit: int) -> list[int]:
            rows = Delivery.objects.filter(channel=channel, look_at__lte=at).order_by("look_at")
            found = list(rows.values_list("pk", flat=True)[:limit])
            have_looked.wait(30)
            return found

        monkeypatch.setattr(messages, "_claim", look)
    assert_none_failed(at_once([lambda: webhook_sending.send_due(at=at)] * 2))
    assert len(server.received) == (1 if is_claimed else 2)


def test_a_worker_that_died_after_sending_lets_it_be_sent_again_under_the_same_id(
    payer: Payer, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(payer)
    plan()
    at = now()

    def die(*args: Any, **named: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(messages, "record", die)
        with pytest.raises(SystemExit):
            webhook_sending.send_due(at=at)
    assert webhook_sending.send_due(at=at + messages.CLAIMED_FOR - timedelta(seconds=1)) == 0
    assert webhook_sending.send_due(at=at + messages.CLAIMED_FOR) == 1
    assert len(server.received) == 2
    assert len({request.headers["webhook-id"] for request in server.received}) == 1
    assert len({request.body for request in server.received}) == 1


def test_who_was_too_slow_marks_nothing(payer: Payer, server: Receiver) -> None:
    """A worker whose claim ran out comes back when another one has it: its result is not the row's any more."""
    announce(payer)
    plan()
    at = now()
    (slow,) = messages.claim(Delivery.Channel.WEBHOOK, at=at, limit=9)
    (fast,) = messages.claim(Delivery.Channel.WEBHOOK, at=at + messages.CLAIMED_FOR, limit=9)
    messages.record(slow, messages.Result("it answered 500", 500), at=at)
    messages.record(fast, messages.Result(status_code=200), at=at)
    fast.refresh_from_db()
    assert (fast.status, fast.status_code, fast.attempts) == ("sent", 200, 2)


def test_eight_sweeps_tell_of_a_low_balance_once(payer: Payer) -> None:
    charge(payer, "46")
    everybody = Customer.objects.count()  # Those of other tests have little left too.
    outcomes = at_once([lambda: low_balance.tell(at=now(), limit=everybody)] * WORKERS)
    assert_none_failed(outcomes)
    assert Notice.objects.filter(customer=payer.customer, kind="balance_low").count() == 1
