"""The jobs board, the home page and the metrics: what an operator sees of the jobs, and may do."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import PeriodicTask

from billing import jobs, timetable
from billing.models import Alarm, Customer, Job, JobRun, Wallet
from metering import statements, uninvoiced
from metering.meters import NAMES
from relayadmin.celery import app
from tests.operator import log_in, make_staff, page, text_of
from tests.world import Relay, make_event, make_payer

HOLDS = "expire holds"


@pytest.fixture
def operator(db: None) -> Client:
    return log_in(make_staff(is_superuser=True))


@pytest.fixture
def eager() -> Iterator[None]:
    """A queue that runs what is put in at once."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def put_on_the_timetable(*, at: datetime | None = None) -> Job:
    """All shipped jobs, with a worker that answers; returns the one that frees holds."""
    at = at or datetime.now(UTC)
    timetable.install()
    timetable.observe(at=at)
    PeriodicTask.objects.update(last_run_at=at)
    JobRun.objects.create(job="billing.watch_jobs", started_at=at, duration_ms=1)
    return Job.objects.get(timetable__name=HOLDS)


def metrics() -> dict[str, str]:
    """Names with labels → values."""
    lines = Client().get("/metrics").content.decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


class TestBoard:
    def test_every_job_stands_there_in_words(self, operator: Client) -> None:
        put_on_the_timetable()
        now = datetime.now(UTC)
        JobRun.objects.create(job="billing.expire_holds", started_at=now, duration_ms=1_250, result={"expired": 1_200})
        JobRun.objects.create(job="metering.check_ledger", started_at=now, duration_ms=5, error="Boom: it broke")
        JobRun.objects.create(
            job="metering.check_ledger",
            variant='{"full": true}',
            started_at=now,
            duration_ms=5,
            result={"ok": True, "checked": {"holds": 0, "events": 7, "grants": 1, "wallets": 2}, "differences": []},
        )
        with CaptureQueriesContext(connection) as queries:
            answer = operator.get(page(Job, "changelist"))
        text = text_of(answer)
        assert len(queries) <= 16
        assert "Free open holds whose time is over." in text
        assert "every 15 seconds" in text
        assert "less than 1 min ago, took 1.2 s 1,200 expired" in text
        assert "checked 7 events, 1 grant and 2 wallets" in text
        assert "every Sunday at 04:30 (UTC)" in text
        assert text.index("Boom: it broke") < text.index("1,200 expired"), "what is in trouble comes first"
        assert "In trouble 1" in text

    def test_a_changed_time_shows_what_was_shipped_and_what_is_off_is_off(self, operator: Client) -> None:
        job = put_on_the_timetable()
        other = PeriodicTask.objects.get(name="send refunds").interval
        PeriodicTask.objects.filter(pk=job.pk).update(interval=other, enabled=False)
        text = text_of(operator.get(page(Job, "changelist")))
        assert "every minute shipped: every 15 seconds OFF" in text.replace("off off", "OFF")
        assert "1 off" in text

    def test_without_a_timetable_it_says_what_to_do(self, operator: Client) -> None:
        assert "No job is on the timetable yet" in text_of(operator.get(page(Job, "changelist")))

    def test_who_may_only_look_sees_no_buttons_and_can_do_nothing(self, db: None) -> None:
        job = put_on_the_timetable()
        client = log_in(make_staff(permissions=["billing.view_job"]))
        for address in (page(Job, "changelist"), page(Job, "change", job.pk)):
            answer = client.get(address)
            assert answer.status_code == 200
            assert "Run now" not in text_of(answer)
        assert client.post(page(Job, "run_now", job.pk)).status_code == 403
        assert client.post(page(Job, "switch_off", job.pk)).status_code == 403
        assert PeriodicTask.objects.get(pk=job.pk).enabled


