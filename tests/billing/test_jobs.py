"""Every run of a scheduled job leaves a row, but for those that found nothing to do again and again."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from billing import jobs
from billing.models import JobRun

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def run(job: str, result: dict[str, Any] | None, at: datetime = NOW) -> None:
    with jobs.recorded(job, at=at) as outcome:
        outcome.result = result


@pytest.mark.django_db
class TestRecorded:
    def test_a_run_leaves_what_it_did_and_how_long_it_took(self) -> None:
        with jobs.recorded("test.job", at=NOW) as outcome:
            unfinished = JobRun.objects.get(job="test.job")
            time.sleep(0.02)
            outcome.result = {"expired": 3}
        assert (unfinished.started_at, unfinished.duration_ms) == (NOW, None), "its row is there from the beginning"
        row = JobRun.objects.get(job="test.job")
        assert (row.started_at, row.result, row.error) == (NOW, {"expired": 3}, "")
        assert row.duration_ms is not None
        assert 20 <= row.duration_ms < 10_000

    def test_an_error_is_kept_with_its_class_and_goes_on(self) -> None:
        with pytest.raises(LookupError), jobs.recorded("test.job", at=NOW):
            raise LookupError("no such month")
        row = JobRun.objects.get(job="test.job")
        assert row.error == "LookupError: no such month"
        assert row.duration_ms is not None

    def test_an_error_shows_no_secret(self) -> None:
        text = "refused sk-abcdefgh1234 for rl_zzzzzzzz at postgres://relay:pa55word@db/main"
        with pytest.raises(ValueError), jobs.recorded("test.job", at=NOW):
            raise ValueError(text)
        error = JobRun.objects.get(job="test.job").error
        assert not [part for part in ("abcdefgh", "zzzzzz", "pa55word") if part in error]
        assert "db/main" in error

    def test_what_was_done_before_an_error_is_kept_with_it(self) -> None:
        def find_a_difference(outcome: jobs.Outcome) -> None:
            outcome.result = {"ok": False}
            raise ValueError

        with pytest.raises(ValueError):
            jobs.run_alone("test.job", find_a_difference, at=NOW)
        assert JobRun.objects.get(job="test.job").result == {"ok": False}

    def test_of_idle_runs_only_the_latest_is_kept(self) -> None:
        run("test.job", {"expired": 1}, NOW)
        for second in range(1, 5):
            run("test.job", None, NOW + timedelta(seconds=second))
        run("test.job", {"expired": 2}, NOW + timedelta(seconds=5))
        run("test.job", None, NOW + timedelta(seconds=6))
        run("test.other", None)
        rows = JobRun.objects.filter(job="test.job").order_by("started_at")
        assert [(row.started_at.second, row.result) for row in rows] == [
            (0, {"expired": 1}),
            (5, {"expired": 2}),
            (6, None),
        ]

    def test_failed_and_unfinished_runs_outlive_idle_ones(self) -> None:
        JobRun.objects.create(job="test.job", started_at=NOW)
        with pytest.raises(ValueError), jobs.recorded("test.job", at=NOW):
            raise ValueError
        run("test.job", None)
        run("test.job", None)
        assert JobRun.objects.filter(job="test.job").count() == 3

    def test_old_rows_are_removed(self) -> None:
        run("test.job", {"n": 1}, NOW - timedelta(days=91))
        run("test.job", {"n": 2}, NOW - timedelta(days=89))
        assert jobs.remove_old_runs(at=NOW) == 1
        assert [row.result for row in JobRun.objects.filter(job="test.job")] == [{"n": 2}]


@pytest.mark.usefixtures("committed")
class TestRunAlone:
    def test_the_same_job_does_not_run_beside_itself(self) -> None:
        inside, leave = threading.Event(), threading.Event()
        did: list[Any] = []

        def slow(outcome: jobs.Outcome) -> None:
            inside.set()
            assert leave.wait(30)
            outcome.result = {"slow": True}

        def in_thread() -> None:
            did.append(jobs.run_alone("test.alone", slow, at=NOW))
            connection.close()

        thread = threading.Thread(target=in_thread)
        thread.start()
        assert inside.wait(30)
        try:
            ran: list[str] = []
            began = time.monotonic()
            beside = jobs.run_alone("test.alone", lambda outcome: ran.append("beside"), at=NOW)
            took_s = time.monotonic() - began
            jobs.run_alone("test.another", lambda outcome: ran.append("another"), at=NOW)
        finally:
            leave.set()
            thread.join()
        assert beside == {"skipped": "it runs already"}
        assert took_s < 5, "it does not wait"
        assert ran == ["another"]
        assert did == [{"slow": True}]
        assert JobRun.objects.filter(job="test.alone").count() == 1, "a skipped run leaves no row"
        again = jobs.run_alone("test.alone", lambda outcome: ran.append("again"), at=NOW)
        assert (again, ran) == (None, ["another", "again"])

    def test_a_failed_run_lets_the_next_one_in(self) -> None:
        def fail(outcome: jobs.Outcome) -> None:
            raise ValueError("no")

        for _ in range(2):
            with pytest.raises(ValueError):
                jobs.run_alone("test.fails", fail, at=NOW)
        assert JobRun.objects.filter(job="test.fails", error="ValueError: no").count() == 2

    def test_a_killed_run_stays_without_an_end_and_lets_the_next_one_in(self) -> None:
        settings = connection.settings_dict
        program = f"""
import os, sys, time
import django
from django.conf import settings
django.setup()
settings.DATABASES["default"]["NAME"] = {settings["NAME"]!r}
from datetime import UTC, datetime
from billing import jobs
def work(outcome):
    print("inside", flush=True)
    time.sleep(60)
jobs.run_alone("test.killed", work, at=datetime(2026, 11, 22, tzinfo=UTC))
"""
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ.copy())
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"inside\n"
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        row = JobRun.objects.get(job="test.killed")
        assert (row.duration_ms, row.result, row.error) == (None, None, "")
        end = time.monotonic() + 20
        while jobs.run_alone("test.killed", lambda outcome: None, at=NOW) is not None and time.monotonic() < end:
            time.sleep(0.05)  # until the server has seen that the session is gone
        assert JobRun.objects.filter(job="test.killed").count() == 2
