"""POST /webhooks/stripe: only what Stripe signed is believed, each event is kept once, and each is worked off once."""

import hashlib
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from billing import webhook_events, webhooks
from billing.models import Alarm, TopUp, WebhookEvent
from tests.payments import (
    assert_right,
    later,
    make_poor,
    now,
    pay_only,
    receive,
    send,
    start_top_up,
    work_off_all,
)
from tests.payments_sandbox import WEBHOOK_SECRET, Delivery, StripeSandbox

pytestmark = pytest.mark.usefixtures("committed")


def signature_of(body: bytes, *, secret: str = WEBHOOK_SECRET, age_s: int = 0) -> str:
    moment = int(time.time()) - age_s
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def made_up(kind: str = "customer.created", **changes: Any) -> Delivery:
    """An event that is signed as Stripe would; `changes` replace its fields."""
    event: dict[str, Any] = {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "livemode": False,
        "api_version": "2026-10-28.endive",
        "data": {"object": {"id": "cus_1", "object": kind.split(".")[0]}},
    }
    body = json.dumps(event | changes).encode()
    return Delivery(kind, (event | changes)["id"], body, signature_of(body))


def row_of(delivery: Delivery) -> WebhookEvent:
    return WebhookEvent.objects.get(event_id=delivery.id)


def settled(delivery: Delivery) -> WebhookEvent:
    assert send(Client(), delivery).status_code == 200
    work_off_all()
    return row_of(delivery)


class TestBelieved:
    def test_22_without_a_secret_nothing_is_believed_or_kept(
        self, stripe_sandbox: StripeSandbox, settings: Any
    ) -> None:
        settings.STRIPE_WEBHOOK_SECRET = ""
        for secret in ("", WEBHOOK_SECRET):
            event = made_up()
            forged = Delivery(event.type, event.id, event.body, signature_of(event.body, secret=secret))
            answer = send(Client(), forged)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "payments_not_configured")
            assert not WebhookEvent.objects.filter(event_id=event.id).exists()

    @pytest.mark.parametrize("how", ["none", "garbage", "other secret", "too old", "other body", "not ascii"])
    def test_a_wrong_signature_is_refused_and_nothing_kept(self, how: str, stripe_sandbox: StripeSandbox) -> None:
        event = made_up()
        signature = {
            "none": "",
            "garbage": "t=1,v1=00",
            "other secret": signature_of(event.body, secret="whsec_other"),
            "too old": signature_of(event.body, age_s=301),
            "other body": signature_of(event.body + b" "),
            "not ascii": "t=1,v1=é",
        }[how]
        answer = send(Client(), Delivery(event.type, event.id, event.body, signature))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_signature")
        assert not WebhookEvent.objects.filter(event_id=event.id).exists()

    def test_what_is_signed_but_no_event_is_refused(self, stripe_sandbox: StripeSandbox) -> None:
        for body in (b"", b"null", b"[]", b"{}", b'{"id": "evt_1"}', b"\xff"):
            assert send(Client(), Delivery("", "", body, signature_of(body))).status_code == 400, body

    def test_a_body_above_the_limit_is_refused(self, stripe_sandbox: StripeSandbox) -> None:
        event = made_up(padding="x" * webhooks.BODY_BYTES_MAX)
        assert send(Client(), event).status_code == 413

    def test_other_methods_are_refused_and_no_csrf_token_is_asked_for(self, stripe_sandbox: StripeSandbox) -> None:
        client = Client(enforce_csrf_checks=True)
        assert client.get("/webhooks/stripe").status_code == 405
        assert send(client, made_up()).status_code == 200