class TestPageOfAJob:
    def test_shows_its_runs_with_results_errors_and_who_began_them(self, operator: Client) -> None:
        job, now = put_on_the_timetable(), datetime.now(UTC)
        JobRun.objects.create(job="billing.expire_holds", started_at=now - timedelta(hours=2))
        JobRun.objects.create(
            job="billing.expire_holds", started_at=now - timedelta(hours=1), error="Boom: no", duration_ms=9
        )
        JobRun.objects.create(
            job="billing.expire_holds", started_at=now, result={"expired": 3}, duration_ms=9, begun_by="grace"
        )
        text = text_of(operator.get(page(Job, "change", job.pk)))
        assert "3 expired grace" in text
        assert "failed 9 ms Boom: no the timetable" in text
        assert "killed" in text

    def test_says_what_is_wrong_in_the_errors_own_words(self, operator: Client) -> None:
        job, now = put_on_the_timetable(), datetime.now(UTC)
        error = 'ProgrammingError: relation "hold" does not exist\nLINE 1: SELECT 1 FROM hold\n                      ^'
        JobRun.objects.create(job="billing.expire_holds", started_at=now, error=error, duration_ms=9)
        text = text_of(operator.get(page(Job, "change", job.pk)))
        assert f'Failed at {now:%Y-%m-%d %H:%M} UTC: ProgrammingError: relation "hold" does not exist' in text
        assert "SELECT 1" not in text

    def test_run_now_asks_runs_and_says_where_the_result_is(self, operator: Client, eager: None) -> None:
        job = put_on_the_timetable()
        address = page(Job, "run_now", job.pk)
        assert "Run “expire holds” now" in text_of(operator.get(address))
        assert not JobRun.objects.filter(job="billing.expire_holds").exists()
        answer = operator.post(address, follow=True)
        assert "was sent to the workers. The result stands on its page in a moment." in text_of(answer)
        assert JobRun.objects.get(job="billing.expire_holds").begun_by.startswith("staff-")

    def test_run_now_refuses_what_runs_already(self, operator: Client, eager: None) -> None:
        job = put_on_the_timetable()
        with jobs._alone("billing.expire_holds"):
            answer = operator.post(page(Job, "run_now", job.pk), follow=True)
        assert "runs already, so it was not started again" in text_of(answer)
        assert not JobRun.objects.filter(job="billing.expire_holds").exists()

    def test_switching_off_and_on(self, operator: Client) -> None:
        job = put_on_the_timetable()
        for name, is_on in (("switch_off", False), ("switch_on", True)):
            assert "Free open holds" in text_of(operator.get(page(Job, name, job.pk)))
            operator.post(page(Job, name, job.pk))
            assert PeriodicTask.objects.get(pk=job.pk).enabled is is_on

    def test_times_are_changed_in_the_timetable_where_the_name_is_fixed(self, operator: Client) -> None:
        job = put_on_the_timetable()
        address = operator.get(page(Job, "change_times", job.pk)).headers["Location"]
        assert address == page(PeriodicTask, "change", job.pk)
        html = operator.get(address).content.decode()
        assert 'name="interval"' in html
        assert 'name="name"' not in html


class TestHome:
    def test_says_that_all_is_well(self, operator: Client) -> None:
        put_on_the_timetable()
        home = text_of(operator.get("/admin/"))
        assert "Jobs that need you" not in home
        assert "jobs are well. A worker answered less than 1 min ago." in home

    def test_says_what_failed_was_killed_or_did_not_run(self, operator: Client) -> None:
        now = datetime.now(UTC)
        put_on_the_timetable(at=now - timedelta(minutes=4))
        JobRun.objects.create(job="billing.watch_jobs", started_at=now, duration_ms=1)
        PeriodicTask.objects.update(last_run_at=now)
        JobRun.objects.create(job="billing.expire_holds", started_at=now, duration_ms=1, error="Boom: it broke")
        JobRun.objects.create(job="billing.send_refunds", started_at=now)
        with time_machine.travel(now + timedelta(minutes=2, seconds=30)):
            home = text_of(operator.get("/admin/"))
        assert "expire holds failed at" in home
        assert "Boom: it broke" in home
        assert "send refunds was killed in the middle" in home
        assert "tell debtors did not run when it was due" in home

    def test_names_a_worker_and_a_beat_that_are_down_once(self, operator: Client) -> None:
        at = datetime(2026, 11, 22, 12, tzinfo=UTC)
        put_on_the_timetable(at=at)
        with time_machine.travel(at + timedelta(hours=3)):
            home = text_of(operator.get("/admin/"))
        assert "The worker has not answered since 2026-11-22 12:00 UTC." in home
        assert "Beat has not sent any job since 2026-11-22 12:00 UTC." in home
        assert "tell debtors did not run" not in home

    def test_names_customers_whose_month_is_over_and_not_invoiced(self, operator: Client) -> None:
        put_on_the_timetable()
        payer = make_payer(name="Fabrikam")
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        with time_machine.travel("2026-11-01T09:00:00Z"):
            home = text_of(operator.get("/admin/"))
            listed = text_of(operator.get(page(Customer, "changelist"), {"not_invoiced": "yes"}))
        assert "1 customer has usage that no invoice covers" in home
        assert ", of October 2026 or before." in home
        assert "Fabrikam" in listed


