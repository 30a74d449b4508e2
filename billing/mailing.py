"""Notices as mail: written in the customer's language, sent one by one over one connection, tried again later.

A template under templates/mail/<language>/ is plain text: its first line is the subject; "- label: value" is a row of a
table and "> text: address" a link. Text and HTML are both made of that, so they say the same.
"""

import logging
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import formataddr, parseaddr
from smtplib import SMTPException, SMTPRecipientsRefused, SMTPResponseException
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.template import Context, Engine
from django.template.loader import render_to_string

from billing import alarms, messages
from billing.models import BillingProfile, Delivery, Notice, OperatorSettings
from billing.notice_kinds import KINDS
from billing.periods import operator_timezone
from relayadmin.db import outside_transaction

logger = logging.getLogger(__name__)
SOURCE = "mail"
# A server that hangs costs EMAIL_TIMEOUT for each, and all of them are claimed for five minutes.
AT_ONCE = 20
# So many attempts that failed are no accident any more.
_ALARMING_ATTEMPTS = 2
_HTML_LANGUAGES = {"zh-hans": "zh-Hans"}
_VALUE_LENGTH_MAX = 500
# Control characters and line ends become spaces; what is invisible or turns the direction of writing goes.
_DROPPED = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": ""}


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a table of facts, or a link."""

    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """A mail as it is read."""

    subject: str
    text: str
    html: str


def subjects(found: Sequence[Notice]) -> list[str]:
    """What notices say in a line of English; "" for those of kinds that nobody is sent."""
    zone = operator_timezone()
    return [_subject(notice.kind, data, zone) for notice, data in zip(found, messages.shown_data(found), strict=True)]


def _subject(kind: str, data: Mapping[str, Any], zone: ZoneInfo) -> str:
    if kind not in KINDS:
        return ""
    context = {**{name: _one_line(value) for name, value in data.items()}, "zone": zone, "site": ""}
    try:
        return _parts(_rendered(f"mail/en/{kind}.txt", context))[0]
    except (ValueError, TypeError):  # What it carries is not what this kind carries.
        return ""


def write(notice: Notice, data: Mapping[str, Any], *, customer: str, language: str) -> Written:
    """Put a notice into a language (BillingProfile.Language), moments in the operator's time zone."""
    operator = OperatorSettings.objects.get(pk=1)
    context = {
        **{name: _one_line(value) for name, value in data.items()},
        "customer": _one_line(customer),
        "operator": _one_line(operator.name),
        "site": operator.site_url.rstrip("/"),
        "zone": operator_timezone(),
    }
    subject, blocks = _parts(_rendered(f"mail/{language}/{notice.kind}.txt", context))
    first, rest = _parts(_rendered(f"mail/{language}/footer.txt", context))
    shown = {
        "subject": subject,
        "blocks": blocks,
        "footer": [Block(first), *rest],
        "operator": context["operator"],
        "contact": operator.email,
        "lang": _HTML_LANGUAGES.get(language, language),
    }
    return Written(subject, render_to_string("mail/layout.txt", shown), render_to_string("mail/layout.html", shown))


def _rendered(template: str, context: Mapping[str, Any]) -> str:
    """Plain text: what is HTML in a value is escaped when the layout is made, not before."""
    return Engine.get_default().get_template(template).render(Context(context, autoescape=False))


def _one_line(value: Any) -> Any:
    """Text without line ends and other control characters: what is somebody's name makes no header and no row."""
    if not isinstance(value, str):
        return value
    kept = "".join(_DROPPED.get(unicodedata.category(letter), letter) for letter in value)
    return " ".join(kept.split())[:_VALUE_LENGTH_MAX]


def _parts(text: str) -> tuple[str, list[Block]]:
    """The first line, and the blocks that follow."""
    first, _, rest = text.strip().partition("\n")
    blocks: list[Block] = []
    for line in filter(None, map(str.strip, rest.splitlines())):
        if line.startswith("- "):
            label, _, value = line[2:].partition(": ")
            before = blocks.pop().facts if blocks and blocks[-1].facts else ()
            blocks.append(Block(facts=(*before, (label, value))))
        elif line.startswith("> "):
            label, _, url = line[2:].partition(": ")
            if url.startswith(("https://", "http://")):
                blocks.append(Block(label, url=url))
        else:
            blocks.append(Block(line))
    return first.strip(), blocks


