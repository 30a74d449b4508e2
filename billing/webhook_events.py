"""Webhooks: stored as they came, then worked off. Each is a signal to read an object again, and says nothing else.

A worker claims an event by moving its next look on, reads the object outside of any transaction, and applies it and
marks the event done in one. Whatever dies in between leaves an event that the sweep takes up again.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings

from billing import alarms, disputes, refunds, saved_methods, stripe_gateway, top_ups
from billing.models import TopUp, WebhookEvent
from billing.stripe_objects import Event, GatewayRejected, GatewayUnavailable, PaymentsNotConfigured
from relayadmin.db import in_transaction, outside_transaction, server_cursor

Status = WebhookEvent.Status
# An object that was read; called inside the transaction, it applies it and says what was done.
Applying = Callable[[], str]
ATTEMPTS_MAX = 12
SOURCE = "webhooks"
# After each attempt, for about two days in all.
_BACK_OFF = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 5, 15, 30, 60, 120, 240, 480, 720))
_NOT_OURS = (top_ups.NOT_OURS, refunds.NOT_OURS, "ignored")


class NothingToTry(Exception):
    """The event is not one that can be tried again."""


def store(raw: bytes, event: Event, *, at: datetime) -> int | None:
    """Keep a webhook whose signature is right; its number, or None if it came before."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_webhookevent (event_id, type, object_type, object_id, account, livemode, payload,"
            "   status, outcome, error, occurred_at, received_at, look_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'new', '', '', %s, %s, %s)"
            " ON CONFLICT (event_id) DO NOTHING RETURNING id",
            [
                event.id[:255],
                event.type[:100],
                event.object_type[:60],
                (event.object_id or "")[:255],
                (event.account or "")[:255],
                event.livemode,
                raw.decode("utf-8", "replace"),
                event.created,
                at,
                at,
            ],
        )
        row = cursor.fetchone()
        return None if row is None else int(row[0])


def work_off(number: int, *, at: datetime) -> str:
    """Do what one event is a signal for, if it is due and nobody else does; returns what was done.

    Without an answer from Stripe it stays, and is tried again later and later; after the last attempt it has failed.
    """
    outside_transaction()
    event = _claim(number, at)
    if event is None:
        return "not due"
    try:
        reason = _reason_to_ignore(event)
        applying = (lambda: f"ignored: {reason}") if reason else _READERS[event.object_type](event.object_id, at)
        return in_transaction(lambda: _apply(number, applying, at=at))
    except GatewayRejected as error:
        if error.code == "resource_missing":
            gone = f"ignored: {error}"
            return in_transaction(lambda: _apply(number, lambda: gone, at=at))
        return _postpone(event, error, at=at)
    except (GatewayUnavailable, PaymentsNotConfigured) as error:
        return _postpone(event, error, at=at)
    except Exception as error:  # Kept with the event for a person to see, and raised.
        _postpone(event, error, at=at)
        raise


def _claim(number: int, at: datetime) -> WebhookEvent | None:
    """The event, with one more attempt and its next look moved on; None if somebody else has it, or it is done."""
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_webhookevent SET attempts = attempts + 1,"
            "   look_at = %s::timestamptz + (%s::interval[])[least(attempts + 1, %s)]"
            " WHERE id = %s AND status = 'new' AND look_at <= %s",
            [at, list(_BACK_OFF), len(_BACK_OFF), number, at],
        )
        if not cursor.rowcount:
            return None
    return WebhookEvent.objects.get(pk=number)


def _apply(number: int, applying: Applying, *, at: datetime) -> str:
    """Under the event's lock: apply what was read, once, and mark it done in the same transaction."""
    event = WebhookEvent.objects.select_for_update().get(pk=number)
    if event.status != Status.NEW:
        return "done before"
    outcome = applying()
    event.status = Status.IGNORED if outcome.startswith(_NOT_OURS) else Status.DONE
    event.outcome, event.error, event.look_at, event.ended_at = outcome[:500], "", None, at
    event.save(update_fields=["status", "outcome", "error", "look_at", "ended_at"])
    return outcome


