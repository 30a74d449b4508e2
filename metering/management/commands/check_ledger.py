import sys
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandParser

from metering.verification import verify_books
from relayadmin.commands import JsonCommand


class Command(JsonCommand):
    help = "Recompute balances, held totals, grants, charges and hourly usage; exit 1 if anything differs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--full", action="store_true", help="from the beginning, not from where it was right last")

    def handle(self, *args: Any, **options: Any) -> None:
        verified = verify_books(full=options["full"], at=datetime.now(UTC))
        self.answer(
            {
                "ok": verified.ok,
                "checked": verified.checked,
                "differences": [
                    {"customer": customer, "what": item.what, "expected": item.expected, "found": item.found}
                    for customer, item in verified.differences
                ],
            }
        )
        if not verified.ok:
            self.note(f"The books differ in {len(verified.differences)} figures.")
            sys.exit(1)
