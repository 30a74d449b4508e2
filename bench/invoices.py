"""How fast a month is closed: 10,000 customers, 5 models each, 30 days; and whether the events behind it matter.

Hourly usage, transfers, entries and events are made by statements that make them for all customers at once, as
settlement would have made them; what is measured is `close_invoices`, on as many processes as there are cores.
"""

import hashlib
import json
import multiprocessing
import os
import resource
import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from django.db import connection, transaction

from relayadmin.db import server_cursor

CUSTOMERS, MODELS, DAYS = 10_000, 5, 30
MANY, CUSTOMERS_OF_MANY = 20, 500
PERIOD = date(2020, 6, 1)
PERIOD_OF_MANY = date(2020, 7, 1)
_PATIENCE_S = 600
_AT = datetime(2020, 8, 2, tzinfo=UTC)
# What one request uses, and the prices of the dearest of the models; the others cost a part of it.
_QUANTITIES = {"input": 1000, "cache_read": 10_000, "cache_write_5m": 1000, "cache_write_1h": 2000, "output": 500}
_PRICES = {"input": "15", "cache_read": "1.5", "cache_write_5m": "18.75", "cache_write_1h": "30", "output": "75"}


def measure() -> dict[str, float]:
    """`invoices_per_s`, with one event behind each hour and model, `invoices_per_s_20x` with twenty, and memory.

    `invoices_peak_rss_mb` is the largest process of the closing of 10,000 customers; `invoices_rss_growth_mb`, by how
    much it grew between the first tenth of them and the last.
    """
    from django_celery_beat.models import PeriodicTask, PeriodicTasks

    # The stack's own worker would take up a closing that waits when this job finds it, and share the work.
    PeriodicTask.objects.filter(task="metering.watch_closings").update(enabled=False)
    PeriodicTasks.update_changed()
    _make("once", PERIOD, CUSTOMERS, events=1)
    _make("often", PERIOD_OF_MANY, CUSTOMERS_OF_MANY, events=MANY)
    with server_cursor() as cursor:
        cursor.execute("ANALYZE")  # as autovacuum would have by the end of the month
    # The earlier month first: the later one's closing would take what is left of it along.
    once = _close(PERIOD, CUSTOMERS)
    often = _close(PERIOD_OF_MANY, CUSTOMERS_OF_MANY)
    return {
        "invoices_per_s": once["per_s"],
        "invoices_per_s_20x": often["per_s"],
        "invoices_peak_rss_mb": once["peak_mb"],
        "invoices_rss_growth_mb": once["growth_mb"],
    }