def _postpone(event: WebhookEvent, error: Exception, *, at: datetime) -> str:
    """Note why it could not be done; after the last attempt it has failed, for a person to see to."""
    said = f"{type(error).__name__}: {error}"[:500]
    waiting = WebhookEvent.objects.filter(pk=event.pk, status=Status.NEW)
    if event.attempts >= ATTEMPTS_MAX:
        waiting.update(status=Status.FAILED, error=said, look_at=None, ended_at=at)
    else:
        waiting.update(error=said)
    return said


def _reason_to_ignore(event: WebhookEvent) -> str:
    if event.account:
        return f"it is about another account, {event.account}"
    if event.livemode != is_live():
        return "it is of test mode, and our key is live" if is_live() else "it is of live mode, and our key is a test's"
    if event.object_type not in _READERS or not event.object_id:
        return f"nothing follows from {event.type}"
    return ""


def is_live() -> bool:
    """Whether our key moves real money."""
    return "_live_" in settings.STRIPE_SECRET_KEY[:9]


# --- what is read for each kind of object; what an event says of it is never used


def _checkout(object_id: str, at: datetime) -> Applying:
    state = top_ups.read_session(object_id)
    return lambda: top_ups.apply(state, at=at)


def _payment(object_id: str, at: datetime) -> Applying:
    state = top_ups.read_intent(object_id)
    return lambda: top_ups.apply(state, at=at)


def _charge(object_id: str, at: datetime) -> Applying:
    known = TopUp.objects.filter(charge_id=object_id).values_list("payment_intent_id", flat=True).first()
    payment = known or stripe_gateway.payment_of_charge(object_id)
    state = refunds.State(None, ()) if payment is None else refunds.read_payment(payment, at=at)
    return lambda: refunds.apply(state, at=at)


def _refund(object_id: str, at: datetime) -> Applying:
    state = refunds.read(object_id, at=at)
    return lambda: refunds.apply(state, at=at)


def _dispute(object_id: str, at: datetime) -> Applying:
    state = disputes.read(object_id, at=at)
    return lambda: disputes.apply(state, at=at)


def _setup(object_id: str, at: datetime) -> Applying:
    method = stripe_gateway.setup_intent(object_id).method
    return (lambda: "ignored: no card was saved") if method is None else _payment_method(method, at)


def _payment_method(object_id: str, at: datetime) -> Applying:
    state = saved_methods.read(object_id)
    return lambda: saved_methods.apply(state, at=at)


_READERS: dict[str, Callable[[str, datetime], Applying]] = {
    "checkout.session": _checkout,
    "payment_intent": _payment,
    "charge": _charge,
    "refund": _refund,
    "dispute": _dispute,
    "setup_intent": _setup,
    "payment_method": _payment_method,
}


# --- those that are left


def due(*, at: datetime, limit: int = 200) -> list[int]:
    """The numbers of events whose next look has come, the oldest first."""
    waiting = WebhookEvent.objects.filter(look_at__lte=at).order_by("look_at")
    return list(waiting.values_list("pk", flat=True)[:limit])


def sweep(*, at: datetime) -> int:
    """Work off what is left: a worker died, or Stripe gave no answer. Returns how many were looked at."""
    numbers = due(at=at)
    for number in numbers:
        work_off(number, at=at)
    return len(numbers)


def try_again(*, number: int, at: datetime) -> None:
    """Let an event that has failed or was ignored be worked off anew. Raises NothingToTry."""
    ended = WebhookEvent.objects.filter(pk=number, status__in=[Status.FAILED, Status.IGNORED])
    if not ended.update(status=Status.NEW, attempts=0, look_at=at, ended_at=None, error="", outcome=""):
        raise NothingToTry("only what has failed or was ignored is tried again")


def watch(*, at: datetime) -> alarms.Watched:
    """One alarm while events have failed."""
    failed = WebhookEvent.objects.filter(status=Status.FAILED).count()
    seen = alarms.Sighting(
        kind=f"{SOURCE}.failed",
        subject="",
        label="failed webhooks",
        count=failed,
        message=f"Webhooks that could not be worked off: {failed:,}.",
        advice="Each says why. When the cause is gone, “Try again”; the sweeps look at the payments anyway.",
    )
    return alarms.report([seen] if failed else [], source=SOURCE, at=at)
