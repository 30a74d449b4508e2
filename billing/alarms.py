"""Alarms: what an operator should see to. One is open for each (kind, subject), however many look at the same time.

A watch looks at everything of its source and reports all it saw; what it saw before and no longer sees resolves
itself, and opens anew if it comes back. Nothing on the way of a request raises an alarm.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import send_mail

from billing.models import Alarm, OperatorSettings
from relayadmin.db import in_transaction, number_array, server_cursor, text_array

logger = logging.getLogger(__name__)
_TEXT_LENGTH_MAX = 500


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a watch saw: `kind` begins with the watch's source; `label` names the subject without any secret."""

    kind: str
    subject: str
    label: str
    count: int
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a report changed: alarms opened and resolved."""

    opened: int
    resolved: int


def open_subjects(*, source: str) -> set[tuple[str, str]]:
    """(kind, subject) of the open alarms of a source."""
    rows = Alarm.objects.filter(kind__startswith=f"{source}.", resolved_at=None)
    return set(rows.values_list("kind", "subject"))


def report(seen: Sequence[Sighting], *, source: str, at: datetime) -> Watched:
    """Open an alarm for what is new, bring the open ones up to date, resolve those of `source` that were not seen.

    `at` is when the watch began to look: what another watch has seen later stays open.
    """
    ordered = sorted(seen, key=lambda item: (item.kind, item.subject))  # Two watches lock rows in the same order.

    def work() -> tuple[set[tuple[str, str]], int]:
        return _upsert(ordered, at), _resolve_unseen(source, at)

    opened, resolved = in_transaction(work)
    for item in ordered:
        if (item.kind, item.subject) in opened:
            logger.warning("alarm opened kind=%s subject=%s count=%d", item.kind, json.dumps(item.label), item.count)
    return Watched(opened=len(opened), resolved=resolved)


def _upsert(seen: Sequence[Sighting], at: datetime) -> set[tuple[str, str]]:
    """Write what was seen; returns the (kind, subject) of those that this call opened."""
    if not seen:
        return set()
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_alarm AS a (kind, subject, message, advice, count, first_seen, last_seen)"
            " SELECT kind, subject, message, advice, count, %s, %s"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])"
            "   AS t (kind, subject, message, advice, count)"
            " ON CONFLICT (kind, subject) WHERE resolved_at IS NULL DO UPDATE SET count = excluded.count,"
            "   message = excluded.message, advice = excluded.advice, last_seen = greatest(a.last_seen, %s)"
            # xmax is what updated the row; an inserted one has none.
            " RETURNING kind, subject, xmax = 0",
            [
                at,
                at,
                text_array([item.kind for item in seen]),
                text_array([item.subject for item in seen]),
                text_array([item.message[:_TEXT_LENGTH_MAX] for item in seen]),
                text_array([item.advice[:_TEXT_LENGTH_MAX] for item in seen]),
                number_array([item.count for item in seen]),
                at,
            ],
        )
        return {(kind, subject) for kind, subject, is_new in cursor.fetchall() if is_new}


def _resolve_unseen(source: str, at: datetime) -> int:
    unseen = Alarm.objects.filter(kind__startswith=f"{source}.", resolved_at=None, last_seen__lt=at)
    return unseen.update(resolved_at=at)


def acknowledge(*, alarm_id: int, user_id: int, at: datetime) -> bool:
    """Note that this user knows of an open alarm; False if somebody was first, or it is over."""
    fresh = Alarm.objects.filter(pk=alarm_id, acknowledged_at=None, resolved_at=None)
    return bool(fresh.update(acknowledged_at=at, acknowledged_by_id=user_id))


def mail_new(*, at: datetime) -> int:
    """Mail the open alarms that were not mailed yet, all in one message; returns how many. Not in a transaction.

    Each is claimed before it is sent, so that two jobs don't both send it, and given back if sending fails. A process
    killed in between loses a mail, never the alarm on the home page.
    """
    recipients = _recipients()
    if not settings.EMAIL_URL or not recipients:
        return 0
    claimed = _claim(at)
    if not claimed:
        return 0
    title = "relayadmin: an alarm opened" if len(claimed) == 1 else f"relayadmin: {len(claimed):,} alarms opened"
    try:
        send_mail(title, _mail_text(claimed), None, recipients)
    except (SMTPException, OSError) as error:
        Alarm.objects.filter(pk__in=[alarm.pk for alarm in claimed], notified_at=at).update(notified_at=None)
        logger.warning("alarms not mailed count=%d error=%s", len(claimed), type(error).__name__)
        return 0
    return len(claimed)


def _recipients() -> list[str]:
    own = OperatorSettings.objects.values_list("alarm_email", flat=True).get(pk=1)
    return [own] if own else [admin if isinstance(admin, str) else admin[1] for admin in settings.ADMINS]


def _claim(at: datetime) -> list[Alarm]:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_alarm SET notified_at = %s WHERE resolved_at IS NULL AND notified_at IS NULL RETURNING id",
            [at],
        )
        numbers = [row[0] for row in cursor.fetchall()]
    return list(Alarm.objects.filter(pk__in=numbers).order_by("pk"))


def _mail_text(alarms: Sequence[Alarm]) -> str:
    parts = [f"{alarm.message}\n{alarm.advice}".strip() for alarm in alarms]
    return "\n\n".join([*parts, "The home page of the admin shows them all, and what waits."]) + "\n"
