"""`make bench`: measures the stack of `make run` on this machine, writes bench/results.json and a table."""

import json
import os
import sys
from pathlib import Path

from bench import stack

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    with stack.running() as running:
        from relayadmin import embedded

        idle_mb = _idle_memory(running)
        os.environ.pop("DATABASE_URL", None)
        os.environ.pop("REDIS_URL", None)
        os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
        os.environ["RELAYADMIN_HOME"] = str(running.home)
        with embedded.attach(running.home):
            import django

            django.setup()
            from bench import adjustments, documents, invoices, rating, relay, verification

            # Adjustments last: they change the prices, and stand on the customers that the others made.
            results = {**relay.measure(running.port), **rating.measure()}
            results["check_ledger_events_per_s"] = verification.measure()
            results |= adjustments.measure(running.port)
            results["check_ledger_adjusted_events_per_s"] = verification.measure()
            # After the books were checked: they write usage without the events' ids, and documents of no usage.
            results |= invoices.measure()
            results |= documents.measure()
            results["idle_memory_mb"] = idle_mb
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    width = max(len(name) for name in results)
    for name, value in sorted(results.items()):
        print(f"{name:<{width}}  {value:>12,.1f}")
    print(f"ingest / copy       {results['ingest_events_per_s'] / results['copy_rows_per_s']:.3f}")
    print(f"authorize / no-op   {results['authorize_requests_per_s'] / results['noop_requests_per_s']:.3f}")
    print(f"written to {RESULTS}; load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores", file=sys.stderr)


def _idle_memory(running: stack.Stack) -> float:
    import time

    time.sleep(8)
    return round(running.pss_mb(), 1)


if __name__ == "__main__":
    main()
