"""Closings in the admin: how far they are, who is parked and why, and the buttons that start one or try again."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from billing.models import Alarm, Invoice, PeriodClosing
from metering import statements
from metering.models import UsageHour
from tests.operator import log_in, make_staff, page
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
OCTOBER = date(2026, 10, 1)
CLOSE = "admin:billing_periodclosing_close_month"
TRY_AGAIN = "admin:billing_periodclosing_try_again"


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(permissions=["billing.view_periodclosing", "billing.change_periodclosing"]))


def used(name: str = "Ada") -> Payer:
    payer = make_payer(name=name)
    Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
    return payer


def figures(operator: Client, closing: PeriodClosing) -> dict[str, str]:
    answer = operator.get(page(PeriodClosing, "change", closing.pk))
    assert answer.status_code == 200
    return {figure.label: figure.value for figure in answer.context["figures"]}


def test_the_page_of_a_closing_tells_how_far_it_is_and_why_somebody_is_parked(operator: Client) -> None:
    used(), used()
    parked = used("Parked Inc")
    UsageHour.objects.filter(customer=parked.customer).update(charge=Decimal("0.03"))
    closing = statements.begin(period=OCTOBER, at=datetime(2026, 11, 2, tzinfo=UTC))
    assert figures(operator, closing)["Remaining"] == "3"
    statements.work_off(closing, at=datetime(2026, 11, 2, tzinfo=UTC))
    shown = figures(operator, closing)
    assert (shown["Issued"], shown["Parked"], shown["Remaining"]) == ("2", "1", "0")
    text = operator.get(page(PeriodClosing, "change", closing.pk)).content.decode()
    assert "Parked Inc" in text
    assert "0.029250 USD, but 0.030000 USD was charged" in text
    assert "2 of 3" in operator.get(page(PeriodClosing, "changelist")).content.decode()


def test_a_missed_month_is_started_by_a_person_from_its_alarm(operator: Client) -> None:
    payer = used()
    statements.watch(at=datetime(2026, 11, 20, tzinfo=UTC))
    alarm = Alarm.objects.get(kind="closing.missed")
    superuser = log_in(make_staff(is_superuser=True))
    assert f"{reverse(CLOSE)}?period=2026-10" in superuser.get(page(Alarm, "change", alarm.pk)).content.decode()

    asked = operator.get(reverse(CLOSE), {"period": "2026-10"})
    assert asked.context["form"].initial == {"period": "2026-10"}
    answer = operator.post(reverse(CLOSE), {"period": "2026-10"})
    closing = PeriodClosing.objects.get(period=OCTOBER)
    assert answer.headers["Location"] == page(PeriodClosing, "change", closing.pk)
    assert closing.begun_by
    statements.work_off(closing, at=datetime(2026, 11, 20, tzinfo=UTC))
    assert Invoice.objects.get(customer=payer.customer).period == OCTOBER


@pytest.mark.parametrize("text", ["2026-13", "October", "9999-12", ""])
def test_what_is_no_month_that_has_ended_is_refused_in_words(operator: Client, text: str) -> None:
    answer = operator.post(reverse(CLOSE), {"period": text})
    assert answer.status_code == 200
    assert answer.context["form"].errors["period"]
    assert not PeriodClosing.objects.exists()


def test_try_again_has_the_parked_looked_at_again(operator: Client) -> None:
    payer = used()
    UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.03"))
    at = datetime(2026, 11, 2, tzinfo=UTC)
    statements.close_invoices(period=OCTOBER, at=at)
    closing = PeriodClosing.objects.get(period=OCTOBER)
    UsageHour.objects.filter(customer=payer.customer).update(charge=Decimal("0.02925"))
    assert operator.get(reverse(TRY_AGAIN, args=[closing.pk])).status_code == 200
    assert operator.post(reverse(TRY_AGAIN, args=[closing.pk])).status_code == 302
    assert figures(operator, closing)["Remaining"] == "1"
    assert statements.work_off(closing, at=at) == 1


def test_who_may_only_look_starts_nothing() -> None:
    used()
    client = log_in(make_staff(permissions=["billing.view_periodclosing"]))
    assert client.post(reverse(CLOSE), {"period": "2026-10"}).status_code == 403
    closing = statements.begin(period=OCTOBER, at=datetime(2026, 11, 2, tzinfo=UTC))
    assert client.post(reverse(TRY_AGAIN, args=[closing.pk])).status_code == 403