@pytest.mark.django_db
class TestUninvoiced:
    def look(self, text: str) -> uninvoiced.Uninvoiced:
        return uninvoiced.look(at=datetime.fromisoformat(text).replace(tzinfo=UTC))

    def test_counts_from_three_hours_after_the_grace_period_until_it_is_closed(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        assert self.look("2026-11-01T08:59:59").customers == ()
        late = self.look("2026-11-01T09:00:00")
        assert (late.through, late.customers) == (date(2026, 10, 1), (payer.customer.pk,))
        statements.close_invoices(period=date(2026, 10, 1), at=datetime(2026, 11, 1, 10, tzinfo=UTC))
        assert self.look("2026-11-01T10:00:00").customers == ()

    def test_usage_of_the_open_month_waits_for_nothing(self) -> None:
        Relay().report(make_event(make_payer()))
        assert self.look("2026-11-30T23:00:00").customers == ()

    def test_a_month_that_was_missed_long_ago_is_found(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-08-15T12:00:00Z"))
        Wallet.objects.filter(pk=payer.customer.pk).update(closed_through=date(2026, 7, 1))
        assert self.look("2026-11-22T12:00:00").customers == (payer.customer.pk,)

    def test_usage_that_was_taken_back_altogether_has_nothing_to_invoice(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        with connection.cursor() as cursor:  # as corrections leave it: a row that takes back, in another hour
            cursor.execute("SELECT * FROM metering_usagehour WHERE customer_id = %s", [payer.customer.pk])
            names = [column.name for column in cursor.description]
            row: dict[str, Any] = dict(zip(names, cursor.fetchone(), strict=True))
            taken = {name: -value if name in {*NAMES, "charge", "cost"} else value for name, value in row.items()}
            taken["hour"] += timedelta(hours=1)
            places = ", ".join(["%s"] * len(names))
            cursor.execute(
                f"INSERT INTO metering_usagehour ({', '.join(names)}) VALUES ({places})", list(taken.values())
            )
        assert self.look("2026-11-22T12:00:00").customers == ()


@pytest.mark.django_db
class TestMetrics:
    def test_each_job_has_its_figures(self) -> None:
        now = datetime.now(UTC)
        put_on_the_timetable(at=now - timedelta(minutes=4))
        JobRun.objects.create(job="billing.expire_holds", started_at=now, duration_ms=1_500, result={"expired": 1})
        JobRun.objects.create(job="billing.send_refunds", started_at=now, duration_ms=20, error="no")
        with time_machine.travel(now + timedelta(minutes=3)):
            seen = metrics()
        assert float(seen[f'relayadmin_job_last_success_timestamp_seconds{{job="{HOLDS}"}}']) == now.timestamp()
        assert seen[f'relayadmin_job_duration_seconds{{job="{HOLDS}"}}'] == "1.5"
        assert seen[f'relayadmin_job_overdue{{job="{HOLDS}"}}'] == "0.0"
        assert seen['relayadmin_job_overdue{job="tell debtors"}'] == "1.0"
        assert seen['relayadmin_job_failures{job="send refunds"}'] == "1.0"
        assert seen['relayadmin_job_last_run_failed{job="send refunds"}'] == "1.0"
        assert 'relayadmin_job_last_success_timestamp_seconds{job="send refunds"}' not in seen
        assert seen['relayadmin_job_enabled{job="tell debtors"}'] == "1.0"
        at = (now - timedelta(minutes=4)).timestamp()
        assert float(seen["relayadmin_worker_last_seen_timestamp_seconds"]) == at
        assert float(seen["relayadmin_beat_last_seen_timestamp_seconds"]) == at

    def test_alarms_and_usage_without_an_invoice_are_counted(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        now = datetime.now(UTC)
        for subject in ("a", "b"):
            Alarm.objects.create(kind="test.kind", subject=subject, message="m", count=1, first_seen=now, last_seen=now)
        with time_machine.travel("2026-11-22T12:00:00Z"):
            seen = metrics()
        assert seen['relayadmin_alarms_open{kind="test.kind"}'] == "2.0"
        assert seen["relayadmin_usage_not_invoiced_customers"] == "1.0"
        assert seen["relayadmin_webhooks_failed"] == seen["relayadmin_refunds_pending"] == "0.0"
