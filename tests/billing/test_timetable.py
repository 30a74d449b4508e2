"""When jobs are due, in what words, and that a restart leaves what the operator made of it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.conf import settings
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from billing import timetable
from billing.models import Job
from relayadmin.celery import app
from relayadmin.scheduler import Scheduler

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def entry(**columns: Any) -> timetable.Entry:
    """The entry of a new row of the timetable."""
    row = PeriodicTask.objects.create(name="test", task="billing.expire_holds", **columns)
    return next(item for item in timetable.entries(at=NOW) if item.number == row.pk)


def crontab(zone: str = "UTC", **fields: str) -> CrontabSchedule:
    return CrontabSchedule.objects.create(timezone=ZoneInfo(zone), **fields)


@pytest.mark.django_db
class TestNextAfter:
    def test_of_an_interval_it_is_one_interval_later(self) -> None:
        job = entry(interval=IntervalSchedule.objects.create(every=15, period="seconds"))
        assert (job.words, job.next_after(NOW)) == ("every 15 seconds", NOW + timedelta(seconds=15))

    def test_of_a_daily_job_it_is_today_or_tomorrow(self) -> None:
        job = entry(crontab=crontab(minute="30", hour="3"))
        assert job.words == "every day at 03:30 (UTC)"
        assert job.next_after(at("2026-11-22 03:29:59")) == at("2026-11-22 03:30")
        assert job.next_after(at("2026-11-22 03:30:00")) == at("2026-11-23 03:30")

    @pytest.mark.parametrize(
        ("last", "due"),
        [
            ("2026-03-27 02:30", "2026-03-28 02:30"),  # 03:30 in winter
            ("2026-03-28 02:30", "2026-03-29 01:30"),  # 03:30 in summer, an hour earlier
            ("2026-10-24 01:30", "2026-10-25 02:30"),  # and back in autumn
            ("2026-10-25 02:30", "2026-10-26 02:30"),
        ],
    )
    def test_of_a_daily_job_it_is_by_the_clock_on_the_wall(self, last: str, due: str) -> None:
        job = entry(crontab=crontab("Europe/Madrid", minute="30", hour="3"))
        assert job.next_after(at(last)) == at(due)

    @pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
    @pytest.mark.parametrize(
        "fields", [{"minute": "30", "hour": "2"}, {"minute": "7"}, {"minute": "*/20", "hour": "1-3"}]
    )
    def test_beat_sends_at_that_moment_and_no_sooner(self, day: str, fields: dict[str, str]) -> None:
        """Through both changes of the clock, also at an hour that is not there, or is there twice."""
        job, last = entry(crontab=crontab("Europe/Madrid", **fields)), at(f"{day} 20:00")
        for _ in range(20):
            due = job.next_after(last)
            assert due is not None
            with time_machine.travel(due - timedelta(seconds=1), tick=False):
                assert not job.schedule.is_due(last).is_due
            with time_machine.travel(due, tick=False):
                assert job.schedule.is_due(last).is_due
            last = due

    def test_a_job_that_is_off_or_over_is_never_due_and_one_that_begins_later_not_before(self) -> None:
        minute = IntervalSchedule.objects.create(every=1, period="minutes")
        begins = NOW + timedelta(days=3)
        later = entry(interval=minute, start_time=begins)
        assert later.next_after(NOW) == begins + timedelta(minutes=1)
        PeriodicTask.objects.filter(pk=later.number).update(enabled=False)
        (off,) = timetable.entries(at=NOW)
        assert (off.is_on, off.next_after(NOW)) == (False, None)
        PeriodicTask.objects.filter(pk=later.number).update(enabled=True, expires=NOW)
        (over,) = timetable.entries(at=NOW)
        assert (over.is_on, over.next_after(NOW)) == (False, None)


def test_intervals_are_said_as_a_person_says_them() -> None:
    seconds = (1, 15, 60, 90, 120, 3_600, 7_200, 86_400)
    assert [timetable.every(timedelta(seconds=number)) for number in seconds] == [
        "every second",
        "every 15 seconds",
        "every minute",
        "every 90 seconds",
        "every 2 minutes",
        "every hour",
        "every 2 hours",
        "every day",
    ]


def test_every_shipped_job_says_what_it_does() -> None:
    unsaid = [
        name
        for name, shipped in settings.CELERY_BEAT_SCHEDULE.items()
        if timetable.does(str(shipped["task"])) == "Nothing here knows this task."
    ]
    assert unsaid == []


@pytest.mark.django_db
class TestStartOfBeat:
    """What beat does when it starts: the whole of it, as the process does."""

    def start(self) -> Scheduler:
        return Scheduler(app=app)

    def test_everything_shipped_is_put_in_and_watched_from_now_on(self) -> None:
        self.start()
        entries = timetable.entries(at=NOW)
        assert {item.name for item in entries} == set(settings.CELERY_BEAT_SCHEDULE)
        assert [item.shipped for item in entries if item.shipped] == []
        assert set(Job.objects.values_list("pk", flat=True)) == {item.number for item in entries}

    def test_what_the_operator_changed_stays_through_the_next_start(self) -> None:
        self.start()
        often = IntervalSchedule.objects.create(every=5, period="minutes")
        row = PeriodicTask.objects.get(name="expire holds")
        row.interval = often
        row.save()
        off = PeriodicTask.objects.get(name="promote customers")
        off.enabled = False
        off.save()
        sent = self.start().all_as_schedule()
        assert sent["expire holds"].schedule.run_every == timedelta(minutes=5)
        assert "promote customers" not in sent
        (changed,) = [item for item in timetable.entries(at=NOW) if item.shipped]
        assert (changed.words, changed.shipped) == ("every 5 minutes", "every 15 seconds")

    def test_a_deleted_job_comes_back_and_the_codes_own_part_is_mended(self) -> None:
        self.start()
        PeriodicTask.objects.get(name="expire holds").delete()
        PeriodicTask.objects.filter(name="check the whole ledger").update(task="old.name", kwargs="{}")
        self.start()
        assert PeriodicTask.objects.get(name="expire holds").task == "billing.expire_holds"
        mended = PeriodicTask.objects.get(name="check the whole ledger")
        assert (mended.task, json.loads(mended.kwargs)) == ("metering.check_ledger", {"full": True})