def send_due(*, at: datetime, limit: int = AT_ONCE) -> int:
    """Mail the deliveries that are due; returns how many were tried. Not in a transaction."""
    outside_transaction()
    if not settings.SENDS_MAIL:
        return 0
    claimed = messages.claim(Delivery.Channel.MAIL, at=at, limit=limit)
    if not claimed:
        return 0
    profiles = BillingProfile.objects.filter(customer__in={row.customer_id for row in claimed})
    languages = dict(profiles.values_list("customer", "language"))
    operator = OperatorSettings.objects.get(pk=1)
    connection, away = get_connection(), None
    try:
        for row, data in zip(claimed, messages.shown_data([row.notice for row in claimed]), strict=True):
            language = languages.get(row.customer_id, BillingProfile.Language.ENGLISH)
            result = away or _try(row, data, language, operator, connection)
            away = result if result.is_away else None
            messages.record(row, result, at=at)
    finally:
        try:
            connection.close()
        except (SMTPException, OSError):
            logger.info("a mail server did not say goodbye")
    return len(claimed)


def _try(
    row: Delivery, data: Mapping[str, Any], language: str, operator: OperatorSettings, connection: Any
) -> messages.Result:
    try:
        mail = _mail(row, data, language, operator)
    except (ValueError, TypeError, LookupError) as error:  # One that can't be written keeps no other from being sent.
        return messages.Result(f"it can't be written ({type(error).__name__})", is_final=True)
    mail.connection = connection
    return _sent(mail)


def _mail(row: Delivery, data: Mapping[str, Any], language: str, operator: OperatorSettings) -> EmailMultiAlternatives:
    sender = parseaddr(settings.DEFAULT_FROM_EMAIL)[1]
    written = write(row.notice, data, customer=row.customer.name, language=language)
    mail = EmailMultiAlternatives(
        subject=written.subject,
        body=written.text,
        from_email=formataddr((_one_line(operator.name), sender)),
        to=[row.address],
        reply_to=[operator.email] if operator.email else None,
        headers={
            # The same for each attempt, so that a mail that is sent twice can be known as one.
            "Message-ID": f"<{row.notice.public_id}@{sender.rpartition('@')[2] or 'localhost'}>",
            "Auto-Submitted": "auto-generated",
        },
    )
    mail.attach_alternative(written.html, "text/html")
    return mail


def _sent(mail: EmailMultiAlternatives) -> messages.Result:
    began = time.monotonic()
    try:
        mail.send()
    except SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        is_final = bool(codes) and min(codes) >= 500
        return messages.Result("the server refused the address", codes[0] if codes else None, _since(began), is_final)
    except SMTPResponseException as error:
        return messages.Result(f"the server refused ({type(error).__name__})", error.smtp_code, _since(began))
    except ValueError as error:  # An address or header that can't be written.
        return messages.Result(f"it can't be sent ({type(error).__name__})", None, _since(began), is_final=True)
    except SMTPException as error:
        return messages.Result(f"the server ended it ({type(error).__name__})", None, _since(began))
    except OSError as error:
        why = f"the server was not reached ({type(error).__name__})"
        return messages.Result(why, None, _since(began), is_away=True)
    return messages.Result(duration_ms=_since(began))


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)


def watch(*, at: datetime) -> alarms.Watched:
    """One alarm while mail does not get away."""
    waiting = Delivery.objects.filter(
        channel=Delivery.Channel.MAIL, look_at__isnull=False, attempts__gte=_ALARMING_ATTEMPTS
    ).exclude(error="")
    count, last = waiting.count(), waiting.order_by("pk").last()
    if last is None:
        return alarms.report([], source=SOURCE, at=at)
    seen = alarms.Sighting(
        kind=f"{SOURCE}.stuck",
        subject="",
        label="mail that waits",
        count=count,
        message=f"Mail that could not be sent twice and more: {count:,}. The last time {last.error}.",
        advice="Look at EMAIL_URL and the mail server. What waits is sent by itself once it is taken.",
    )
    return alarms.report([seen], source=SOURCE, at=at)
