"""Notices as mail: every kind in every language, what can't get into one, and a mail server that refuses."""

import re
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path
from smtplib import SMTPRecipientsRefused, SMTPServerDisconnected
from typing import Any

import pytest
from django.core import mail as outbox
from django.core.mail.backends.locmem import EmailBackend
from django.template import Engine

from billing import mailing, messages
from billing.models import Alarm, BillingProfile, Delivery, OperatorSettings
from billing.notice_kinds import KINDS
from tests.telling import announce, deliveries, mail, now, plan, set_email
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db
Status = Delivery.Status
LANGUAGES = BillingProfile.Language.values
TEMPLATES = Path(__file__).parents[2] / "templates" / "mail"
MISSING = "!MISSING!"
# Data that a kind carries only now and then.
ALSO: dict[str, list[dict[str, Any]]] = {
    "invoice_issued": [{"due_on": None, "amount_due": "0.00", "status": "paid"}],
    "payment_received": [{"method": "", "origin": "cash"}, {"invoice": "inv_1", "number": "INV-2026-000042"}],
    "invoice_due_again": [{"because": "refund"}, {"because": "returned"}],
    "payment_failed": [{"message": ""}],
    "balance_low": [{"credit_limit": "50.000000", "balance": "-46.000000"}],
    "spend_limit_used": [
        {"api_key": None, "span": "day", "percent": 100},
        {"type": "soft", "set_by": "operator", "percent": 100},
    ],
    "in_debt": [{"credit_limit": "10.000000"}],
    "recharge_failed": [{"message": ""}],
    "recharge_off": [
        {"because": because} for because in ("removed", "expired", "limits", "refused", "customer", "operator")
    ],
    "authentication_required": [{"checkout_url": ""}],
    "dispute_taken": [{"reason": ""}],
}