class TestKeptOnce:
    def test_it_is_kept_as_it_came_and_answered_the_same_each_time(self, stripe_sandbox: StripeSandbox) -> None:
        event = made_up()
        answers = [send(Client(), event) for _ in range(3)]
        assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"received": True})] * 3
        row = row_of(event)
        assert (row.payload, row.type, row.object_id) == (event.body.decode(), event.type, "cus_1")

    def test_it_is_answered_without_a_broker_and_left_to_the_sweep(
        self, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_broker(**told: Any) -> None:
            raise webhooks.OperationalError("no broker")

        monkeypatch.setattr(webhooks.work_off_webhook, "delay", no_broker)
        event = made_up()
        assert send(Client(), event).status_code == 200
        assert row_of(event).status == "new"
        webhook_events.sweep(at=later(seconds=1))
        assert row_of(event).status == "ignored"


class TestWorkedOff:
    def test_20_a_provider_that_sends_everything_again_and_again_credits_once(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        pay_only(stripe_sandbox, row)
        sent = stripe_sandbox.deliveries()
        receive([*sent, *sent, *reversed(sent)])
        for event in sent:  # and once more under ids of their own
            body = event.body.replace(event.id.encode(), f"evt_{uuid4().hex}".encode())
            receive([Delivery(event.type, json.loads(body)["id"], body, signature_of(body))])
        assert payer.balance == 10
        assert_right(payer)

    def test_21_what_dies_before_it_is_credited_is_taken_up_again(
        self, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payer = make_poor()
        pay_only(stripe_sandbox, start_top_up(payer))
        for event in stripe_sandbox.deliveries():
            send(Client(), event)

        class Killed(BaseException):
            pass

        def die(*told: Any, **more: Any) -> str:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr("billing.top_ups.apply", die)
            for number in webhook_events.due(at=later(seconds=1)):
                row = WebhookEvent.objects.get(pk=number)
                if row.object_type in {"payment_intent", "checkout.session"}:
                    with pytest.raises(Killed):
                        webhook_events.work_off(number, at=later(seconds=1))
                    row.refresh_from_db()
                    assert (row.status, row.attempts) == ("new", 1), "it is not marked done by whoever died"
        assert payer.balance == 0
        work_off_all()
        assert payer.balance == 10
        assert_right(payer)

    def test_23_an_event_of_another_account_or_mode_is_ignored_with_the_reason(
        self, stripe_sandbox: StripeSandbox
    ) -> None:
        payer = make_poor()
        pay_only(stripe_sandbox, start_top_up(payer))
        paid = next(event for event in stripe_sandbox.deliveries() if event.type == "checkout.session.completed")
        thing = {"data": {"object": paid.object}}
        foreign = settled(made_up(paid.type, account="acct_other", **thing))
        live = settled(made_up(paid.type, livemode=True, **thing))
        assert (foreign.status, foreign.outcome) == ("ignored", "ignored: it is about another account, acct_other")
        assert (live.status, live.outcome) == ("ignored", "ignored: it is of live mode, and our key is a test's")
        assert payer.balance == 0
        receive([paid])
        assert payer.balance == 10

    def test_23_what_an_event_says_of_the_amount_is_never_used(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        forged = {"id": row.session_id, "object": "checkout.session", "payment_status": "paid", "amount_total": 99_900}
        done = settled(made_up("checkout.session.completed", data={"object": forged}))
        assert (payer.balance, done.outcome) == (0, "pending")
        pay_only(stripe_sandbox, row)
        receive([made_up("checkout.session.completed", data={"object": forged})])
        assert payer.balance == 10

    @pytest.mark.parametrize(
        ("kind", "thing", "why"),
        [
            (
                "customer.created",
                {"id": "cus_1", "object": "customer"},
                "ignored: nothing follows from customer.created",
            ),
            ("what.is_new", {"id": "x", "object": "what"}, "ignored: nothing follows from what.is_new"),
            ("refund.created", {"object": "refund"}, "ignored: nothing follows from refund.created"),
            ("refund.created", {"id": "re_none", "object": "refund"}, "ignored: No such"),
            ("charge.dispute.created", {"id": "dp_none", "object": "dispute"}, "ignored: No such"),
        ],
    )
    def test_unknown_kinds_and_objects_are_ignored_with_the_reason(
        self, kind: str, thing: dict[str, str], why: str, stripe_sandbox: StripeSandbox
    ) -> None:
        row = settled(made_up(kind, data={"object": thing}))
        assert row.status == "ignored"
        assert row.outcome.startswith(why)

    def test_a_payment_of_somebody_else_s_program_is_ignored(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        row = start_top_up(payer)
        pay_only(stripe_sandbox, row)
        TopUp.objects.filter(pk=row.pk).update(session_id="cs_other", public_id=f"top_{uuid4().hex[:16]}")
        for event in stripe_sandbox.deliveries():
            done = settled(event)
            assert done.status == "ignored", done.outcome
        assert payer.balance == 0

    def test_events_that_come_days_late_credit_as_before(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        pay_only(stripe_sandbox, start_top_up(payer))
        for event in stripe_sandbox.deliveries():
            send(Client(), event)
        work_off_all(at=later(days=9))
        assert payer.balance == 10


class TestNoAnswer:
    def test_it_stays_and_is_tried_later_and_later_until_it_has_failed(self, stripe_sandbox: StripeSandbox) -> None:
        payer = make_poor()
        pay_only(stripe_sandbox, start_top_up(payer))
        event = next(event for event in stripe_sandbox.deliveries() if event.type == "payment_intent.succeeded")
        send(Client(), event)
        number, moment = row_of(event).pk, later(seconds=1)
        waits = []
        for attempt in range(1, webhook_events.ATTEMPTS_MAX + 1):
            stripe_sandbox.fail_next("error", times=2)
            webhook_events.work_off(number, at=moment)
            row = row_of(event)
            assert row.attempts == attempt
            assert "GatewayUnavailable" in row.error
            if row.look_at is not None:
                assert webhook_events.work_off(number, at=row.look_at.replace(microsecond=0)) in {"not due", row.error}
                waits.append(row.look_at - moment)
                moment = row.look_at
        assert waits == sorted(waits)
        assert len(waits) == webhook_events.ATTEMPTS_MAX - 1
        assert (row.status, payer.balance) == ("failed", 0)

        webhook_events.watch(at=now())
        assert Alarm.objects.filter(kind="webhooks.failed", resolved_at=None).exists()
        webhook_events.try_again(number=number, at=now())
        work_off_all()
        assert (row_of(event).status, payer.balance) == ("done", 10)
        with pytest.raises(webhook_events.NothingToTry):
            webhook_events.try_again(number=number, at=now())
        WebhookEvent.objects.filter(status="failed").update(status="ignored")
        webhook_events.watch(at=now())
        assert not Alarm.objects.filter(kind="webhooks.failed", resolved_at=None).exists()

    def test_an_error_of_ours_is_kept_with_the_event_and_raised(
        self, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(object_id: str, at: Any) -> Any:
            raise ZeroDivisionError("a fault of ours")

        monkeypatch.setitem(webhook_events._READERS, "refund", broken)
        event = made_up("refund.created", data={"object": {"id": "re_1", "object": "refund"}})
        send(Client(), event)
        with pytest.raises(ZeroDivisionError):
            webhook_events.work_off(row_of(event).pk, at=later(seconds=1))
        assert (row_of(event).status, row_of(event).error) == ("new", "ZeroDivisionError: a fault of ours")

    def test_nothing_is_read_inside_a_transaction(self, stripe_sandbox: StripeSandbox) -> None:
        from django.db import transaction

        with transaction.atomic(), pytest.raises(RuntimeError):
            webhook_events.work_off(1, at=now())
