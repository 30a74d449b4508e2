"""Is the process alive, and is the service ready."""

from contextlib import suppress
from functools import cache

import psycopg
import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse

from relayadmin.db import server_cursor
from relayadmin.middleware import json_response


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