@pytest.fixture
def payer(settings: Any) -> Payer:
    settings.SENDS_MAIL = True
    settings.DEFAULT_FROM_EMAIL = "billing@relay.example"
    OperatorSettings.objects.update(
        name="Northwind Relay",
        timezone="Europe/Madrid",
        site_url="https://billing.relay.example",
        email="help@relay.example",
    )
    payer = make_payer(name="Ada & Söhne")
    plan()
    set_email(payer)
    return payer


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that a template asks for in vain shows."""
    monkeypatch.setattr(Engine.get_default(), "string_if_invalid", MISSING)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_in_every_language_with_nothing_missing(
    kind: str, language: str, payer: Payer, marked: None
) -> None:
    for changes in ({}, *ALSO.get(kind, [])):
        data = {**KINDS[kind].example, **changes}
        notice = announce(payer, kind, **changes)
        written = mailing.write(notice, data, customer=payer.customer.name, language=language)
        for text in (written.subject, written.text, written.html):
            assert MISSING not in text
            assert "{" not in text.replace("{{", "")
            assert "None" not in text
        assert 8 <= len(written.subject) <= 120
        assert "\n" not in written.subject
        assert f'lang="{"zh-Hans" if language == "zh-hans" else language}"' in written.html
        assert "Ada &amp; Söhne" in written.html
        assert "Ada & Söhne" in written.text
        assert bool(re.search("[一-鿿]", written.subject)) == (language == "zh-hans")
        assert "https://billing.relay.example/api/v1/docs/" in written.text


def test_a_value_that_is_missing_would_be_seen(payer: Payer, marked: None) -> None:
    notice = announce(payer, "credit_expires")
    assert MISSING in mailing.write(notice, {"grant": "gr_1_1"}, customer="Ada", language="en").text


def test_every_template_belongs_to_a_kind_and_every_language_has_the_same() -> None:
    for language in LANGUAGES:
        assert {path.stem for path in (TEMPLATES / language).glob("*.txt")} == {*KINDS, "footer"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_names_the_same_values_in_every_language(kind: str) -> None:
    def values(language: str) -> set[str]:
        return set(re.findall(r"{{ ([^}]*) }}", (TEMPLATES / language / f"{kind}.txt").read_text()))

    assert values("en") == values("es") == values("zh-hans")


def test_amounts_are_exact_where_it_matters_and_moments_are_the_operator_s(payer: Payer) -> None:
    notice = announce(payer, "credit_expires")
    written = mailing.write(notice, notice.data, customer="Ada", language="es")
    assert written.subject == "Un saldo de 12.35 USD caduca en 7 días"
    assert "Queda: 12.345678 USD" in written.text
    assert "Caduca: 2026-12-01 01:00 (Europe/Madrid)" in written.text


def test_a_mail_has_text_and_html_one_recipient_and_an_id_that_stays(payer: Payer) -> None:
    BillingProfile.objects.create(customer=payer.customer, language="zh-hans")
    notice = announce(payer, "balance_low")
    plan()
    assert (mail(), mail()) == (1, 0)
    (sent,) = outbox.outbox
    assert sent.subject == "余额不足提醒：剩余 4.98 USD"
    assert sent.to == ["ada@example.com"]
    read = message_from_bytes(sent.message().as_bytes(), policy=policy.default)
    assert read["From"] == "Northwind Relay <billing@relay.example>"
    assert read["Reply-To"] == "help@relay.example"
    assert read["Message-ID"] == f"<{notice.public_id}@relay.example>"
    assert read["Auto-Submitted"] == "auto-generated"
    assert [part.get_content_type() for part in read.iter_parts()] == ["text/plain", "text/html"]
    (row,) = deliveries(payer, "balance_low")
    assert (row.status, row.attempts, row.error) == (Status.SENT, 1, "")
    messages.send_again(delivery_id=row.pk, at=now())
    mail()
    assert len({one.extra_headers["Message-ID"] for one in outbox.outbox}) == 1


@pytest.mark.parametrize(
    "name", ["A\r\nBcc: victim@example.com", "A\nBcc: victim@example.com\n\nbody", "A\u2028b", "A\x00\x1bb", "A\u202eb"]
)
def test_a_name_makes_no_header_no_line_and_no_html(name: str, payer: Payer) -> None:
    name = f"<script>{name}"
    OperatorSettings.objects.update(name=name.replace("\x00", ""))
    payer.customer.name = name.replace("\x00", "")
    payer.customer.save()
    announce(payer, "key_created", name=name.replace("\x00", ""))
    plan()
    mail()
    (sent,) = [one for one in outbox.outbox if "API key" in one.subject]
    read = message_from_bytes(sent.message().as_bytes(), policy=policy.default)
    assert read["Bcc"] is None
    assert sent.recipients() == ["ada@example.com"]
    assert not re.search("[\x00-\x09\x0b-\x1f\u2028\u202e]", sent.body)
    assert not re.search(r"^Bcc", sent.body, re.MULTILINE)
    (html,) = [content for content, kind in sent.alternatives if kind == "text/html"]
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_link_is_none_unless_it_is_http(payer: Payer) -> None:
    notice = announce(payer, "authentication_required")
    data = {**notice.data, "checkout_url": "javascript:alert(1)"}
    assert "javascript" not in mailing.write(notice, data, customer="Ada", language="en").html


def test_a_server_that_is_away_is_tried_again_and_alarms(payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(payer)
    plan()

    def away(self: Any, mails: Any) -> int:
        raise SMTPServerDisconnected("secret of the server")

    monkeypatch.setattr(EmailBackend, "send_messages", away)
    at = now()
    waits = []
    while mail(at):
        (row,) = deliveries(payer)
        if row.attempts == 2:
            mailing.watch(at=at)
            assert Alarm.objects.filter(kind="mail.stuck", resolved_at=None).exists()
        if row.look_at is None:
            break
        waits.append(row.look_at - at)
        at = row.look_at
    assert waits == list(messages.BACK_OFF)
    assert (row.status, row.attempts) == (Status.FAILED, messages.ATTEMPTS_MAX)
    assert row.error == "the server ended it (SMTPServerDisconnected)"
    mailing.watch(at=at)
    assert not Alarm.objects.filter(kind="mail.stuck", resolved_at=None).exists()


def test_one_that_can_t_be_written_keeps_no_other_from_being_sent(payer: Payer) -> None:
    announce(payer, "in_debt", debt="a lot")
    announce(payer, "in_debt")
    plan()
    assert mail() == 2
    assert [(row.status, row.error) for row in deliveries(payer)] == [
        (Status.FAILED, "it can't be written (InvalidAmount)"),
        (Status.SENT, ""),
    ]
    assert len(outbox.outbox) == 1


def test_a_server_that_can_t_be_reached_is_asked_once_for_all_that_is_due(
    payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def away(self: Any, mails: Any) -> int:
        tried.append(1)
        raise TimeoutError

    monkeypatch.setattr(EmailBackend, "send_messages", away)
    for _ in range(3):
        announce(payer)
    plan()
    assert mail() == 3
    assert len(tried) == 1
    assert {row.error for row in deliveries(payer)} == {"the server was not reached (TimeoutError)"}


@pytest.mark.parametrize(("code", "status"), [(550, Status.FAILED), (451, Status.WAITING)])
def test_an_address_that_the_server_refuses_for_good_is_not_tried_again(
    code: int, status: str, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, mails: Any) -> int:
        raise SMTPRecipientsRefused({mails[0].to[0]: (code, b"no")})

    monkeypatch.setattr(EmailBackend, "send_messages", refuse)
    announce(payer)
    plan()
    mail()
    (row,) = deliveries(payer)
    assert (row.status, row.status_code) == (status, code)


def test_without_a_mail_server_nothing_is_planned_and_nothing_waits(payer: Payer, settings: Any) -> None:
    settings.SENDS_MAIL = False
    announce(payer)
    plan()
    assert deliveries(payer) == []
    assert mail(now() + timedelta(days=1)) == 0
