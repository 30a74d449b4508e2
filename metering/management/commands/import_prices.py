"""Import prices into the price book; prints one JSON object."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from metering.price_book import SOURCE, import_prices
from relayadmin.commands import JsonCommand

_MOST_NAMED = 10


class Command(JsonCommand):
    help = "Import models and prices. New models apply at once; changed prices wait for --approve."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", choices=[SOURCE], default=SOURCE, help="Where prices come from.")
        parser.add_argument("--approve", action="store_true", help="Let changed prices take effect now.")
        parser.add_argument("--dry-run", action="store_true", help="Count what would happen; write nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        summary = import_prices(approve=options["approve"], dry_run=options["dry_run"], at=timezone.now())
        if options["verbosity"] > 1:
            for note in summary.notes:
                self.stderr.write(note)
        elif summary.notes:
            self.stderr.write(f"{len(summary.notes)} names or models were left out; --verbosity 2 lists them.")
        if summary.unfit:
            self.stderr.write(_unfit_sentence(summary.unfit))
        if options["approve"] and summary.pending:
            self.stderr.write(
                f"{summary.pending} of these wait under Price imports in the admin, to be left out there."
            )
        elif summary.pending:
            self.stderr.write(
                f"{summary.pending} changed prices wait for approval, {summary.second_looks} of them for a second look:"
                " approve them in the admin, Price imports, or all at once with --approve."
            )
        if options["approve"] and summary.second_looks:
            self.stderr.write(f"{summary.second_looks} of the approved prices change by much, end, or would be free.")
        counts = {name: getattr(summary, name) for name in ("models", "created", "unchanged", "pending")}
        self.stdout.write(json.dumps(counts))


def _unfit_sentence(prices: Sequence[str]) -> str:
    more = len(prices) - _MOST_NAMED
    others = f"; and {more} more" if more > 0 else ""
    return (
        f"{len(prices)} prices are left out, and what held before stays: they are below zero, or belong to one that is:"
        f" {'; '.join(prices[:_MOST_NAMED])}{others}."
    )
