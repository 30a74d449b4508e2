"""What beat runs: each scheduled job does its work, twice and at once, and the operator sees that it did."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import credits
from billing import tasks as billing_tasks
from billing.models import (
    Hold,
    IdempotentAnswer,
    Invoice,
    JobRun,
    OperatorSettings,
    SpendCounter,
    SpendLimit,
    Wallet,
)
from billing.models.spending import Span
from metering import pricing, spend
from metering import tasks as metering_tasks
from metering.models import Model, ModelAlias, ParkedEvent, UsageEvent
from relayadmin.celery import app
from tests.world import EXAMPLE_CHARGE, SONNET, Answer, CustomerApi, Relay, make_event, make_payer


def last_run(job: str) -> JobRun:
    run = JobRun.objects.filter(job=job).order_by("-id").first()
    assert run is not None, f"{job} left no row"
    return run


def test_every_scheduled_task_exists() -> None:
    app.loader.import_default_modules()
    scheduled = {str(entry["task"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert scheduled <= set(app.tasks)
    assert len(scheduled) == 27


@pytest.mark.django_db
class TestExpireHolds:
    def test_overdue_holds_are_freed(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.authorize(payer, ttl_seconds=1)
        relay.authorize(payer, ttl_seconds=600)
        with time_machine.travel(datetime.now(UTC) + timedelta(seconds=5)):
            assert billing_tasks.expire_holds() == {"expired": 1}
            assert billing_tasks.expire_holds() is None
        assert Hold.objects.filter(customer=payer.customer, status="expired").count() == 1
        assert payer.wallet.held == Decimal("0.0111")
        did, idle = JobRun.objects.filter(job="billing.expire_holds").order_by("-id")[:2][::-1]
        assert did.result == {"expired": 1}
        assert (idle.result, idle.error) == (None, "")
        assert idle.duration_ms is not None


@pytest.mark.django_db
class TestCreditThatBeginsAndEnds:
    def test_is_posted_announced_and_expired_each_in_its_time(self) -> None:
        payer, now = make_payer(credit="0"), datetime.now(UTC)
        credits.grant(
            customer_id=payer.customer.pk,
            amount=Decimal(5),
            kind="promotional",
            reason="",
            reference="",
            key="k",
            at=now,
            effective_at=now + timedelta(days=1),
            expires_at=now + timedelta(days=60),
        )
        assert billing_tasks.post_scheduled_grants() is None
        seen: list[dict[str, Any] | None] = []
        for days in (1, 30, 53, 60, 60):
            with time_machine.travel(now + timedelta(days=days, minutes=1), tick=False):
                seen += [billing_tasks.post_scheduled_grants(), billing_tasks.expire_credit()]
        told = {"taken": 0, "announced": 1}
        assert seen == [{"posted": 1}, None, None, told, None, told, None, {"taken": 1, "announced": 0}, None, None]
        assert payer.balance == 0
        assert last_run("billing.expire_credit").error == ""


@pytest.mark.django_db
class TestRemoveOldIdempotentAnswers:
    def test_a_key_holds_for_seven_days_and_is_free_after(self) -> None:
        payer = make_payer()
        api = CustomerApi(payer)

        def make_key() -> Answer:
            return api.send("POST", "api-keys", {"name": "a"}, **{"Idempotency-Key": "k1"})

        first = make_key()
        given_at = IdempotentAnswer.objects.get(customer=payer.customer).created_at
        with time_machine.travel(given_at + timedelta(days=7), tick=False):
            assert billing_tasks.remove_old_idempotent_answers() is None
        assert make_key().body["id"] == first.body["id"]
        with time_machine.travel(given_at + timedelta(days=7, microseconds=1), tick=False):
            assert billing_tasks.remove_old_idempotent_answers() == {"removed": 1}
            assert billing_tasks.remove_old_idempotent_answers() is None
        assert last_run("billing.remove_old_idempotent_answers").result is None
        assert make_key().body["id"] != first.body["id"]

    def test_many_go_in_slices_and_the_young_ones_stay(self) -> None:
        customer, now = make_payer().customer, datetime.now(UTC)
        IdempotentAnswer.objects.bulk_create(
            IdempotentAnswer(customer=customer, key=f"k{number}", digest=b"d", status=201, body={})
            for number in range(2_003)
        )
        young = IdempotentAnswer.objects.filter(customer=customer, key__in=("k0", "k1700"))
        IdempotentAnswer.objects.exclude(pk__in=young).update(created_at=now - timedelta(days=8))
        with CaptureQueriesContext(connection) as asked:
            assert billing_tasks.remove_old_idempotent_answers() == {"removed": 2_001}
        slices = [
            query for query in asked.captured_queries if query["sql"].startswith('DELETE FROM "billing_idempotent')
        ]
        assert len(slices) == 4, "1,000, 1,000, 1, and one that finds no more"
        assert set(IdempotentAnswer.objects.filter(customer=customer)) == set(young)
        assert last_run("billing.remove_old_idempotent_answers").result == {"removed": 2_001}


def limit_a_day(customer_id: int, *, at: datetime) -> None:
    limit = spend.Limit(Span.DAY, Decimal(5))
    spend.set_limit(customer_id, limit, owner=SpendLimit.Owner.OPERATOR, actor="", at=at)


@pytest.mark.django_db
class TestRemoveOldSpendCounters:
    def test_days_that_no_limit_is_judged_by_go_and_the_others_stay(self) -> None:
        now, payers = datetime.now(UTC), [make_payer() for _ in range(3)]
        for payer, days in zip(payers, (100, 60, 0), strict=True):
            limit_a_day(payer.customer.pk, at=now - timedelta(days=days))
        assert billing_tasks.remove_old_spend_counters() == {"removed": 1}
        assert billing_tasks.remove_old_spend_counters() is None
        left = SpendCounter.objects.values_list("customer_id", flat=True)
        assert set(left) == {payer.customer.pk for payer in payers[1:]}
        assert last_run("billing.remove_old_spend_counters").result is None


@pytest.mark.django_db
class TestCountSpendAnew:
    def test_limits_are_counted_in_the_days_of_a_new_time_zone(self) -> None:
        payers, relay = [make_payer() for _ in range(3)], Relay()
        with time_machine.travel("2026-11-22T20:00:00Z", tick=False):
            for payer in payers:
                limit_a_day(payer.customer.pk, at=datetime.now(UTC))
                relay.report(make_event(payer))
                relay.report(make_event(payer, occurred_at="2026-11-22T10:00:00Z"))
            assert metering_tasks.count_spend_anew() is None

            OperatorSettings.objects.update(timezone="Asia/Tokyo")  # where the 23rd has begun at 15:00 UTC
            assert metering_tasks.count_spend_anew() == {"customers": 3}
            assert metering_tasks.count_spend_anew() is None

        counters = SpendCounter.objects.filter(customer__in=[payer.customer for payer in payers])
        assert [(row.starts_on, row.spent) for row in counters] == [(date(2026, 11, 23), EXAMPLE_CHARGE)] * 3
        assert set(SpendLimit.objects.values_list("timezone", "counts_from")) == {("Asia/Tokyo", date(2026, 11, 23))}
        assert JobRun.objects.filter(job="metering.count_spend_anew", result={"customers": 3}).exists()

    def test_a_run_that_ended_early_goes_on_where_it_was(self) -> None:
        payers = [make_payer() for _ in range(3)]
        for payer in payers:
            limit_a_day(payer.customer.pk, at=datetime.now(UTC))
        OperatorSettings.objects.update(timezone="Asia/Tokyo")
        spend.count_anew([payers[0].customer.pk], at=datetime.now(UTC))
        limit_a_day(payers[1].customer.pk, at=datetime.now(UTC))
        assert spend.counted_elsewhere() == [payer.customer.pk for payer in payers[1:]], "a limit set again is not lost"
        assert metering_tasks.count_spend_anew() == {"customers": 2}
        assert spend.counted_elsewhere() == []


@pytest.mark.django_db
class TestSettleParkedEvents:
    def test_an_event_waits_for_its_model_and_is_charged_once(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, model="a model of tomorrow"))
        assert metering_tasks.settle_parked_events() is None
        ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        did = metering_tasks.settle_parked_events()
        assert did is not None
        assert (did["settled"], did["claimed"]) == (1, 0)
        assert metering_tasks.settle_parked_events() is None
        assert payer.balance == Decimal(50) - EXAMPLE_CHARGE
        assert ParkedEvent.objects.get(customer=payer.customer).resolution == "settled"


@pytest.mark.django_db
class TestCloseLastMonth:
    def test_the_month_is_closed_when_it_is_time_and_only_then(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
        with time_machine.travel("2026-11-01T05:00:00Z", tick=False):
            assert metering_tasks.close_last_month() is None
        assert not Invoice.objects.filter(customer=payer.customer).exists()
        with time_machine.travel("2026-11-01T06:07:00Z", tick=False):
            did = metering_tasks.close_last_month()
            again = metering_tasks.close_last_month()
        assert did is not None
        assert again is None
        assert (did["period"], did["issued"], did["failed"]) == ("2026-10", 1, 0)
        assert Invoice.objects.get(customer=payer.customer).period == date(2026, 10, 1)


@pytest.mark.django_db
class TestCheckLedger:
    def test_right_books_leave_a_row_that_says_so(self) -> None:
        Relay().report(make_event(make_payer()))
        did = metering_tasks.check_ledger(full=True)
        assert did is not None
        assert did["ok"]
        run = last_run("metering.check_ledger")
        assert run.result["checked"]["events"] >= 1
        assert (run.result["full"], run.error) == (True, "")

    def test_wrong_books_fail_and_are_named(self) -> None:
        payer = make_payer()
        Wallet.objects.filter(customer=payer.customer).update(held=1)
        with pytest.raises(metering_tasks.BooksDiffer):
            metering_tasks.check_ledger()
        run = last_run("metering.check_ledger")
        assert run.error == "BooksDiffer: 1 figures are not what they should be"
        (found,) = run.result["differences"]
        assert (found["customer"], found["what"]) == (payer.customer.public_id, "held")


@pytest.mark.usefixtures("committed")
def test_jobs_that_run_four_times_at_once_do_their_work_once() -> None:
    payer, relay = make_payer(), Relay()
    for _ in range(20):
        relay.authorize(payer, ttl_seconds=1, input_tokens=10, max_output_tokens=1)
    relay.report(make_event(payer, occurred_at=(datetime.now(UTC) + timedelta(minutes=6)).isoformat()))

    def run(task: Any) -> Any:
        try:
            return task()
        finally:
            connection.close()

    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=10)), ThreadPoolExecutor(8) as pool:
        tasks = [billing_tasks.expire_holds, metering_tasks.settle_parked_events] * 4
        done = [result for result in pool.map(run, tasks) if result]
    assert sum(result.get("expired", 0) for result in done) >= 20
    assert payer.wallet.held == 0
    assert payer.balance == Decimal(50) - EXAMPLE_CHARGE
    assert UsageEvent.objects.filter(customer=payer.customer).count() == 1