def _close(period: date, customers: int) -> dict[str, float]:
    """Close a month in one process for each core, begun at once, as the tasks of a worker would."""
    connection.close()
    context = multiprocessing.get_context("spawn")
    workers = os.cpu_count() or 1
    ready, results = context.Barrier(workers + 1), context.Queue()
    processes = [context.Process(target=_work, args=(period, ready, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    ready.wait(_PATIENCE_S)
    begun = time.perf_counter()
    told = [results.get(timeout=_PATIENCE_S) for _ in processes]
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    assert not any("error" in item for item in told), told
    issued = sum(item["issued"] for item in told)
    assert issued == customers, (issued, customers, told)
    return {
        "per_s": round(issued / seconds, 1),
        "peak_mb": round(max(item["peak_mb"] for item in told), 1),
        "growth_mb": round(max(item["growth_mb"] for item in told), 1),
    }


def _work(period: date, ready, results) -> None:  # type: ignore[no-untyped-def]
    import django

    django.setup()
    from metering import statements

    connection.ensure_connection()
    rss, is_over = [], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)

    watcher = threading.Thread(target=watch)
    ready.wait()
    watcher.start()
    try:
        closed = statements.close_invoices(period=period, at=_AT)
        assert not closed.failed, closed.reasons
    except BaseException as error:
        results.put({"error": repr(error)})
        raise
    finally:
        is_over.set()
        watcher.join()
    results.put({"issued": closed.issued, "peak_mb": max(rss), "growth_mb": rss[-1] - rss[len(rss) // 10]})


def _make(name: str, period: date, customers: int, *, events: int) -> None:
    """Customers, each with a paid grant, and what settlement would have written of their month."""
    sets, charge = _price_sets(events)
    with transaction.atomic(), server_cursor() as cursor:
        for statement in _MAKE:
            cursor.execute(
                statement,
                {
                    "name": f"Bench {name}",
                    "customers": customers,
                    "period": period,
                    "days": DAYS,
                    "events": events,
                    "models": [model for model, _, _ in sets],
                    "sets": [number for _, number, _ in sets],
                    "charges": [amount for _, _, amount in sets],
                    "charge": charge,
                    **{meter: quantity * events for meter, quantity in _QUANTITIES.items()},
                },
                prepare=False,
            )


def _price_sets(events: int) -> tuple[list[tuple[int, int, Decimal]], Decimal]:
    """(model, price set, USD an hour) of each model, and the USD of a day of all of them."""
    found = []
    with server_cursor() as cursor:
        cursor.execute("SELECT id, public_id FROM metering_model ORDER BY id LIMIT %s", [MODELS])
        for place, (model, public_id) in enumerate(cursor.fetchall(), start=1):
            prices = {meter: Decimal(price) / place for meter, price in _PRICES.items()}
            prices = {meter: price.quantize(Decimal("0.000000001")) for meter, price in prices.items()}
            meters = {
                meter: {"charge": str(price), "cost": str(price), "per": 10**6} for meter, price in prices.items()
            }
            content = json.dumps({"model": public_id, "channel": "anthropic", "plan": "list", "meters": meters})
            cursor.execute(
                "INSERT INTO metering_priceset (digest, content, created_at) VALUES (%s, %s, now())"
                " ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING id",
                [hashlib.sha256(content.encode()).digest(), content],
            )
            ((number,),) = cursor.fetchall()
            amount = sum(prices[meter] * quantity for meter, quantity in _QUANTITIES.items()) * events / 10**6
            found.append((model, number, Decimal(amount)))
    return found, sum((amount for _, _, amount in found), Decimal(0))


_CUSTOMERS = "(SELECT id FROM billing_customer WHERE name = %(name)s) c"
_MAKE = (
    """INSERT INTO billing_customer (public_id, name, email, status, is_house, created_at)
    SELECT 'cus_' || substr(md5(%(name)s::text || n), 1, 16), %(name)s, '', 'active', false, now()
    FROM generate_series(1, %(customers)s) n""",
    f"""INSERT INTO billing_wallet (customer_id, balance, version)
    SELECT c.id, 100000 - %(charge)s * %(days)s, %(days)s + 1 FROM {_CUSTOMERS}""",
    f"""WITH made AS (
        INSERT INTO billing_transfer (customer_id, id, kind, key, reason, document, actor, created_at)
        SELECT c.id, nextval('billing_transfer_id_seq'), 'grant', 'bench', '', '', '', %(period)s::date
        FROM {_CUSTOMERS} RETURNING customer_id, id
    ), entries AS (
        INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount, balance_after, wallet_version)
        SELECT customer_id, id * 16, id, 'wallet', 100000, 100000, 1 FROM made
        UNION ALL SELECT customer_id, id * 16 + 1, id, 'cash:manual', -100000, NULL, NULL FROM made
    )
    INSERT INTO billing_grant (
        customer_id, kind, amount, remaining, priority, reference, reason, transfer_id, created_at
    ) SELECT customer_id, 'paid', 100000, 100000 - %(charge)s * %(days)s, 0, '', '', id, %(period)s::date FROM made""",
    f"""WITH made AS (
        INSERT INTO billing_transfer (customer_id, id, kind, key, period, reason, document, actor, created_at)
        SELECT c.id, nextval('billing_transfer_id_seq'), 'usage', 'bench ' || day, %(period)s, '', '', '',
               %(period)s::date + day * interval '1 day' - interval '1 hour'
        FROM {_CUSTOMERS} CROSS JOIN generate_series(1, %(days)s) day ORDER BY c.id, day
        RETURNING customer_id, id, split_part(key, ' ', 2)::int AS day
    ), entries AS (
        INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount, balance_after, wallet_version)
        SELECT customer_id, id * 16, id, 'wallet', -%(charge)s, 100000 - %(charge)s * day, day + 1 FROM made
        UNION ALL SELECT customer_id, id * 16 + 1, id, 'revenue', %(charge)s, NULL, NULL FROM made
    )
    INSERT INTO billing_grantuse (customer_id, grant_id, transfer_id, amount)
    SELECT m.customer_id, g.id, m.id, %(charge)s FROM made m JOIN billing_grant g ON g.customer_id = m.customer_id""",
    f"""INSERT INTO metering_usagehour (customer_id, period, hour, api_key_id, model_id, channel_id, price_set_id,
        requests, charge, cost, {", ".join(_QUANTITIES)})
    SELECT c.id, %(period)s, %(period)s::date::timestamptz + (day * 24 - 14) * interval '1 hour', 1, m.model, 1, m.set,
           %(events)s, m.charge, m.charge, {", ".join(f"%({meter})s" for meter in _QUANTITIES)}
    FROM {_CUSTOMERS} CROSS JOIN generate_series(1, %(days)s) day
    CROSS JOIN unnest(%(models)s::bigint[], %(sets)s::bigint[], %(charges)s::numeric[]) m (model, set, charge)
    ORDER BY c.id, day""",
    f"""INSERT INTO metering_usageevent (customer_id, id, event_id, api_key_id, model_id, channel_id, price_set_id,
        period, occurred_at, received_at, format, status, estimated, quantities, charge, cost, usage)
    SELECT c.id, nextval('metering_eventkey_id_seq'), 'bench', 1, m.model, 1, m.set, %(period)s,
           %(period)s::date + day * interval '1 day' - interval '14 hours', %(period)s::date, 'meters', 'completed',
           false, '{{}}', round(m.charge / %(events)s, 15), round(m.charge / %(events)s, 15), '{{}}'
    FROM {_CUSTOMERS} CROSS JOIN generate_series(1, %(days)s) day
    CROSS JOIN unnest(%(models)s::bigint[], %(sets)s::bigint[], %(charges)s::numeric[]) m (model, set, charge)
    CROSS JOIN generate_series(1, %(events)s) ORDER BY c.id, day""",
)
