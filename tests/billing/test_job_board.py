"""Which jobs are in trouble: judged from their times and runs, on both sides of each bound; and run now."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import shared_task
from django.db import connection
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from billing import job_board, job_starting, job_watch, jobs, timetable
from billing.models import Alarm, Job, JobRun
from relayadmin.celery import app
from tests.statements import counted_statements

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def work(outcome: jobs.Outcome) -> None:
    """What the job does; tests put theirs in its place."""


@shared_task(name="test.board")
def board_task(*, full: bool = False) -> Any:
    """Do what a test wants."""
    return jobs.run_alone("test.board", lambda outcome: work(outcome), at=datetime.now(UTC))


def schedule(*, every: int = 1, name: str = "test board", at: datetime = NOW, **columns: Any) -> PeriodicTask:
    """Put a job that runs every so many minutes on the timetable, watched from `at` on."""
    columns.setdefault("crontab", None)
    if columns["crontab"] is None:
        columns["interval"] = IntervalSchedule.objects.create(every=every, period="minutes")
    row = PeriodicTask.objects.create(name=name, task="test.board", last_run_at=at, **columns)
    timetable.observe(at=at)
    return row


def ran(at: datetime, *, took: int | None = 5, error: str = "", variant: str = "") -> JobRun:
    return JobRun.objects.create(job="test.board", started_at=at, duration_ms=took, error=error, variant=variant)


def standing(at: datetime, name: str = "test board") -> job_board.Standing:
    return next(item for item in job_board.standings(at=at) if item.entry.name == name)


@pytest.mark.django_db
class TestOverdue:
    def test_an_interval_is_overdue_after_its_next_moment_and_five_minutes(self) -> None:
        schedule(every=10)
        ran(NOW + MINUTE)
        bound = NOW + 16 * MINUTE
        assert (standing(bound).trouble, standing(bound).due_at) == ("", NOW + 11 * MINUTE)
        assert standing(bound + SECOND).trouble == "overdue"
        assert job_watch.trouble_text(standing(bound + SECOND)) == (
            "did not run when it was due, at 2026-11-22 12:11 UTC; it last ran at 2026-11-22 12:01 UTC."
        )

    def test_a_job_that_never_ran_is_overdue_from_when_it_is_watched(self) -> None:
        schedule(every=10)
        assert standing(NOW + 15 * MINUTE).trouble == ""
        assert standing(NOW + 15 * MINUTE + SECOND).trouble == "overdue"
        assert "it has never run" in job_watch.trouble_text(standing(NOW + 15 * MINUTE + SECOND))

    @pytest.mark.parametrize(
        ("last", "due"), [("2026-03-28T02:31", "2026-03-29T01:30"), ("2026-10-24T01:31", "2026-10-25T02:30")]
    )
    def test_a_daily_job_is_held_to_the_clock_on_the_wall(self, last: str, due: str) -> None:
        began, bound = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (last, due))
        table = CrontabSchedule.objects.create(minute="30", hour="3", timezone=ZoneInfo("Europe/Madrid"))
        schedule(crontab=table, at=began - MINUTE)
        ran(began)
        assert standing(bound + 5 * MINUTE).trouble == ""
        assert standing(bound + 5 * MINUTE + SECOND).trouble == "overdue"

    def test_what_was_off_or_ran_at_other_times_is_not_late_for_that(self) -> None:
        row = schedule(every=10)
        ran(NOW)
        later = NOW + timedelta(days=1)
        assert standing(later).trouble == "overdue"
        PeriodicTask.objects.filter(pk=row.pk).update(enabled=False)
        assert standing(later).trouble == ""
        timetable.observe(at=later)
        PeriodicTask.objects.filter(pk=row.pk).update(enabled=True)
        assert standing(later).trouble == "", "on again; nobody has looked since"
        timetable.observe(at=later)
        assert standing(later + 15 * MINUTE).trouble == ""
        assert standing(later + 15 * MINUTE + SECOND).trouble == "overdue"

    def test_a_run_under_way_is_not_overdue_until_it_is_stuck(self) -> None:
        schedule()
        ran(NOW, took=None)
        with jobs._alone("test.board"):
            assert (standing(NOW + 120 * MINUTE).outcome, standing(NOW + 121 * MINUTE).trouble) == ("running", "")
            stuck = standing(NOW + 121 * MINUTE + SECOND)
        assert stuck.trouble == "overdue"
        assert job_watch.trouble_text(stuck) == "has been running since 2026-11-22 12:00 UTC, so it can't begin anew."


@pytest.mark.django_db
class TestOutcomes:
    def test_the_last_run_decides_and_failures_of_a_day_are_counted(self) -> None:
        schedule()
        ran(NOW - timedelta(hours=25), error="Old: no")
        ran(NOW - 3 * MINUTE)
        ran(NOW - 2 * MINUTE, took=None)
        ran(NOW - MINUTE, error="Boom: it broke")
        item = standing(NOW)
        assert [outcome for _, outcome in item.runs] == ["failed", "killed", "done", "failed"]
        assert (item.trouble, item.failures, item.succeeded_at) == ("failed", 2, NOW - 3 * MINUTE)
        ran(NOW)
        assert (standing(NOW).trouble, standing(NOW).failures) == ("", 2)

    def test_a_row_without_an_end_is_running_while_its_job_is_held_and_killed_after(self) -> None:
        schedule()
        run = ran(NOW, took=None)
        with jobs._alone("test.board"):
            assert (standing(NOW).outcome, standing(NOW).failures, jobs.killed([run])) == ("running", 0, set())
        assert (standing(NOW).trouble, standing(NOW).failures, jobs.killed([run])) == ("killed", 1, {run.pk})

    def test_a_run_that_ended_while_it_was_looked_at_was_not_killed(self) -> None:
        seen = ran(NOW, took=None)
        JobRun.objects.filter(pk=seen.pk).update(duration_ms=3)
        assert jobs.killed([seen]) == set()

    def test_another_call_of_the_same_task_is_another_job(self) -> None:
        schedule()
        schedule(name="test full", kwargs='{"full": true}')
        ran(NOW, error="Boom: it broke", variant='{"full": true}')
        ran(NOW)
        assert (standing(NOW).trouble, standing(NOW, "test full").trouble) == ("", "failed")

    def test_runs_that_replace_one_another_are_never_seen_as_none(self) -> None:
        """Rows go at any moment, so they are read in one statement."""
        schedule()
        ran(NOW)
        with counted_statements() as asked:
            job_board.standings(at=NOW)
        assert sum("billing_jobrun" in statement for statement in asked) == 1

    def test_the_board_asks_as_much_of_one_run_as_of_many(self) -> None:
        schedule()
        ran(NOW - timedelta(days=1), took=None)
        with counted_statements() as few:
            job_board.standings(at=NOW)
        JobRun.objects.bulk_create(
            JobRun(job="test.board", started_at=NOW - number * SECOND, error="no", duration_ms=1)
            for number in range(2_000)
        )
        schedule(name="test full", kwargs='{"full": true}')
        with counted_statements() as many:
            job_board.standings(at=NOW)
        assert len(many) <= len(few)


@pytest.mark.django_db
class TestWatch:
    def open_alarms(self) -> dict[str, str]:
        rows = Alarm.objects.filter(kind__startswith="jobs.", resolved_at=None)
        return {row.kind: row.subject for row in rows}

    def test_opens_one_alarm_for_a_job_and_resolves_it_when_it_is_well(self) -> None:
        row = schedule()
        PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=NOW + 7 * MINUTE)  # beat is there
        ran(NOW, error="Boom: it broke")
        job_watch.watch(at=NOW + MINUTE)
        job_watch.watch(at=NOW + 2 * MINUTE)
        assert self.open_alarms() == {"jobs.failed": "test board"}
        job_watch.watch(at=NOW + 7 * MINUTE)
        assert self.open_alarms() == {"jobs.overdue": "test board"}
        ran(NOW + 8 * MINUTE)
        job_watch.watch(at=NOW + 8 * MINUTE)
        assert self.open_alarms() == {}

    def test_without_beat_there_is_one_alarm_for_all_that_is_missing(self) -> None:
        schedule()
        schedule(name="test full", kwargs='{"full": true}')
        JobRun.objects.create(job=job_board.ANSWER, started_at=NOW + 6 * MINUTE, duration_ms=1)
        job_watch.watch(at=NOW + 6 * MINUTE)
        assert self.open_alarms() == {}
        job_watch.watch(at=NOW + 6 * MINUTE + SECOND)
        assert self.open_alarms() == {"jobs.beat_silent": ""}

    def test_the_worker_is_silent_after_three_minutes_without_an_answer(self) -> None:
        assert job_board.processes([], at=NOW).is_worker_silent
        JobRun.objects.create(job=job_board.ANSWER, started_at=NOW, duration_ms=1)
        assert not job_board.processes([], at=NOW + 3 * MINUTE).is_worker_silent
        silent = job_board.processes([], at=NOW + 3 * MINUTE + SECOND)
        assert silent.is_worker_silent
        assert job_watch.worker_text(silent) == "The worker has not answered since 2026-11-22 12:00 UTC."

    def test_a_worker_asks_the_workers_every_minute_whether_beat_is_there_or_not(self) -> None:
        assert job_board.ANSWER not in {str(row.task) for row in PeriodicTask.objects.all()}
        assert any(step.__name__ == "Answer" for step in app.steps["worker"])


@pytest.mark.usefixtures("committed")
class TestRunNow:
    @pytest.fixture(autouse=True)
    def _row(self, committed: None) -> Any:
        """A job that is really there, and a queue that runs what is put in at once."""
        row = schedule(kwargs='{"full": true}')
        app.conf.task_always_eager = True
        yield
        app.conf.task_always_eager = False
        row.delete()
        JobRun.objects.filter(job="test.board").delete()

    def test_the_run_says_who_asked_and_with_what_it_was_called(self) -> None:
        job_starting.run_now(standing(NOW).entry, by="grace")
        run = JobRun.objects.get(job="test.board")
        assert (run.begun_by, run.variant, run.error) == ("grace", '{"full": true}', "")
        assert standing(NOW).last == run

    def test_beside_the_timetable_it_runs_once_and_is_refused_while_it_runs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside, go_on, ran_by = Event(), Event(), []

        def slow(outcome: jobs.Outcome) -> None:
            ran_by.append(1)
            inside.set()
            assert go_on.wait(30)

        def closing(call: Callable[[], Any]) -> Any:
            try:
                return call()
            finally:
                connection.close()

        monkeypatch.setitem(globals(), "work", slow)
        entry = standing(NOW).entry
        with ThreadPoolExecutor(2) as pool:
            scheduled = pool.submit(closing, lambda: board_task(full=True))
            assert inside.wait(30)
            # The click came before the timetable's run was seen: the message is in the queue already.
            clicked = pool.submit(closing, lambda: board_task(full=True))
            assert clicked.result(30) == {"skipped": "it runs already"}
            with pytest.raises(job_starting.AlreadyRuns):
                job_starting.run_now(entry, by="grace")
            go_on.set()
            assert scheduled.result(30) is None
        assert ran_by == [1]
        assert JobRun.objects.filter(job="test.board").count() == 1
        job_starting.run_now(entry, by="grace")
        assert ran_by == [1, 1]

    def test_both_at_the_same_moment_run_once_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now_inside, most = [], []

        def count(outcome: jobs.Outcome) -> None:
            now_inside.append(1)
            most.append(len(now_inside))
            Event().wait(0.05)
            now_inside.pop()

        def start(number: int) -> None:
            try:
                if number % 2:
                    board_task(full=True)
                else:
                    job_starting.run_now(entry, by="grace")
            except job_starting.AlreadyRuns:
                pass
            finally:
                connection.close()

        monkeypatch.setitem(globals(), "work", count)
        entry = standing(NOW).entry
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(start, range(24)))
        assert max(most) == 1

    def test_switching_off_and_on_is_what_beat_reads(self) -> None:
        entry = standing(NOW).entry
        assert job_starting.switch(entry, is_on=False, at=NOW)
        assert not job_starting.switch(entry, is_on=False, at=NOW)
        assert not PeriodicTask.objects.get(pk=entry.number).enabled
        later = NOW + timedelta(days=1)
        assert job_starting.switch(entry, is_on=True, at=later)
        assert Job.objects.get(pk=entry.number).counts_from == later
