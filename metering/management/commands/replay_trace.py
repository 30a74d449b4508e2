from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from metering import replay
from metering.relay_client import InvalidAddress, RelayCallFailed
from metering.replay_server import NoServer, server
from metering.trace import InvalidTrace, read_trace, split_by_cache
from relayadmin.commands import JsonCommand
from relayadmin.money import amount_text

LARGEST_CUSTOMERS = 10_000


class Command(JsonCommand):
    help = "Play a public request trace through the HTTP relay API, with customers of its own."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE.jsonl[.gz]")
        parser.add_argument("--model", default="claude-sonnet-4-20250514")
        parser.add_argument("--customers", type=int, default=10, metavar="N")
        parser.add_argument("--limit", type=int, metavar="N", help="only the first N requests")
        parser.add_argument("--speed", default="max", metavar="N|max", help="N times the trace's pace")
        parser.add_argument("--url", help="a running server; else the one on PORT, or one started for the run")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["customers"] <= LARGEST_CUSTOMERS:
            raise CommandError(f"--customers must be from 1 to {LARGEST_CUSTOMERS:,}.")
        if options["limit"] is not None and options["limit"] < 1:
            raise CommandError("--limit must be at least 1.")
        speed = _speed(options["speed"])
        try:
            calls = list(split_by_cache(read_trace(options["file"], limit=options["limit"])))
            with (
                replay.relay_token(at=datetime.now(UTC)) as token,
                server(options["url"], relay_token=token) as url,
            ):
                self.note(f"Playing {len(calls):,} requests through {url}.")
                done = replay.play(
                    calls=calls,
                    model=options["model"],
                    customers=options["customers"],
                    url=url,
                    token=token,
                    speed=speed,
                    at=datetime.now(UTC),
                )
        except (InvalidTrace, replay.CannotReplay, NoServer, InvalidAddress, RelayCallFailed) as error:
            raise CommandError(f"The trace was not played: {error}.") from error
        self.answer(
            {
                "requests": done.requests,
                "input": done.input,
                "cache_write_5m": done.cache_write_5m,
                "cache_read": done.cache_read,
                "output": done.output,
                "charged": amount_text(done.charged),
                "cache_read_share": str(done.cache_read_share),
            }
        )


def _speed(text: str) -> Decimal | None:
    if text == "max":
        return None
    try:
        speed = Decimal(text)
    except InvalidOperation:
        speed = Decimal(0)
    if not (speed.is_finite() and speed > 0):
        raise CommandError(f"--speed must be max or a number above zero, not {text!r}.")
    return speed
