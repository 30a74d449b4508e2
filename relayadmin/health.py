"""Is the process alive, is the service ready, and figures for Prometheus."""

import os
from contextlib import suppress
from functools import cache
from hmac import compare_digest

import psycopg
import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from relayadmin.db import server_cursor
from relayadmin.errors import ApiError
from relayadmin.middleware import json_response

_LOOPBACK = {"127.0.0.1", "::1"}


def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process answers."""
    return json_response({"status": "ok"})


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def readyz(request: HttpRequest) -> HttpResponse:
    """200 once database, Redis, migrations and price book are there; else 503 naming what is not."""
    missing = [name for name, is_there in _checks().items() if not is_there]
    if missing:
        return json_response({"status": "not ready", "missing": missing}, 503)
    return json_response({"status": "ready"})


def _checks() -> dict[str, bool]:
    found = dict.fromkeys(("database", "migrations", "price book", "redis"), False)
    try:
        connection.ensure_connection()
        found["database"] = True
        found["migrations"] = _is_migrated()
        with server_cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM metering_price)")
            found["price book"] = bool((cursor.fetchone() or [False])[0])
    except (DatabaseError, psycopg.Error):
        connection.close()
    with suppress(redis.RedisError):
        found["redis"] = bool(_redis().ping())
    return found


_migrated = False


def _is_migrated() -> bool:
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connection)
        _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _migrated


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
}


def metrics(request: HttpRequest) -> HttpResponse:
    """Figures of the whole installation, read from the database so that every process answers alike."""
    token = os.environ.get("METRICS_TOKEN", "")
    given = request.META.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    forwarded = "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META
    is_local = request.META.get("REMOTE_ADDR") in _LOOPBACK and not forwarded
    if not is_local and not (token and compare_digest(given.encode(), token.encode())):
        raise ApiError(403, "metrics_are_private", "Metrics answer loopback, or the token in METRICS_TOKEN.")
    registry = CollectorRegistry()
    with server_cursor() as cursor:
        for name, (description, query) in _FIGURES.items():
            cursor.execute(query)
            row = cursor.fetchone()
            Gauge(name, description, registry=registry).set(row[0] if row else 0)
    return HttpResponse(generate_latest(registry), content_type="text/plain; version=0.0.4; charset=utf-8")
