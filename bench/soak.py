"""`python -m bench.soak`: everything at once on a real stack that is killed all the time, then a look at the books.

Starts what `make run` starts, in a home of its own; plays relay nodes and an operator; every few seconds kills a web
worker, a Celery worker, beat, PostgreSQL, Redis or everything. In the end each acknowledged event must be charged
once, each grant be there once, nothing be held, and `check_ledger --full` be clean. Prints one JSON object, messages
on standard error; exits 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from bench import fire, stack
from bench.crashes import BAG, Crashes
from relayadmin import embedded
from relayadmin.embedded.home import PROJECT

NODES = 8
SUPERVISOR_LOOKS_EVERY_S = 0.25
PATIENCE_S = 180.0  # for one acknowledgement, across any number of kills
JOBS_WITHIN_S = 120.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class KeptUp:
    """A stack that is started again whenever its supervisor has ended; `starts` counts how often."""

    def __init__(self, home: Path, port: int, log: TextIO) -> None:
        self.home, self.port, self.log, self.starts = home, port, log, 1
        self._stop = threading.Event()
        self.process = stack.launch(home, port, log=log)
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "KeptUp":
        try:
            stack.await_ready(self.process, self.port, log=self.log)
        except BaseException:
            self._end()
            raise
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _keep(self) -> None:
        while not self._stop.wait(SUPERVISOR_LOOKS_EVERY_S):
            if self.process.poll() is not None:
                time.sleep(1.0)  # What a killed supervisor had started is on its way out.
                self.starts += 1
                self.process = stack.launch(self.home, self.port, log=self.log)

    def await_ready(self) -> None:
        """As `stack.await_ready`, whichever start it is that serves in the end."""
        until = time.monotonic() + stack.READY_WITHIN_S
        while True:
            try:
                return stack.await_ready(self.process, self.port, log=self.log)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(1.0)


def soak(*, minutes: float, kill_every_s: float, seed: int, kinds: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """One run; returns the figures. `differences` is empty if everything is right."""
    home, port = folder / "var", stack.free_port()
    os.environ["DJANGO_SETTINGS_MODULE"] = "relayadmin.settings"
    os.environ["RELAYADMIN_HOME"] = str(home)
    for name in stack.SERVERS:
        os.environ.pop(name, None)
    with (folder / "log").open("w+") as log:
        crashes = Crashes(home, seed, kinds)
        try:
            with KeptUp(home, port, log) as kept, embedded.attach(home):
                import django

                django.setup()
                return _play(kept, crashes, minutes=minutes, kill_every_s=kill_every_s, seed=seed)
        finally:
            crashes.end_everything()


def _play(kept: KeptUp, crashes: Crashes, *, minutes: float, kill_every_s: float, seed: int) -> dict[str, Any]:
    from bench import fire_office

    accounts, token = fire_office.open_accounts()
    shift = fire.Shift(accounts, port=kept.port, token=token, patience_s=PATIENCE_S)
    office = fire_office.Office(shift, seed)
    workers = [threading.Thread(target=fire.Node(shift, seed * 1_000 + number).run) for number in range(NODES)]
    workers.append(threading.Thread(target=office.run))
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    try:
        _kill(crashes, until=begun + 60 * minutes, every_s=kill_every_s)
    finally:
        shift.stop.set()
        for worker in workers:
            worker.join()
    seconds = time.monotonic() - begun
    kept.await_ready()
    expected = shift.expected
    differences = [
        *expected.surprises,
        *fire_office.jobs_that_do_not_run(within_s=JOBS_WITHIN_S),
        *fire_office.differences(accounts, expected),
        *_check_ledger(),
    ]
    return {
        "ok": not differences,
        "seconds": round(seconds),
        "seed": seed,
        "requests": dict(sorted(expected.statuses.items())),
        "sent_again": expected.repeated,
        "events": len(expected.charges),
        "charged": f"{sum(expected.charges.values(), fire.ZERO):f}",
        "grants": len(expected.grants),
        "kills": dict(sorted(crashes.kills.items())),
        "starts": kept.starts,
        "checks_under_load": office.checks,
        "differences": differences[:100],
    }


def _kill(crashes: Crashes, *, until: float, every_s: float) -> None:
    at = time.monotonic()
    while (at := at + crashes.pause_s(every_s)) < until:
        time.sleep(max(0.0, at - time.monotonic()))
        while (kind := crashes.next()) is None and time.monotonic() < until:
            time.sleep(0.5)
        say(f"{until - time.monotonic():5.0f} s left: killed {kind}")
    time.sleep(max(0.0, until - time.monotonic()))


def _check_ledger() -> list[str]:
    """The command as an operator calls it, on the servers of this run."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check_ledger", "--full"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and json.loads(done.stdout)["ok"]:
        return []
    return [f"check_ledger --full ended with {done.returncode}: {done.stdout[:2000]} {done.stderr[-500:]}"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--kill-every", type=float, default=20.0, metavar="SECONDS", help="on average (20)")
    parser.add_argument("--seed", type=int, default=None, help="of what is done and killed; random unless given")
    parser.add_argument("--kinds", default=",".join(BAG), help="what is killed, each as often as it is named")
    options = parser.parse_args()
    kinds = tuple(options.kinds.split(","))
    if unknown := set(kinds) - set(BAG):
        parser.error(f"--kinds knows {', '.join(sorted(set(BAG)))}, not {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # So that nothing is left behind.
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="relayadmin-soak-") as folder:
        found = soak(
            minutes=options.minutes, kill_every_s=options.kill_every, seed=seed, kinds=kinds, folder=Path(folder)
        )
    print(json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
