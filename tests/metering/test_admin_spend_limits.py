"""What an operator sees of spend limits, sets and removes; and what follows a change of the time zone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.contrib.admin.models import LogEntry
from django.test import Client
from pytest_django import DjangoCaptureOnCommitCallbacks

from billing.models import Customer, Hold, JobRun, Notice, OperatorSettings, SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import keys, spend
from metering.models import ApiKey
from metering.verification import verify_books
from relayadmin.celery import app
from tests.operator import log_in, make_staff, page, settings_form, text_of
from tests.world import EXAMPLE_CHARGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

NONE = {"day_hard": "", "day_soft": "", "month_hard": "", "month_soft": ""}


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def form_of(payer: Payer) -> str:
    return page(Customer, "set_spend_limits", payer.customer.pk)


def form_of_key(payer: Payer) -> str:
    return page(ApiKey, "set_spend_limits", payer.key.pk)


def limits_of(payer: Payer) -> list[tuple[Any, ...]]:
    found = SpendLimit.objects.filter(customer=payer.customer).order_by("scope", "span", "-is_hard", "owner")
    return [(limit.scope, limit.span, limit.is_hard, limit.amount, limit.owner) for limit in found]


def own_limit(payer: Payer, amount: str, **changes: Any) -> None:
    limit = spend.Limit(Span.DAY, Decimal(amount), **changes)
    spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.CUSTOMER, actor="", at=datetime.now(UTC))


class TestSetting:
    def test_an_operator_limits_a_customer_and_a_key_and_is_named(self) -> None:
        payer, relay = make_payer(), Relay()
        user = make_staff(is_superuser=True)
        client = log_in(user)
        assert "Set spend limits" in text_of(client.get(page(Customer, "change", payer.customer.pk)))

        told = client.post(form_of(payer), {**NONE, "day_hard": "5.00", "month_soft": "100"}, follow=True)
        assert "5.000000 USD a day (hard), 100.000000 USD a month (soft)" in text_of(told)
        client.post(form_of_key(payer), {**NONE, "day_hard": "0.01"}, follow=True)

        key_scope = f"key:{payer.key.pk}"
        assert limits_of(payer) == [
            ("customer", "day", True, 5, "operator"),
            ("customer", "month", False, 100, "operator"),
            (key_scope, "day", True, Decimal("0.01"), "operator"),
        ]
        assert set(SpendLimit.objects.values_list("actor", flat=True)) == {user.username}
        assert relay.authorize(payer).code == "spend_limit_reached"
        logged = {entry.content_type.model: entry.change_message for entry in LogEntry.objects.filter(user=user)}
        assert logged == {
            "customer": "Operator's limits of Ada: 5.000000 USD a day (hard), 100.000000 USD a month (soft).",
            "apikey": f"Operator's limits of the key {payer.key}: 0.010000 USD a day (hard).",
        }

    def test_the_form_shows_what_holds_and_an_empty_amount_removes_it(self, operator: Client) -> None:
        payer = make_payer()
        own_limit(payer, "3")
        operator.post(form_of(payer), {**NONE, "day_hard": "5", "day_soft": "4"})
        shown = operator.get(form_of(payer))
        assert 'value="5.000000"' in shown.content.decode()
        assert "The customer" in text_of(shown), "the customer's own limit is listed"

        operator.post(form_of(payer), {**NONE, "day_soft": "4"})
        assert limits_of(payer) == [
            ("customer", "day", True, 3, "customer"),
            ("customer", "day", False, 4, "operator"),
        ]
        told = operator.post(form_of(payer), NONE, follow=True)
        assert "Operator's limits of Ada: none." in text_of(told)
        assert limits_of(payer) == [("customer", "day", True, 3, "customer")]

    def test_what_was_spent_before_counts(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        operator.post(form_of_key(payer), {**NONE, "month_hard": "5"})
        counter = SpendCounter.objects.get(customer=payer.customer)
        assert (counter.scope, counter.spent) == (f"key:{payer.key.pk}", EXAMPLE_CHARGE)
        assert verify_books(full=True, at=datetime.now(UTC)).differences == []

    @pytest.mark.parametrize(
        ("amount", "said"),
        [
            ("-1", "Write 0 or more"),
            ("1e3", "must be a plain decimal"),
            ("ten", "must be a plain decimal"),
            ("1.0000000000000001", "at most 15 decimals"),
            ("NaN", "must be a plain decimal"),
        ],
    )
    def test_a_wrong_amount_is_refused_beside_its_field(self, operator: Client, amount: str, said: str) -> None:
        payer = make_payer()
        answer = operator.post(form_of(payer), {**NONE, "day_hard": "1", "month_hard": amount})
        assert answer.status_code == 200
        assert said in text_of(answer)
        assert limits_of(payer) == []

    def test_zero_is_a_limit_that_stops_everything(self, operator: Client) -> None:
        payer = make_payer()
        operator.post(form_of(payer), {**NONE, "day_hard": "0"})
        assert Relay().authorize(payer).code == "spend_limit_reached"

    def test_the_form_leads_to_the_customers_other_keys_that_can_spend(self, operator: Client) -> None:
        payer = make_payer()
        second, revoked = (
            keys.create_api_key(customer=payer.customer, name=name, at=datetime.now(UTC))[0] for name in ("second", "x")
        )
        keys.revoke_api_key(api_key_id=revoked.pk, at=datetime.now(UTC))
        shown = operator.get(form_of_key(payer)).content.decode()
        for key, is_linked in ((payer.key, False), (second, True), (revoked, False)):
            assert (f'href="{page(ApiKey, "set_spend_limits", key.pk)}"' in shown) is is_linked
        assert f'href="{form_of(payer)}"' in shown

    def test_only_who_may_change_limits_sets_them(self) -> None:
        payer = make_payer()
        may_look = [
            "billing.view_customer",
            "billing.change_customer",
            "metering.view_apikey",
            "billing.view_spendlimit",
        ]
        viewer = log_in(make_staff(permissions=may_look))
        assert "Set spend limits" not in text_of(viewer.get(page(Customer, "change", payer.customer.pk)))
        for address in (form_of(payer), form_of_key(payer)):
            assert viewer.get(address).status_code == 403
            assert viewer.post(address, {**NONE, "day_hard": "5"}).status_code == 403
        assert limits_of(payer) == []

        allowed = log_in(make_staff(permissions=[*may_look, "billing.change_spendlimit"]))
        assert allowed.post(form_of(payer), {**NONE, "day_hard": "5"}).status_code == 302
        assert len(limits_of(payer)) == 1

    def test_nobody_limits_the_house_or_who_is_not_there(self, operator: Client) -> None:
        house = Customer.objects.get(is_house=True)
        for number in (house.pk, 999_999):
            told = operator.post(page(Customer, "set_spend_limits", number), {**NONE, "day_hard": "5"}, follow=True)
            assert "nobody here whose spend can be limited" in text_of(told)
        assert not SpendLimit.objects.exists()


class TestSeeing:
    def test_limits_stand_with_what_is_used_of_them_on_the_pages_of_customer_and_key(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        with time_machine.travel("2026-11-22T10:00:00Z", tick=False):
            operator.post(form_of(payer), {**NONE, "day_hard": "5"})
            operator.post(form_of_key(payer), {**NONE, "month_soft": "0.03"})
            relay.report(make_event(payer))
            relay.authorize(payer, input_tokens=1000)
            of_customer = text_of(operator.get(page(Customer, "change", payer.customer.pk)))
            of_key = text_of(operator.get(page(ApiKey, "change", payer.key.pk)))
            listed = text_of(operator.get(page(SpendLimit, "changelist")))
            limit = SpendLimit.objects.get(scope="customer")
            shown = text_of(operator.get(page(SpendLimit, "change", limit.pk)))
        assert (
            "the customer day hard: refuses beyond 5.000000 0.029250 0.010500 4.960250 2026-11-23 00:00:00"
            in of_customer
        )
        in_key = f"the key {payer.key} month soft: only tells 0.030000 0.029250 0.010500 -0.009750 2026-12-01 00:00:00"
        assert in_key in of_customer
        assert in_key in of_key
        assert "the customer day" not in of_key
        for said in ("4.960250", "-0.009750", "The operator", payer.customer.name):
            assert said in listed
        for said in ("4.960250", "until 2026-11-23 00:00:00 UTC", "the customer"):
            assert said in shown

    def test_what_was_told_of_limits_stands_on_the_customer_s_page_and_among_the_notices(
        self, operator: Client
    ) -> None:
        payer = make_payer()
        with time_machine.travel("2026-11-22T10:00:00Z", tick=False):
            operator.post(form_of(payer), {**NONE, "month_soft": "0.03"})
            own_limit(payer, "0.036", api_key_id=payer.key.pk)
            Relay().report(make_event(payer))
            pages = [page(Customer, "change", payer.customer.pk), page(Notice, "changelist")]
            shown = [text_of(operator.get(address)) for address in pages]
        of_all = "80 % of 0.030000 USD a month (soft, set by the operator) are spent by the customer: 0.029250 USD"
        of_key = f"80 % of 0.036000 USD a day (hard, set by the customer) are spent by the key {payer.key}"
        for said in shown:
            assert of_all in said
            assert of_key in said
            assert said.count("are spent by") == 2
        notice = Notice.objects.get(customer=payer.customer, kind="spend_limit_used", data__span="day")
        one = text_of(operator.get(page(Notice, "change", notice.pk)))
        assert of_key in one
        assert "0.029250 USD on 2026-11-22" in one

    def test_limits_are_found_by_customer_kind_and_who_set_them(self, operator: Client) -> None:
        one, other = make_payer(name="Northwind"), make_payer(name="Contoso")
        own_limit(one, "1")
        own_limit(one, "2", is_hard=False, api_key_id=one.key.pk)
        operator.post(form_of(other), {**NONE, "month_hard": "3"})
        address = page(SpendLimit, "changelist")
        for query, amounts in (
            ({}, [3, 2, 1]),
            ({"q": "northw"}, [2, 1]),
            ({"q": other.customer.public_id}, [3]),
            ({"owner__exact": "operator"}, [3]),
            ({"span__exact": "day", "is_hard__exact": "1"}, [1]),
            ({"customer__id__exact": str(one.customer.pk)}, [2, 1]),
        ):
            rows = operator.get(address, query).context["cl"].result_list
            assert [row.amount for row in rows] == amounts, query

    def test_counters_are_found_by_customer_and_name_the_key(self, operator: Client) -> None:
        payer, other = make_payer(), make_payer(name="Contoso")
        own_limit(payer, "5", api_key_id=payer.key.pk)
        own_limit(other, "5")
        Relay().report(make_event(payer))
        rows = operator.get(page(SpendCounter, "changelist"), {"q": "Ada"})
        assert [row.spent for row in rows.context["cl"].result_list] == [EXAMPLE_CHARGE]
        assert f"the key {payer.key}" in text_of(rows)
        counter = SpendCounter.objects.get(customer=payer.customer)
        assert f"the key {payer.key}" in text_of(operator.get(page(SpendCounter, "change", counter.public_id)))

    def test_a_hold_says_whose_spend_it_is_and_when_a_lease_ends(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        with time_machine.travel("2026-11-22T10:00:00Z", tick=False):
            lease = {"amount": "1", "seconds": 60}
            leased = relay.post("authorizations", {"api_key": payer.api_key, "request_id": "l", "lease": lease}).body
            single = relay.authorize(payer).body
            shown = text_of(operator.get(page(Hold, "change", leased["id"])))
            other = text_of(operator.get(page(Hold, "change", single["id"])))
        assert "starts requests until 2026-11-22 10:01:00; what they leave is freed 900 s after that" in shown
        assert "no, for one request" in other
        for text in (shown, other):
            assert f"the customer, and the key {payer.key}" in text
        Hold.objects.filter(customer=payer.customer).update(scope="")
        assert "Counts as spend of the customer" in text_of(operator.get(page(Hold, "change", single["id"])))


@pytest.fixture
def jobs_at_once() -> Iterator[None]:
    """A task that is scheduled runs on the spot."""
    app.conf.task_always_eager = app.conf.task_eager_propagates = True
    yield
    app.conf.task_always_eager = app.conf.task_eager_propagates = False


@pytest.mark.usefixtures("jobs_at_once")
class TestAnotherTimeZone:
    def test_counts_all_limited_customers_anew_and_shows_it_as_a_job_run(
        self, operator: Client, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        payers, relay = [make_payer() for _ in range(3)], Relay()
        with time_machine.travel("2026-11-22T20:00:00Z", tick=False):
            for payer in payers[:2]:
                own_limit(payer, "0.055")
            for payer in payers:
                relay.report(make_event(payer, occurred_at="2026-11-22T10:00:00Z"))
                relay.authorize(payer, input_tokens=1000)
            assert relay.authorize(payers[0], input_tokens=1000).status == 201
            assert relay.authorize(payers[0], input_tokens=1000).code == "spend_limit_reached"

            with django_capture_on_commit_callbacks(execute=True) as scheduled:
                operator.post(page(OperatorSettings, "change", 1), settings_form(timezone="Asia/Tokyo"))

            assert len(scheduled) == 1
            assert JobRun.objects.get(job="metering.count_spend_anew").result == {"customers": 2}
            counters = SpendCounter.objects.order_by("customer_id")
            assert [(f"{row.starts_on}", row.spent, row.held) for row in counters] == [
                ("2026-11-23", 0, Decimal("0.021")),
                ("2026-11-23", 0, Decimal("0.0105")),
            ]
            assert relay.authorize(payers[0], input_tokens=1000).status == 201, "in Tokyo the new day has begun"
            assert verify_books(full=True, at=datetime.now(UTC) + timedelta(minutes=1)).differences == []

    def test_that_is_the_same_counts_nothing(
        self, operator: Client, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        own_limit(make_payer(), "5")
        with django_capture_on_commit_callbacks(execute=True) as scheduled:
            operator.post(page(OperatorSettings, "change", 1), settings_form(name="Another name"))
            operator.post(page(OperatorSettings, "change", 1), settings_form(timezone="Mars/Base"))
        assert scheduled == []
        assert OperatorSettings.objects.get().name == "Another name"
        assert not JobRun.objects.filter(job="metering.count_spend_anew").exists()
