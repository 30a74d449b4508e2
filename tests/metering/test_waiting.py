"""What waits, counted by reason and subject, and how the operator's home page shows it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client

from billing.admin import html
from billing.models import Alarm
from metering import parking, pricing, waiting, watching
from metering.models import Model, ModelAlias, ParkedEvent, UnclaimedEvent, UsageEvent
from metering.waiting import KINDS
from tests.operator import fill, log_in, make_staff, page, text_of
from tests.world import SONNET, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
HOME = "/admin/"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def park(count: int, **changes: Any) -> None:
    payer = make_payer()
    Relay().report(*[make_event(payer, **changes) for _ in range(count)])


def add_alias(name: str) -> None:
    ModelAlias.objects.create(name=name, model=Model.objects.get(public_id=SONNET))
    pricing.bump_version()


def many_rows(count: int, subjects: int) -> None:
    """Parked rows straight into the table, as many as no test could report."""
    payer = make_payer()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_parkedevent (customer_id, number, api_key_id, event_id, model, channel, reason,"
            "   subject, detail, payload, occurred_at, received_at, resolution)"
            " SELECT %s, i, 1, i::text, 'm', '', 'no_price', 'model ' || i %% %s, '', '{}', now(), now(), ''"
            " FROM generate_series(1, %s) i",
            [payer.customer.pk, subjects, count],
        )
        cursor.execute("ANALYZE metering_parkedevent")


class TestGroups:
    def test_tell_how_many_of_whom_wait_for_what_and_since_when(self) -> None:
        before, occurred = now(), now() - timedelta(days=2)
        park(2, model="brand-new", occurred_at=occurred.isoformat())
        park(3, model="brand-new")
        park(1, channel="nowhere")
        channel, model = waiting.groups(KINDS["parked"])
        assert (channel.reason, channel.subject, channel.count) == ("unknown_channel", "nowhere", 1)
        assert (model.reason, model.subject, model.count) == ("unknown_model", "brand-new", 5)
        assert (model.customers, model.is_capped) == (2, False)
        assert before < model.oldest_received_at < model.newest_received_at < now()
        assert model.oldest_occurred_at == occurred
        assert "brand-new" in model.newest_detail

    def test_of_every_kind_are_found_and_none_of_what_is_settled(self) -> None:
        fill()
        found = {name: [group.count for group in waiting.groups(kind)] for name, kind in KINDS.items()}
        assert found == {"parked": [1], "unclaimed": [1], "conflict": [1], "quarantined": [1]}
        add_alias("nobody-sells-this")
        parking.sweep(at=now())
        assert waiting.groups(KINDS["parked"]) == []

    def test_are_counted_no_further_than_a_page_needs(self) -> None:
        many_rows(5_000, subjects=2)
        for group in waiting.groups(KINDS["parked"], read_most=3_000):
            assert (group.count, group.is_capped) == (1_500, True)
        assert [group.count for group in waiting.groups(KINDS["parked"])] == [2_500, 2_500]
        assert waiting.reasons(KINDS["parked"]) == [("no_price", 5_000)]
        assert waiting.reasons(KINDS["parked"], counted_most=10) == [("no_price", 10)]

    def test_are_no_more_than_asked_for(self) -> None:
        many_rows(500, subjects=500)
        assert len(waiting.groups(KINDS["parked"], groups_most=7)) == 7

    def test_are_read_from_the_index_row_by_row_only_as_far_as_shown(self) -> None:
        many_rows(50_000, subjects=2)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            plan = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {waiting._groups_sql(KINDS['parked'])}"
            cursor.execute(plan, [50, 1_000, 2_000])
            lines = [row[0] for row in cursor.fetchall()]
        assert not any("Seq Scan" in line for line in lines)
        scans = [line for line in lines if "parked_open_by_subject" in line]
        assert len(scans) == 5
        assert all("rows=1001.00" in line or "rows=1.00" in line or "rows=0.50" in line for line in scans), scans


class TestTheHomePage:
    def test_says_nothing_of_waiting_when_nothing_waits(self, operator: Client) -> None:
        shown = text_of(operator.get(HOME))
        assert "What waits" not in shown
        assert "Alarms Show all" not in shown

    def test_names_what_waits_how_much_since_when_and_what_to_do(self, operator: Client) -> None:
        park(2, model="brand-new")
        Relay().report(make_event(api_key_id="key_0123456789abcdef"))
        answer = operator.get(HOME)
        shown, body = text_of(answer), answer.content.decode()
        assert "Unknown model brand-new 2 1 customer less than 1 min since" in shown
        assert "Add brand-new as an alias of a model that has prices" in shown
        assert "Unknown key key_012345… 1" in shown
        assert f'href="{page(ParkedEvent, "changelist")}?reason=unknown_model&amp;subject=brand-new"' in body
        assert f'href="{page(ModelAlias, "add")}?name=brand-new"' in body
        assert 'value="brand-new"' in operator.get(page(ModelAlias, "add"), {"name": "brand-new"}).content.decode()

    def test_leads_to_the_list_of_what_waits_for_one_thing(self, operator: Client) -> None:
        park(2, model="brand-new")
        park(1, model="other")
        Relay().report(make_event(api_key_id="key_one"), make_event(api_key_id="key_two"))
        query = {"reason": "unknown_model", "subject": "brand-new"}
        listed = operator.get(page(ParkedEvent, "changelist"), query).context["cl"].result_list
        assert {row.subject for row in listed} == {"brand-new"}
        listed = operator.get(page(UnclaimedEvent, "changelist"), {"key": "key_two"}).context["cl"].result_list
        assert {row.key for row in listed} == {"key_two"}

    def test_shows_odd_names_as_they_are_and_runs_none(self, operator: Client) -> None:
        name = "<script>alert(1)</script>&'\"{0}%s"
        park(1, model=name)
        body = operator.get(HOME).content.decode()
        assert name not in body
        assert "&lt;script&gt;" in body
        assert quote("<script>") in body

    def test_shows_only_what_one_may_see_and_do(self) -> None:
        park(1, model="brand-new")
        Relay().report(make_event(api_key_id="key_one"))
        looker = log_in(make_staff(permissions=["metering.view_parkedevent"]))
        shown = text_of(looker.get(HOME))
        assert "brand-new" in shown
        assert "Unknown key" not in shown
        assert "Try again now" not in shown
        assert "Add an alias" not in shown
        assert "brand-new" not in text_of(log_in(make_staff(permissions=["billing.view_jobrun"])).get(HOME))

    def test_stays_bounded_with_many_names(self, operator: Client) -> None:
        many_rows(200, subjects=200)
        shown = text_of(operator.get(HOME))
        assert shown.count("Try again now") == waiting.GROUPS_SHOWN
        assert "More names wait than these" in shown


class TestTryAgainNow:
    def test_settles_what_waits_for_one_thing_and_leads_back(self, operator: Client) -> None:
        park(3, model="brand-new")
        park(1, model="also-new")
        for name in ("brand-new", "also-new"):
            add_alias(name)
        address = f"{page(ParkedEvent, 'sweep_all')}?reason=unknown_model&subject=brand-new"
        assert "Unknown model brand-new: tries the oldest" in text_of(operator.get(address))
        answer = operator.post(address, {"back": "home"}, follow=True)
        assert answer.redirect_chain == [(HOME, 302)]
        assert "Unknown model brand-new: 3 settled, 0 still wait." in text_of(answer)
        assert UsageEvent.objects.count() == 3
        assert ParkedEvent.objects.get(resolved_at=None).subject == "also-new"

    def test_says_so_where_nothing_has_changed(self, operator: Client) -> None:
        park(2, model="brand-new")
        address = f"{page(ParkedEvent, 'sweep_all')}?reason=unknown_model&subject=brand-new"
        answer = operator.post(address, {"back": "https://evil.example/"}, follow=True)
        assert answer.redirect_chain == [(page(ParkedEvent, "changelist"), 302)]
        assert "0 settled, 2 still wait." in text_of(answer)

    def test_charges_what_waited_for_a_key(self, operator: Client) -> None:
        payer = make_payer()
        Relay().report(make_event(api_key_id="key_late"), make_event(api_key_id="key_other"))
        type(payer.key).objects.filter(pk=payer.key.pk).update(public_id="key_late")
        address = f"{page(UnclaimedEvent, 'sweep_all')}?reason=unknown_key&subject=key_late"
        assert "1 settled, 0 still wait." in text_of(operator.post(address, follow=True))
        assert UnclaimedEvent.objects.get(resolved_at=None).key == "key_other"

    def test_is_refused_to_who_may_only_look(self) -> None:
        park(1, model="brand-new")
        add_alias("brand-new")
        client = log_in(make_staff(permissions=["metering.view_parkedevent"]))
        address = f"{page(ParkedEvent, 'sweep_all')}?reason=unknown_model&subject=brand-new"
        assert client.post(address).status_code == 403
        assert not UsageEvent.objects.exists()


class TestAlarmsOnTheHomePage:
    @pytest.fixture
    def alarm(self) -> Alarm:
        park(2, model="brand-new")
        watching.watch_what_waits(at=now() + timedelta(hours=2))
        return Alarm.objects.get()

    def test_stand_on_top_with_what_to_do_and_a_link(self, operator: Client, alarm: Alarm) -> None:
        body = operator.get(HOME).content.decode()
        assert body.index(alarm.message) < body.index("Credit outstanding")
        assert f'href="{page(ParkedEvent, "changelist")}?reason=unknown_model&amp;subject=brand-new"' in body
        assert "What waits is then settled by itself" in body

    def test_are_acknowledged_once_by_somebody_who_is_named(self, operator: Client, alarm: Alarm) -> None:
        address = page(Alarm, "acknowledge", alarm.pk)
        assert "Others see that you know" in text_of(operator.get(address))
        answer = operator.post(address, {"back": "home"}, follow=True)
        assert answer.redirect_chain == [(HOME, 302)]
        alarm.refresh_from_db()
        assert alarm.acknowledged_at is not None
        assert f"acknowledged by {alarm.acknowledged_by}" in text_of(answer)
        other = log_in(make_staff(is_superuser=True))
        assert "nothing left to acknowledge" in text_of(other.post(address, follow=True))
        assert LogEntry.objects.filter(change_message="Acknowledged.").count() == 1
        watching.watch_what_waits(at=now() + timedelta(hours=3))
        assert Alarm.objects.get().acknowledged_at == alarm.acknowledged_at

    def test_are_for_those_who_may_see_them(self, alarm: Alarm) -> None:
        client = log_in(make_staff(permissions=["billing.view_alarm"]))
        shown = text_of(client.get(HOME))
        assert alarm.message in shown
        assert "Acknowledge" not in shown
        assert client.post(page(Alarm, "acknowledge", alarm.pk)).status_code == 403
        assert alarm.message not in text_of(log_in(make_staff(permissions=["billing.view_jobrun"])).get(HOME))

    def test_are_listed_by_state(self, operator: Client, alarm: Alarm) -> None:
        def listed(state: str) -> list[Alarm]:
            return list(operator.get(page(Alarm, "changelist"), {"state": state}).context["cl"].result_list)

        assert [listed(state) for state in ("open", "acknowledged", "over")] == [[alarm], [], []]
        operator.post(page(Alarm, "acknowledge", alarm.pk))
        assert [listed(state) for state in ("open", "acknowledged", "over")] == [[], [alarm], []]
        ParkedEvent.objects.update(resolved_at=now())
        watching.watch_what_waits(at=now() + timedelta(hours=3))
        assert [listed(state) for state in ("open", "acknowledged", "over")] == [[], [], [alarm]]
        assert alarm.message not in operator.get(HOME).content.decode()


class TestTurnsOfTheSweep:
    def test_reach_everybody_though_the_oldest_can_t_be_settled(self) -> None:
        payer = make_payer()
        Relay().report(*[make_event(payer, model="unheard-of") for _ in range(6)])
        Relay().report(*[make_event(payer, model="brand-new") for _ in range(3)])
        add_alias("brand-new")
        assert [parking.sweep(at=now(), limit=4, turn=turn).settled for turn in (0, 1, 3)] == [0, 2, 1]

    def test_with_nothing_waiting_do_nothing(self) -> None:
        assert parking.sweep(at=now(), limit=4, turn=5) == parking.Swept(settled=0, claimed=0, waiting=0)


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(seconds=-5), "less than 1 min"),
        (timedelta(seconds=59), "less than 1 min"),
        (timedelta(minutes=1), "1 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=3, minutes=20), "3 h 20 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(hours=48), "2 days"),
    ],
)
def test_an_age_is_said_in_a_unit_that_fits(passed: timedelta, said: str) -> None:
    assert html.age(passed) == said
