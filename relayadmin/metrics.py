"""Figures for Prometheus, read from the database so that every process answers alike."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hmac import compare_digest

from django.apps import apps
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from billing import job_board
from billing.models import Alarm
from metering import uninvoiced
from relayadmin.db import server_cursor
from relayadmin.errors import ApiError

_LOOPBACK = {"127.0.0.1", "::1"}

_FIGURES = {
    "relayadmin_customers": ("Customers", "SELECT count(*) FROM billing_customer WHERE NOT is_house"),
    "relayadmin_balance_usd": ("Sum of all wallets", "SELECT coalesce(sum(balance), 0) FROM billing_wallet"),
    "relayadmin_held_usd": ("Sum of all holds", "SELECT coalesce(sum(held), 0) FROM billing_wallet"),
    "relayadmin_parked_events": ("Parked", "SELECT count(*) FROM metering_parkedevent WHERE resolved_at IS NULL"),
    "relayadmin_unclaimed_events": (
        "Of unknown keys",
        "SELECT count(*) FROM metering_unclaimedevent WHERE resolved_at IS NULL",
    ),
    "relayadmin_quarantined_events": (
        "Rejected, not dealt with",
        "SELECT count(*) FROM metering_quarantinedevent WHERE resolved_at IS NULL",
    ),
    "relayadmin_event_conflicts": (
        "Conflicts, not dealt with",
        "SELECT count(*) FROM metering_eventconflict WHERE resolved_at IS NULL",
    ),
    "relayadmin_webhooks_failed": (
        "Webhooks that could not be worked off",
        "SELECT count(*) FROM billing_webhookevent WHERE status = 'failed'",
    ),
    "relayadmin_refunds_pending": (
        "Refunds that are not sent, or not answered",
        "SELECT count(*) FROM billing_refund WHERE status = 'pending'",
    ),
}


def metrics(request: HttpRequest) -> HttpResponse:
    """Figures of the whole installation, for loopback or the token."""
    token = os.environ.get("METRICS_TOKEN", "")
    given = request.META.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    forwarded = "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META
    is_local = request.META.get("REMOTE_ADDR") in _LOOPBACK and not forwarded
    if not is_local and not (token and compare_digest(given.encode(), token.encode())):
        raise ApiError(403, "metrics_are_private", "Metrics answer loopback, or the token in METRICS_TOKEN.")
    registry, at = CollectorRegistry(), datetime.now(UTC)
    with server_cursor() as cursor:
        for name, (description, query) in _FIGURES.items():
            cursor.execute(query)
            row = cursor.fetchone()
            Gauge(name, description, registry=registry).set(row[0] if row else 0)
    for add in (_add_jobs, _add_alarms, _add_deliveries, _add_uninvoiced):
        add(registry, at)
    return HttpResponse(generate_latest(registry), content_type="text/plain; version=0.0.4; charset=utf-8")


def _add_jobs(registry: CollectorRegistry, at: datetime) -> None:
    found = job_board.standings(at=at)

    def gauge(name: str, description: str, value: Callable[[job_board.Standing], float | None]) -> None:
        """One figure for each job; a job without it is left out."""
        figure = Gauge(f"relayadmin_job_{name}", description, ["job"], registry=registry)
        for standing in found:
            number = value(standing)
            if number is not None:
                figure.labels(job=standing.entry.name).set(number)

    gauge("enabled", "1: the timetable runs it, 0: it is off", lambda job: job.entry.is_on)
    gauge("overdue", "1: it did not run when it was due", lambda job: job.is_overdue)
    gauge("last_run_failed", "1: the last run failed or was killed", lambda job: job.outcome in {"failed", "killed"})
    gauge("failures", "Runs of the last 24 hours that failed or were killed", lambda job: job.failures)
    gauge(
        "last_success_timestamp_seconds",
        "When the last run that did its work began",
        lambda job: job.succeeded_at.timestamp() if job.succeeded_at else None,
    )
    gauge("duration_seconds", "How long the last run took that has ended", lambda job: _duration_s(job))
    processes = job_board.processes(found, at=at)
    for name, moment in (("worker", processes.worker_at), ("beat", processes.beat_at)):
        figure = Gauge(
            f"relayadmin_{name}_last_seen_timestamp_seconds", f"Last sign of life of {name}", registry=registry
        )
        figure.set(moment.timestamp() if moment else 0)


def _duration_s(job: job_board.Standing) -> float | None:
    took = next((run.duration_ms for run, _ in job.runs if run.duration_ms is not None), None)
    return None if took is None else took / 1000


def _add_alarms(registry: CollectorRegistry, at: datetime) -> None:
    figure = Gauge("relayadmin_alarms_open", "Open alarms", ["kind"], registry=registry)
    kinds: Iterable[tuple[str, int]] = (
        Alarm.objects.filter(resolved_at=None).values_list("kind").annotate(Count("pk")).order_by("kind")
    )
    for kind, count in kinds:
        figure.labels(kind=kind).set(count)


def _add_deliveries(registry: CollectorRegistry, at: datetime) -> None:
    """Messages to customers that could not be delivered, where messages are installed."""
    deliveries = apps.all_models["billing"].get("delivery")
    if deliveries is not None:
        figure = Gauge("relayadmin_deliveries_failed", "Messages that could not be delivered", registry=registry)
        figure.set(deliveries._default_manager.filter(status="failed").count())


def _add_uninvoiced(registry: CollectorRegistry, at: datetime) -> None:
    figure = Gauge(
        "relayadmin_usage_not_invoiced_customers",
        f"Customers with usage that no invoice covers though it is time, {uninvoiced.MOST} at most",
        registry=registry,
    )
    figure.set(len(uninvoiced.recent(at=at).customers))
